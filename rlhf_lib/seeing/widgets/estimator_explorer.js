// The estimator explorer. The mathematics first, as pure functions; then what draws it.

const RUNS = 1000;
const BINS = 40;
const LARGEST_RUN = 256;
const SEEDS = 2 ** 31;
const K2_SHOWN = 0.98; // the axis covers this share of the runs of k2
const HAIR = 1e-9; // averages this near to a limit count as on it, so that rounding decides nothing

const ESTIMATORS = {
  k1: (lr) => lr,
  k2: (lr) => (lr * lr) / 2,
  k3: (lr) => Math.expm1(-lr) + lr,
};
const NAMES = Object.keys(ESTIMATORS);

// The log-ratio and the probabilities of the policy at a distance along the path.
function along(reference, policy, distance) {
  const logReference = reference.map(Math.log);
  const step = policy.map((p, i) => distance * (Math.log(p) - logReference[i]));
  const scores = step.map((d, i) => logReference[i] + d);
  const top = Math.max(...scores);
  const logZ = Math.log(sum(scores.map((s) => Math.exp(s - top)))) + top;
  const logRatio = step.map((d) => d - logZ);
  return { logRatio, p: logRatio.map((lr, i) => Math.exp(logReference[i] + lr)) };
}

// Mean and standard deviation of a value of each token.
function exactly(p, values) {
  const expected = dot(p, values);
  const variance = sum(p.map((q, i) => q * (values[i] - expected) ** 2));
  return { expected, std: Math.sqrt(variance) };
}

// Draws tokens: the first whose cumulative probability is above a uniform number.
function sampler(p, seed) {
  const uniform = uniforms(seed);
  let total = 0;
  const cumulative = p.map((q) => {
    total += q;
    return total;
  });
  return () => {
    const u = uniform() * total;
    let low = 0;
    let high = p.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (cumulative[middle] > u) high = middle;
      else low = middle + 1;
    }
    return low;
  };
}

// The averages of each estimator over the samples of each run. All estimators see the same samples.
function averages(values, draw, samples) {
  const means = values.map(() => []);
  for (let run = 0; run < RUNS; run++) {
    const tokens = range(samples).map(() => draw());
    for (const [j, value] of values.entries()) {
      means[j].push(sum(tokens.map((token) => value[token])) / samples);
    }
  }
  return means;
}

// The ends of the axis: all runs of k1, and those of k2 but for its longest tail.
function axisEnds([k1, k2, k3]) {
  const low = Math.min(...k1, ...k2, ...k3);
  const mostOfK2 = [...k2].sort((a, b) => a - b)[Math.trunc(K2_SHOWN * RUNS) - 1];
  const high = Math.max(...k1, mostOfK2);
  return [low, high > low ? high : low + 1];
}

// How many runs are in each bin, and how many beyond the last; the last bin has both its ends.
function histogram(means, [low, high]) {
  const counts = new Array(BINS).fill(0);
  let beyond = 0;
  for (const mean of means) {
    const at = ((mean - low) / (high - low)) * BINS;
    if (at <= BINS + HAIR) counts[Math.min(Math.floor(at + HAIR), BINS - 1)] += 1;
    else beyond += 1;
  }
  return { counts, beyond };
}

// What the runs gave: mean and spread of their averages, and the shares below 0 and below the KL.
function summary(means, kl) {
  const mean = sum(means) / RUNS;
  const spread = Math.sqrt(sum(means.map((m) => (m - mean) ** 2)) / RUNS);
  const below = (limit) => means.filter((m) => m < limit - HAIR).length / RUNS;
  return { mean, spread, belowZero: below(0), belowKl: below(kl) };
}

function problem({ reference, policy, distance, distance_range, samples, seed }) {
  const wrongPolicy = ([name, values]) =>
    wrongEmpty(name, values, "at least one number") ??
    wrongNumbers(name, values) ??
    wrongEntry(name, values, (p) => p > 0, "positive probabilities") ??
    wrongTotal(name, values);
  return (
    firstWrong(Object.entries({ reference, policy }), wrongPolicy) ??
    wrongLength("policy", policy, reference.length, "as reference has") ??
    wrongRange("distance_range", distance_range) ??
    wrongSetting("distance", distance, distance_range) ??
    wrongPowerOfTwo("samples", samples, [1, LARGEST_RUN]) ??
    wrongWhole("seed", seed, [0, SEEDS - 1]) ??
    wrongSpread(reference, policy, distance, distance_range)
  );
}

function wrongSpread(reference, policy, distance, ends) {
  const { logRatio, p } = along(reference, policy, clamp(distance, ends));
  return unless(
    NAMES.every((name) => Number.isFinite(exactly(p, logRatio.map(ESTIMATORS[name])).std)),
    `at distance=${distance} the spread of k3 is beyond the largest float; ` +
      "expected policies nearer to each other",
  );
}

// Everything on display, from the state of the model.
function compute(state) {
  const distance = clamp(state.distance, state.distance_range);
  const { logRatio, p } = along(state.reference, state.policy, distance);
  const values = NAMES.map((name) => logRatio.map(ESTIMATORS[name]));
  const means = averages(values, sampler(p, state.seed), state.samples);
  const ends = axisEnds(means);
  const kl = exactly(p, values[0]).expected;
  const estimators = NAMES.map((name, j) => ({
    name,
    ...exactly(p, values[j]),
    ...summary(means[j], kl),
    ...histogram(means[j], ends),
  }));
  return { ...state, distance, ends, kl, estimators };
}

// ---------------------------------------------------------------- the histograms

const PANEL = { height: 86, left: 34, right: 14, top: 16, bottom: 42 };

function drawHistograms(plot, s, width) {
  const { height, top, bottom } = PANEL;
  const [left, right] = [PANEL.left, width - PANEL.right];
  const floor = top + 3 * height;
  const x = linear(s.ends, [left, right]);
  const marks = ticks(...s.ends, width > 400 ? 6 : 4);
  const samples = s.samples === 1 ? "sample" : "samples";
  attribute(plot, "viewBox", `0 0 ${width} ${floor + bottom}`);
  drawInto(
    plot,
    `Histograms of ${RUNS} runs. The exact KL is ${format(s.kl, 4)} nats. ` +
      s.estimators
        .map((e) => `${e.name}: the runs average ${format(e.mean, 4)} and spread by ${format(e.spread, 4)}`)
        .join("; ") +
      ".",
    xGrid(x, marks, [top, floor]),
    xNumbers(x, marks, floor + 15),
    s.estimators.map((e, j) => panel(e, x, [left, right], top + (j + 1) * height - 4)),
    line("rlhf-exact", [x(s.kl), top - 4], [x(s.kl), floor], { "data-kl": s.kl }),
    axisTitle([(left + right) / 2, floor + 34], "middle", `average of ${s.samples} ${samples}, nats`),
  );
}

// The histogram of one estimator, which stands on `floor`.
function panel(e, x, [left, right], floor) {
  const wide = (right - left) / BINS;
  const tallest = Math.max(...e.counts, 1);
  const bars = e.counts.map((count, bin) => {
    const tall = ((PANEL.height - 26) * count) / tallest;
    const corner = [left + bin * wide + 0.5, floor - tall];
    return count ? rect("rlhf-hist", corner, [wide - 1, tall]) : [];
  });
  const at = x(e.expected);
  const beyond = `${e.beyond} of ${RUNS} runs beyond →`;
  return [
    bars,
    line("rlhf-base", [left, floor], [right, floor]),
    text("rlhf-hist-name", [left - 8, floor - 6], "end", e.name),
    e.beyond ? text("rlhf-tick rlhf-beyond", [right, floor - PANEL.height + 20], "end", beyond) : [],
    at <= right ? svg("path", { class: "rlhf-expected", d: `M${at},${floor}l-4.5,7h9z` }) : [],
  ];
}

// ---------------------------------------------------------------- the table

const COLUMNS = [
  ["exact mean", "expected", (e) => e.expected, 4],
  ["one draw: std / KL", "std", (e, kl) => (kl > HAIR ? e.std / kl : 0), 2],
  ["runs: mean", "mean", (e) => e.mean, 4],
  ["runs: std", "spread", (e) => e.spread, 4],
  ["runs below 0", "below_zero", (e) => e.belowZero, 3],
  ["runs below KL", "below_kl", (e) => e.belowKl, 3],
];

function drawTable(table, s) {
  const cells = (e) =>
    COLUMNS.map(([, name, value, digits]) =>
      numberCell(value(e, s.kl), digits, { "data-name": `${e.name}-${name}` }),
    );
  fillTable(
    table,
    "Each estimator: its exact mean and deviation, and what the runs gave",
    [
      column(html("span", { class: "rlhf-hidden" }, "estimator")),
      ...COLUMNS.map(([title]) => numberColumn(title)),
    ],
    s.estimators.map((e) => tableRow(e.name, ...cells(e))),
  );
}

// ---------------------------------------------------------------- the demo

function controlsOf({ model, set }) {
  const presets = choices(
    null,
    (distance) => [{ "data-distance": distance, label: `distance ${distance}` }, short(distance)],
    (distance) => set({ distance }),
  );
  const distance = sliderRow(
    { trait: "distance", name: "distance", hint: "of the policy from the reference", set },
    presets.element,
  );
  const again = button({ control: "again", label: "draw new samples" }, "draw again", () =>
    set({ seed: (model.get("seed") + 1) % SEEDS }),
  );
  const samples = sliderRow(
    {
      trait: "samples",
      name: "samples",
      hint: "averaged in one run",
      spokenHint: "draws in a run",
      scale: powersOfTwo(LARGEST_RUN),
      describe: (n) => `${n} samples a run`,
      set,
    },
    buttons(null, again),
  );
  const offer = whenChanged((ends, values) => {
    distance.rescale(inSteps(ends, 0.05));
    presets.offer(values);
  });
  return {
    elements: [distance.element, samples.element],
    show(s) {
      offer(s.distance_range, s.presets);
      distance.show(s.distance);
      presets.show(s.distance);
      samples.show(s.samples);
    },
  };
}

function build(page) {
  const controls = controlsOf(page);
  const numbers = tiles([
    ["kl", "exact KL, nats", "KL(π‖π_ref), by summing over all tokens", "rlhf-tile-true"],
  ]);
  const table = html("table", { class: "rlhf-bars" });
  const plot = picture(640, 316);
  const legend = html(
    "p",
    { class: "rlhf-legend" },
    "Dashed: the exact KL. ▲ what an estimator gives on average, over all samples that could be drawn. " +
      "Each panel has its own height.",
  );
  const place = html("div", { class: "rlhf-plot-place" }, plot, legend);
  return {
    above: controls.elements,
    figure: [numbers.element, html("div", { class: "rlhf-panels" }, place, table)],
    draw(s) {
      controls.show(s);
      numbers.show("kl", s.kl, 4);
      // The letters keep their size: on a phone the plot is drawn for half the width.
      drawHistograms(plot, s, page.narrow() ? 340 : 640);
      drawTable(table, s);
      const each = (e) => `${e.name} ${format(e.mean, 4)} plus or minus ${format(e.spread, 4)}`;
      return (
        `distance ${short(s.distance)}, ${s.samples} samples a run: exact KL ${format(s.kl, 4)}; ` +
        `${s.estimators.map(each).join(", ")}.`
      );
    },
  };
}

const STATE = ["reference", "policy", "distance", "distance_range", "presets", "samples", "seed"];
export default demo({ kind: "rlhf-estimators", state: STATE, problem, compute, build, narrow: true });
