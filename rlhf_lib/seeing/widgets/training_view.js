// Recorded or running training, drawn: one panel a metric with a cursor, and replies to the same prompts.
// Shared by the training replay and the dashboard; it stands before either's own code.

const METRICS = {
  reward: ["learned reward", "what the policy is trained on", 2],
  gold: ["gold utility", "what was wanted; training never sees it", 2],
  kl: ["KL, nats", "distance to the reference, per reply", 1],
  entropy: ["entropy, nats", "per token", 2],
  length: ["length, tokens", "of a reply", 1],
  beta: ["β", "price of a nat", 3],
};
const WINDOW = 5; // steps in the trailing mean

const known = (values) => values.filter((v) => Number.isFinite(v));

// Trailing mean over up to `WINDOW` values; it never looks ahead, and skips what is missing.
const smooth = (values) => values.map((_, i) => {
  const seen = known(values.slice(Math.max(0, i - WINDOW + 1), i + 1));
  return seen.length ? seen.reduce((a, b) => a + b, 0) / seen.length : null;
});

// The last place in an increasing list that is not beyond `step`; -1 if all are.
const lastAt = (steps, step) => steps.reduce((found, s, i) => (s <= step ? i : found), -1);

// What is wrong with recorded runs, in the words of the Python side; null if nothing is.
function runsProblem(prompts, runs) {
  if (!Array.isArray(prompts) || !prompts.every((p) => typeof p === "string")) return "prompts are not a list of texts";
  if (!Array.isArray(runs)) return "runs is not a list";
  for (const { name, steps, curves, at, held, replies } of runs) {
    if (!Array.isArray(steps) || !steps.every((s, i) => Number.isInteger(s) && (i === 0 || s > steps[i - 1]))) {
      return `the steps of run ${name} are not whole numbers that rise`;
    }
    for (const [metric, values] of Object.entries(curves ?? {})) {
      if (!Array.isArray(values) || values.length !== steps.length || !values.every((v) => v === null || Number.isFinite(v))) {
        return `${metric} of run ${name} has ${values?.length} values; expected ${steps.length} numbers, one for each step`;
      }
    }
    if (!curves || !Array.isArray(at) || held?.length !== at.length || replies?.length !== at.length) {
      return `the held-out measurements of run ${name} are missing; expected gold and replies of each`;
    }
    if (!replies.every((row) => Array.isArray(row) && (row.length === 0 || row.length === prompts.length)
      && row.every((reply) => typeof reply?.[0] === "string"))) {
      return `replies of run ${name} do not fit the prompts; expected ${prompts.length} each time, or none`;
    }
  }
  return null;
}

// ---------------------------------------------------------------- one panel

const PANEL = { width: 200, height: 118, left: 34, right: 8, top: 8, bottom: 20 };

function drawPanel(place, metric, runs, chosen, step, lastStep) {
  const [label, , digits] = METRICS[metric];
  const { width, height, left, right, top, bottom } = PANEL;
  const log = metric === "beta";
  const floor = 1e-3; // β of 0 stands at the foot of its panel
  const scale = (v) => (log ? Math.log10(Math.max(v, floor)) : v);
  const own = chosen?.curves[metric] ?? [];
  const all = runs.flatMap((run) => [...known(run.curves[metric] ?? []), ...(metric === "gold" ? known(run.held) : [])]);
  if (!all.length) {
    place.replaceChildren();
    place.hidden = true;
    return;
  }
  place.hidden = false;
  let [low, high] = [Math.min(...all.map(scale)), Math.max(...all.map(scale))];
  if (high - low < 1e-6) { low -= log ? 0.5 : 0.5; high += 0.5; }
  const pad = 0.06 * (high - low);
  low -= pad; high += pad;
  const x = (s) => left + ((width - left - right) * s) / Math.max(1, lastStep);
  const y = (v) => height - bottom - ((height - top - bottom) * (clamp(scale(v), [low, high]) - low)) / (high - low);
  const path = (steps, values) => {
    let pen = "M";
    return steps.map((s, i) => {
      if (!Number.isFinite(values[i])) { pen = "M"; return ""; }
      const text = `${pen}${x(s).toFixed(1)},${y(values[i]).toFixed(1)}`;
      pen = "L";
      return text;
    }).join("");
  };
  const marks = log ? [0.001, 0.01, 0.1, 1].filter((v) => scale(v) >= low && scale(v) <= high) : ticks(low, high, 4);
  if (!log && marks.length < 2) marks.splice(0, 9, ...ticks(low, high, 7));
  if (log && marks.length === 0) marks.push(10 ** ((low + high) / 2));
  const name = (v) => (log && v <= floor ? (all.some((b) => b === 0) ? "0" : "0.001") : log ? String(Number(v.toPrecision(1))) : short(Number(v.toFixed(4))));
  const figure = svg("svg", { class: "rlhf-plot", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${label} over the steps` },
    ...marks.flatMap((v) => [
      svg("line", { class: "rlhf-grid", x1: left, x2: width - right, y1: y(v), y2: y(v) }),
      svg("text", { class: "rlhf-tick", x: left - 4, y: y(v) + 4, "text-anchor": "end" }, name(v))]),
    ...ticks(0, lastStep, 3).map((s) =>
      svg("text", { class: "rlhf-tick", x: x(s), y: height - 5, "text-anchor": "middle" }, String(s))),
    ...runs.filter((run) => run !== chosen && run.curves[metric]).map((run) =>
      svg("path", { class: "rlhf-other-run", d: path(run.steps, log ? run.curves[metric] : smooth(run.curves[metric])) })));
  if (chosen && own.length) {
    if (!log) figure.append(svg("path", { class: "rlhf-curve rlhf-raw", d: path(chosen.steps, own) }));
    figure.append(svg("path", { class: "rlhf-curve", d: path(chosen.steps, log ? own : smooth(own)) }));
  }
  if (chosen && metric === "gold") {
    figure.append(...chosen.at.map((s, i) => (Number.isFinite(chosen.held[i])
      ? svg("circle", { class: "rlhf-held", cx: x(s), cy: y(chosen.held[i]), r: 2.6 }) : "")));
  }
  const i = chosen ? lastAt(chosen.steps, step) : -1;
  figure.append(svg("line", { class: "rlhf-cursor", x1: x(step), x2: x(step), y1: top, y2: height - bottom }));
  const value = i >= 0 ? own[i] : null;
  if (Number.isFinite(value)) {
    figure.append(svg("circle", { class: "rlhf-dot", cx: x(chosen.steps[i]), cy: y(value), r: 3.5 }));
  }
  const output = html("output", { "data-name": metric });
  if (Number.isFinite(value)) showNumber(output, value, digits);
  else output.textContent = "–";
  place.replaceChildren(html("div", { class: "rlhf-panel-head" }, html("span", {}, label), output), figure);
}

function drawReplies(list, heading, prompts, run, step) {
  const seen = run ? run.at.filter((_, i) => run.replies[i].length) : [];
  const which = lastAt(seen, step);
  list.replaceChildren();
  heading.hidden = which < 0;
  if (which < 0) return;
  const rows = run.replies[run.at.indexOf(seen[which])];
  heading.textContent = `Replies to the same ${prompts.length} held-out prompts, after ${seen[which]} steps`;
  heading.dataset.step = String(seen[which]);
  list.append(...prompts.map((prompt, i) => {
    const gold = html("span", { class: "rlhf-reply-gold" });
    if (Number.isFinite(rows[i][1])) {
      gold.dataset.value = String(rows[i][1]);
      gold.textContent = `gold ${format(rows[i][1], 2)}`;
    }
    return html("li", { class: "rlhf-reply" }, html("span", { class: "rlhf-reply-head" }, html("span", {}, prompt), gold),
      html("span", { class: "rlhf-reply-text" }, rows[i][0] || "(an empty reply)"));
  }));
}

// ---------------------------------------------------------------- the view

// `choose(run, step)` is called when the reader moves; `draw(state)` shows {prompts, runs, run, step}.
function trainingView(choose) {
  const still = globalThis.matchMedia?.("(prefers-reduced-motion: reduce)");
  let state = null, timer = 0;
  const last = (run) => Math.max(0, run.steps.at(-1) ?? 0, run.at.at(-1) ?? 0);
  const run = () => state.runs[state.run];
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    if (state) label();
  };
  const go = (step) => choose(state.run, clamp(step, [0, last(run())]));
  const move = (by) => { stop(); go(state.step + by); };
  const onward = () => { // to the next replies: what "play" does for those who asked for less motion
    const next = run().at.find((s) => s > state.step);
    go(next ?? (state.step >= last(run()) ? 0 : last(run())));
  };
  const play = () => {
    if (timer) { stop(); return; }
    if (still?.matches) { onward(); return; }
    if (state.step >= last(run())) go(0);
    timer = setInterval(() => {
      if (state.step >= last(run())) stop();
      else go(state.step + 1);
    }, 220);
    label();
  };
  const button = (name, words, title, act) => {
    const element = html("button", { type: "button", class: "rlhf-button", "data-control": name, "aria-label": title }, words);
    element.addEventListener("click", act);
    return element;
  };

  const runButtons = html("span", { class: "rlhf-buttons rlhf-runs", role: "group", "aria-label": "recorded run" });
  const runRow = html("div", { class: "rlhf-control" }, html("span", { class: "rlhf-label" }, "run", html("small", {}, "others in grey")), runButtons);
  const note = html("p", { class: "rlhf-legend", "data-name": "run-note" });
  const scrub = slider({ name: "step", label: "training step", hint: "arrow keys move by one step", positions: [0, 1],
    toValue: (p) => p, toPosition: (v) => v, describe: (v) => `step ${v}`, onChange: (v) => { stop(); go(v); } });
  const playButton = button("play", "play", "play", play);
  const where = html("output", { class: "rlhf-setting rlhf-where", "data-setting": "step" });
  const stepRow = html("div", { class: "rlhf-control rlhf-scrub" },
    html("span", { class: "rlhf-buttons" }, playButton, button("back", "‹", "one step back", () => move(-1)),
      button("next", "›", "one step on", () => move(1))),
    html("span", { class: "rlhf-slider-place" }, scrub.element), where);
  const panels = html("div", { class: "rlhf-panels rlhf-small-multiples" });
  const places = Object.fromEntries(Object.entries(METRICS).map(([metric, [, why]]) =>
    [metric, html("div", { class: "rlhf-small", title: why })]));
  panels.append(...Object.values(places));
  const legend = html("p", { class: "rlhf-legend" },
    "Numbers: the batch of that step. Thin line: each batch; thick: trailing mean of five. Orange dots: held-out prompts.");
  const heading = html("p", { class: "rlhf-replies-head" });
  const list = html("ul", { class: "rlhf-replies", "aria-label": "replies to held-out prompts" });
  const live = announcer();
  const element = html("div", { class: "rlhf-training" }, runRow, note, stepRow, panels, legend, heading, list, live.element);

  function label() {
    const words = still?.matches ? "next replies" : timer ? "pause" : "play";
    playButton.textContent = words;
    playButton.setAttribute("aria-label", still?.matches ? "on to the next recorded replies" : `${words} the run`);
  }
  let built = "";
  function draw(next) {
    state = next;
    const chosen = run();
    element.hidden = !chosen;
    if (!chosen) { stop(); return; }
    const names = JSON.stringify(state.runs.map(({ name }) => name));
    if (names !== built) {
      built = names;
      runButtons.replaceChildren(...state.runs.map(({ name }, i) =>
        button(`run-${i}`, name, `run: ${name}`, () => { stop(); choose(i, Math.min(state.step, last(state.runs[i]))); })));
    }
    runRow.hidden = state.runs.length < 2;
    for (const [i, b] of [...runButtons.children].entries()) b.setAttribute("aria-pressed", String(i === state.run));
    note.textContent = chosen.note ?? "";
    note.hidden = !chosen.note;
    const lastStep = Math.max(...state.runs.map(last), state.total ?? 0);
    scrub.element.max = last(chosen);
    scrub.show(state.step);
    where.textContent = `step ${state.step} of ${last(chosen)}`;
    where.dataset.value = String(state.step);
    for (const metric of Object.keys(METRICS)) drawPanel(places[metric], metric, state.runs, chosen, state.step, lastStep);
    legend.hidden = !chosen.steps.length;
    drawReplies(list, heading, state.prompts, chosen, state.step);
    label();
    const tile = (metric) => places[metric].querySelector("output")?.textContent ?? "–";
    if (!timer) live.say(`${chosen.name}, step ${state.step}: reward ${tile("reward")}, gold ${tile("gold")}, KL ${tile("kl")}, β ${tile("beta")}.`);
  }
  return { element, draw, stop: () => { clearInterval(timer); live.stop(); }, playing: () => timer !== 0 };
}
