// The over-optimisation explorer. The fit first, as pure functions; then what draws it.

const Z = 1.96; // standard errors each side of a 95 % interval
// quantile .975 of Student's t, for 1 to 10 degrees of freedom, as in Python's STUDENT
const STUDENT = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

// What alpha and beta are multiplied by; d log d is 0 at 0.
const TERMS = {
  best_of_n: (d) => [d, -d * d],
  rl: (d) => [d, d > 0 ? -d * Math.log(d) : 0],
};

// Least squares for two coefficients, by the normal equations.
function fitForm(form, distances, gains) {
  const [a, b] = [0, 1].map((k) => distances.map((d) => TERMS[form](d)[k]));
  const [aa, ab, bb, ag, bg] = [dot(a, a), dot(a, b), dot(b, b), dot(a, gains), dot(b, gains)];
  const determinant = aa * bb - ab * ab;
  return [(bb * ag - ab * bg) / determinant, (aa * bg - ab * ag) / determinant];
}

// Mean and half the 95 % interval; one run says nothing of how others would differ.
function interval(values) {
  const n = values.length;
  const mean = sum(values) / n;
  if (n === 1) return [mean, null];
  const variance = sum(values.map((v) => (v - mean) ** 2)) / (n - 1);
  return [mean, STUDENT[n - 2] * Math.sqrt(variance / n)];
}

function peak(form, alpha, beta) {
  if (!(beta > 0)) return Infinity;
  return form === "best_of_n" ? Math.max(0, alpha / (2 * beta)) : Math.exp(alpha / beta - 1);
}

const distinct = (values) => [...new Set(values)];
const ascending = (values) => distinct(values).sort((a, b) => a - b);
const nearest = (values, wanted) =>
  ascending(values).reduce((best, v) => (Math.abs(v - wanted) < Math.abs(best - wanted) ? v : best));

function problem({ runs, method, pairs, seed, point }) {
  const whole = ([name, value]) =>
    unless(Number.isInteger(value), `${name} is ${value}; expected a whole number`);
  const methods = () => distinct(runs.map((one) => one.method));
  const last = () => Math.max(...runs.map((one) => one.d.length)) - 1;
  return (
    wrongEmpty("runs", runs, "recorded runs") ??
    firstWrong(runs, wrongRun) ??
    wrongChoice("method", method, methods(), ", which were recorded") ??
    firstWrong(Object.entries({ pairs, seed }), whole) ??
    wrongWhole("point", point, [0, last()])
  );
}

function wrongRun(one, i) {
  const of = (key) => `runs[${i}]['${key}']`;
  const wrongValue = (key) => {
    const bad = one[key].find((value) => !Number.isFinite(value));
    return unless(bad === undefined, `${of(key)} has the entry ${bad}; expected finite numbers`);
  };
  return (
    wrongChoice(of("form"), one?.form, Object.keys(TERMS)) ??
    firstWrong(["d", "where", "gold", "gold_se", "proxy", "replies"], (key) =>
      wrongLength(of(key), one[key] ?? [], one.d?.length, "one for each d"),
    ) ??
    firstWrong(["d", "gold", "gold_se", "proxy"], wrongValue) ??
    unless(
      distinct(one.d.filter((d) => d > 0)).length >= 3,
      `${of("d")} has fewer than 3 distances above 0; expected enough to fit two coefficients`,
    )
  );
}

// Everything on display, from the state of the model.
function compute(state) {
  const ofMethod = state.runs.filter((one) => one.method === state.method);
  const recordedPairs = ascending(ofMethod.map((one) => one.pairs));
  const pairs = nearest(recordedPairs, state.pairs);
  const runs = ofMethod.filter((one) => one.pairs === pairs);
  const seeds = runs.map((one) => one.seed).sort((a, b) => a - b);
  const seed = nearest(seeds, state.seed);
  const chosen = runs.find((one) => one.seed === seed);
  const point = Math.min(state.point, chosen.d.length - 1);
  const { form } = chosen;
  const fits = runs.map((one) => fitForm(form, one.d, one.gold));
  const [alpha, beta] = [0, 1].map((k) => interval(fits.map((fit) => fit[k])));
  const values = (key) => state.runs.flatMap((one) => one[key]);
  return {
    ...{ method: state.method, pairs, recordedPairs, seed, seeds, runs, chosen, point, alpha, beta },
    methods: distinct(state.runs.map((one) => one.method)),
    allPairs: ascending(state.runs.map((one) => one.pairs)),
    fitted: (d) => interval(fits.map((fit) => dot(TERMS[form](d), fit))),
    d: chosen.d[point],
    where: chosen.where[point],
    gold: chosen.gold[point],
    margin: Z * chosen.gold_se[point],
    proxy: chosen.proxy[point],
    replies: chosen.replies[point],
    peak: peak(form, alpha[0], beta[0]),
    // one scale for all methods and sizes, so that curves can be compared from one to the next
    reach: 1.03 * Math.max(...values("d")),
    ends: { proxy: extent([0, ...values("proxy")], 0.06), gold: extent([0, ...values("gold")], 0.06) },
  };
}

// ---------------------------------------------------------------- the plots

const PLOT = { left: 40, right: 12, proxy: [20, 130], gold: [160, 350], height: 390 };
const TITLES = { proxy: "proxy gain (what is optimised)", gold: "gold gain (what was wanted)" };

function drawCurves(plot, s, width) {
  const { proxy, gold, height } = PLOT;
  const sides = [PLOT.left, width - PLOT.right];
  const x = linear([0, s.reach], sides);
  const marks = ticks(0, s.reach, width > 400 ? 8 : 5);
  attribute(plot, "viewBox", `0 0 ${width} ${height}`);
  drawInto(
    plot,
    `Proxy and gold gain against the square root of the KL, ${s.runs.length} runs of ${s.method} with ` +
      `${s.pairs} pairs. At ${s.where}, square root of KL ${format(s.d, 2)}: proxy ${format(s.proxy, 2)}, ` +
      `gold ${format(s.gold, 2)}; the fitted form gives ${format(s.fitted(s.d)[0], 2)}.`,
    line("rlhf-cursor", [x(s.d), proxy[0]], [x(s.d), gold[1]]),
    panel(s, "proxy", x, marks, sides),
    panel(s, "gold", x, marks, sides),
    xNumbers(x, marks, gold[1] + 15),
    axisTitle([(sides[0] + sides[1]) / 2, height - 6], "middle", "√KL from the initial policy, √nats"),
  );
}

const trace = (kind, points, attributes = {}) =>
  svg("path", { class: kind, d: through(points, 1), ...attributes });

// The proxy or the gold gain of all runs; beside the gold gain, the form that is fitted to it.
function panel(s, key, x, marks, [left, right]) {
  const [top, bottom] = PLOT[key];
  const scale = linear(s.ends[key], [bottom, top]);
  const y = (value) => scale(clamp(value, s.ends[key]));
  const way = (one) => one.d.map((d, i) => [x(d), y(one[key][i])]);
  const fit = key === "gold" ? fitted(s, x, y) : { band: [], form: [], errors: [] };
  const others = s.runs.filter((one) => one !== s.chosen);
  const kind = key === "gold" ? "rlhf-dot rlhf-dot-true" : "rlhf-dot";
  return [
    xGrid(x, marks, [top, bottom]),
    yAxis(y, ticks(...s.ends[key], key === "gold" ? 6 : 3), [left, right], { zero: true }),
    axisTitle([left - 30, top - 7], "start", TITLES[key]),
    fit.band,
    others.map((one) => trace(`rlhf-run rlhf-run-${key}`, way(one), { opacity: 0.35 })),
    fit.form,
    fit.errors,
    trace(`rlhf-run rlhf-run-chosen rlhf-run-${key}`, way(s.chosen)),
    circle(kind, [x(s.d), y(s[key])], 5, { "data-key": key, "data-d": s.d, "data-value": s[key] }),
  ];
}

// The fitted form with the band of its mean, and the intervals of the chosen run.
function fitted(s, x, y) {
  const longest = Math.max(...s.runs.flatMap((one) => one.d));
  const points = range(81).map((i) => {
    const d = (i / 80) * longest;
    return [d, ...s.fitted(d)];
  });
  const edge = (sign) => points.map(([d, mean, half]) => [x(d), y(mean + sign * half)]);
  const outline = through([...edge(1), ...edge(-1).reverse()], 1);
  const [low, high] = s.ends.gold;
  const inside = points.filter(([, mean]) => mean >= low && mean <= high);
  const { d: distances, gold, gold_se: se } = s.chosen;
  return {
    band: points[0][2] === null ? [] : svg("path", { class: "rlhf-band", d: `${outline}Z` }),
    form: trace(
      "rlhf-form",
      inside.map(([d, mean]) => [x(d), y(mean)]),
    ),
    errors: distances.map((d, i) =>
      line("rlhf-error", [x(d), y(gold[i] - Z * se[i])], [x(d), y(gold[i] + Z * se[i])]),
    ),
  };
}

// ---------------------------------------------------------------- the replies

function drawReplies(list, none, s) {
  const kept = s.runs.filter((one) => one.replies.some((replies) => replies.length));
  const seeds = kept.map((one) => one.seed).join(", ");
  none.hidden = s.replies.length > 0;
  none.textContent = kept.length
    ? `The replies of run ${seeds} can be read here; those of the others were not kept.`
    : "No replies were kept here.";
  const entry = ([prompt, reply, gold, proxy]) => {
    const rewards = `gold ${format(gold, 1)}, proxy ${format(proxy, 1)}`;
    return html(
      "li",
      { class: "rlhf-reply" },
      html(
        "span",
        { class: "rlhf-reply-head" },
        html("span", {}, prompt),
        html("span", { class: "rlhf-reply-gold" }, rewards),
      ),
      html("span", { class: "rlhf-reply-text" }, reply || "(an empty reply)"),
    );
  };
  list.replaceChildren(...s.replies.map(entry));
}

// ---------------------------------------------------------------- the demo

function controlsOf({ set }) {
  let recorded = []; // sizes of the method on display; the others can be seen but not pressed
  let where = [];
  const method = select({ control: "method", label: "method", onChange: (name) => set({ method: name }) });
  const pairs = choices(
    "pairs the proxy was trained on",
    (n) => {
      const disabled = !recorded.includes(n);
      const label = `pairs ${n}${disabled ? ", not recorded" : ""}`;
      return [{ "data-pairs": n, disabled, label }, String(n)];
    },
    (n) => set({ pairs: n }),
  );
  const seed = choices(
    "run",
    (n) => [{ "data-seed": n, label: `seed ${n}` }, String(n)],
    (n) => set({ seed: n }),
  );
  const words = (i) => where[i];
  const point = sliderRow({
    trait: "point",
    name: "along the run",
    hint: "towards larger KL",
    words,
    describe: words,
    set,
  });
  const offerMethods = whenChanged((names) => method.offer(names.map((name) => [name, name])));
  const offerPairs = whenChanged((all, ofMethod) => {
    recorded = ofMethod;
    pairs.offer(all);
  });
  const offerSeeds = whenChanged(seed.offer);
  return {
    elements: [
      row("method", "that optimises the proxy", method.element),
      row("pairs", "the proxy learnt from", pairs.element),
      row("run", "a seed of everything", seed.element),
      point.element,
    ],
    show(s) {
      offerMethods(s.methods);
      offerPairs(s.allPairs, s.recordedPairs);
      offerSeeds(s.seeds);
      where = s.chosen.where;
      point.rescale(inSteps([0, where.length - 1], 1));
      method.show(s.method);
      pairs.show(s.pairs);
      seed.show(s.seed);
      point.show(s.point);
    },
  };
}

const MEAN = "mean over the runs, and the 95 % interval of that mean";
const GOLD = "gold reward less that of the initial policy, with its 95 % interval over prompts";
const TILES = [
  ["d", "√KL", "square root of the KL from the initial policy"],
  ["proxy", "proxy gain", "learned reward less that of the initial policy"],
  ["gold", "gold gain", GOLD, "rlhf-tile-true"],
  ["fitted", "fitted form", `what the form gives here: ${MEAN}`],
  ["alpha", "α", MEAN],
  ["beta", "β of the form", MEAN],
  ["peak", "peak at √KL", "where the form of the mean coefficients is highest"],
];

const plusMinus = (half) => (half === null ? "" : `± ${format(half, 2)}`);

function drawNumbers({ output, beside, show }, s) {
  const entries = { d: [s.d, null], proxy: [s.proxy, null], gold: [s.gold, s.margin] };
  Object.assign(entries, { fitted: s.fitted(s.d), alpha: s.alpha, beta: s.beta });
  for (const [name, [value, half]] of Object.entries(entries)) {
    show(name, value, 2);
    showText(beside[name], plusMinus(half), half ?? "");
  }
  beside.d.textContent = `${format(s.d * s.d, 2)} nats`;
  showText(output.peak, Number.isFinite(s.peak) ? format(s.peak, 2) : "none", s.peak);
}

function build(page) {
  const controls = controlsOf(page);
  const numbers = tiles(TILES, "data-margin");
  const plot = picture(640, PLOT.height);
  const legend = html(
    "p",
    { class: "rlhf-legend" },
    ...[
      key(),
      "proxy, ",
      key("rlhf-key-true"),
      "gold with 95 % intervals over prompts; thin: the other runs. ",
    ],
    ...[key("rlhf-key-form"), "the fitted form, shaded: the 95 % interval of its mean over runs. "],
  );
  const place = html("div", { class: "rlhf-plot-place" }, plot, legend);
  const list = html("ul", { class: "rlhf-replies", "aria-label": "recorded replies" });
  const none = html("p", { class: "rlhf-legend rlhf-none", hidden: true });
  return {
    controls: controls.elements,
    figure: [numbers.element, html("div", { class: "rlhf-panels" }, place, list, none)],
    draw(s) {
      controls.show(s);
      drawNumbers(numbers, s);
      // The letters keep their size: on a phone the plot is drawn for half the width.
      drawCurves(plot, s, page.narrow() ? 340 : 640);
      drawReplies(list, none, s);
      return (
        `${s.method}, ${s.pairs} pairs, run ${s.seed}, ${s.where}: square root of KL ${format(s.d, 2)}, ` +
        `proxy gain ${format(s.proxy, 2)}, gold gain ${format(s.gold, 2)} ${plusMinus(s.margin)}.` +
        (s.replies.length ? ` First reply: ${s.replies[0][1]}` : "")
      );
    },
  };
}

export default demo({
  kind: "rlhf-overopt",
  state: ["runs", "method", "pairs", "seed", "point"],
  problem,
  compute,
  build,
  cannot: "These runs cannot be shown",
  narrow: true,
});
