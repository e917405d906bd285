// The DPO explorer. The mathematics first, as pure functions; then what draws it. A pair has two log-ratios,
// log π/π_ref of its chosen and of its rejected reply: ℓ_c and ℓ_r on the page, c and r here, in nats.

const RANGES = { chosen_log_ratio: [-8, 8], rejected_log_ratio: [-8, 8], beta: [0.01, 1] };
const EDGE = 10; // of the plane: from its middle, in nats

// Each loss by its value and its gradient with respect to c and r. `level(value, beta)` gives the lines in
// the plane on which the loss has a value, each with the side on which it is higher.
const LOSSES = {
  dpo: {
    name: "DPO",
    value: (c, r, beta) => softplus(-beta * (c - r)),
    gradient: (c, r, beta) => apart(-beta * sigmoid(-beta * (c - r))),
    level: (value, beta) => gapLine(-Math.log(Math.expm1(value)) / beta, "above"),
  },
  ipo: {
    name: "IPO",
    value: (c, r, beta) => (c - r - targetOf(beta)) ** 2,
    gradient: (c, r, beta) => apart(2 * (c - r - targetOf(beta))),
    level: (value, beta) => [
      ...gapLine(targetOf(beta) - Math.sqrt(value), "above"),
      ...gapLine(targetOf(beta) + Math.sqrt(value), "below"),
    ],
  },
  kto: {
    name: "KTO",
    value: (c, r, beta) => (desirable(c, beta) + undesirable(r, beta)) / 2,
    gradient: (c, r, beta) => [-steepness(beta * c, beta), steepness(beta * r, beta)],
    level: ktoLine,
  },
};

const desirable = (logRatio, beta) => sigmoid(-beta * logRatio); // KTO's loss of one reply, 1 − σ
const undesirable = (logRatio, beta) => sigmoid(beta * logRatio);
const targetOf = (beta) => 1 / (2 * beta); // IPO's gap
const apart = (slope) => [slope, -slope]; // the gradient of a loss that sees the gap alone
const steepness = (reward, beta) => (beta / 2) * sigmoid(reward) * sigmoid(-reward);

// Where c − r has a value, from the left or lower edge of the plane to the upper or right one.
function gapLine(gap, higher) {
  if (Math.abs(gap) >= 2 * EDGE) return [];
  const ends = [Math.max(-EDGE, gap - EDGE), Math.min(EDGE, gap + EDGE)];
  return [{ points: ends.map((c) => [c, c - gap]), higher }];
}

// σ(βc) and σ(−βr) have one sum on a line: the first runs over what the plane leaves it.
function ktoLine(value, beta) {
  const total = 2 - 2 * value;
  const [low, high] = [sigmoid(-beta * EDGE), sigmoid(beta * EDGE)];
  const [from, to] = [Math.max(low, total - high), Math.min(high, total - low)];
  if (from >= to) return [];
  const logit = (p) => clamp(Math.log(p / (1 - p)) / beta, [-EDGE, EDGE]);
  const at = (p) => [logit(p), -logit(total - p)];
  return [{ points: range(121).map((i) => at(from + ((to - from) * i) / 120)), higher: "above" }];
}

const problem = (state) =>
  firstWrong(Object.entries(RANGES), ([name, ends]) => wrongSetting(name, state[name], ends)) ??
  wrongChoice("loss", state.loss, Object.keys(LOSSES));

// Everything on display. Settings beyond their range are clamped, as in Python.
function compute(state) {
  const [c, r, beta] = Object.entries(RANGES).map(([name, ends]) => clamp(state[name], ends));
  const { name, value, gradient, level } = LOSSES[state.loss];
  const slopes = gradient(c, r, beta);
  return {
    ...{ kind: state.loss, name, c, r, beta, gap: c - r, target: targetOf(beta) },
    chosen_reward: beta * c,
    rejected_reward: beta * r,
    margin: beta * c - beta * r,
    probability: sigmoid(beta * c - beta * r),
    loss: value(c, r, beta),
    gradient: slopes,
    pull: slopes.map(Math.abs),
    share: Math.hypot(...slopes) / Math.hypot(...gradient(0, 0, beta)),
    at: (chosen, rejected) => value(chosen, rejected, beta),
    linesAt: (loss) => level(loss, beta),
  };
}

// ---------------------------------------------------------------- in words

// What descent does to the pair, and what has become of it.
function inWords(s) {
  const fallen = s.c < 0 && s.r < 0 ? " Both replies are less likely than under the reference, and " : "";
  if (s.kind === "kto") return `${ofEach(s)}${fallen && `${fallen}the loss notices.`}`;
  return `${ofTheGap(s)}${fallen && `${fallen}the loss does not notice.`}`;
}

function ofTheGap({ kind, gap, target }) {
  if (kind === "dpo") {
    const reversed = gap < 0 ? "The implicit rewards have the pair the wrong way round. " : "";
    return `${reversed}Only the gap counts: gradient descent raises ℓ_c and lowers ℓ_r, equally hard.`;
  }
  const missing = target - gap;
  const nats = `${format(Math.abs(missing), 2)} nats`;
  if (Math.abs(missing) < 1e-9) return "The gap is at its target, 1/(2β): nothing pulls.";
  return missing > 0
    ? `The gap is ${nats} short of its target: gradient descent raises ℓ_c and lowers ℓ_r, equally hard.`
    : `The gap is ${nats} beyond its target: gradient descent lowers ℓ_c and raises ℓ_r, equally hard.`;
}

function ofEach({ c, r }) {
  const nearer = Math.abs(c) < Math.abs(r) ? "ℓ_c" : "ℓ_r";
  const even = Math.abs(c) === Math.abs(r);
  return (
    "Each reply counts alone: gradient descent raises ℓ_c and lowers ℓ_r; " +
    (even ? "it pulls equally hard at both." : `it pulls harder at the one nearer to 0, here ${nearer}.`)
  );
}

// ---------------------------------------------------------------- the plane

const PLANE = { width: 340, height: 346, left: 38, right: 302, top: 40, bottom: 304 };
const ACROSS = linear([-EDGE, EDGE], [PLANE.left, PLANE.right]);
const UPWARDS = linear([-EDGE, EDGE], [PLANE.bottom, PLANE.top]);
const MARKS = [-8, -4, 0, 4, 8];
// in pixels: between the point and its arrow, and as long as the gradient at the reference; the shares drawn
const ARROW = { start: 8, unit: 28, least: 0.05, most: 2 };

const onPage = ([c, r]) => [ACROSS(c), UPWARDS(r)];

// Values of the loss in equal steps, between its lowest and its highest in the plane.
function levels(s) {
  const ends = [s.at(EDGE, -EDGE), s.at(-EDGE, EDGE)];
  const low = s.kind === "ipo" && s.target < 2 * EDGE ? 0 : Math.min(...ends);
  const high = Math.max(...ends);
  const slack = 1e-6 * (high - low);
  const inside = (level) => level < high - slack && (level > low + slack || level === 0);
  return ticks(low, high, 12).filter(inside);
}

// The part of the plane where the loss is higher than on a line.
function shade({ points, higher }) {
  const [[left, bottom], [right, top]] = [points[0], points.at(-1)];
  const above = [right, EDGE, -EDGE, EDGE, -EDGE, bottom];
  const below = [EDGE, top, EDGE, -EDGE, left, -EDGE];
  const corners = higher === "above" ? above : below;
  const outline = [...points, ...range(3).map((i) => corners.slice(2 * i, 2 * i + 2))];
  return svg("path", { class: "rlhf-dpo-shade", d: `${through(outline.map(onPage))}Z` });
}

// The loss on each line, at its end on the upper or right edge, where there is room.
function lineNames(lines) {
  const taken = [];
  return lines.flatMap(({ level, points }) => {
    const words = short(level);
    const [x, y] = onPage(points.at(-1));
    const beside = points.at(-1)[0] > EDGE - 1e-6;
    const place = beside ? [x + 4, y + 4] : [x, y - 5];
    const middle = beside ? x + 4 + 3 * words.length : x;
    const wide = 6 * words.length + 8;
    if (taken.some((one) => Math.abs(one.middle - middle) < wide && Math.abs(one.y - place[1]) < 11))
      return [];
    taken.push({ middle, y: place[1] });
    return [text("rlhf-tick", place, beside ? "start" : "middle", words)];
  });
}

// The way of gradient descent, as long as the gradient is large: against that at ℓ_c = ℓ_r = 0.
function arrow({ c, r, gradient: [dc, dr], share }) {
  if (share < ARROW.least) return [];
  const long = ARROW.unit * Math.min(share, ARROW.most);
  const size = Math.hypot(dc, dr);
  const along = [-dc / size, dr / size]; // upwards is less on the page
  const from = onPage([c, r]);
  const at = (distance, sideways = 0) => [
    from[0] + distance * along[0] - sideways * along[1],
    from[1] + distance * along[1] + sideways * along[0],
  ];
  const tip = ARROW.start + long;
  const head = Math.min(10, long);
  const corners = [at(tip), at(tip - head, head / 2), at(tip - head, -head / 2)];
  return [
    line("rlhf-dpo-push", at(0), at(tip - head / 2), { "data-share": share }),
    svg("path", { class: "rlhf-dpo-head", d: `${through(corners)}Z` }),
  ];
}

function drawPlane(art, s) {
  const { left, right, top, bottom } = PLANE;
  const lines = levels(s).flatMap((level) => s.linesAt(level).map((one) => ({ ...one, level })));
  const trace = (kind, found) => found.map(({ points }) => curve(kind, points.map(onPage)));
  const middle = onPage([-6, -6]);
  art.replaceChildren(
    ...[
      lines.map(shade),
      MARKS.map((tick) => line(gridKind(tick), [ACROSS(tick), top], [ACROSS(tick), bottom])),
      yAxis(UPWARDS, MARKS, [left, right], { zero: true }),
      xNumbers(ACROSS, MARKS, bottom + 15),
      rect("rlhf-dpo-frame", [left, top], [right - left, bottom - top]),
      trace("rlhf-dpo-line", lines),
      lineNames(lines),
      line("rlhf-dpo-diagonal", onPage([-EDGE, -EDGE]), onPage([EDGE, EDGE])),
      text("rlhf-tick", [middle[0], middle[1] - 5], "middle", "ℓ_c = ℓ_r", {
        transform: `rotate(-45 ${middle[0]} ${middle[1]})`,
      }),
      trace("rlhf-curve rlhf-dpo-same", s.linesAt(s.loss)),
      axisTitle([4, 14], "start", "ℓ_r, log-ratio of the rejected reply, nats"),
      axisTitle([(left + right) / 2, bottom + 34], "middle", "ℓ_c, log-ratio of the chosen reply, nats"),
      arrow(s),
    ].flat(Infinity),
  );
}

function planeInWords(s) {
  const shape = {
    dpo: "straight and parallel to the diagonal",
    ipo: "straight and parallel to the diagonal, on both sides of a valley",
    kto: "curves that cross the diagonals of equal gap",
  };
  const way = (slope, name) => `${slope > 0 ? "lowers" : "raises"} ${name}`;
  const [dc, dr] = s.gradient;
  return (
    `The plane of both log-ratios, ℓ_c across and ℓ_r upwards, with lines of equal ${s.name} loss, ` +
    `${shape[s.kind]}. The pair is at ${short(s.c)} and ${short(s.r)}. ` +
    (s.share < ARROW.least
      ? "The gradient is too small for an arrow."
      : `An arrow shows that gradient descent ${way(dc, "ℓ_c")} and ${way(dr, "ℓ_r")}; the gradient is ` +
        `${amount(s.share)} times as large as at the reference, and the arrow as long, but at most twice.`)
  );
}

// The point can be dragged; the sliders do the same from the keyboard.
function planeOf({ set }) {
  const art = svg("g", {});
  const point = circle("rlhf-dot rlhf-dpo-point", [0, 0], 7);
  const plot = picture(PLANE.width, PLANE.height);
  plot.append(art, point);
  let held = false;
  point.addEventListener("pointerdown", (event) => {
    held = true;
    point.setPointerCapture(event.pointerId);
  });
  point.addEventListener("pointermove", (event) => {
    if (!held) return;
    const box = plot.getBoundingClientRect();
    const c = ACROSS.back(((event.clientX - box.left) / box.width) * PLANE.width);
    const r = UPWARDS.back(((event.clientY - box.top) / box.height) * PLANE.height);
    const tenth = (value, name) => Number(clamp(value, RANGES[name]).toFixed(1));
    set({
      chosen_log_ratio: tenth(c, "chosen_log_ratio"),
      rejected_log_ratio: tenth(r, "rejected_log_ratio"),
    });
  });
  for (const end of ["pointerup", "pointercancel"]) {
    point.addEventListener(end, () => {
      held = false;
    });
  }
  return {
    element: plot,
    show(s) {
      drawPlane(art, s);
      const [cx, cy] = onPage([s.c, s.r]);
      fill(point, { cx, cy, "data-chosen": s.c, "data-rejected": s.r }, []);
      attribute(plot, "aria-label", planeInWords(s));
    },
  };
}

// ---------------------------------------------------------------- the loss as a curve

const CURVE = { width: 340, height: 206, left: 38, right: 330, top: 26, bottom: 164 };

function drawCurve(plot, s) {
  const { left, right, top, bottom } = CURVE;
  const each = s.kind === "kto";
  const most = each ? 8 : 16;
  const x = linear([-most, most], [left, right]);
  const highest = each ? 1 : Math.max(s.at(-8, 8), s.at(8, -8));
  const y = linear([0, each ? 1.13 : highest], [bottom, top]); // with room for words above the curves
  const marks = range(5).map((i) => (most * (i - 2)) / 2);
  drawInto(
    plot,
    curveInWords(s),
    marks.map((tick) => line(gridKind(tick), [x(tick), top], [x(tick), bottom])),
    xNumbers(x, marks, bottom + 15),
    yAxis(y, ticks(0, highest, 4), [left, right]),
    axisTitle([4, 14], "start", each ? "KTO loss of each reply" : `${s.name} loss of the pair`),
    axisTitle(
      [(left + right) / 2, bottom + 34],
      "middle",
      each ? "log-ratio of the reply, nats" : "gap ℓ_c − ℓ_r, nats",
    ),
    each ? eachReply(s, x, y) : ofThePair(s, x, y, highest),
  );
}

function ofThePair({ kind, at, gap, loss, gradient: [slope], target }, x, y, highest) {
  const gaps = range(161).map((i) => (i - 80) / 5);
  const tangent = [-4, 4].map((step) => {
    const end = clamp(gap + step, [-16, 16]);
    const height = clamp(loss + slope * (end - gap), [0, highest]);
    return [x(slope === 0 ? end : gap + (height - loss) / slope), y(height)];
  });
  const [anchor, shift] = target > 9 ? ["end", -5] : ["start", 5];
  const lowest = [
    line("rlhf-ceiling", [x(target), CURVE.top], [x(target), CURVE.bottom]),
    text("rlhf-tick", [x(target) + shift, CURVE.top + 12], anchor, "1/(2β)"),
  ];
  return [
    kind === "ipo" && target <= 16 ? lowest : [],
    curve(
      "rlhf-curve",
      gaps.map((one) => [x(one), y(at(one, 0))]),
    ),
    line("rlhf-tangent", ...tangent),
    circle("rlhf-dot", [x(gap), y(loss)], 5.5, { "data-gap": gap, "data-loss": loss }),
  ];
}

// The chosen reply counts as desirable, the rejected one as undesirable.
function eachReply({ c, r, beta }, x, y) {
  const places = range(81).map((i) => (i - 40) / 5);
  const trace = (kind, loss) => {
    const points = places.map((logRatio) => [x(logRatio), y(loss(logRatio, beta))]);
    return curve(kind, points);
  };
  const dotOf = (kind, logRatio, loss) => {
    const named = { "data-log-ratio": logRatio, "data-loss": loss };
    return circle(`rlhf-dot ${kind}`, [x(logRatio), y(loss)], 5.5, named);
  };
  return [
    trace("rlhf-curve", desirable),
    trace("rlhf-curve rlhf-curve-true", undesirable),
    text("rlhf-tick", [x(-8) + 4, y(desirable(-8, beta)) - 6], "start", "desirable"),
    text("rlhf-tick", [x(8) - 4, y(undesirable(8, beta)) - 6], "end", "undesirable"),
    dotOf("rlhf-dpo-chosen", c, desirable(c, beta)),
    dotOf("rlhf-dot-true", r, undesirable(r, beta)),
  ];
}

function curveInWords(s) {
  if (s.kind === "kto") {
    return (
      "KTO loss against the log-ratio of a reply: it falls for a desirable one and rises for an " +
      `undesirable one. The chosen reply, at ${short(s.c)}: ${amount(desirable(s.c, s.beta))}. ` +
      `The rejected one, at ${short(s.r)}: ${amount(undesirable(s.r, s.beta))}.`
    );
  }
  const shape =
    s.kind === "dpo"
      ? "it falls for ever"
      : `it is lowest at 1/(2β), ${format(s.target, 1)} nats, and rises beyond`;
  return `${s.name} loss against the gap: ${shape}. At ${format(s.gap, 1)} nats it is ${amount(s.loss)}.`;
}

// ---------------------------------------------------------------- the table

// About three digits, and at most four after the point.
function amount(value) {
  if (value === 0) return "0";
  if (value > 0 && value < 5e-5) return "< 0.0001";
  const size = Math.abs(value);
  return format(value, size < 0.1 ? 4 : size < 10 ? 3 : size < 100 ? 2 : 1);
}

const OF_THE_PAIR = [
  ["gap", "gap, nats", "ℓ_c − ℓ_r"],
  ["chosen_reward", "implicit reward, chosen", "β ℓ_c"],
  ["rejected_reward", "implicit reward, rejected", "β ℓ_r"],
  ["margin", "margin", "β · gap"],
  ["probability", "probability of the label", "σ(margin)"],
];
const OF_THE_LOSS = {
  dpo: [
    ["loss", "loss", "−log σ(margin)"],
    ["pull", "pull on both replies", "β σ(−margin)"],
  ],
  ipo: [
    ["loss", "loss", "(gap − 1/(2β))²"],
    ["pull", "pull on both replies", "|2 (gap − 1/(2β))|"],
  ],
  kto: [
    ["loss", "loss, mean of both", "½\u00a0σ(−β\u00a0ℓ_c) +\u00a0½\u00a0σ(β\u00a0ℓ_r)"],
    ["chosen_pull", "pull on the chosen", "½\u00a0β\u00a0σ(β\u00a0ℓ_c) σ(−β\u00a0ℓ_c)"],
    ["rejected_pull", "pull on the rejected", "½\u00a0β\u00a0σ(β\u00a0ℓ_r) σ(−β\u00a0ℓ_r)"],
  ],
};

function drawTable(table, s) {
  const numbers = { ...s, pull: s.pull[0], chosen_pull: s.pull[0], rejected_pull: s.pull[1] };
  const rowOf = ([name, words, formula]) => {
    const cell = html("td", { class: "rlhf-right", "data-name": name });
    showText(cell, amount(numbers[name]), numbers[name]);
    return tableRow(words, html("td", {}, formula), cell);
  };
  fillTable(
    table,
    `The pair in numbers, under ${s.name}`,
    [column("of this pair"), column("formula"), numberColumn("value")],
    [...OF_THE_PAIR, ...OF_THE_LOSS[s.kind]].map(rowOf),
  );
}

// ---------------------------------------------------------------- the demo

const PAIRS = [
  ["at the reference", { chosen_log_ratio: 0, rejected_log_ratio: 0 }],
  ["pushed apart", { chosen_log_ratio: 2, rejected_log_ratio: -2 }],
  ["both fallen", { chosen_log_ratio: -4, rejected_log_ratio: -8 }],
  ["wrong way round", { chosen_log_ratio: -3, rejected_log_ratio: 1 }],
];

const PER_DECADE = 40; // positions of the slider, so that 0.01, 0.1 and 1 lie on it exactly
const BETAS = {
  ...listed(range(2 * PER_DECADE + 1).map((i) => Number((10 ** (i / PER_DECADE - 2)).toPrecision(3)))),
  toPosition: (beta) => PER_DECADE * (Math.log10(beta) + 2),
};

function controlsOf({ set }) {
  const losses = choices(
    "loss",
    (kind) => [{ control: `loss-${kind}`, label: `${LOSSES[kind].name} loss` }, LOSSES[kind].name],
    (kind) => set({ loss: kind }),
  );
  losses.offer(Object.keys(LOSSES));
  const pairs = choices(
    "pairs to start from",
    ([name]) => [{ control: `pair-${name}`, label: `the pair ${name}` }, name],
    ([, update]) => set(update),
  );
  pairs.offer(PAIRS);
  const rowOf = (trait, name, hint, scale, unit) =>
    sliderRow({ trait, name, hint, scale, describe: (value) => `${short(value)}${unit}`, set });
  const tenths = inSteps(RANGES.chosen_log_ratio, 0.1);
  const rows = {
    c: rowOf("chosen_log_ratio", "ℓ_c", "log-ratio of the chosen reply, nats", tenths, " nats"),
    r: rowOf("rejected_log_ratio", "ℓ_r", "log-ratio of the rejected reply, nats", tenths, " nats"),
    beta: rowOf("beta", "β", "reward per nat", BETAS, ""),
  };
  return {
    elements: [
      row("loss", null, losses.element),
      ...Object.values(rows).map((one) => one.element),
      row("pair", null, pairs.element),
    ],
    show(s) {
      losses.show(s.kind);
      for (const [name, one] of Object.entries(rows)) one.show(s[name]);
    },
  };
}

function drawLegend(legend, { kind, target }) {
  const slope = "The steeper the straight line, the harder the pull.";
  const parts = {
    dpo: ["It falls for ever: no gap is large enough. ", slope],
    ipo: [`It is lowest at a gap of 1/(2β) = ${format(target, 1)} nats. `, slope],
    kto: [
      ...[pair("", "the chosen reply"), pair("rlhf-key-true", "dashed: the rejected one")],
      "The reference point is 0, both weights are 1.",
    ],
  };
  legend.replaceChildren(...parts[kind]);
}

function build(page) {
  const controls = controlsOf(page);
  const says = html("p", { class: "rlhf-dpo-says", "data-name": "says" });
  const plane = planeOf(page);
  const plot = picture(CURVE.width, CURVE.height);
  const signs = html(
    "p",
    { class: "rlhf-legend" },
    ...[pair("", "All pairs with the same loss."), "Thin lines: equal loss, its value at the edge; "],
    ...["the deeper the shade, the larger. ", pair("rlhf-key-true", "Arrow: the way of gradient descent.")],
    "Its length is the gradient’s size against that at ℓ_c = ℓ_r = 0, at most twice. ",
    "The point can be dragged.",
  );
  const legend = html("p", { class: "rlhf-legend" });
  const table = html("table", { class: "rlhf-bars" });
  const places = [
    html("div", { class: "rlhf-plot-place" }, plane.element, signs),
    html("div", { class: "rlhf-plot-place" }, plot, legend, table),
  ];
  return {
    controls: controls.elements,
    figure: [says, html("div", { class: "rlhf-panels" }, ...places)],
    draw(s) {
      controls.show(s);
      says.textContent = inWords(s);
      plane.show(s);
      drawCurve(plot, s);
      drawLegend(legend, s);
      drawTable(table, s);
      return (
        `${s.name}, ℓ_c ${short(s.c)}, ℓ_r ${short(s.r)}, β ${short(s.beta)}: margin ${amount(s.margin)}, ` +
        `loss ${amount(s.loss)}. ${inWords(s)}`
      );
    },
  };
}

const STATE = ["chosen_log_ratio", "rejected_log_ratio", "beta", "loss"];
export default demo({ kind: "rlhf-dpo", state: STATE, problem, compute, build });
