// The tilt explorer. The mathematics first, as pure functions; then what draws it.

function tilt(reference, rewards, beta) {
  const scores = reference.map((p, i) => Math.log(p) + rewards[i] / beta);
  const top = Math.max(...scores);
  const weights = scores.map((s) => Math.exp(s - top));
  const total = sum(weights);
  const policy = weights.map((w) => w / total);
  const kl = sum(policy.map((p, i) => (p > 0 ? p * (Math.log(p) - Math.log(reference[i])) : 0)));
  return { policy, kl, objective: beta * (top + Math.log(total)) };
}

// The reference mass of the best rewarded replies: -ln of it is the largest KL that tilting can reach.
function bestMass(reference, rewards) {
  const best = Math.max(...rewards.filter((_, i) => reference[i] > 0));
  return sum(reference.filter((_, i) => rewards[i] === best));
}

function problem({ reference, rewards, labels, bias, beta, beta_range, reward_shift, proxy_gap }) {
  const wrongList = ([name, values]) =>
    wrongEmpty(name, values, "one entry per reply") ??
    wrongLength(name, values, reference.length, "as reference has") ??
    (name === "labels" ? null : wrongNumbers(name, values));
  return (
    firstWrong(Object.entries({ reference, rewards, bias, labels }), wrongList) ??
    wrongEntry("reference", reference, (p) => p >= 0, "probabilities of at least 0") ??
    wrongTotal("reference", reference) ??
    wrongRange("beta_range", beta_range) ??
    unless(beta > 0 && Number.isFinite(beta), `beta is ${beta}; expected a positive number`) ??
    wrongNumber("reward_shift", reward_shift) ??
    wrongNumber("proxy_gap", proxy_gap) ??
    overflow([...rewards, ...bias], beta_range[0])
  );
}

// The sums on display stay finite, too.
function overflow(values, beta) {
  const largest = Math.max(...values.map(Math.abs));
  const words = `a reward or bias of size ${largest} over beta=${beta} overflows; expected a finite ratio`;
  return unless(Number.isFinite((10 * largest) / beta), words);
}

// Everything on display, from the state of the model. Settings beyond their range are clamped, as in Python.
function compute(state) {
  const beta = clamp(state.beta, state.beta_range);
  const shift = clamp(state.reward_shift, state.shift_range);
  const gap = clamp(state.proxy_gap, state.gap_range);
  const truth = state.rewards.map((r) => r + shift);
  const optimised = truth.map((r, i) => r + gap * state.bias[i]);
  const point = (b) => {
    const t = tilt(state.reference, optimised, b);
    return { ...t, expected: dot(t.policy, optimised), expectedTrue: dot(t.policy, truth) };
  };
  return { ...state, beta, shift, gap, truth, optimised, point, now: point(beta) };
}

const POSITIONS_PER_DECADE = 40; // 0.1, 1 and 10 lie on the slider exactly

function betaScale([low, high]) {
  const first = Math.ceil(POSITIONS_PER_DECADE * Math.log10(low) - 1e-9);
  const last = Math.floor(POSITIONS_PER_DECADE * Math.log10(high) + 1e-9);
  // three digits, so that the number on the page is the number that is used
  const between = (position) => Number((10 ** (position / POSITIONS_PER_DECADE)).toPrecision(3));
  return {
    positions: [first, last],
    toValue: (position) => (position <= first ? low : position >= last ? high : between(position)),
    toPosition: (beta) => POSITIONS_PER_DECADE * Math.log10(beta),
  };
}

// ---------------------------------------------------------------- the frontier

const PLOT = { width: 340, height: 268, left: 40, right: 328, top: 14, bottom: 228 };

function drawFrontier(plot, s) {
  const { height, left, right, top, bottom } = PLOT;
  const ceiling = -Math.log(bestMass(s.reference, s.optimised));
  const [low, high] = s.beta_range;
  const points = range(240).map((i) => s.point((low / 8) * ((high * 400) / low) ** (i / 239)));
  const [yMin, yMax] = extent(
    points.flatMap((p) => (s.gap > 0 ? [p.expected, p.expectedTrue] : [p.expected])),
    0.06,
  );
  const xMax = 1.1 * ceiling || 1;
  const x = linear([0, xMax], [left, right]);
  const y = linear([yMin, yMax], [bottom, top]);
  const { kl, expected, expectedTrue, objective } = s.now;
  // The tangent has slope beta and meets the axis KL = 0 at J(pi*) = beta log Z.
  const reach = Math.min(xMax, kl + 0.25 * xMax, kl + (yMax - expected) / s.beta);
  const end = [x(reach), y(expected + s.beta * (reach - kl))];
  const marks = ticks(0, xMax, 5);
  const way = (get) => points.map((p) => [x(p.kl), y(get(p))]);
  const truth = s.gap > 0;
  drawInto(
    plot,
    `Frontier: expected reward against KL. At beta ${short(s.beta)} the point is at KL ${format(kl, 3)} ` +
      `nats, reward ${format(expected, 3)}; the largest KL is ${format(ceiling, 3)}.`,
    xGrid(x, marks, [top, bottom]),
    xNumbers(x, marks, bottom + 15),
    yAxis(y, ticks(yMin, yMax, 5), [left, right]),
    axisTitle([(left + right) / 2, height - 6], "middle", "KL(π*‖π_ref), nats"),
    axisTitle([left - 34, top - 3], "start", "E[r]"),
    line("rlhf-ceiling", [x(ceiling), top], [x(ceiling), bottom]),
    text("rlhf-tick", [x(ceiling) - 5, bottom * 0.55], "end", "−ln π_ref(best)"),
    line("rlhf-tangent", [x(0), y(objective)], end, { "data-slope": s.beta }),
    curve(
      "rlhf-curve",
      way((p) => p.expected),
    ),
    truth
      ? curve(
          "rlhf-curve rlhf-curve-true",
          way((p) => p.expectedTrue),
        )
      : [],
    rect("rlhf-intercept", [x(0) - 3.5, y(objective) - 3.5], [7, 7]),
    truth ? circle("rlhf-dot rlhf-dot-true", [x(kl), y(expectedTrue)], 5) : [],
    circle("rlhf-dot", [x(kl), y(expected)], 5.5, { "data-kl": kl, "data-expected": expected }),
  );
}

// ---------------------------------------------------------------- the bars

function drawBars(table, s) {
  const twoDigits = (value) => short(Number(value.toFixed(2)));
  const truth = (words, make) => (s.gap > 0 ? [make({ class: "rlhf-right rlhf-true" }, words)] : []);
  const columns = [
    column("reply"),
    numberColumn(s.gap > 0 ? "proxy" : "r"),
    ...truth("true", (attributes, words) => column(words, attributes)),
    html("th", { scope: "col" }, key("rlhf-key-ref"), "π_ref ", key(), "π*"),
    numberColumn("π*"),
  ];
  const rows = s.labels.map((label, i) =>
    tableRow(
      label,
      html("td", { class: "rlhf-right" }, twoDigits(s.optimised[i])),
      ...truth(twoDigits(s.truth[i]), (attributes, words) => html("td", attributes, words)),
      html(
        "td",
        { class: "rlhf-bar-cell", "aria-hidden": "true" },
        bar("rlhf-bar rlhf-bar-ref", s.reference[i]),
        bar("rlhf-bar", s.now.policy[i]),
      ),
      numberCell(s.now.policy[i], 5, { class: "rlhf-right rlhf-policy" }),
    ),
  );
  fillTable(table, "Each reply with its reward and its probability under the optimum", columns, rows);
}

// ---------------------------------------------------------------- the demo

// beta: a slider, a field for exact values, three buttons
function betaControl({ model, set, note, redraw }) {
  const choose = (beta) => set({ beta });
  const knob = slider({
    name: "beta",
    label: "beta",
    hint: "price of one nat of KL",
    describe: (beta) => `beta ${short(beta)}`,
    onChange: choose,
  });
  const field = numberField({
    control: "beta-field",
    label: "beta, exact value",
    accepts: (value) => value > 0 && Number.isFinite(value),
    onNumber(value) {
      const [low, high] = model.get("beta_range");
      const beta = clamp(value, [low, high]);
      choose(beta);
      redraw();
      if (beta === value) return;
      note(
        `beta is ${short(value)}; this figure goes from ${short(low)} to ${short(high)}. ` +
          `Showing ${short(beta)}.`,
      );
    },
    onRefused: (typed) =>
      note(`beta is ${typed}; expected a positive number. Still showing beta = ${short(model.get("beta"))}.`),
  });
  const presets = choices(
    null,
    (beta) => [{ "data-beta": beta, label: `beta = ${beta}` }, `β = ${beta}`],
    choose,
  );
  const rescale = whenChanged((ends) => {
    knob.rescale(betaScale(ends));
    presets.offer([0.1, 1, 10].filter((beta) => clamp(beta, ends) === beta));
  });
  return {
    element: row("β", "price of a nat", knob.element, field.element, presets.element),
    show(beta, ends) {
      rescale(ends);
      for (const one of [knob, field, presets]) one.show(beta);
    },
  };
}

function build(page) {
  const { model, set } = page;
  const beta = betaControl(page);
  const linearRow = (trait, ends, name, symbol, hint, step) =>
    sliderRow({ trait, name, symbol, hint, scale: inSteps(model.get(ends), step), set });
  const shift = linearRow("reward_shift", "shift_range", "reward shift", "c", "added to every reward", 0.5);
  const gap = linearRow("proxy_gap", "gap_range", "proxy gap", "gap", "proxy = true + gap·bias", 0.05);
  const more = model.get("compact")
    ? html(
        "details",
        { class: "rlhf-more" },
        html("summary", {}, "Shift the reward, or make it a flawed proxy"),
        shift.element,
        gap.element,
      )
    : html("div", { class: "rlhf-more" }, shift.element, gap.element);
  const numbers = tiles([
    ["expected_reward", "E[r]", "expected reward under π*, of the reward that is optimised"],
    ["expected_true_reward", "E[true]", "expected true reward under π*", "rlhf-tile-true"],
    ["overstatement", "proxy − true", "how much of the expected proxy is not there"],
    ["kl", "KL", "KL(π*‖π_ref), nats"],
    ["objective", "J(π*) = β log Z", "the objective at its maximum: E[r] − β·KL"],
  ]);
  const table = html("table", { class: "rlhf-bars" });
  const plot = picture(PLOT.width, PLOT.height);
  const legend = html("p", { class: "rlhf-legend" });
  const place = html("div", { class: "rlhf-plot-place" }, plot, legend);
  return {
    above: [beta.element],
    figure: [numbers.element, html("div", { class: "rlhf-panels" }, table, place)],
    below: [more],
    draw(s) {
      beta.show(s.beta, s.beta_range);
      shift.show(s.shift);
      gap.show(s.gap);
      drawNumbers(numbers, s);
      drawBars(table, s);
      drawFrontier(plot, s);
      legend.replaceChildren(
        ...(s.gap > 0 ? [key(), "proxy ", key("rlhf-key-true"), "true. "] : []),
        "The line has slope β; it meets the left axis at β log Z (■).",
      );
      return inWords(s);
    },
  };
}

function drawNumbers({ tile, show }, s) {
  tile.expected_reward.firstChild.textContent = s.gap > 0 ? "E[proxy]" : "E[r]";
  tile.expected_true_reward.hidden = tile.overstatement.hidden = !(s.gap > 0);
  show("expected_reward", s.now.expected, 3);
  show("expected_true_reward", s.now.expectedTrue, 3);
  show("overstatement", s.now.expected - s.now.expectedTrue, 3);
  show("kl", s.now.kl, 3);
  show("objective", s.now.objective, 3);
}

function inWords({ beta, gap, labels, now }) {
  const best = now.policy.indexOf(Math.max(...now.policy));
  return (
    `beta ${short(beta)}: expected reward ${format(now.expected, 3)}, ` +
    (gap > 0 ? `true reward ${format(now.expectedTrue, 3)}, ` : "") +
    `KL ${format(now.kl, 3)} nats, most likely ${labels[best]} at ${format(now.policy[best], 4)}.`
  );
}

const STATE = [
  ...["labels", "reference", "rewards", "bias", "beta", "beta_range", "reward_shift", "shift_range"],
  ...["proxy_gap", "gap_range", "compact"],
];
export default demo({ kind: "rlhf-tilt", state: STATE, problem, compute, build });
