// The estimator explorer. The mathematics first, as pure functions; then what draws it.

const RUNS = 1000, BINS = 40, LARGEST_RUN = 256, SEEDS = 2 ** 31, K2_SHOWN = 0.98;
const HAIR = 1e-9; // averages this near to a limit count as on it, so that rounding decides nothing

const ESTIMATORS = {
  k1: (lr) => lr,
  k2: (lr) => lr * lr / 2,
  k3: (lr) => Math.expm1(-lr) + lr,
};

// mulberry32, the same draws as Python's `uniforms`.
function generator(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6D2B79F5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// The log-ratio and the probabilities of the policy at a distance along the path.
function along(reference, policy, distance) {
  const logReference = reference.map(Math.log);
  const step = policy.map((p, i) => distance * (Math.log(p) - logReference[i]));
  const scores = step.map((d, i) => logReference[i] + d);
  const top = Math.max(...scores);
  const logZ = Math.log(scores.reduce((sum, s) => sum + Math.exp(s - top), 0)) + top;
  const logRatio = step.map((d) => d - logZ);
  return { logRatio, p: logRatio.map((lr, i) => Math.exp(logReference[i] + lr)) };
}

function exactly(p, values) {
  const expected = p.reduce((sum, q, i) => sum + q * values[i], 0);
  const variance = p.reduce((sum, q, i) => sum + q * (values[i] - expected) ** 2, 0);
  return { expected, std: Math.sqrt(variance) };
}

// What is wrong with a state, in the words of the Python side; null if nothing is.
function problem({ reference, policy, distance, distance_range, samples, seed }) {
  for (const [name, values] of Object.entries({ reference, policy })) {
    if (!Array.isArray(values) || values.length === 0) return `${name} is empty; expected at least one number`;
    const at = values.findIndex((v) => typeof v !== "number" || !Number.isFinite(v));
    if (at >= 0) return `${name}[${at}] is ${values[at]}; expected finite numbers`;
    const low = values.findIndex((v) => v <= 0);
    if (low >= 0) return `${name}[${low}] is ${values[low]}; expected positive probabilities`;
    const total = values.reduce((a, b) => a + b, 0);
    if (Math.abs(total - 1) > 1e-6) {
      return `${name} sums to ${Number(total.toPrecision(6))}; expected probabilities that sum to 1`;
    }
  }
  if (policy.length !== reference.length) {
    return `policy has ${policy.length} entries; expected ${reference.length}, as reference has`;
  }
  const [low, high] = Array.isArray(distance_range) ? distance_range : [];
  if (!(low > 0 && high > low && Number.isFinite(high))) {
    return `distance_range is ${distance_range}; expected two positive numbers, the smaller first`;
  }
  if (typeof distance !== "number" || !Number.isFinite(distance)) {
    return `distance is ${distance}; expected a number from ${low} to ${high}`;
  }
  if (!Number.isInteger(Math.log2(samples)) || samples < 1 || samples > LARGEST_RUN) {
    return `samples is ${samples}; expected a power of two from 1 to ${LARGEST_RUN}`;
  }
  if (!Number.isInteger(seed) || seed < 0 || seed >= SEEDS) {
    return `seed is ${seed}; expected 0 to ${SEEDS - 1}`;
  }
  const { logRatio, p } = along(reference, policy, clamp(distance, distance_range));
  if (!Object.values(ESTIMATORS).every((k) => Number.isFinite(exactly(p, logRatio.map(k)).std))) {
    return `at distance=${distance} the spread of k3 is beyond the largest float; expected policies nearer to each other`;
  }
  return null;
}

// Everything on display, from the state of the model.
function compute(state) {
  const distance = clamp(state.distance, state.distance_range);
  const { logRatio, p } = along(state.reference, state.policy, distance);
  const cumulative = [];
  p.reduce((sum, q, i) => (cumulative[i] = sum + q), 0);
  const total = cumulative[p.length - 1];
  const find = (u) => { // the first token whose cumulative probability is above u
    let low = 0, high = p.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (cumulative[middle] > u) high = middle; else low = middle + 1;
    }
    return low;
  };
  const names = Object.keys(ESTIMATORS);
  const values = Object.fromEntries(names.map((name) => [name, logRatio.map(ESTIMATORS[name])]));
  const means = Object.fromEntries(names.map((name) => [name, new Float64Array(RUNS)]));
  const draw = generator(state.seed);
  for (let run = 0; run < RUNS; run++) {
    const sums = [0, 0, 0];
    for (let i = 0; i < state.samples; i++) {
      const token = find(draw() * total);
      for (let j = 0; j < 3; j++) sums[j] += values[names[j]][token];
    }
    names.forEach((name, j) => { means[name][run] = sums[j] / state.samples; });
  }
  const low = Math.min(...names.map((name) => Math.min(...means[name])));
  let high = Math.max(Math.max(...means.k1), Float64Array.from(means.k2).sort()[Math.trunc(K2_SHOWN * RUNS) - 1]);
  if (!(high > low)) high = low + 1;
  const kl = exactly(p, values.k1).expected;
  const estimators = names.map((name) => {
    const runs = Array.from(means[name]);
    const mean = runs.reduce((a, b) => a + b, 0) / RUNS;
    const spread = Math.sqrt(runs.reduce((sum, m) => sum + (m - mean) ** 2, 0) / RUNS);
    const counts = new Array(BINS).fill(0);
    let beyond = 0;
    for (const m of runs) {
      const at = (m - low) / (high - low) * BINS;
      if (at <= BINS + HAIR) counts[Math.min(Math.floor(at + HAIR), BINS - 1)] += 1; else beyond += 1;
    }
    const below = (limit) => runs.filter((m) => m < limit - HAIR).length / RUNS;
    return { name, ...exactly(p, values[name]), mean, spread, counts, beyond, belowZero: below(0), belowKl: below(kl) };
  });
  return { ...state, distance, low, high, kl, estimators };
}

// ---------------------------------------------------------------- the histograms

const PANEL = { height: 86, left: 34, right: 14, top: 16, bottom: 42 };

function drawHistograms(plot, s, width) {
  const { height, left, right, top, bottom } = PANEL;
  plot.setAttribute("viewBox", `0 0 ${width} ${top + 3 * height + bottom}`);
  const X = (value) => left + ((width - left - right) * (value - s.low)) / (s.high - s.low);
  const end = top + 3 * height;
  const text = (x, y, anchor, kind, ...children) =>
    svg("text", { x, y, "text-anchor": anchor, class: kind }, ...children);
  const parts = [];
  for (const tick of ticks(s.low, s.high, width > 400 ? 6 : 4)) {
    parts.push(svg("line", { class: "rlhf-grid", x1: X(tick), x2: X(tick), y1: top, y2: end }));
    parts.push(text(X(tick), end + 15, "middle", "rlhf-tick", short(tick)));
  }
  s.estimators.forEach((e, j) => {
    const floor = top + (j + 1) * height - 4;
    const tallest = Math.max(...e.counts, 1);
    const wide = (width - left - right) / BINS;
    e.counts.forEach((count, bin) => {
      const tall = (height - 26) * count / tallest;
      if (count) parts.push(svg("rect", { class: "rlhf-hist", x: left + bin * wide + 0.5, y: floor - tall, width: wide - 1, height: tall }));
    });
    parts.push(svg("line", { class: "rlhf-base", x1: left, x2: width - right, y1: floor, y2: floor }));
    parts.push(text(left - 8, floor - 6, "end", "rlhf-hist-name", e.name));
    if (e.beyond) parts.push(text(width - right, floor - height + 20, "end", "rlhf-tick rlhf-beyond", `${e.beyond} of ${RUNS} runs beyond →`));
    const at = X(e.expected);
    if (at <= width - right) parts.push(svg("path", { class: "rlhf-expected", d: `M${at},${floor}l-4.5,7h9z` }));
  });
  parts.push(svg("line", { class: "rlhf-exact", "data-kl": s.kl, x1: X(s.kl), x2: X(s.kl), y1: top - 4, y2: end }));
  parts.push(text((left + width - right) / 2, end + 34, "middle", "rlhf-axis",
    `average of ${s.samples} ${s.samples === 1 ? "sample" : "samples"}, nats`));
  plot.replaceChildren(...parts);
  plot.setAttribute("aria-label", `Histograms of ${RUNS} runs. The exact KL is ${format(s.kl, 4)} nats. ` +
    s.estimators.map((e) => `${e.name}: the runs average ${format(e.mean, 4)} and spread by ${format(e.spread, 4)}`).join("; ") + ".");
}

function drawTable(table, s) {
  const columns = [
    ["exact mean", "expected", (e) => e.expected, 4],
    ["one draw: std / KL", "std", (e) => (s.kl > HAIR ? e.std / s.kl : 0), 2],
    ["runs: mean", "mean", (e) => e.mean, 4],
    ["runs: std", "spread", (e) => e.spread, 4],
    ["runs below 0", "below_zero", (e) => e.belowZero, 3],
    ["runs below KL", "below_kl", (e) => e.belowKl, 3],
  ];
  const rows = s.estimators.map((e) => html("tr", {}, html("th", { scope: "row" }, e.name),
    ...columns.map(([, name, value, digits]) => {
      const cell = html("td", { class: "rlhf-right", "data-name": `${e.name}-${name}` });
      showNumber(cell, value(e), digits);
      return cell;
    })));
  table.replaceChildren(
    html("caption", { class: "rlhf-hidden" }, "Each estimator: its exact mean and deviation, and what the runs gave"),
    html("thead", {}, html("tr", {}, html("th", { scope: "col" }, html("span", { class: "rlhf-hidden" }, "estimator")),
      ...columns.map(([title]) => html("th", { scope: "col", class: "rlhf-right" }, title)))),
    html("tbody", {}, ...rows));
}

// ---------------------------------------------------------------- the demo

const STATE = ["reference", "policy", "distance", "distance_range", "presets", "samples", "seed"];

function render({ model, el }) {
  const read = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  const set = (name, value) => { model.set(name, value); model.save_changes(); };
  const message = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  const note = (text) => { message.textContent = text; message.hidden = !text; };
  const live = announcer();

  const setting = (name) => html("output", { class: "rlhf-setting", "data-setting": name });
  const row = (label, hint, ...controls) => html("div", { class: "rlhf-control" },
    html("span", { class: "rlhf-label" }, label, html("small", {}, hint)), ...controls);

  const STEP = 0.05;
  const place = html("span", { class: "rlhf-slider-place" });
  const outputs = { distance: setting("distance"), samples: setting("samples") };
  let distance = null, range = "";
  const presets = html("span", { class: "rlhf-buttons" });
  const samples = slider({
    name: "samples", label: "samples", hint: "draws in a run", positions: [0, Math.log2(LARGEST_RUN)],
    toValue: (i) => 2 ** i, toPosition: Math.log2, describe: (n) => `${n} samples a run`,
    onChange: (n) => set("samples", n),
  });
  const again = html("button", { type: "button", class: "rlhf-button", "data-control": "again", "aria-label": "draw new samples" }, "draw again");
  again.addEventListener("click", () => set("seed", (model.get("seed") + 1) % SEEDS));

  const kl = html("output", { "data-name": "kl" });
  const numbers = html("div", { class: "rlhf-tiles" },
    html("div", { class: "rlhf-tile rlhf-tile-true", title: "KL(π‖π_ref), by summing over all tokens" }, html("span", {}, "exact KL, nats"), kl));
  const table = html("table", { class: "rlhf-bars" });
  const plot = svg("svg", { class: "rlhf-plot", role: "img" });
  const legend = html("p", { class: "rlhf-legend" },
    "Dashed: the exact KL. ▲ what an estimator gives on average, over all samples that could be drawn. Each panel has its own height.");
  const figure = html("div", { class: "rlhf-figure" }, numbers,
    html("div", { class: "rlhf-panels" }, html("div", { class: "rlhf-plot-place" }, plot, legend), table));
  el.classList.add("rlhf-demo", "rlhf-estimators");
  el.append(
    row("distance", "of the policy from the reference", place, outputs.distance, presets),
    row("samples", "averaged in one run", samples.element, outputs.samples, html("span", { class: "rlhf-buttons" }, again)),
    message, figure, live.element);

  // The letters keep their size: on a phone the plot is drawn for half the width.
  let drawn = false, drawnNarrow = false;
  const narrow = () => el.clientWidth > 0 && el.clientWidth < 480;
  const draw = () => {
    drawnNarrow = narrow();
    const state = read();
    const wrong = problem(state);
    figure.hidden = Boolean(wrong) && !drawn;
    figure.classList.toggle("rlhf-stale", Boolean(wrong));
    note(wrong ? `This figure cannot be drawn: ${wrong}.` + (drawn ? " Below is the last state that could." : "") : "");
    if (wrong) return;
    const ends = JSON.stringify([state.distance_range, state.presets]);
    if (ends !== range) {
      range = ends;
      const [low, high] = state.distance_range;
      distance = slider({
        name: "distance", label: "distance", hint: "of the policy from the reference",
        positions: [Math.ceil(low / STEP - 1e-9), Math.floor(high / STEP + 1e-9)],
        toValue: (i) => Number((i * STEP).toFixed(6)), toPosition: (d) => d / STEP,
        describe: (d) => `distance ${short(d)}`, onChange: (d) => set("distance", d),
      });
      place.replaceChildren(distance.element);
      presets.replaceChildren(...state.presets.map((value) => {
        const button = html("button", { type: "button", class: "rlhf-button", "data-distance": value, "aria-label": `distance ${value}` }, short(value));
        button.addEventListener("click", () => set("distance", value));
        return button;
      }));
    }
    const s = compute(state);
    distance.show(s.distance);
    samples.show(s.samples);
    for (const name of ["distance", "samples"]) showSetting(outputs[name], s[name]);
    for (const button of presets.children) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.distance) === s.distance));
    }
    showNumber(kl, s.kl, 4);
    drawHistograms(plot, s, drawnNarrow ? 340 : 640);
    drawTable(table, s);
    live.say(`distance ${short(s.distance)}, ${s.samples} samples a run: exact KL ${format(s.kl, 4)}; ` +
      s.estimators.map((e) => `${e.name} ${format(e.mean, 4)} plus or minus ${format(e.spread, 4)}`).join(", ") + ".");
    drawn = true;
  };
  const showSetting = (output, value) => { output.textContent = short(value); output.dataset.value = String(value); };
  const unfollow = follow(model, STATE, draw);
  const resized = new ResizeObserver(() => { if (narrow() !== drawnNarrow) draw(); });
  resized.observe(el);
  return () => { unfollow(); resized.disconnect(); live.stop(); };
}

export default { render };
