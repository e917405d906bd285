// Recorded or running training, drawn: one panel a metric with a cursor, and replies to the same prompts.
// Shared by the training replay, the dashboard and the training in a page; it stands before their own code.

const METRICS = {
  reward: ["learned reward", "what the policy is trained on", 2],
  gold: ["gold utility", "what was wanted; training never sees it", 2],
  kl: ["KL, nats", "distance to the reference, per reply", 1],
  entropy: ["entropy, nats", "per token", 2],
  length: ["length, tokens", "of a reply", 1],
  beta: ["β", "price of a nat", 3],
};
// What is shown of a run: its metrics, the one that held-out prompts are measured by, the worth of a reply in
// words, and what a screen reader is told.
const LETTERS = {
  metrics: METRICS,
  held: "gold",
  worth: (gold) => `gold ${format(gold, 2)}`,
  says: ({ reward, gold, kl, beta }) => `reward ${reward}, gold ${gold}, KL ${kl}, β ${beta}`,
};
const WINDOW = 5; // steps in the trailing mean

const known = (values) => values.filter((v) => Number.isFinite(v));

// Trailing mean over up to `WINDOW` values; it never looks ahead, and skips what is missing.
const smooth = (values) =>
  values.map((_, i) => {
    const seen = known(values.slice(Math.max(0, i - WINDOW + 1), i + 1));
    return seen.length ? sum(seen) / seen.length : null;
  });

// The last place in an increasing list that is not beyond `step`; -1 if all are.
const lastAt = (steps, step) => steps.reduce((found, s, i) => (s <= step ? i : found), -1);

// The last step that a run recorded.
const lastOf = ({ steps, at }) => Math.max(0, steps.at(-1) ?? 0, at.at(-1) ?? 0);

// What is wrong with recorded runs, in the words of the Python side; null if nothing is.
const runsProblem = (prompts, runs) =>
  unless(
    Array.isArray(prompts) && prompts.every((p) => typeof p === "string"),
    "prompts are not a list of texts",
  ) ??
  unless(Array.isArray(runs), "runs is not a list") ??
  firstWrong(runs, (one) => runProblem(one, prompts.length));

function runProblem({ name, steps, curves, at, held, replies }, count) {
  const rises = (s, i) => Number.isInteger(s) && (i === 0 || s > steps[i - 1]);
  const wrongCurve = ([metric, values]) =>
    unless(
      Array.isArray(values) &&
        values.length === steps.length &&
        values.every((v) => v === null || Number.isFinite(v)),
      `${metric} of run ${name} has ${values?.length} values; ` +
        `expected ${steps.length} numbers, one for each step`,
    );
  const fits = (texts) =>
    Array.isArray(texts) &&
    (texts.length === 0 || texts.length === count) &&
    texts.every((reply) => typeof reply?.[0] === "string");
  return (
    unless(
      Array.isArray(steps) && steps.every(rises),
      `the steps of run ${name} are not whole numbers that rise`,
    ) ??
    firstWrong(Object.entries(curves ?? {}), wrongCurve) ??
    unless(
      curves && Array.isArray(at) && held?.length === at.length && replies?.length === at.length,
      `the held-out measurements of run ${name} are missing; expected gold and replies of each`,
    ) ??
    unless(
      replies.every(fits),
      `replies of run ${name} do not fit the prompts; expected ${count} each time, or none`,
    )
  );
}

// ---------------------------------------------------------------- one panel

const PANEL = { width: 200, height: 118, left: 34, right: 192, top: 8, bottom: 98 };
const FLOOR = 1e-3; // β of 0 stands at the foot of its panel

// The scale of a metric with its marks and their words; that of β is logarithmic.
function axisOf(values, log) {
  const scaled = (v) => (log ? Math.log10(Math.max(v, FLOOR)) : v);
  const ends = extent(values.map(scaled), 0);
  const apart = ends[1] - ends[0] < 1e-6 ? [ends[0] - 0.5, ends[1] + 0.5] : ends;
  const [low, high] = extent(apart, 0.06);
  const place = linear([low, high], [PANEL.bottom, PANEL.top]);
  const y = (v) => place(clamp(scaled(v), [low, high]));
  if (!log) {
    const few = ticks(low, high, 4);
    const marks = few.length < 2 ? ticks(low, high, 7) : few;
    return { y, marks, words: (v) => short(Number(v.toFixed(4))) };
  }
  const decades = [0.001, 0.01, 0.1, 1].filter((v) => scaled(v) >= low && scaled(v) <= high);
  const foot = values.includes(0) ? "0" : "0.001";
  return {
    y,
    marks: decades.length ? decades : [10 ** ((low + high) / 2)],
    words: (v) => (v <= FLOOR ? foot : String(Number(v.toPrecision(1)))),
  };
}

// A curve over the steps that leaves out what is missing.
function gappedCurve(kind, steps, values, x, y) {
  let pen = "M";
  const parts = values.map((value, i) => {
    if (!Number.isFinite(value)) {
      pen = "M";
      return "";
    }
    const part = `${pen}${x(steps[i]).toFixed(1)},${y(value).toFixed(1)}`;
    pen = "L";
    return part;
  });
  return svg("path", { class: kind, d: parts.join("") });
}

function panelMarks(metric, values, { runs, chosen, step, lastStep, kind }) {
  const { height, left, right, top, bottom } = PANEL;
  const log = metric === "beta";
  const { y, marks, words } = axisOf(values, log);
  const x = linear([0, Math.max(1, lastStep)], [left, right]);
  const drawn = (kind, one, shown) => gappedCurve(kind, one.steps, shown(one.curves[metric]), x, y);
  const raw = (list) => list;
  const mean = log ? raw : smooth;
  const others = runs.filter((one) => one !== chosen && one.curves[metric]);
  const own = chosen.curves[metric] ?? [];
  const value = own[lastAt(chosen.steps, step)];
  return [
    yAxis(y, marks, [left, right], { words, gap: 4 }),
    xNumbers(x, ticks(0, lastStep, 3), height - 5, String),
    others.map((one) => drawn("rlhf-other-run", one, mean)),
    own.length && !log ? drawn("rlhf-curve rlhf-raw", chosen, raw) : [],
    own.length ? drawn("rlhf-curve", chosen, mean) : [],
    metric === kind.held ? heldDots(chosen, x, y) : [],
    line("rlhf-cursor", [x(step), top], [x(step), bottom]),
    Number.isFinite(value)
      ? circle("rlhf-dot", [x(chosen.steps[lastAt(chosen.steps, step)]), y(value)], 3.5)
      : [],
  ];
}

const heldDots = ({ at, held }, x, y) =>
  at.map((s, i) => (Number.isFinite(held[i]) ? circle("rlhf-held", [x(s), y(held[i])], 2.6) : []));

// Draws the panel of a metric, and returns the number at the cursor in words.
function drawPanel(place, metric, view) {
  const { runs, chosen, step, kind } = view;
  const [label, , digits] = kind.metrics[metric];
  const values = runs.flatMap(({ curves, held }) =>
    known([...(curves[metric] ?? []), ...(metric === kind.held ? held : [])]),
  );
  const output = html("output", { "data-name": metric, "aria-live": "off" }, "–");
  const value = chosen.curves[metric]?.[lastAt(chosen.steps, step)];
  if (Number.isFinite(value)) showNumber(output, value, digits);
  place.hidden = values.length === 0;
  place.replaceChildren();
  if (values.length) {
    const plot = picture(PANEL.width, PANEL.height);
    drawInto(plot, `${label} over the steps`, panelMarks(metric, values, view));
    place.append(html("div", { class: "rlhf-panel-head" }, html("span", {}, label), output), plot);
  }
  return output.textContent;
}

function drawReplies(list, heading, prompts, { at, replies }, step, kind) {
  const seen = at.filter((_, i) => replies[i].length);
  const which = lastAt(seen, step);
  list.replaceChildren();
  heading.hidden = which < 0;
  if (which < 0) return;
  const texts = replies[at.indexOf(seen[which])];
  const words = `Replies to the same ${prompts.length} held-out prompts, after ${seen[which]} steps`;
  heading.textContent = words;
  heading.dataset.step = String(seen[which]);
  list.append(...prompts.map((prompt, i) => replyOf(prompt, texts[i], kind)));
}

function replyOf(prompt, [words, worth], kind) {
  const gold = html("span", { class: "rlhf-reply-gold" });
  if (Number.isFinite(worth)) showText(gold, kind.worth(worth), worth);
  return html(
    "li",
    { class: "rlhf-reply" },
    html("span", { class: "rlhf-reply-head" }, html("span", {}, prompt), gold),
    html("span", { class: "rlhf-reply-text" }, words || "(an empty reply)"),
  );
}

// ---------------------------------------------------------------- the view

const INTERVAL = 220; // ms from step to step

// The play button. `now()` gives the run and the step on display, `go` moves to a step. Readers who asked for
// less motion get the next replies at each press instead.
function playerOf(now, go) {
  const still = globalThis.matchMedia?.("(prefers-reduced-motion: reduce)");
  let timer = 0;
  const ended = () => now().step >= lastOf(now().chosen);
  const show = () => {
    const words = still?.matches ? "next replies" : timer ? "pause" : "play";
    element.textContent = words;
    attribute(element, "aria-label", still?.matches ? "on to the next recorded replies" : `${words} the run`);
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    show();
  };
  const toNextReplies = () => {
    const { chosen, step } = now();
    go(chosen.at.find((s) => s > step) ?? (ended() ? 0 : lastOf(chosen)));
  };
  const play = () => {
    if (ended()) go(0);
    timer = setInterval(() => {
      if (ended()) stop();
      else go(now().step + 1);
    }, INTERVAL);
    show();
  };
  const press = () => {
    if (timer) stop();
    else if (still?.matches) toNextReplies();
    else play();
  };
  const element = button({ control: "play", label: "play" }, "play", press);
  return { element, show, stop, playing: () => timer !== 0 };
}

// The panels of all metrics; `show(view)` returns their numbers in words, by metric.
function panelsOf(kind) {
  const entries = Object.entries(kind.metrics);
  const places = entries.map(([, [, why]]) => html("div", { class: "rlhf-small", title: why }));
  return {
    element: html("div", { class: "rlhf-panels rlhf-small-multiples" }, ...places),
    show: (view) =>
      Object.fromEntries(entries.map(([metric], i) => [metric, drawPanel(places[i], metric, view)])),
  };
}

// Which run, and which step of it. `jump(step)` is called when the reader moves, `change(i)` for another run.
function moving(now, player, jump, change) {
  const runs = choices(
    "recorded run",
    (name, i) => [{ control: `run-${i}`, label: `run: ${name}` }, name],
    (_, i) => change(i),
  );
  runs.element.classList.add("rlhf-runs");
  const offer = whenChanged(runs.offer);
  const runRow = row("run", "others in grey", runs.element);
  const note = html("p", { class: "rlhf-legend", "data-name": "run-note" });
  const scrub = slider({
    name: "step",
    label: "training step",
    hint: "arrow keys move by one step",
    describe: (step) => `step ${step}`,
    onChange: jump,
  });
  const by = (steps) => jump(now().step + steps);
  const back = button({ control: "back", label: "one step back" }, "‹", () => by(-1));
  const next = button({ control: "next", label: "one step on" }, "›", () => by(1));
  const where = html("output", { class: "rlhf-setting rlhf-where", "data-setting": "step" });
  const steps = buttons(null, player.element, back, next);
  return {
    elements: [runRow, note, html("div", { class: "rlhf-control rlhf-scrub" }, steps, scrub.element, where)],
    show(state, chosen) {
      offer(state.runs.map(({ name }) => name));
      runRow.hidden = state.runs.length < 2;
      for (const [i, one] of [...runs.element.children].entries()) {
        one.setAttribute("aria-pressed", String(i === state.run));
      }
      note.textContent = chosen.note ?? "";
      note.hidden = !chosen.note;
      scrub.rescale(inSteps([0, lastOf(chosen)], 1));
      scrub.show(state.step);
      showText(where, `step ${state.step} of ${lastOf(chosen)}`, state.step);
    },
  };
}

// `choose(run, step)` is called when the reader moves; `draw(state)` shows {prompts, runs, run, step} and
// returns what a screen reader is told, which is nothing while the run plays.
function trainingView(choose, kind = LETTERS) {
  let state = null;
  const chosen = () => state.runs[state.run];
  const now = () => ({ chosen: chosen(), step: state.step });
  const go = (step) => choose(state.run, clamp(step, [0, lastOf(chosen())]));
  const player = playerOf(now, go);
  const jump = (step) => {
    player.stop();
    go(step);
  };
  const change = (i) => {
    player.stop();
    choose(i, Math.min(state.step, lastOf(state.runs[i])));
  };
  const controls = moving(now, player, jump, change);
  const panels = panelsOf(kind);
  const legend = html(
    "p",
    { class: "rlhf-legend" },
    "Numbers: the batch of that step. Thin line: each batch; thick: trailing mean of five. " +
      "Orange dots: held-out prompts.",
  );
  const heading = html("p", { class: "rlhf-replies-head" });
  const list = html("ul", { class: "rlhf-replies", "aria-label": "replies to held-out prompts" });
  const parts = [...controls.elements, panels.element, legend, heading, list];
  const element = html("div", { class: "rlhf-training" }, ...parts);
  function draw(next) {
    state = next;
    const { prompts, runs, step, total = 0 } = state;
    const one = chosen();
    element.hidden = !one;
    if (!one) {
      player.stop();
      return "";
    }
    controls.show(state, one);
    const lastStep = Math.max(...runs.map(lastOf), total);
    const words = panels.show({ runs, chosen: one, step, lastStep, kind });
    legend.hidden = !one.steps.length;
    drawReplies(list, heading, prompts, one, step, kind);
    player.show();
    if (player.playing()) return "";
    return `${one.name}, step ${step}: ${kind.says(words)}.`;
  }
  return { element, draw, stop: player.stop, playing: player.playing };
}
