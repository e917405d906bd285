// The life of a demo: a state comes in; it is drawn, or a message says what is wrong with it. Last of the
// four files before a demo's own code, which ends in `export default demo({ ... })`.

// kind      the class of the demo's element
// state     names of the traits that it shows
// problem   (state) => what is wrong with it, in the words of the Python side, or null
// compute   (state) => everything on display
// build     (page) => the demo's parts, made once: lists of elements `above` (always there), `controls`
//           (hidden with the figure), `figure` and `below`; `draw(s)`, which returns what a screen reader is
//           told; and, where needed, `start`, `stop` and `changed`, called when the state changes, before
//           it is drawn
// cannot    how the message about a wrong state begins; `last` names what stays on display below it
// narrow    true: `page.narrow()` tells a phone from a desk, and turning from one to the other draws again
//
// `page` has `model`, `el`, `read()`, `set(update)`, `note(words)`, `redraw()` and `narrow()`.
function demo({ kind, state: names, problem, compute = (state) => state, build, ...wording }) {
  return { render: ({ model, el }) => run({ kind, names, problem, compute, build, ...wording }, model, el) };
}

function run({ kind, names, problem, compute, build, cannot, last, narrow }, model, el) {
  const message = messageOf(cannot, last);
  const live = announcer();
  const isNarrow = () => el.clientWidth > 0 && el.clientWidth < 480;
  const read = () => Object.fromEntries(names.map((name) => [name, model.get(name)]));
  // A setting that the reader changes ends the note on the one before it, unless that note is to be kept.
  const set = (update, { keepNote = false } = {}) => {
    if (!keepNote) message.note("");
    for (const [name, value] of Object.entries(update)) model.set(name, value);
    model.save_changes();
  };
  const redraw = () => draw();
  const parts = build({ model, el, read, set, note: message.note, redraw, narrow: isNarrow });
  const controls = html("div", {}, ...(parts.controls ?? []));
  const figure = html("div", { class: "rlhf-figure" }, ...parts.figure);
  el.classList.add("rlhf-demo", kind);
  el.append(...(parts.above ?? []), ...(parts.controls ? [controls] : []), message.element, figure);
  el.append(...(parts.below ?? []), live.element);

  let drawn = false;
  let drawnNarrow = false;
  function draw() {
    drawnNarrow = isNarrow();
    const state = read();
    const wrong = problem(state);
    figure.hidden = controls.hidden = Boolean(wrong) && !drawn;
    figure.classList.toggle("rlhf-stale", Boolean(wrong));
    message.judge(wrong, drawn);
    if (wrong) return;
    const words = parts.draw(compute(state));
    if (words) live.say(words);
    drawn = true;
  }
  const changed = () => {
    parts.changed?.();
    draw();
  };
  draw();
  for (const name of names) model.on(`change:${name}`, changed);
  const resized = new ResizeObserver(() => {
    if (isNarrow() !== drawnNarrow) draw();
  });
  if (narrow) resized.observe(el);
  parts.start?.();
  return () => {
    for (const name of names) model.off(`change:${name}`, changed);
    resized.disconnect();
    parts.stop?.();
    live.stop();
  };
}

// One place for notes and for what is wrong with a state. A note does not take the place of the latter.
function messageOf(cannot = "This figure cannot be drawn", last = "Below is the last state that could.") {
  const element = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  let broken = false;
  const write = (words) => {
    // An alert is read out at each change.
    if (element.textContent !== words) element.textContent = words;
    element.hidden = !words;
  };
  return {
    element,
    note: (words) => {
      if (!broken) write(words);
    },
    judge(wrong, drawn) {
      if (wrong) write(`${cannot}: ${wrong}.${drawn ? ` ${last}` : ""}`);
      else if (broken) write("");
      broken = Boolean(wrong);
    },
  };
}

// Runs `build(...values)` when the values differ from those of the last call: what stands for a list is built
// once, so that the focus stays in it while numbers change.
function whenChanged(build) {
  let before = "";
  return (...values) => {
    const now = JSON.stringify(values);
    if (now === before) return;
    before = now;
    build(...values);
  };
}

// ---------------------------------------------------------------- Python, where there is one

// ms until Python counts as silent
const PATIENCE = 8000;

// What is asked counts once Python has answered. `answered(content, bytes)` gets each answer that is
// `wanted`; `silent()` is called when none has come in time.
function python(model, { answered, silent, wanted = () => true }) {
  let timer = 0;
  const settle = () => {
    clearTimeout(timer);
    timer = 0;
  };
  const heard = (content, bytes) => {
    if ((content?.kind !== "done" && content?.kind !== "failed") || !wanted(content)) return;
    settle();
    answered(content, bytes);
  };
  model.on("msg:custom", heard);
  return {
    hello: () => model.send({ kind: "hello" }),
    ask(content) {
      settle();
      timer = setTimeout(() => {
        timer = 0;
        silent();
      }, PATIENCE);
      model.send(content);
    },
    settle,
    waiting: () => timer !== 0,
    stop() {
      settle();
      model.off("msg:custom", heard);
    },
  };
}

// ---------------------------------------------------------------- what is wrong with a state
// Python refuses such a state, but a saved one can be edited. Each check gives words, or null if nothing is
// wrong, so that checks are joined by ??.

const unless = (holds, words) => (holds ? null : words);

// The first word of a check that fails, over the entries of a list.
function firstWrong(entries, check) {
  for (const [i, entry] of entries.entries()) {
    const wrong = check(entry, i);
    if (wrong) return wrong;
  }
  return null;
}

const wrongNumber = (name, value, expected = "a number") =>
  unless(Number.isFinite(value), `${name} is ${value}; expected ${expected}`);
const wrongSetting = (name, value, [low, high]) =>
  wrongNumber(name, value, `a number from ${low} to ${high}`);
const wrongWhole = (name, value, [low, high], expected = `${low} to ${high}`) =>
  unless(
    Number.isInteger(value) && value >= low && value <= high,
    `${name} is ${value}; expected ${expected}`,
  );
const wrongPowerOfTwo = (name, value, [low, high]) =>
  unless(
    Number.isInteger(Math.log2(value)) && value >= low && value <= high,
    `${name} is ${value}; expected a power of two from ${low} to ${high}`,
  );
const wrongSwitch = (name, value) =>
  unless(typeof value === "boolean", `${name} is ${value}; expected true or false`);
const wrongChoice = (name, value, choices, more = "") =>
  unless(choices.includes(value), `${name} is ${value}; expected one of ${choices.join(", ")}${more}`);
const wrongRange = (name, ends) =>
  unless(
    Array.isArray(ends) && ends[0] > 0 && ends[1] > ends[0] && Number.isFinite(ends[1]),
    `${name} is ${ends}; expected two positive numbers, the smaller first`,
  );

// Lists: empty, of another length, with an entry that is no number, or no probabilities.
const wrongEmpty = (name, values, expected) =>
  unless(Array.isArray(values) && values.length > 0, `${name} is empty; expected ${expected}`);
const wrongLength = (name, values, length, why) =>
  unless(
    Array.isArray(values) && values.length === length,
    `${name} has ${values?.length} entries; expected ${length}, ${why}`,
  );
const wrongEntry = (name, values, holds, expected) =>
  firstWrong(values, (value, i) => unless(holds(value), `${name}[${i}] is ${value}; expected ${expected}`));
const wrongNumbers = (name, values, expected = "finite numbers") =>
  wrongEntry(name, values, Number.isFinite, expected);
const wrongTotal = (name, values) =>
  unless(
    Math.abs(sum(values) - 1) <= 1e-6,
    `${name} sums to ${Number(sum(values).toPrecision(6))}; expected probabilities that sum to 1`,
  );
