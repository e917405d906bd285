// The staleness explorer. The mathematics first, as pure functions; then what draws it. The sampler μ wrote
// the replies; the learner π wants its policy gradient from them. A policy is a list of rows, one for each
// prefix, the shorter ones first, each with the probabilities of the three tokens that may follow.

const [UPDATES, BOUNDS, SIZES, STEEPEST] = [[0, 40], [1.1, 10], [16, 1024], 4];
const LETTERS = ["a", "b", "c"];
const LENGTH = 4;
const STEP = 0.5; // of gradient ascent
const PREFIXES = range(LENGTH).reduce((count, t) => count + 3 ** t, 0);

// Every reply is four tokens, each drawn from the row of its prefix, and has a reward: 1 for every b right
// after an a.
const REPLIES = range(3 ** LENGTH).map((i) => {
  const tokens = range(LENGTH).map((t) => Math.floor(i / 3 ** (LENGTH - 1 - t)) % 3);
  const letters = tokens.map((token) => LETTERS[token]).join("");
  return { tokens, letters, reward: letters.split("ab").length - 1 };
});
const REWARDS = REPLIES.map(({ reward }) => reward);

// The tokens of all replies in one list; what is said of tokens below is a list as long.
const PLACES = REPLIES.flatMap(({ tokens }, i) =>
  tokens.map((token, t) => ({ i, t, token, prefix: (3 ** t - 1) / 2 + Math.floor(i / 3 ** (LENGTH - t)) })),
);
const toTokens = (ofReplies) => PLACES.map(({ i }) => ofReplies[i]);

// What a treatment makes of a ratio, with a bound, and whose ratio it is.
const TREATMENTS = {
  ignored: { name: "ignored", level: "reply", rule: () => 1 },
  token_truncate: { name: "token, truncated", level: "token", rule: Math.min },
  token_mask: { name: "token, masked", level: "token", rule: zeroOver },
  sequence_truncate: { name: "reply, truncated", level: "reply", rule: Math.min },
  sequence_mask: { name: "reply, masked", level: "reply", rule: zeroOver },
};

function zeroOver(ratio, bound) {
  return ratio > bound ? 0 : ratio;
}

function distributions(logits) {
  return logits.map((entries) => {
    const total = sum(entries.map(Math.exp));
    return entries.map((logit) => Math.exp(logit) / total);
  });
}

// Sum over all tokens of all replies of a factor times the gradient of log π.
function sumOfGradients(policy, factors) {
  const counts = policy.map(() => [0, 0, 0]);
  for (const [j, { prefix, token }] of PLACES.entries()) counts[prefix][token] += factors[j];
  return counts.map((entries, prefix) => {
    const total = sum(entries);
    return entries.map((count, v) => count - policy[prefix][v] * total);
  });
}

const squared = (table) => sum(table.map((entries) => dot(entries, entries)));

// What is needed of a policy: the chances of tokens and of replies, and its gradient, exactly.
function known(logits) {
  const policy = distributions(logits);
  const tokens = PLACES.map(({ prefix, token }) => policy[prefix][token]);
  const replies = REPLIES.map((_, i) =>
    tokens.slice(LENGTH * i, LENGTH * (i + 1)).reduce((product, p) => product * p, 1),
  );
  const expected = dot(replies, REWARDS);
  const gains = replies.map((p, i) => p * (REWARDS[i] - expected));
  const gradient = sumOfGradients(policy, toTokens(gains));
  // ‖∇ log π‖² of each token
  const squares = PLACES.map(({ prefix }, j) => 1 - 2 * tokens[j] + dot(policy[prefix], policy[prefix]));
  const size = Math.sqrt(squared(gradient));
  return { logits, policy, tokens, replies, expected, gradient, size, squares, each: toTokens(replies) };
}

// The sampler and what it has become after 1 to 40 updates, each with its ratios π/μ, of every token its own
// and that of its reply.
function pathFrom(logits) {
  const path = [known(logits)];
  const step = (entries, slopes) => entries.map((logit, v) => logit + STEP * slopes[v]);
  for (const k of range(UPDATES[1])) {
    const { logits: now, gradient } = path[k];
    path.push(known(now.map((entries, prefix) => step(entries, gradient[prefix]))));
  }
  const [sampler] = path;
  return path.map((learner) => ({
    ...learner,
    token: learner.tokens.map((p, j) => p / sampler.tokens[j]),
    reply: learner.each.map((p, j) => p / sampler.each[j]),
  }));
}

// The learner's gradient, estimated from n replies of the sampler: how far its mean is off, and how far it
// scatters.
function estimate(learner, sampler, treatment, bound, n) {
  const { level, rule } = TREATMENTS[treatment];
  const ratios = learner[level];
  const weights = ratios.map((ratio) => rule(ratio, bound));
  const pulls = weights.map((w, j) => w * (REWARDS[PLACES[j].i] - sampler.expected));
  const mean = sumOfGradients(
    learner.policy,
    pulls.map((pull, j) => sampler.each[j] * pull),
  );
  const secondMoment = sum(pulls.map((pull, j) => sampler.each[j] * pull * pull * learner.squares[j]));
  const off = mean.map((entries, prefix) => entries.map((x, v) => x - learner.gradient[prefix][v]));
  const bias = Math.sqrt(squared(off)) / learner.size;
  const noise = Math.sqrt((secondMoment - squared(mean)) / n) / learner.size;
  const along = sum(mean.map((entries, prefix) => dot(entries, learner.gradient[prefix])));
  const squaresOfWeights = weights.map((w) => w * w);
  const over = ratios.map((ratio) => (treatment !== "ignored" && ratio > bound ? 1 / LENGTH : 0));
  return {
    ...{ bias, noise, error: Math.hypot(bias, noise), ratios, weights },
    cosine: along / Math.sqrt(squared(mean)) / learner.size,
    effective: dot(sampler.each, weights) ** 2 / LENGTH / dot(sampler.each, squaresOfWeights),
    largest_ratio: Math.max(...ratios),
    largest_weight: Math.max(...weights),
    over_bound: dot(sampler.each, over),
    over_bound_learner: dot(learner.each, over),
  };
}

// A function that is asked again and again, and works anew only when asked something else.
function remembering(make) {
  let [before, found] = ["", null];
  return (...asked) => {
    const now = JSON.stringify(asked);
    if (now !== before) [before, found] = [now, make(...asked)];
    return found;
  };
}

const pathOf = remembering((logits) => pathFrom(range(PREFIXES).map((j) => logits.slice(3 * j, 3 * j + 3))));

// By treatment, the numbers after 0 to 40 updates. A bound of null is none.
const curvesOf = remembering((logits, bound, n) => {
  const path = pathOf(logits);
  const along = (kind) => path.map((learner) => estimate(learner, path[0], kind, bound ?? Infinity, n));
  return Object.fromEntries(Object.keys(TREATMENTS).map((kind) => [kind, along(kind)]));
});

// What the second picture has a dot for: the replies, or the 120 tokens after their prefixes.
function dotsOf({ ratios, weights }, sampler, level) {
  const dotOf = ({ i, t }, j) => {
    const letters = REPLIES[i].letters.slice(0, level === "reply" ? LENGTH : t + 1);
    const chance = sampler.tokens.slice(LENGTH * i, LENGTH * i + letters.length).reduce((a, b) => a * b, 1);
    const earns = letters.endsWith("ab") ? 1 : 0;
    const reward = level === "reply" ? REWARDS[i] : earns;
    return { letters, reward, chance, ratio: ratios[j], weight: weights[j] };
  };
  const isFirst = ({ i, t }) => (level === "reply" ? t === 0 : i % 3 ** (LENGTH - 1 - t) === 0);
  return PLACES.flatMap((place, j) => (isFirst(place) ? [dotOf(place, j)] : []));
}

const problem = (state) =>
  wrongLength("logits", state.logits, 3 * PREFIXES, "three for each prefix") ??
  wrongEntry(
    "logits",
    state.logits,
    (logit) => Number.isFinite(logit) && Math.abs(logit) <= STEEPEST,
    `a number from ${-STEEPEST} to ${STEEPEST}`,
  ) ??
  wrongWhole("updates", state.updates, UPDATES) ??
  wrongChoice("treatment", state.treatment, Object.keys(TREATMENTS)) ??
  (state.bound === null ? null : wrongSetting("bound", state.bound, BOUNDS)) ??
  wrongPowerOfTwo("replies", state.replies, SIZES);

// Everything on display. A bound beyond its range is clamped, as in Python; none is infinite here.
function compute({ logits, updates, treatment, bound: asked, replies: n }) {
  const bound = asked === null ? null : clamp(asked, BOUNDS);
  const path = pathOf(logits);
  const curves = curvesOf(logits, bound, n);
  const [sampler, learner] = [path[0], path[updates]];
  const { name, level } = TREATMENTS[treatment];
  const here = curves[treatment][updates];
  const extremes = path.flatMap((one) => [Math.min(...one[level]), Math.max(...one[level])]);
  return {
    ...{ updates, treatment, name, level, bound: bound ?? Infinity, n, curves, here },
    kl: dot(
      learner.replies,
      learner.replies.map((p, i) => Math.log(p / sampler.replies[i])),
    ),
    table: Object.entries(curves).map(([kind, along]) => [kind, along[updates]]),
    dots: dotsOf(here, sampler, level),
    ends: [Math.min(...extremes), Math.max(...extremes)],
  };
}

// ---------------------------------------------------------------- in words

const boundInWords = (bound) => (bound === Infinity ? "no bound" : `C = ${short(bound)}`);

// A share without digits that nobody reads.
function shareInWords(share) {
  const size = 100 * share;
  return `${size > 0 && size < 0.1 ? "< 0.1" : format(size, size < 9.95 && size > 0 ? 1 : 0)}\u00a0%`;
}

function inWords(s) {
  if (s.updates === 0) {
    return "Learner and sampler are one policy: every ratio is 1, and all treatments are the same.";
  }
  const ratios = {
    ignored: "Every reply counts once, as if the learner itself had written it.",
    token: "Every token counts by its own ratio, whatever came before it.",
    reply: "Every token counts by the ratio of its whole reply.",
  };
  const worse = s.here.error > 1 ? " The error is larger than that of no update." : "";
  return `${ratios[s.treatment === "ignored" ? "ignored" : s.level]}${overInWords(s)}${worse}`;
}

function overInWords({ treatment, level, bound, here }) {
  if (treatment === "ignored") return "";
  const what = level === "token" ? "tokens" : "replies";
  if (bound === Infinity) return level === "reply" ? " Without a bound, nothing is biased." : "";
  if (here.over_bound === 0) return ` No ratio is over C = ${short(bound)}.`;
  const fate = treatment.endsWith("mask") ? "count nothing" : `count ${short(bound)}`;
  return (
    ` Of the sampler’s ${what}, ${shareInWords(here.over_bound)} have a ratio over C and ${fate}; ` +
    `of the learner’s, it would be ${shareInWords(here.over_bound_learner)}.`
  );
}

// ---------------------------------------------------------------- the errors as curves

const ERRORS = { width: 340, height: 262, left: 34, right: 246, top: 28, bottom: 218 };
const HEIGHTS = [1.5, 3, 6];

// Names of lines beside their ends, at least `gap` apart, in the order of the ends.
function apartFrom(places, gap, [top, bottom]) {
  const sorted = [...places.entries()].sort(([, a], [, b]) => a - b);
  const found = [];
  let least = top;
  for (const [j, [i, place]] of sorted.entries()) {
    const most = bottom - gap * (sorted.length - 1 - j);
    found[i] = Math.min(Math.max(place, least), most);
    least = found[i] + gap;
  }
  return found;
}

function drawErrors(plot, s) {
  const { left, right, top, bottom } = ERRORS;
  const kinds = Object.keys(TREATMENTS);
  const most = Math.max(...Object.values(s.curves).flatMap((along) => along.map(({ error }) => error)));
  const highest = HEIGHTS.find((height) => height >= most) ?? HEIGHTS.at(-1);
  const x = linear(UPDATES, [left, right]);
  const y = linear([0, highest], [bottom, top]);
  const trace = (kind, treatment, name) =>
    curve(
      kind,
      s.curves[treatment].map((one, k) => [x(k), y(Math.min(one[name], highest))]),
      { "data-curve": `${treatment}-${name}` },
    );
  const ends = kinds.map((kind) => y(Math.min(s.curves[kind].at(-1).error, highest)));
  const names = apartFrom(ends, 13, [top, bottom]).map((place, i) => [
    line("rlhf-age-leader", [right + 1, ends[i]], [right + 8, place]),
    text(nameKind(kinds[i], s), [right + 10, place + 4], "start", endName(kinds[i])),
  ]);
  const point = (kind, name, size) =>
    circle(kind, [x(s.updates), y(Math.min(s.here[name], highest))], size, { "data-point": name });
  drawInto(
    plot,
    errorsInWords(s),
    xNumbers(x, [0, 10, 20, 30, 40], bottom + 15),
    yAxis(y, ticks(0, highest, 4), [left, right]),
    line("rlhf-ceiling", [left, y(1)], [right, y(1)]),
    axisTitle([4, 14], "start", "relative to the size of the gradient"),
    axisTitle([(left + right) / 2, bottom + 34], "middle", "updates between sampler and learner"),
    kinds.filter((kind) => kind !== s.treatment).map((kind) => trace("rlhf-age-other", kind, "error")),
    line("rlhf-cursor", [x(s.updates), top], [x(s.updates), bottom]),
    names,
    trace("rlhf-age-error", s.treatment, "error"), // wider, and below: noise without bias is all of it
    trace("rlhf-curve rlhf-curve-true", s.treatment, "bias"),
    trace("rlhf-curve", s.treatment, "noise"),
    point("rlhf-dot rlhf-age-total", "error", 6.5),
    point("rlhf-dot rlhf-dot-true", "bias", 4),
    point("rlhf-dot", "noise", 4),
  );
}

const endName = (kind) => TREATMENTS[kind].name.replace("truncated", "trunc.");
const nameKind = (kind, { treatment }) => (kind === treatment ? "rlhf-age-chosen" : "rlhf-tick");

function errorsInWords({ name, updates, here, curves, treatment, table }) {
  const last = curves[treatment].at(-1);
  const three = ({ bias, noise, error }) =>
    `bias ${format(bias, 2)}, noise ${format(noise, 2)}, error ${format(error, 2)}`;
  const others = table
    .filter(([kind]) => kind !== treatment)
    .map(([kind, one]) => `${TREATMENTS[kind].name} ${format(one.error, 2)}`);
  return (
    `Bias, noise and error against the number of updates, for the treatment ${name}. After ${updates}: ` +
    `${three(here)}. After ${UPDATES[1]}: ${three(last)}. Thin lines: errors of the other treatments; ` +
    `after ${updates}: ${others.join("; ")}.`
  );
}

// ---------------------------------------------------------------- the weights

const WEIGHTS = { width: 340, height: 262, left: 38, right: 292, top: 28, bottom: 218 };
const DECADES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300];

function logarithmic([low, high], places) {
  const scale = linear([Math.log10(low), Math.log10(high)], places);
  return (value) => scale(Math.log10(value));
}

// A ratio that counts is a disc; a truncated one is a ring and a disc on the bound; a masked one is a cross.
function drawDot({ letters, reward, chance, ratio, weight }, s, x, y) {
  const place = [x(chance), y(ratio)];
  const size = 2.6 + 1.2 * reward;
  const data = {
    "data-letters": letters,
    "data-chance": chance,
    "data-ratio": ratio,
    "data-weight": weight,
  };
  const words = svg("title", {}, `${letters}: ratio ${amount(ratio)}, weight ${amount(weight)}`);
  const mark = (kind) => {
    const element = circle(`rlhf-age-dot ${kind}`, place, size, data);
    element.append(words);
    return element;
  };
  if (s.treatment === "ignored") return mark("rlhf-age-unused");
  if (ratio <= s.bound) return mark(reward ? "rlhf-age-earns" : "");
  if (weight === 0) {
    const arms = [-1, 1].map((sign) =>
      line(
        "rlhf-age-cross",
        [place[0] - size, place[1] - sign * size],
        [place[0] + size, place[1] + sign * size],
      ),
    );
    return [arms, mark("rlhf-age-masked")];
  }
  const down = y(s.bound);
  return [
    line("rlhf-age-stem", place, [place[0], down]),
    circle("rlhf-age-capped", [place[0], down], size),
    mark("rlhf-age-ring"),
  ];
}

function drawWeights(plot, s) {
  const { left, right, top, bottom } = WEIGHTS;
  const all = s.dots.map(({ chance }) => chance);
  const x = logarithmic([Math.min(...all) / 1.25, Math.max(...all) * 1.25], [left, right]);
  const [low, high] = [s.ends[0] / 1.25, Math.max(s.ends[1], BOUNDS[1]) * 1.4];
  const y = logarithmic([low, high], [bottom, top]);
  const within = (low, high) => DECADES.filter((tick) => tick >= low && tick <= high);
  const across = within(Math.min(...all) / 1.25, Math.max(...all) * 1.25);
  const largest = s.dots.reduce((most, one) => (one.ratio > most.ratio ? one : most));
  const reply = s.level === "reply";
  drawInto(
    plot,
    weightsInWords(s),
    xGrid(x, across, [top, bottom]),
    xNumbers(x, across, bottom + 15),
    yAxis(y, within(low, high), [left, right]),
    line("rlhf-zero", [left, y(1)], [right, y(1)]),
    boundMarks(s, y),
    axisTitle([4, 14], "start", reply ? "ratio π/μ of the reply" : "ratio π/μ of the token"),
    axisTitle(
      [(left + right) / 2, bottom + 34],
      "middle",
      reply ? "chance of the reply under μ" : "chance of token and prefix under μ",
    ),
    s.dots.map((one) => drawDot(one, s, x, y)),
    s.updates === 0
      ? []
      : text("rlhf-age-largest", [x(largest.chance), y(largest.ratio) - 8], "middle", largest.letters),
  );
}

// The bound as a line with its value beside it, or words in the corner in its place.
function boundMarks({ treatment, bound }, y) {
  const { width, left, right } = WEIGHTS;
  if (treatment === "ignored" || bound === Infinity) {
    const words = treatment === "ignored" ? "every weight is 1" : "no bound";
    return text("rlhf-age-edge", [width, 14], "end", words);
  }
  return [
    line("rlhf-age-bound", [left, y(bound)], [right, y(bound)], { "data-bound": bound }),
    text("rlhf-age-edge", [right + 4, y(bound) + 4], "start", boundInWords(bound)),
  ];
}

function weightsInWords(s) {
  const reply = s.level === "reply";
  const largest = s.dots.reduce((most, one) => (one.ratio > most.ratio ? one : most));
  const over = s.dots.filter(({ ratio }) => s.treatment !== "ignored" && ratio > s.bound).length;
  const fate = s.treatment.endsWith("mask") ? "masked" : "truncated";
  const cut = s.treatment === "ignored" ? "Every weight is 1." : `${over} are ${fate}.`;
  return (
    `Ratio against chance under the sampler, both on logarithmic scales, for ${s.dots.length} ` +
    `${reply ? "replies" : "tokens after their prefixes"}. ` +
    `The largest ratio, ${amount(largest.ratio)}, has ${largest.letters}. ` +
    `${cut}${s.treatment === "ignored" ? "" : ` Bound: ${boundInWords(s.bound)}.`}`
  );
}

// About three digits, and at most three after the point.
function amount(value) {
  const size = Math.abs(value);
  return format(value, size < 0.1 ? 3 : size < 10 ? 2 : 1);
}

// ---------------------------------------------------------------- the numbers

const COLUMNS = [
  ["bias", "bias", "size of E[ĝ] − g over that of g"],
  ["noise", "noise", "root mean squared distance of ĝ from its mean, over the size of g"],
  ["error", "error", "root of bias² + noise²"],
  ["cosine", "cosine", "of the angle between E[ĝ] and g"],
  ["effective", "n_eff/N", "effective sample size as a share of the sample"],
];

function drawTable(table, s) {
  const cellsOf = (kind, numbers) =>
    COLUMNS.map(([name]) => {
      const cell = html("td", { class: "rlhf-right", "data-name": `${kind}-${name}` });
      const value = numbers[name];
      showText(cell, name === "effective" ? shareInWords(value) : format(value, 2), value);
      return cell;
    });
  fillTable(
    table,
    `The five treatments after ${s.updates} updates`,
    [column("the ratio"), ...COLUMNS.map(([, words, title]) => numberColumn(words, title))],
    s.table.map(([kind, numbers]) => {
      const one = tableRow(TREATMENTS[kind].name, ...cellsOf(kind, numbers));
      attribute(one, "aria-current", kind === s.treatment && "true");
      return one;
    }),
  );
}

const TILES = [
  ["kl", "KL(π‖μ), nats", "of the learner from the sampler, a reply"],
  ["largest_ratio", "largest ratio", "π/μ of a token, or of a reply"],
  ["largest_weight", "largest weight", "what the treatment makes of the ratios"],
  ["over_bound", "over C, under μ", "share of the sampler’s tokens or replies"],
  ["over_bound_learner", "over C, under π", "share of the learner’s"],
];

function drawTiles({ output }, s) {
  const { largest_ratio, largest_weight, over_bound, over_bound_learner } = s.here;
  showNumber(output.kl, s.kl, 3);
  for (const [name, value] of Object.entries({ largest_ratio, largest_weight })) {
    showText(output[name], amount(value), value);
  }
  const bounded = s.treatment !== "ignored" && s.bound !== Infinity;
  for (const [name, value] of Object.entries({ over_bound, over_bound_learner })) {
    showText(output[name], bounded ? shareInWords(value) : "–", value);
  }
}

// ---------------------------------------------------------------- the demo

// Positions of the slider; the last one is no bound.
const STOPS = [
  1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.3, 3.6, 4, 4.5, 5, 5.5, 6, 7, 8, 9, 10,
];
const STOP = {
  ...listed([...STOPS, null]),
  toPosition(bound) {
    if (bound === Infinity) return STOPS.length;
    const away = STOPS.map((stop) => Math.abs(Math.log(stop / bound)));
    return away.indexOf(Math.min(...away));
  },
};

function controlsOf({ set }) {
  const treatments = choices(
    "what is done with the ratios",
    (kind) => {
      const { name } = TREATMENTS[kind];
      return [{ control: `treatment-${kind}`, label: name, title: kind }, name];
    },
    (kind) => set({ treatment: kind }),
  );
  treatments.offer(Object.keys(TREATMENTS));
  const rows = {
    updates: sliderRow({
      trait: "updates",
      name: "k",
      hint: "age of the samples, updates",
      scale: inSteps(UPDATES, 1),
      describe: (k) => `${k} updates`,
      set,
    }),
    bound: sliderRow({
      trait: "bound",
      name: "C",
      hint: "bound on the ratios",
      scale: STOP,
      words: (bound) => (bound === Infinity ? "no bound" : short(bound)),
      describe: boundInWords,
      set,
    }),
    n: sliderRow({
      trait: "replies",
      name: "N",
      hint: "replies in an estimate",
      scale: powersOfTwo(SIZES[1], SIZES[0]),
      describe: (n) => `${n} replies`,
      set,
    }),
  };
  return {
    elements: [
      row("ratio π/μ", "what is done with it", treatments.element),
      ...Object.values(rows).map((one) => one.element),
    ],
    show(s) {
      treatments.show(s.treatment);
      for (const [name, one] of Object.entries(rows)) one.show(s[name]);
    },
  };
}

function drawLegend(legend, { treatment, level, bound }) {
  if (treatment === "ignored") {
    legend.replaceChildren("The ratios are there, and not used.");
    return;
  }
  const marks = treatment.endsWith("mask")
    ? "× masked: its weight is 0."
    : pair("rlhf-key-true", "truncated: from the ring down to C");
  legend.replaceChildren(
    pair("", level === "reply" ? "replies with a reward" : "a b right after an a"),
    bound === Infinity ? "" : marks,
  );
}

function build(page) {
  const controls = controlsOf(page);
  const says = html("p", { class: "rlhf-age-says", "data-name": "says" });
  const errors = picture(ERRORS.width, ERRORS.height);
  const weights = picture(WEIGHTS.width, WEIGHTS.height);
  const signs = html(
    "p",
    { class: "rlhf-legend" },
    ...[pair("rlhf-key-true", "bias"), pair("", "noise"), pair("rlhf-age-key", "error")],
    "Thin: errors of the other treatments. Grey dashes: 1, the error of no update.",
  );
  const legend = html("p", { class: "rlhf-legend rlhf-age-marks" });
  const numbers = tiles(TILES);
  const table = html("table", { class: "rlhf-bars" });
  const places = [
    html("div", { class: "rlhf-plot-place" }, errors, signs),
    html("div", { class: "rlhf-plot-place" }, weights, legend),
  ];
  return {
    controls: controls.elements,
    figure: [says, html("div", { class: "rlhf-panels" }, ...places), numbers.element, table],
    draw(s) {
      controls.show(s);
      says.textContent = inWords(s);
      drawErrors(errors, s);
      drawWeights(weights, s);
      drawLegend(legend, s);
      drawTiles(numbers, s);
      drawTable(table, s);
      const { bias, noise, error } = s.here;
      return (
        `${s.name}, ${s.updates} updates, ${boundInWords(s.bound)}, ${s.n} replies: ` +
        `bias ${format(bias, 2)}, noise ${format(noise, 2)}, error ${format(error, 2)}. ${inWords(s)}`
      );
    },
  };
}

const STATE = ["logits", "updates", "treatment", "bound", "replies"];
export default demo({ kind: "rlhf-staleness", state: STATE, problem, compute, build });
