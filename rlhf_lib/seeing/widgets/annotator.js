// Be the annotator. The fit first, as pure functions; then the session, the stage, the keys, the controls.
// The stage itself, and what the browser keeps, are in comparing.js.

// Rows of the fit: the features of the chosen reply less those of the other.
const rowsOf = (labels, differences) =>
  labels.map(([pair, side]) => differences[pair].map((d) => (side === "first" ? d : -d)));

const fitOf = (labels, s) => fitWeights(rowsOf(labels, s.differences), s.ridge, s.names.length);

// How many choices were the likelier ones by the fit to those before; at even odds there is no verdict.
function foresight(labels, s) {
  const verdicts = labels.map(([pair, side], i) => {
    const score = dot(fitOf(labels.slice(0, i), s), s.differences[pair]);
    return Math.abs(score) > 1e-9 ? { p: sigmoid(side === "first" ? score : -score) } : null;
  });
  const judged = verdicts.filter(Boolean);
  const foreseen = judged.filter((v) => v.p > 0.5).length;
  return { last: verdicts.at(-1) ?? null, judged: judged.length, foreseen };
}

function wrongLabels(name, labels, pairs) {
  const listed = Array.isArray(labels) ? labels : [labels];
  const holds = (label) => pairs[label?.[0]] && SIDES.includes(label[1]);
  return wrongEntry(name, listed, holds, `a pair from 0 to ${pairs.length - 1}, and 'first' or 'second'`);
}

function problem({ pairs, names, differences, labels, recorded, ridge, reference }) {
  const isRow = (row) => row.length === names.length && row.every(Number.isFinite);
  return (
    unless(
      Array.isArray(pairs) && pairs.length > 0,
      "pairs has none that can be labelled; expected at least 1",
    ) ??
    unless(pairs.every(isPair), "pairs has an entry that is not prompt, first and second; expected text") ??
    unless(
      Array.isArray(differences) && differences.length === pairs.length,
      `differences has ${differences?.length} rows; expected ${pairs.length}, one for each pair`,
    ) ??
    unless(
      differences.every(isRow),
      `differences has a row without ${names.length} finite numbers; expected one for each feature`,
    ) ??
    wrongLabels("labels", labels, pairs) ??
    wrongLabels("recorded", recorded, pairs) ??
    unless(ridge > 0 && Number.isFinite(ridge), `ridge is ${ridge}; expected a positive number`) ??
    (reference.length ? wrongLength("reference", reference, names.length, "one for each feature") : null)
  );
}

// The first pair without a label, those that were skipped last; -1 if all have one.
function openPair({ pairs, labels }, skipped) {
  const done = new Set(labels.map(([pair]) => pair));
  const open = range(pairs.length).filter((i) => !done.has(i));
  return open.find((i) => !skipped.has(i)) ?? open[0] ?? -1;
}

// ---------------------------------------------------------------- the session

// What is not saved with the demo, such as the step of the replay and whether Python listens; and what a
// reader can do.
function sessionOf({ model, note, read, redraw, set }) {
  const session = {
    mode: model.get("recorded")?.length ? "replay" : "label",
    step: 0,
    connected: false,
    saves: false,
    kept: true, // whether the browser keeps a choice
    skipped: new Set(),
  };
  let chosen = false; // whether the mode was the reader's choice
  const kernel = python(model, {
    answered({ kind, text: words, saves }) {
      if (kind === "failed") {
        note(`Not saved: ${words}`);
        return;
      }
      note("");
      if (!session.connected && !chosen) session.mode = "label";
      Object.assign(session, { saves, connected: true });
      redraw();
    },
    silent: () => note("Python does not answer. The last choice is not saved; nothing else was lost."),
  });
  const labelling = () => session.mode === "label" && !kernel.waiting();
  return {
    session,
    kernel,
    // What an earlier visit has chosen.
    restore() {
      const { pairs, labels } = read();
      if (!onBookPage() || labels.length) return;
      const found = keptComparisons().flatMap((one) => labelOf(one, pairs));
      if (!found.length) return;
      session.mode = "label";
      set({ labels: found });
    },
    // With Python behind the page a choice counts once it says so.
    choose(side) {
      const s = read();
      const pair = openPair(s, session.skipped);
      if (!labelling() || pair < 0) return;
      session.skipped.delete(pair);
      if (session.connected) kernel.ask({ kind: "label", pair, side });
      else {
        session.kept = keepChoice(s.pairs[pair], side);
        set({ labels: [...s.labels, [pair, side]] });
      }
    },
    undo() {
      const { labels, pairs } = read();
      if (!labelling() || !labels.length) return;
      if (session.connected) kernel.ask({ kind: "undo" });
      else {
        takeBack(pairs[labels.at(-1)[0]]);
        set({ labels: labels.slice(0, -1) });
      }
    },
    skip() {
      const pair = openPair(read(), session.skipped);
      if (session.mode !== "label" || pair < 0) return;
      if (session.skipped.has(pair)) session.skipped.clear(); // all that is open has been skipped: start over
      session.skipped.add(pair);
      redraw();
    },
    go(step) {
      session.step = clamp(step, [0, model.get("recorded").length]);
      redraw();
    },
    enter(mode) {
      session.mode = mode;
      chosen = true;
      note("");
      redraw();
    },
  };
}

// Everything on display, from the state and the session, which is kept within the state.
function viewOf(s, session) {
  if (!s.recorded.length) session.mode = "label";
  session.step = clamp(session.step, [0, s.recorded.length]);
  const { mode, step, skipped } = session;
  const replay = mode === "replay";
  const labels = replay ? s.recorded.slice(0, step) : s.labels;
  return {
    ...s,
    ...session,
    replay,
    pair: replay ? s.recorded[Math.max(0, step - 1)][0] : openPair(s, skipped),
    picked: replay && step > 0 ? s.recorded[step - 1][1] : null,
    made: labels.length,
    weights: fitOf(labels, s),
    seen: foresight(labels, s),
  };
}

// ---------------------------------------------------------------- in words

const progressOf = (v) =>
  v.replay
    ? `choice ${v.step} of ${v.recorded.length}`
    : `${v.labels.length} of ${v.pairs.length} pairs labelled`;

function whereOf({ replay, recorded_by, connected, saves, kept, file_name }) {
  if (replay) return `Recorded session. ${recorded_by}`;
  if (connected && saves) return `Every choice is appended to ${file_name} before it counts.`;
  if (connected) return "Choices are kept in memory only: give the demo a path to save them.";
  if (!kept || !onBookPage()) {
    return "This browser keeps nothing: your choices are gone when you leave. Download keeps them.";
  }
  return (
    "Your choices stay in this browser, and nowhere else. In PPO, live, they become a reward model and a " +
    "policy. Download makes a file of them."
  );
}

function noteOf({ made, replay, seen }) {
  if (!made && replay) return "Step on with → or the button ›.";
  if (!made) return "Which reply is better? Click here once, then use ← and →.";
  return seen.last
    ? `The last choice: before it, the fit gave it a probability of ${format(seen.last.p, 2)}.`
    : "The last choice: the fit had no opinion before it.";
}

function announcement(v) {
  if (v.replay) return `${progressOf(v)}. Prefers the ${v.picked ?? "…"}.`;
  if (v.pair < 0) return "All pairs are labelled.";
  const [prompt, first, second] = v.pairs[v.pair];
  return `${progressOf(v)}. ${prompt} First: ${first} Second: ${second}`;
}

// ---------------------------------------------------------------- the stage

function stageOf({ session, choose, undo, skip, go }) {
  const back = () => go(session.step - 1);
  const on = () => go(session.step + 1);
  const [first, second] = SIDES.map((side) => () => choose(side));
  const acts = {
    label: { ArrowLeft: first, ArrowRight: second, s: skip, u: undo, Backspace: undo },
    replay: { ArrowLeft: back, ArrowRight: on, Home: () => go(0), End: () => go(Infinity) },
  };
  const stage = pairStage({
    choose,
    acts: () => acts[session.mode],
    repeats: () => session.mode === "replay", // where it labels, a key held down labels once
  });
  return {
    element: stage.element,
    show(v) {
      const keys = v.replay
        ? "Recorded session: arrow keys step through it"
        : "Two replies: left arrow if the first is better, right arrow if the second is; " +
          "S to skip, U to undo";
      const pair = v.pair < 0 ? null : v.pairs[v.pair];
      stage.show({ pair, still: v.replay, picked: v.picked, words: noteOf(v), keys });
    },
  };
}

// ---------------------------------------------------------------- the controls

const MODES = {
  replay: ["replay", "replay the recorded session"],
  label: ["label yourself", "label pairs yourself"],
};

function modesOf({ enter }) {
  const described = (mode) => [{ control: `mode-${mode}`, label: MODES[mode][1] }, MODES[mode][0]];
  const modes = choices(null, described, enter);
  modes.offer(Object.keys(MODES));
  return {
    element: modes.element,
    show({ mode, recorded }) {
      modes.element.firstChild.hidden = !recorded.length;
      modes.show(mode);
    },
  };
}

// Below the stage: what belongs to labelling, or the steps of the replay.
function actsOf({ read }, { session, undo, skip, go }) {
  const labelling = buttons(
    null,
    button({ control: "skip", label: "skip this pair" }, "can’t tell (S)", skip),
    button({ control: "undo", label: "take the last label back" }, "undo (U)", undo),
  );
  const stepper = slider({
    name: "step",
    label: "step of the recorded session",
    hint: "choices replayed",
    describe: (step) => `${step} choices`,
    onChange: go,
  });
  const steps = html(
    "span",
    { class: "rlhf-buttons rlhf-steps" },
    button({ control: "back", label: "one choice back" }, "‹", () => go(session.step - 1)),
    stepper.element,
    button({ control: "next", label: "one choice on" }, "›", () => go(session.step + 1)),
  );
  const names = { control: "download", label: "download the labels as JSON lines" };
  const download = button(names, "download labels", () => {
    const { labels, pairs } = read();
    saveComparisons(labels.map(([pair, side]) => comparisonOf(pairs[pair], side)));
  });
  return {
    element: html("div", { class: "rlhf-control" }, labelling, steps, download),
    show({ replay, connected, saves, labels, recorded, step }) {
      labelling.hidden = replay;
      steps.hidden = !replay;
      download.hidden = replay || (connected && saves);
      download.disabled = !labels.length;
      stepper.rescale(inSteps([0, recorded.length], 1));
      stepper.show(step);
    },
  };
}

// ---------------------------------------------------------------- the demo

function drawWeights(table, { names, weights, reference, reference_name }) {
  const most = Math.max(1, ...weights.map(Math.abs), ...reference.map(Math.abs));
  const beside = (make) => (reference.length ? make() : []);
  const rows = names.map((name, i) => {
    const bars = [
      sidedBar("rlhf-sided", weights[i], most),
      ...beside(() => [sidedBar("rlhf-sided rlhf-sided-ref", reference[i], most)]),
    ];
    return tableRow(
      name.replaceAll("_", " "),
      html("td", { class: "rlhf-bar-cell", "aria-hidden": "true" }, ...bars),
      numberCell(weights[i], 2, { class: "rlhf-right rlhf-weight", "data-feature": name }),
      ...beside(() => [html("td", { class: "rlhf-right" }, format(reference[i], 2))]),
    );
  });
  const legend = [key(), "these labels ", ...beside(() => [key("rlhf-key-ref"), reference_name])];
  const columns = [
    column("feature"),
    html("th", { scope: "col" }, ...legend),
    numberColumn("weight"),
    ...beside(() => [numberColumn(reference_name)]),
  ];
  fillTable(table, "Weight of each feature, in log-odds", columns, rows);
}

function build(page) {
  const acting = sessionOf(page);
  const { session, kernel } = acting;
  const modes = modesOf(acting);
  const stage = stageOf(acting);
  const acts = actsOf(page, acting);
  const progress = html("span", { class: "rlhf-word", "data-name": "progress" });
  const where = html("p", { class: "rlhf-legend", "data-name": "where" });
  const numbers = tiles([
    ["labelled", "choices so far", "that the fit has seen"],
    ["foreseen", "foreseen by the fit", "choices that the fit to the earlier ones held to be likelier"],
  ]);
  const { foreseen } = numbers.output;
  const table = html("table", { class: "rlhf-bars rlhf-weights" });
  return {
    figure: [
      html("div", { class: "rlhf-control" }, modes.element, progress),
      where,
      stage.element,
      acts.element,
      numbers.element,
      html("div", { class: "rlhf-panels" }, table),
    ],
    start() {
      acting.restore();
      kernel.hello();
    },
    stop: kernel.stop,
    draw(s) {
      const v = viewOf(s, session);
      for (const one of [modes, stage, acts]) one.show(v);
      progress.textContent = progressOf(v);
      where.textContent = whereOf(v) + (v.dropped ? ` Dropped: ${v.dropped}.` : "");
      numbers.show("labelled", v.made, 0);
      const { seen } = v;
      showText(foreseen, seen.judged ? `${seen.foreseen} of ${seen.judged}` : "none yet", seen.foreseen);
      foreseen.dataset.judged = String(seen.judged);
      drawWeights(table, v);
      return announcement(v);
    },
  };
}

const STATE = [
  ...["pairs", "names", "differences", "labels", "recorded", "recorded_by", "reference", "reference_name"],
  ...["ridge", "dropped", "file_name"],
];
export default demo({ kind: "rlhf-annotator", state: STATE, problem, build });
