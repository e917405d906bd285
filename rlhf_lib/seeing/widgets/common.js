// Helpers that demos share. This file stands before the demo's own code in one module.

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}
const html = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);

// A number as the book prints it: fixed digits, a real minus sign, and never "−0.000".
function format(value, digits) {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

// Shortest form of a setting: 0.1, 1, 20.
const short = (value) => String(Number(value.toPrecision(6))).replace("-", "−");

const clamp = (value, [low, high]) => Math.min(Math.max(value, low), high);

// Round numbers for an axis from low to high, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

// A labelled slider. `toValue` and `toPosition` map its integer positions to the setting and back.
// JupyterLab takes the arrow keys unless the input itself carries data-lm-suppress-shortcuts.
function slider({ name, label, hint, positions, toValue, toPosition, describe, onChange }) {
  const input = html("input", {
    type: "range", min: positions[0], max: positions[1], step: 1, class: "rlhf-slider",
    "data-control": name, "data-lm-suppress-shortcuts": "true", "aria-label": `${label}: ${hint}`,
  });
  input.addEventListener("input", () => onChange(toValue(Number(input.value))));
  return {
    element: input,
    show(value) {
      input.value = Math.round(toPosition(value));
      input.setAttribute("aria-valuetext", describe(value));
    },
  };
}

// A number that is read out by the page: text for the eye, full precision for a test.
function showNumber(output, value, digits) {
  output.textContent = format(value, digits);
  output.dataset.value = String(value);
}

// Tells a screen reader the state once it has settled, not at every step of a drag.
function announcer() {
  const element = html("p", { class: "rlhf-hidden", "aria-live": "polite" });
  let timer = 0;
  return {
    element,
    say(text) {
      clearTimeout(timer);
      timer = setTimeout(() => { element.textContent = text; }, 500);
    },
    stop: () => clearTimeout(timer),
  };
}

// Draws now and after every change of the named traits; returns what undoes that.
function follow(model, names, draw) {
  const events = names.map((name) => `change:${name}`);
  for (const event of events) model.on(event, draw);
  draw();
  return () => { for (const event of events) model.off(event, draw); };
}
