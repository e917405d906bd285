// The page and its numbers. Four files stand before a demo's own code, in one module: common.js, controls.js,
// plot.js and demo.js.

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

// Sets an attribute; undefined, null and false take it away.
function attribute(element, name, value) {
  if (value === undefined || value === null || value === false) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : value);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) attribute(element, name, value);
  element.append(...children);
  return element;
}
const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);

// ---------------------------------------------------------------- numbers

const clamp = (value, [low, high]) => Math.min(Math.max(value, low), high);
const sum = (values) => values.reduce((total, value) => total + value, 0);
const dot = (a, b) => a.reduce((total, value, i) => total + value * b[i], 0);
const range = (count) => Array.from({ length: count }, (_, i) => i);

// A number as the book prints it: fixed digits, a real minus sign, and never "−0.000".
function format(value, digits) {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

// Shortest form of a setting: 0.1, 1, 20.
const short = (value) => String(Number(value.toPrecision(6))).replace("-", "−");

const percent = (share) => `${(100 * share).toFixed(0)} %`;

// A value that is read out by the page: text for the eye, full precision for a test.
function showText(output, text, value) {
  output.textContent = text;
  output.dataset.value = String(value);
}
const showNumber = (output, value, digits) => showText(output, format(value, digits), value);
