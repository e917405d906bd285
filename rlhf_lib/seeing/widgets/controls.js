// What a reader operates, and the numbers that a reader reads. Each control is an object with an `element`,
// and `show(value)` where it displays a setting.

// Without it JupyterLab takes the arrow keys.
const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" };

// A button; `control` is the name that a test finds it by, `label` what a screen reader says.
function button({ control, label, ...attributes }, words, act) {
  const names = { "data-control": control, "aria-label": label };
  const element = html("button", { type: "button", class: "rlhf-button", ...names, ...attributes }, words);
  element.addEventListener("click", act);
  return element;
}

const buttons = (label, ...children) =>
  html(
    "span",
    { class: "rlhf-buttons", role: label ? "group" : undefined, "aria-label": label },
    ...children,
  );

// Buttons of which one is pressed. `describe(value, i)` gives [attributes, words] of a button;
// `offer(values)` makes the buttons, `show(value)` presses one.
function choices(label, describe, choose) {
  const element = buttons(label);
  let offered = [];
  return {
    element,
    offer(values) {
      offered = values;
      element.replaceChildren(
        ...values.map((value, i) => button(...describe(value, i), () => choose(value, i))),
      );
    },
    show(value) {
      for (const [i, one] of [...element.children].entries()) {
        one.setAttribute("aria-pressed", String(offered[i] === value));
      }
    },
  };
}

// A line of controls behind a label with a hint below it.
const row = (label, hint, ...controls) =>
  html(
    "div",
    { class: "rlhf-control" },
    html("span", { class: "rlhf-label" }, label, ...(hint ? [html("small", {}, hint)] : [])),
    ...controls,
  );

const setting = (trait) => html("output", { class: "rlhf-setting", "data-setting": trait });

// ---------------------------------------------------------------- sliders

// Scales of a slider: its integer positions, and what maps them to the setting and back.
const inSteps = ([low, high], step) => ({
  positions: [Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)],
  toValue: (position) => Number((position * step).toFixed(6)),
  toPosition: (value) => value / step,
});
const listed = (values) => ({
  positions: [0, values.length - 1],
  toValue: (position) => values[position],
  toPosition: (value) => values.indexOf(value),
});
const powersOfTwo = (largest, smallest = 1) => ({
  positions: [Math.log2(smallest), Math.log2(largest)],
  toValue: (position) => 2 ** position,
  toPosition: Math.log2,
});

// A slider with a scale, which `rescale` exchanges without a new element, so that the focus stays.
function slider({ name, label, hint, scale, describe, onChange }) {
  const names = { "data-control": name, "aria-label": `${label}: ${hint}` };
  const input = html("input", { type: "range", step: 1, class: "rlhf-slider", ...names, ...OWN_KEYS });
  const control = {
    element: input,
    rescale(next) {
      scale = next;
      [input.min, input.max] = scale.positions;
    },
    show(value) {
      input.value = Math.round(scale.toPosition(value));
      input.setAttribute("aria-valuetext", describe(value));
    },
  };
  if (scale) control.rescale(scale);
  input.addEventListener("input", () => onChange(scale.toValue(Number(input.value))));
  return control;
}

// A row with the slider of a trait and its value; `beside` follows it. `words(value)` is the value in text. A
// screen reader hears the hint, and the value after the name, unless `spokenHint` and `describe(value)` say
// other words.
function sliderRow(
  {
    trait,
    name,
    symbol = name,
    hint,
    spokenHint = hint,
    scale,
    words = short,
    describe = (value) => `${name} ${words(value)}`,
    set,
  },
  ...beside
) {
  const onChange = (value) => set({ [trait]: value });
  const control = slider({ name: trait, label: name, hint: spokenHint, scale, describe, onChange });
  const output = setting(trait);
  return {
    element: row(symbol, hint, control.element, output, ...beside),
    rescale: control.rescale,
    show(value) {
      control.show(value);
      showText(output, words(value), value);
    },
  };
}

// ---------------------------------------------------------------- fields

function select({ control, label, onChange }) {
  const names = { "data-control": control, "aria-label": label };
  const element = html("select", { class: "rlhf-select", ...names, ...OWN_KEYS });
  element.addEventListener("change", () => onChange(element.value));
  return {
    element,
    offer: (entries) =>
      element.replaceChildren(...entries.map(([value, words]) => html("option", { value }, words))),
    show(value) {
      element.value = String(value);
    },
  };
}

function checkbox({ control, label, words, onChange }) {
  const names = { "data-control": control, "aria-label": label };
  const input = html("input", { type: "checkbox", ...names, ...OWN_KEYS });
  input.addEventListener("change", () => onChange(input.checked));
  return {
    element: html("label", { class: "rlhf-check" }, input, words),
    show(on) {
      input.checked = on;
    },
  };
}

const textField = ({ control, label, ...attributes }) =>
  html("input", {
    type: "text",
    inputmode: "decimal",
    class: "rlhf-field",
    "data-control": control,
    "aria-label": label,
    autocomplete: "off",
    spellcheck: "false",
    ...OWN_KEYS,
    ...attributes,
  });

// A field for a number: what is typed goes to `onNumber(value, typed)`, or to `onRefused(typed)` if it is not
// a number that `accepts` takes.
function numberField({ accepts = Number.isFinite, onNumber, onRefused, ...attributes }) {
  const element = textField(attributes);
  element.addEventListener("change", () => {
    const typed = element.value.trim().replace("−", "-");
    const value = typed === "" ? NaN : Number(typed);
    if (accepts(value)) onNumber(value, typed);
    else {
      element.setAttribute("aria-invalid", "true");
      onRefused(typed || "empty");
    }
  });
  return {
    element,
    show(value, text = short(value)) {
      element.value = text;
      element.dataset.value = String(value);
      element.removeAttribute("aria-invalid");
    },
  };
}

// ---------------------------------------------------------------- numbers to read

// Large numbers, each [name, label, title, kind]: an `element`, and by name each `tile` and its `output`.
// With `besides`, an attribute such as "data-margin", each has room for its interval, `beside[name]`.
function tiles(entries, besides) {
  const tile = {};
  const output = {};
  const beside = {};
  for (const [name, label, title, kind = ""] of entries) {
    output[name] = html("output", { "data-name": name });
    if (besides) beside[name] = html("small", { [besides]: name });
    const parts = [html("span", {}, label), output[name], ...(besides ? [beside[name]] : [])];
    tile[name] = html("div", { class: `rlhf-tile ${kind}`.trim(), title }, ...parts);
  }
  const element = html("div", { class: "rlhf-tiles" }, ...Object.values(tile));
  const show = (name, value, digits) => showNumber(output[name], value, digits);
  return { element, tile, output, beside, show };
}

const column = (words, attributes = {}) => html("th", { scope: "col", ...attributes }, words);
const numberColumn = (words, title) => column(words, { class: "rlhf-right", title });
const tableRow = (head, ...cells) => html("tr", {}, html("th", { scope: "row" }, head), ...cells);

function numberCell(value, digits, attributes = {}) {
  const cell = html("td", { class: "rlhf-right", ...attributes });
  showNumber(cell, value, digits);
  return cell;
}

// Puts a caption for screen readers, columns and rows into a table.
function fillTable(table, caption, columns, rows) {
  table.replaceChildren(
    html("caption", { class: "rlhf-hidden" }, caption),
    html("thead", {}, html("tr", {}, ...columns)),
    html("tbody", {}, ...rows),
  );
}

// Tells a screen reader the state once it has settled, not at every step of a drag.
function announcer() {
  const element = html("p", { class: "rlhf-hidden", "aria-live": "polite" });
  let timer = 0;
  return {
    element,
    say(words) {
      clearTimeout(timer);
      timer = setTimeout(() => {
        element.textContent = words;
      }, 500);
    },
    stop: () => clearTimeout(timer),
  };
}
