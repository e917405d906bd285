// The policy-gradient bandit. The mathematics first, as pure functions; then what draws it.

const ARMS = 3;
const LARGEST_BATCH = 32;
const MOST_STEPS = 200;
const SEEDS = 2 ** 31;
const LARGEST_REWARD = 100;
const HAIR = 1e-12; // a gradient shorter than this counts as none
const SHIFTS = [-5, 10];
const RATES = [0.01, 20];
const BASELINES = {
  none: "none",
  mean: "batch mean",
  leave_one_out: "mean of the others",
  value: "exact value E[r]",
  optimal: "least variance",
};

function softmax(logits) {
  const top = Math.max(...logits);
  const weights = logits.map((z) => Math.exp(z - top));
  const total = sum(weights);
  return weights.map((w) => w / total);
}

// Reward less baseline of a draw of each arm, in a batch with these counts.
function advantagesOf(policy, rewards, counts, baseline) {
  const n = sum(counts);
  if (baseline === "mean" || baseline === "leave_one_out") {
    const level = dot(counts, rewards) / n;
    return rewards.map((r) => (r - level) * (baseline === "leave_one_out" ? n / (n - 1) : 1));
  }
  if (baseline === "none") return rewards.slice();
  const square = dot(policy, policy);
  const weights = policy.map((p) => (baseline === "value" ? p : p * (1 - 2 * p + square)));
  const level = dot(weights, rewards) / sum(weights);
  return rewards.map((r) => r - level);
}

// The mean over a batch of advantage times (e_a − π).
function gradient(policy, advantages, counts) {
  const n = sum(counts);
  const pull = counts.map((count, a) => (count * advantages[a]) / n);
  const total = sum(pull);
  return pull.map((p, a) => p - policy[a] * total);
}

// Mean and variance of the estimate, by adding up every batch of n draws.
function overEveryBatch(policy, rewards, n, baseline) {
  const logFactorial = [0];
  for (let k = 1; k <= n; k++) logFactorial.push(logFactorial[k - 1] + Math.log(k));
  const termOf = (count, p) => (count ? count * Math.log(p) : 0);
  const batches = range(n + 1).flatMap((i) =>
    range(n - i + 1).map((j) => {
      const counts = [i, j, n - i - j];
      const log = counts.reduce(
        (total, count, a) => total - logFactorial[count] + termOf(count, policy[a]),
        logFactorial[n],
      );
      const chance = Math.exp(log);
      return [chance, gradient(policy, advantagesOf(policy, rewards, counts, baseline), counts)];
    }),
  );
  const mean = range(ARMS).map((a) => sum(batches.map(([chance, g]) => chance * g[a])));
  const distance = (g) => sum(g.map((x, a) => (x - mean[a]) ** 2));
  return { mean, variance: sum(batches.map(([chance, g]) => chance * distance(g))) };
}

// The run from its start: the policies that it went through, and the batch that comes next.
function replay({ logits: start, seed, batch_size: n, baseline, steps }, rewards, rate) {
  const uniform = uniforms(seed);
  const path = [];
  let logits = start;
  for (let step = 0; ; step++) {
    const policy = softmax(logits);
    path.push(policy);
    const total = sum(policy);
    const numbers = range(LARGEST_BATCH).map(() => uniform() * total); // as many for any batch size
    const armAt = (u) => (u < policy[0] ? 0 : u < policy[0] + policy[1] ? 1 : 2);
    const drawn = numbers.slice(0, n).map(armAt);
    const counts = range(ARMS).map((a) => drawn.filter((arm) => arm === a).length);
    const advantages = advantagesOf(policy, rewards, counts, baseline);
    const estimate = gradient(policy, advantages, counts);
    if (step === steps) return { path, logits, policy, drawn, counts, advantages, estimate };
    logits = logits.map((z, a) => z + rate * estimate[a]);
  }
}

function problem(state) {
  const { labels, rewards, logits, baseline, reward_shift, learning_rate, batch_size, seed, steps } = state;
  const expected = `a number from −${LARGEST_REWARD} to ${LARGEST_REWARD}`;
  const small = (value) => typeof value === "number" && Math.abs(value) <= LARGEST_REWARD;
  const wrongList = ([name, values]) =>
    wrongLength(name, values ?? [], ARMS, "one for each arm") ??
    (name === "labels" ? null : wrongEntry(name, values, small, expected));
  const known = Object.keys(BASELINES).map((name) => `'${name}'`);
  return (
    firstWrong(Object.entries({ rewards, logits, labels }), wrongList) ??
    wrongChoice("baseline", `'${baseline}'`, known) ??
    wrongSetting("reward_shift", reward_shift, SHIFTS) ??
    wrongSetting("learning_rate", learning_rate, RATES) ??
    wrongPowerOfTwo("batch_size", batch_size, [2, LARGEST_BATCH]) ??
    wrongWhole("seed", seed, [0, SEEDS - 1]) ??
    wrongWhole("steps", steps, [0, MOST_STEPS])
  );
}

// Everything on display, from the state of the model.
function compute(state) {
  const shift = clamp(state.reward_shift, SHIFTS);
  const rate = clamp(state.learning_rate, RATES);
  const shifted = state.rewards.map((r) => r + shift);
  const now = replay(state, shifted, rate);
  const { policy, advantages, estimate } = now;
  const level = dot(policy, shifted);
  const exact = policy.map((p, a) => p * (shifted[a] - level));
  const { mean, variance } = overEveryBatch(policy, shifted, state.batch_size, state.baseline);
  const [length, size] = [exact, estimate].map((g) => Math.sqrt(dot(g, g)));
  const flat = length < HAIR;
  const moved = (g) => softmax(now.logits.map((z, a) => z + rate * g[a]));
  const pullOf = (a) => policy.map((p, k) => advantages[a] * ((k === a ? 1 : 0) - p));
  return {
    ...state,
    ...now,
    ...{ shift, rate, shifted, variance },
    alone: range(ARMS).map((a) => moved(pullOf(a))),
    next: moved(estimate),
    exactly: moved(exact),
    expected: dot(policy, state.rewards),
    entropy: -sum(policy.map((p) => (p > 0 ? p * Math.log(p) : 0))),
    noise: flat ? Infinity : Math.sqrt(variance) / length,
    kept: flat ? 1 : dot(mean, exact) / length ** 2,
    cosine: flat || size < HAIR ? 0 : dot(estimate, exact) / (length * size),
  };
}

// ---------------------------------------------------------------- the triangle

const LONGEST = 90; // of an arrow, in units of the drawing
const FACTORS = [1, 2, 5, 10, 20, 50, 100];
const CORNERS = [
  [34, 276],
  [306, 276],
  [170, 40],
];

const between = (from, to, share) => from.map((x, axis) => x + share * (to[axis] - x));
const pointOf = (policy) => [0, 1].map((axis) => sum(policy.map((p, a) => p * CORNERS[a][axis])));
const coordinates = (points) => points.map((point) => point.map((x) => x.toFixed(2)).join()).join(" ");

function arrow(kind, from, to, attributes) {
  const length = Math.hypot(to[0] - from[0], to[1] - from[1]);
  const [dx, dy] = length > 0 ? [(to[0] - from[0]) / length, (to[1] - from[1]) / length] : [0, 0];
  const head = Math.min(9, length * 0.6);
  const wide = head * 0.42;
  const [x, y] = [to[0] - dx * head, to[1] - dy * head];
  const points = coordinates([to, [x - dy * wide, y + dx * wide], [x + dy * wide, y - dx * wide]]);
  const parts = [line(null, from, [x, y]), svg("polygon", { points })];
  return svg("g", { class: `rlhf-arrow ${kind}`, ...attributes }, ...parts);
}

// How many times too long the two arrows of means are drawn: as much as stays short of LONGEST and in the
// triangle.
function magnification(s) {
  const from = pointOf(s.policy);
  const fits = (factor) =>
    [s.next, s.exactly].every((policy) => {
      const to = pointOf(policy);
      const within = factor * Math.hypot(to[0] - from[0], to[1] - from[1]) <= LONGEST;
      return within && between(s.policy, policy, factor).every((p) => p >= 0);
    });
  return Math.max(1, ...FACTORS.filter(fits));
}

// Lines of equal expected reward, which cross two sides of the triangle.
function levels(rewards) {
  const [low, high] = [Math.min(...rewards), Math.max(...rewards)];
  const sides = [
    [0, 1],
    [1, 2],
    [2, 0],
  ];
  const levelLine = (share) => {
    const level = low + share * (high - low);
    const shares = sides.map(([i, j]) => (level - rewards[i]) / (rewards[j] - rewards[i]));
    const ends = sides
      .map(([i, j], k) => between(CORNERS[i], CORNERS[j], shares[k]))
      .filter((_, k) => shares[k] > 0 && shares[k] < 1);
    return ends.length >= 2 ? line("rlhf-grid", ends[0], ends[1]) : [];
  };
  return high > low ? [0.2, 0.4, 0.6, 0.8].map(levelLine) : [];
}

function drawTriangle(plot, s) {
  const from = pointOf(s.policy);
  const factor = magnification(s);
  const words = (policy) => s.labels.map((label, a) => `${label} ${format(policy[a], 3)}`).join(", ");
  const corner = (label, a) => {
    const [x, y] = CORNERS[a];
    const reward = `${label}: r = ${short(Number(s.shifted[a].toFixed(2)))}`;
    return text("rlhf-corner", [x, y + [20, 20, -12][a]], "middle", reward);
  };
  const one = (count, a) => {
    const attributes = { "stroke-width": 1 + (2.5 * count) / s.batch_size, "data-arm": a };
    return count ? arrow("rlhf-arrow-one", from, pointOf(s.alone[a]), attributes) : [];
  };
  const magnified = (kind, policy) =>
    arrow(kind, from, between(from, pointOf(policy), factor), { "stroke-width": 2.5 });
  drawInto(
    plot,
    `The triangle of policies after ${s.steps} steps: ${words(s.policy)}. ` +
      `The batch would take it to ${words(s.next)}, the exact gradient to ${words(s.exactly)}.`,
    svg("polygon", { class: "rlhf-simplex", points: coordinates(CORNERS) }),
    levels(s.rewards),
    s.labels.map(corner),
    svg("polyline", { class: "rlhf-path", points: coordinates(s.path.map(pointOf)) }),
    s.path.slice(0, -1).map((policy) => circle("rlhf-step", pointOf(policy), 1.7)),
    circle("rlhf-dot", from, 4),
    s.counts.map(one),
    magnified("rlhf-arrow-exact", s.exactly),
    magnified("rlhf-arrow-mean", s.next),
  );
}

function drawTable(table, s) {
  const rows = s.labels.map((label, a) => {
    const cell = (name, values, digits) => numberCell(values[a], digits, { "data-name": `${name}-${a}` });
    return tableRow(
      label,
      cell("reward", s.shifted, 2),
      cell("policy", s.policy, 4),
      cell("count", s.counts, 0),
      cell("advantage", s.advantages, 3),
    );
  });
  fillTable(
    table,
    "Each arm: its reward, its probability, how often the next batch drew it, and its advantage there",
    [column("arm"), ...["r", "π", "drawn", "advantage"].map((title) => numberColumn(title))],
    rows,
  );
}

// ---------------------------------------------------------------- the demo

const RATE_STEPS = listed([0.1, 0.2, 0.5, 1, 2, 5, 10]);
const RUN_STEPS = 50;
const PAUSE = 90; // milliseconds between the steps of a run

// The position whose rate is nearest, by ratio.
function rateToPosition(rate) {
  const [first, last] = RATE_STEPS.positions;
  const away = range(last - first + 1).map((i) => Math.abs(Math.log(RATE_STEPS.toValue(i) / rate)));
  return away.indexOf(Math.min(...away));
}

// Buttons that take one step, run and stop, go back to the start, and replay with other draws.
function runner({ model, set }) {
  let timer = 0;
  let left = 0;
  const ended = () => model.get("steps") >= MOST_STEPS;
  const say = (words, label) => {
    runButton.textContent = words;
    attribute(runButton, "aria-label", label);
  };
  const stop = () => {
    clearTimeout(timer);
    timer = left = 0;
    say("run 50", "run 50 steps");
  };
  const step = () => {
    if (!ended()) set({ steps: model.get("steps") + 1 });
  };
  const go = () => {
    step();
    left -= 1;
    if (left > 0 && !ended()) timer = setTimeout(go, PAUSE);
    else stop();
  };
  const toggle = () => {
    if (timer) return stop();
    left = RUN_STEPS;
    say("stop", "stop the run");
    timer = setTimeout(go, 0);
  };
  const afterStop = (act) => () => {
    stop();
    act();
  };
  const stepButton = button({ control: "step", label: "take one step" }, "step", afterStop(step));
  const runButton = button({ control: "run", label: "run 50 steps" }, "run 50", toggle);
  const start = afterStop(() => set({ steps: 0 }));
  const reset = button({ control: "reset", label: "back to the start" }, "reset", start);
  const again = button({ control: "again", label: "replay with other draws" }, "other draws", () =>
    set({ seed: (model.get("seed") + 1) % SEEDS }),
  );
  const classes = { class: "rlhf-control rlhf-actions" };
  return {
    element: html("div", classes, stepButton, runButton, reset, again),
    show(s) {
      stepButton.disabled = runButton.disabled = s.steps >= MOST_STEPS;
    },
    stop,
  };
}

function controlsOf({ set }) {
  const baseline = choices(
    null,
    (name) => [{ "data-baseline": name, label: `baseline: ${BASELINES[name]}` }, BASELINES[name]],
    (name) => set({ baseline: name }),
  );
  baseline.offer(Object.keys(BASELINES));
  const shift = sliderRow({
    trait: "reward_shift",
    name: "reward shift",
    hint: "added to every reward",
    scale: inSteps(SHIFTS, 0.5),
    set,
  });
  const rate = sliderRow({
    trait: "learning_rate",
    name: "learning rate",
    hint: "length of a step",
    scale: { ...RATE_STEPS, toPosition: rateToPosition },
    set,
  });
  const batch = sliderRow({
    trait: "batch_size",
    name: "batch size",
    hint: "draws in a step",
    scale: powersOfTwo(LARGEST_BATCH, 2),
    describe: (n) => `${n} draws in a step`,
    set,
  });
  return {
    elements: [
      row("baseline", "taken off each reward", baseline.element),
      ...[shift, rate, batch].map((one) => one.element),
    ],
    show(s) {
      baseline.show(s.baseline);
      shift.show(s.shift);
      rate.show(s.rate);
      batch.show(s.batch_size);
    },
  };
}

const KEPT = "the estimate's mean over all batches, as a multiple of the exact gradient";
const TILES = [
  ["steps", "steps taken", "steps since the start"],
  ["expected", "E[r]", "expected reward of the policy, without the shift"],
  ["entropy", "entropy, nats", "entropy of the policy"],
  ["variance", "gradient variance", "over all batches of this size, summed over the three logits; exact"],
  ["noise", "noise ÷ signal", "root of the variance over the length of the exact gradient"],
  ["kept", "mean ÷ exact", KEPT, "rlhf-tile-true"],
  ["cosine", "cosine", "of the angle between this batch's gradient and the exact one"],
];
const DIGITS = { steps: 0, expected: 3, entropy: 3, variance: 4, kept: 3, cosine: 3 };

function legendOf(times) {
  const entry = (...words) => html("div", {}, ...words);
  return html(
    "div",
    { class: "rlhf-legend" },
    entry(key("rlhf-key-ref"), "where one draw alone would take the policy"),
    entry(key(), "the batch: the next step"),
    entry(key("rlhf-key-true"), "the exact gradient"),
    times,
    entry("Thin lines join policies of equal E[r]."),
  );
}

function build(page) {
  const controls = controlsOf(page);
  const actions = runner(page);
  const numbers = tiles(TILES);
  const plot = picture(340, 318);
  const times = html("span", { "data-name": "factor" });
  const place = html("div", { class: "rlhf-plot-place" }, plot, legendOf(times));
  const table = html("table", { class: "rlhf-bars" });
  const drawn = html("p", { class: "rlhf-legend rlhf-drawn" });
  const side = html("div", { class: "rlhf-side" }, table, drawn);
  return {
    above: [...controls.elements, actions.element],
    figure: [numbers.element, html("div", { class: "rlhf-panels" }, place, side)],
    stop: actions.stop,
    draw(s) {
      controls.show(s);
      actions.show(s);
      for (const [name, digits] of Object.entries(DIGITS)) numbers.show(name, s[name], digits);
      showText(numbers.output.noise, Number.isFinite(s.noise) ? format(s.noise, 2) : "∞", s.noise);
      drawn.textContent = `Next batch: ${s.drawn.map((a) => s.labels[a]).join(" ")}`;
      drawTriangle(plot, s);
      const factor = magnification(s);
      const longer = `The last two are drawn ${factor} times as long.`;
      showText(times, factor > 1 ? longer : "All are drawn as long as they are.", factor);
      drawTable(table, s);
      return (
        `step ${s.steps}, baseline ${BASELINES[s.baseline]}, shift ${short(s.shift)}: ` +
        `expected reward ${format(s.expected, 3)}, entropy ${format(s.entropy, 3)}, ` +
        `gradient variance ${format(s.variance, 4)}, ` +
        `cosine with the exact gradient ${format(s.cosine, 3)}.`
      );
    },
  };
}

const STATE = [
  ...["labels", "rewards", "logits", "baseline", "reward_shift", "learning_rate", "batch_size"],
  ...["seed", "steps"],
];
export default demo({ kind: "rlhf-bandit", state: STATE, problem, compute, build });
