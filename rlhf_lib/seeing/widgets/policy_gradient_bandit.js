// The policy-gradient bandit. The mathematics first, as pure functions; then what draws it.

const ARMS = 3, LARGEST_BATCH = 32, MOST_STEPS = 200, SEEDS = 2 ** 31, LARGEST_REWARD = 100, HAIR = 1e-12;
const SHIFTS = [-5, 10], RATES = [0.01, 20], RUN_STEPS = 50, PAUSE = 90; // milliseconds between the steps of a run
const BASELINES = {
  none: "none", mean: "batch mean", leave_one_out: "mean of the others", value: "exact value E[r]", optimal: "least variance",
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

const total = (values) => values.reduce((sum, v) => sum + v, 0);
const dot = (x, y) => x.reduce((sum, v, i) => sum + v * y[i], 0);

function softmax(logits) {
  const top = Math.max(...logits);
  const weights = logits.map((z) => Math.exp(z - top));
  const sum = total(weights);
  return weights.map((w) => w / sum);
}

// Reward less baseline of a draw of each arm, in a batch with these counts.
function advantagesOf(policy, rewards, counts, baseline) {
  const n = total(counts);
  if (baseline === "mean" || baseline === "leave_one_out") {
    const level = dot(counts, rewards) / n;
    return rewards.map((r) => (r - level) * (baseline === "leave_one_out" ? n / (n - 1) : 1));
  }
  if (baseline === "none") return rewards.slice();
  const square = dot(policy, policy);
  const weights = policy.map((p) => (baseline === "value" ? p : p * (1 - 2 * p + square)));
  const level = dot(weights, rewards) / total(weights);
  return rewards.map((r) => r - level);
}

// The mean over a batch of advantage times (e_a − π).
function gradient(policy, advantages, counts) {
  const n = total(counts);
  const pull = counts.map((count, a) => count * advantages[a] / n);
  const sum = total(pull);
  return pull.map((p, a) => p - policy[a] * sum);
}

// Mean and variance of the estimate, by adding up every batch of n draws.
function overEveryBatch(policy, rewards, n, baseline) {
  const logFactorial = [0];
  for (let k = 1; k <= n; k++) logFactorial.push(logFactorial[k - 1] + Math.log(k));
  const batches = [], mean = [0, 0, 0];
  for (let i = 0; i <= n; i++) {
    for (let j = 0; i + j <= n; j++) {
      const counts = [i, j, n - i - j];
      const log = counts.reduce((sum, c, a) => sum - logFactorial[c] + (c ? c * Math.log(policy[a]) : 0), logFactorial[n]);
      const estimate = gradient(policy, advantagesOf(policy, rewards, counts, baseline), counts);
      batches.push([Math.exp(log), estimate]);
      estimate.forEach((g, a) => { mean[a] += Math.exp(log) * g; });
    }
  }
  const variance = batches.reduce((sum, [chance, g]) => sum + chance * total(g.map((x, a) => (x - mean[a]) ** 2)), 0);
  return { mean, variance };
}

// What is wrong with a state, in the words of the Python side; null if nothing is.
function problem({ labels, rewards, logits, baseline, reward_shift, learning_rate, batch_size, seed, steps }) {
  for (const [name, values] of Object.entries({ rewards, logits, labels })) {
    const count = Array.isArray(values) ? values.length : 0;
    if (count !== ARMS) return `${name} has ${count} entries; expected ${ARMS}, one for each arm`;
    if (name === "labels") continue;
    const at = values.findIndex((v) => !(typeof v === "number" && Math.abs(v) <= LARGEST_REWARD));
    if (at >= 0) return `${name}[${at}] is ${values[at]}; expected a number from −${LARGEST_REWARD} to ${LARGEST_REWARD}`;
  }
  if (!Object.hasOwn(BASELINES, baseline)) {
    return `baseline is '${baseline}'; expected one of ${Object.keys(BASELINES).map((b) => `'${b}'`).join(", ")}`;
  }
  for (const [name, value, [low, high]] of [["reward_shift", reward_shift, SHIFTS], ["learning_rate", learning_rate, RATES]]) {
    if (typeof value !== "number" || !Number.isFinite(value)) return `${name} is ${value}; expected a number from ${low} to ${high}`;
  }
  if (!Number.isInteger(Math.log2(batch_size)) || batch_size < 2 || batch_size > LARGEST_BATCH) {
    return `batch_size is ${batch_size}; expected a power of two from 2 to ${LARGEST_BATCH}`;
  }
  if (!Number.isInteger(seed) || seed < 0 || seed >= SEEDS) return `seed is ${seed}; expected 0 to ${SEEDS - 1}`;
  if (!Number.isInteger(steps) || steps < 0 || steps > MOST_STEPS) return `steps is ${steps}; expected 0 to ${MOST_STEPS}`;
  return null;
}

// Everything on display, from the state of the model: the run is replayed from its start.
function compute(state) {
  const shift = clamp(state.reward_shift, SHIFTS), rate = clamp(state.learning_rate, RATES), n = state.batch_size;
  const rewards = state.rewards.map((r) => r + shift);
  const draw = generator(state.seed);
  const path = [];
  let logits = state.logits.slice(), policy, drawn, counts, advantages, estimate, before;
  for (let step = 0; step <= state.steps; step++) {
    policy = softmax(logits);
    path.push(policy);
    const all = policy[0] + policy[1] + policy[2];
    drawn = [];
    for (let i = 0; i < LARGEST_BATCH; i++) {
      const u = draw() * all;
      if (i < n) drawn.push(u < policy[0] ? 0 : u < policy[0] + policy[1] ? 1 : 2);
    }
    counts = [0, 1, 2].map((a) => drawn.filter((arm) => arm === a).length);
    advantages = advantagesOf(policy, rewards, counts, state.baseline);
    estimate = gradient(policy, advantages, counts);
    before = logits;
    logits = logits.map((z, a) => z + rate * estimate[a]);
  }
  const level = dot(policy, rewards);
  const exact = policy.map((p, a) => p * (rewards[a] - level));
  const { mean, variance } = overEveryBatch(policy, rewards, n, state.baseline);
  const length = Math.sqrt(dot(exact, exact)), size = Math.sqrt(dot(estimate, estimate));
  const flat = length < HAIR;
  const moved = (g) => softmax(before.map((z, a) => z + rate * g[a]));
  const alone = [0, 1, 2].map((a) => moved(policy.map((p, k) => advantages[a] * ((k === a ? 1 : 0) - p))));
  return {
    ...state, shift, rate, shifted: rewards, path, policy, drawn, counts, advantages, estimate, exact, alone,
    next: softmax(logits), exactly: moved(exact),
    expected: dot(policy, state.rewards),
    entropy: -policy.reduce((sum, p) => sum + (p > 0 ? p * Math.log(p) : 0), 0),
    variance, noise: flat ? Infinity : Math.sqrt(variance) / length,
    kept: flat ? 1 : dot(mean, exact) / length ** 2,
    cosine: flat || size < HAIR ? 0 : dot(estimate, exact) / (length * size),
  };
}

// ---------------------------------------------------------------- the triangle

const FACTORS = [1, 2, 5, 10, 20, 50, 100], LONGEST = 90; // units of the drawing
const TRIANGLE = { width: 340, height: 318, corners: [[34, 276], [306, 276], [170, 40]] };

const place = (policy) => [0, 1].map((axis) => policy.reduce((sum, p, a) => sum + p * TRIANGLE.corners[a][axis], 0));

function arrow(from, to, kind, attributes = {}) {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const length = Math.hypot(dx, dy);
  const head = Math.min(9, length * 0.6), wide = head * 0.42;
  const neck = length > 0 ? [to[0] - dx / length * head, to[1] - dy / length * head] : to;
  const side = length > 0 ? [-dy / length * wide, dx / length * wide] : [0, 0];
  const points = [to, [neck[0] + side[0], neck[1] + side[1]], [neck[0] - side[0], neck[1] - side[1]]]
    .map((p) => p.map((x) => x.toFixed(2)).join()).join(" ");
  return svg("g", { class: `rlhf-arrow ${kind}`, ...attributes },
    svg("line", { x1: from[0], y1: from[1], x2: neck[0], y2: neck[1] }), svg("polygon", { points }));
}

// How many times too long the two arrows of means are drawn: as much as stays short of LONGEST and in the triangle.
function magnification(s) {
  const fits = (factor) => [s.next, s.exactly].every((policy) => {
    const [from, to] = [place(s.policy), place(policy)];
    return factor * Math.hypot(to[0] - from[0], to[1] - from[1]) <= LONGEST &&
      policy.every((p, a) => s.policy[a] + factor * (p - s.policy[a]) >= 0);
  });
  return Math.max(1, ...FACTORS.filter(fits));
}

function drawTriangle(plot, s) {
  const { width, height, corners } = TRIANGLE;
  plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const parts = [svg("polygon", { class: "rlhf-simplex", points: corners.map((c) => c.join()).join(" ") })];
  const low = Math.min(...s.rewards), high = Math.max(...s.rewards);
  for (const part of high > low ? [0.2, 0.4, 0.6, 0.8] : []) { // lines of equal expected reward
    const level = low + part * (high - low), ends = [];
    for (const [i, j] of [[0, 1], [1, 2], [2, 0]]) {
      const t = (level - s.rewards[i]) / (s.rewards[j] - s.rewards[i]);
      if (t > 0 && t < 1) ends.push([0, 1].map((axis) => corners[i][axis] + t * (corners[j][axis] - corners[i][axis])));
    }
    if (ends.length >= 2) parts.push(svg("line", { class: "rlhf-grid", x1: ends[0][0], y1: ends[0][1], x2: ends[1][0], y2: ends[1][1] }));
  }
  const anchors = [["middle", 20], ["middle", 20], ["middle", -12]];
  s.labels.forEach((label, a) => parts.push(svg("text",
    { x: corners[a][0], y: corners[a][1] + anchors[a][1], "text-anchor": anchors[a][0], class: "rlhf-corner" },
    `${label}: r = ${short(Number(s.shifted[a].toFixed(2)))}`)));
  parts.push(svg("polyline", { class: "rlhf-path", points: s.path.map((p) => place(p).map((x) => x.toFixed(2)).join()).join(" ") }));
  for (const p of s.path.slice(0, -1)) {
    const [cx, cy] = place(p);
    parts.push(svg("circle", { class: "rlhf-step", cx, cy, r: 1.7 }));
  }
  const here = place(s.policy);
  parts.push(svg("circle", { class: "rlhf-dot", cx: here[0], cy: here[1], r: 4 }));
  s.counts.forEach((count, a) => {
    if (count) parts.push(arrow(here, place(s.alone[a]), "rlhf-arrow-one", { "stroke-width": 1 + 2.5 * count / s.batch_size, "data-arm": a }));
  });
  const factor = magnification(s);
  const tip = (policy) => place(policy).map((x, axis) => here[axis] + factor * (x - here[axis]));
  parts.push(arrow(here, tip(s.exactly), "rlhf-arrow-exact", { "stroke-width": 2.5 }));
  parts.push(arrow(here, tip(s.next), "rlhf-arrow-mean", { "stroke-width": 2.5 }));
  plot.replaceChildren(...parts);
  plot.setAttribute("aria-label", `The triangle of policies after ${s.steps} steps: ` +
    s.labels.map((label, a) => `${label} ${format(s.policy[a], 3)}`).join(", ") + ". The batch would take it to " +
    s.labels.map((label, a) => `${label} ${format(s.next[a], 3)}`).join(", ") + ", the exact gradient to " +
    s.labels.map((label, a) => `${label} ${format(s.exactly[a], 3)}`).join(", ") + ".");
}

function drawTable(table, s) {
  const head = ["arm", "r", "π", "drawn", "advantage"];
  const rows = s.labels.map((label, a) => {
    const cell = (name, value, digits) => {
      const td = html("td", { class: "rlhf-right", "data-name": `${name}-${a}` });
      showNumber(td, value, digits);
      return td;
    };
    return html("tr", {}, html("th", { scope: "row" }, label), cell("reward", s.shifted[a], 2), cell("policy", s.policy[a], 4),
      cell("count", s.counts[a], 0), cell("advantage", s.advantages[a], 3));
  });
  table.replaceChildren(
    html("caption", { class: "rlhf-hidden" }, "Each arm: its reward, its probability, how often the next batch drew it, and its advantage there"),
    html("thead", {}, html("tr", {}, ...head.map((title, i) => html("th", { scope: "col", class: i ? "rlhf-right" : false }, title)))),
    html("tbody", {}, ...rows));
}

// ---------------------------------------------------------------- the demo

const STATE = ["labels", "rewards", "logits", "baseline", "reward_shift", "learning_rate", "batch_size", "seed", "steps"];
const RATE_STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10];

function render({ model, el }) {
  const read = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  const set = (name, value) => { model.set(name, value); model.save_changes(); };
  const message = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  const note = (text) => { message.textContent = text; message.hidden = !text; };
  const live = announcer();

  const outputs = {};
  const row = (name, label, hint, ...controls) => html("div", { class: "rlhf-control" },
    html("span", { class: "rlhf-label" }, label, html("small", {}, hint)), ...controls);
  const setting = (name) => (outputs[name] = html("output", { class: "rlhf-setting", "data-setting": name }));
  const baselines = Object.entries(BASELINES).map(([name, label]) => {
    const button = html("button", { type: "button", class: "rlhf-button", "data-baseline": name, "aria-label": `baseline: ${label}` }, label);
    button.addEventListener("click", () => set("baseline", name));
    return button;
  });
  const sliders = {
    reward_shift: slider({
      name: "reward_shift", label: "reward shift", hint: "added to every reward", positions: SHIFTS.map((end) => end * 2),
      toValue: (i) => i / 2, toPosition: (v) => v * 2, describe: (v) => `reward shift ${short(v)}`, onChange: (v) => set("reward_shift", v),
    }),
    learning_rate: slider({
      name: "learning_rate", label: "learning rate", hint: "length of a step", positions: [0, RATE_STEPS.length - 1],
      toValue: (i) => RATE_STEPS[i],
      toPosition: (v) => RATE_STEPS.reduce((best, r, i) => (Math.abs(Math.log(r / v)) < Math.abs(Math.log(RATE_STEPS[best] / v)) ? i : best), 0),
      describe: (v) => `learning rate ${short(v)}`, onChange: (v) => set("learning_rate", v),
    }),
    batch_size: slider({
      name: "batch_size", label: "batch size", hint: "draws in a step", positions: [1, Math.log2(LARGEST_BATCH)],
      toValue: (i) => 2 ** i, toPosition: Math.log2, describe: (v) => `${v} draws in a step`, onChange: (v) => set("batch_size", v),
    }),
  };

  // step, run, reset
  let timer = 0, left = 0;
  const stop = () => { clearTimeout(timer); timer = 0; left = 0; buttons.run.textContent = "run 50"; buttons.run.setAttribute("aria-label", "run 50 steps"); };
  const step = () => { if (model.get("steps") < MOST_STEPS) set("steps", model.get("steps") + 1); };
  const go = () => {
    step();
    left -= 1;
    if (left > 0 && model.get("steps") < MOST_STEPS) timer = setTimeout(go, PAUSE); else stop();
  };
  const buttons = {};
  const button = (name, text, label, action) => {
    buttons[name] = html("button", { type: "button", class: "rlhf-button", "data-control": name, "aria-label": label }, text);
    buttons[name].addEventListener("click", action);
    return buttons[name];
  };
  const actions = html("div", { class: "rlhf-control rlhf-actions" },
    button("step", "step", "take one step", () => { stop(); step(); }),
    button("run", "run 50", "run 50 steps", () => {
      if (timer) { stop(); return; }
      left = RUN_STEPS;
      buttons.run.textContent = "stop";
      buttons.run.setAttribute("aria-label", "stop the run");
      timer = setTimeout(go, 0);
    }),
    button("reset", "reset", "back to the start", () => { stop(); set("steps", 0); }),
    button("again", "other draws", "replay with other draws", () => set("seed", (model.get("seed") + 1) % SEEDS)));

  const tile = (name, label, title, kind = "") => {
    outputs[name] = html("output", { "data-name": name });
    return html("div", { class: `rlhf-tile ${kind}`, title }, html("span", {}, label), outputs[name]);
  };
  const numbers = html("div", { class: "rlhf-tiles" },
    tile("steps", "steps taken", "steps since the start"),
    tile("expected", "E[r]", "expected reward of the policy, without the shift"),
    tile("entropy", "entropy, nats", "entropy of the policy"),
    tile("variance", "gradient variance", "over all batches of this size, summed over the three logits; exact"),
    tile("noise", "noise ÷ signal", "root of the variance over the length of the exact gradient"),
    tile("kept", "mean ÷ exact", "the estimate's mean over all batches, as a multiple of the exact gradient", "rlhf-tile-true"),
    tile("cosine", "cosine", "of the angle between this batch's gradient and the exact one"));
  const plot = svg("svg", { class: "rlhf-plot", role: "img" });
  const table = html("table", { class: "rlhf-bars" });
  const drawn = html("p", { class: "rlhf-legend rlhf-drawn" });
  const times = html("span", { "data-name": "factor" });
  const legend = html("div", { class: "rlhf-legend" },
    html("div", {}, html("span", { class: "rlhf-key rlhf-key-ref" }), "where one draw alone would take the policy"),
    html("div", {}, html("span", { class: "rlhf-key" }), "the batch: the next step"),
    html("div", {}, html("span", { class: "rlhf-key rlhf-key-true" }), "the exact gradient"), times,
    html("div", {}, "Thin lines join policies of equal E[r]."));
  const figure = html("div", { class: "rlhf-figure" }, numbers,
    html("div", { class: "rlhf-panels" }, html("div", { class: "rlhf-plot-place" }, plot, legend), html("div", { class: "rlhf-side" }, table, drawn)));
  el.classList.add("rlhf-demo", "rlhf-bandit");
  el.append(
    row("baseline", "baseline", "taken off each reward", html("span", { class: "rlhf-buttons" }, ...baselines)),
    row("reward_shift", "reward shift", "added to every reward", sliders.reward_shift.element, setting("reward_shift")),
    row("learning_rate", "learning rate", "length of a step", sliders.learning_rate.element, setting("learning_rate")),
    row("batch_size", "batch size", "draws in a step", sliders.batch_size.element, setting("batch_size")),
    actions, message, figure, live.element);

  let shown = false;
  const draw = () => {
    const state = read();
    const wrong = problem(state);
    figure.hidden = Boolean(wrong) && !shown;
    figure.classList.toggle("rlhf-stale", Boolean(wrong));
    note(wrong ? `This figure cannot be drawn: ${wrong}.` + (shown ? " Below is the last state that could." : "") : "");
    if (wrong) return;
    const s = compute(state);
    for (const [name, value] of [["reward_shift", s.shift], ["learning_rate", s.rate], ["batch_size", s.batch_size]]) {
      sliders[name].show(value);
      outputs[name].textContent = short(value);
      outputs[name].dataset.value = String(value);
    }
    for (const one of baselines) one.setAttribute("aria-pressed", String(one.dataset.baseline === s.baseline));
    for (const name of ["step", "run"]) buttons[name].disabled = s.steps >= MOST_STEPS;
    for (const [name, digits] of [["steps", 0], ["expected", 3], ["entropy", 3], ["variance", 4], ["kept", 3], ["cosine", 3]]) showNumber(outputs[name], s[name], digits);
    outputs.noise.textContent = Number.isFinite(s.noise) ? format(s.noise, 2) : "∞";
    outputs.noise.dataset.value = String(s.noise);
    drawn.textContent = `Next batch: ${s.drawn.map((a) => s.labels[a]).join(" ")}`;
    drawTriangle(plot, s);
    const factor = magnification(s);
    times.textContent = factor > 1 ? `The last two are drawn ${factor} times as long.` : "All are drawn as long as they are.";
    times.dataset.value = String(factor);
    drawTable(table, s);
    live.say(`step ${s.steps}, baseline ${BASELINES[s.baseline]}, shift ${short(s.shift)}: expected reward ${format(s.expected, 3)}, ` +
      `entropy ${format(s.entropy, 3)}, gradient variance ${format(s.variance, 4)}, cosine with the exact gradient ${format(s.cosine, 3)}.`);
    shown = true;
  };
  const unfollow = follow(model, STATE, draw);
  return () => { unfollow(); stop(); live.stop(); };
}

export default { render };
