// The clip explorer. The mathematics first, as pure functions; then what draws it.

const RANGES = { ratio: [0.05, 4], epsilon: [0.01, 0.5], advantage: [-3, 3], dual_clip: [1.6, 4] };
const EDGE = 1e-9; // a ratio this close to an edge of the clip counts as inside

// One token: its ratio and advantage, the clip, and a bound on the ratio where A < 0 (or null).
function clip(ratio, advantage, epsilon, bound) {
  const plain = ratio * advantage;
  const clipped = clamp(ratio, [1 - epsilon, 1 + epsilon]) * advantage;
  const acts = bound !== null && advantage < 0;
  const zone = zoneOf(ratio, epsilon, acts ? bound : Infinity);
  const flat = advantage > 0 ? "above" : "below";
  const silent = advantage === 0 || zone === "beyond" || zone === flat;
  const lower = Math.min(plain, clipped);
  const objective = acts ? Math.max(lower, bound * advantage) : lower;
  return { plain, clipped, objective, zone, active: !silent, gradient: silent ? 0 : plain };
}

function zoneOf(ratio, epsilon, bound) {
  if (ratio < 1 - epsilon - EDGE) return "below";
  if (ratio <= 1 + epsilon + EDGE) return "inside";
  return ratio > bound + EDGE ? "beyond" : "above";
}

const problem = (state) =>
  firstWrong(Object.entries(RANGES), ([name, ends]) => wrongSetting(name, state[name], ends)) ??
  wrongSwitch("dual", state.dual);

// Everything on display. Settings beyond their range are clamped, as in Python.
function compute(state) {
  const s = { dual: state.dual };
  for (const [name, ends] of Object.entries(RANGES)) s[name] = clamp(state[name], ends);
  const bound = s.dual ? s.dual_clip : null;
  const at = (ratio, advantage = s.advantage) => clip(ratio, advantage, s.epsilon, bound);
  return { ...s, bound, at, now: at(s.ratio) };
}

// The case in words: what the token is, what has become of it, and what follows.
function inWords(s) {
  if (s.advantage === 0) return "A = 0: a token neither better nor worse than expected. Nothing pushes it.";
  const good = s.advantage > 0;
  const token = good ? "A good token (A > 0)" : "A bad token (A < 0)";
  const became = {
    below: "that has become less likely, by more than ε",
    inside: "whose ratio is inside the clip",
    above: "that has become more likely, by more than ε",
    beyond: "that has become more than c times as likely",
  };
  return `${token} ${became[s.now.zone]}. ${whatFollows(s.now, good)}`;
}

function whatFollows({ zone, active }, good) {
  const push = `it pushes the token ${good ? "up" : "down"}`;
  if (zone === "inside") {
    return `The two sides of the minimum are equal, and the gradient is active: ${push}.`;
  }
  if (zone === "beyond") {
    return "The dual clip holds the objective at cA: no gradient, although the token went the wrong way.";
  }
  if (active) {
    return (
      `It went the wrong way, so the minimum takes ρA and the gradient is active: ${push}` +
      (good ? "." : ", and harder the larger the ratio.")
    );
  }
  return (
    "It went the right way, far enough: the minimum takes the clipped side, which is flat. No gradient: " +
    `nothing pushes it ${good ? "further up" : "further down"}, and nothing holds it.`
  );
}

// ---------------------------------------------------------------- the plots

const PLOT = { width: 320, height: 304, left: 36, right: 310, upper: [30, 162], lower: [196, 266] };

// The objective over the gradient, for one sign of the advantage.
function drawSign(plot, s, advantage, current) {
  const { left, right, upper, lower } = PLOT;
  const xMax = s.dual || s.ratio > 2 ? 4 : 2;
  const tallest = xMax * (Math.abs(advantage) || 1);
  const ends = advantage >= 0 ? [0, tallest] : [-tallest, 0];
  const across = linear([0, xMax], [left, right]);
  const x = (ratio) => across(Math.min(ratio, xMax));
  const y = linear(ends, [upper[1], upper[0]]);
  const g = linear(ends, [lower[1], lower[0]]);
  const marks = ticks(0, xMax, 4);
  const band = [x(1 - s.epsilon), x(1 + s.epsilon)];
  drawInto(
    plot,
    `Clipped objective and its gradient against the ratio, for an advantage of ${format(advantage, 1)}` +
      (current
        ? `. At ${format(s.ratio, 2)}: objective ${format(s.now.objective, 2)}, ` +
          `gradient ${format(s.now.gradient, 2)}.`
        : "."),
    rect("rlhf-clip-band", [band[0], upper[0]], [band[1] - band[0], lower[1] - upper[0]]),
    xGrid(x, marks, upper),
    xGrid(x, marks, lower),
    xNumbers(x, marks, lower[1] + 15),
    yAxis(y, ticks(...ends, 4), [left, right]),
    yAxis(g, ticks(...ends, 2), [left, right]),
    axisTitle([left, upper[0] - 8], "start", `objective, A = ${format(advantage, 1)}`),
    axisTitle([left, lower[0] - 8], "start", "its gradient with respect to log π"),
    axisTitle([(left + right) / 2, lower[1] + 32], "middle", "ratio ρ = π/π_old"),
    curves(s, advantage, xMax, { x, y, g }),
    current ? here(s, { x, y, g }) : [],
  );
}

// Corners and jumps are drawn exactly: a piece between any two edges is a straight line.
function curves(s, advantage, xMax, { x, y, g }) {
  const corner = s.bound === null || advantage >= 0 ? [] : [s.bound];
  const edges = [0, 1 - s.epsilon, 1 + s.epsilon, ...corner, xMax];
  const of = (ratio) => s.at(Math.max(ratio, 1e-6), advantage);
  const pieces = edges.slice(1).map((to, i) => {
    const slope = of((edges[i] + to) / 2).active ? advantage : 0;
    return through([edges[i], to].map((ratio) => [x(ratio), g(ratio * slope)]));
  });
  const ends = [0, xMax].map((ratio) => [x(ratio), y(ratio * advantage)]);
  return [
    curve("rlhf-clip-plain", ends),
    curve(
      "rlhf-curve",
      edges.map((ratio) => [x(ratio), y(of(ratio).objective)]),
    ),
    svg("path", { class: "rlhf-curve-grad", d: pieces.join("") }),
  ];
}

// The token in both plots, and the way ascent moves its ratio.
function here(s, { x, y, g }) {
  const { objective, gradient } = s.now;
  const [cx, cy] = [x(s.ratio), y(objective)];
  const way = Math.sign(gradient);
  const tip = cx + way * 30;
  const arrow = [
    line("rlhf-clip-push", [cx, cy], [tip - 6 * way, cy]),
    svg("path", { class: "rlhf-clip-head", d: `M${tip},${cy}l${-9 * way},-5v10z` }),
  ];
  return [
    gradient ? arrow : [],
    circle("rlhf-dot", [cx, cy], 6, { "data-ratio": s.ratio, "data-objective": objective }),
    circle("rlhf-dot-grad", [cx, g(gradient)], 5, { "data-gradient": gradient }),
  ];
}

// ---------------------------------------------------------------- the table of cases

const ZONES = {
  below: ["ρ\u00a0<\u00a01\u00a0−\u00a0ε", (s) => (1 - s.epsilon) / 2],
  inside: ["inside", () => 1],
  above: ["ρ\u00a0>\u00a01\u00a0+\u00a0ε", (s) => 1 + s.epsilon + 0.01],
  beyond: ["ρ\u00a0>\u00a0c", (s) => s.dual_clip + 1],
};

function drawCases(table, s) {
  const zones = Object.entries(ZONES).filter(([zone]) => s.dual || zone !== "beyond");
  const cell = (sign, [zone, [, place]]) => {
    const active = s.at(place(s), sign).active;
    const pushed = active && !(sign > 0 && zone === "beyond");
    return html(
      "td",
      {
        "data-case": `${sign > 0 ? "+" : "-"}${zone}`,
        "data-active": String(active),
        "aria-current": Math.sign(s.advantage) === sign && s.now.zone === zone && "true",
      },
      pushed ? (sign > 0 ? "pushed up" : "pushed down") : "no gradient",
    );
  };
  fillTable(
    table,
    "Where the gradient passes, by the sign of the advantage and the ratio",
    [column("the token is"), ...zones.map(([, [words]]) => column(words))],
    [1, -1].map((sign) =>
      tableRow(
        sign > 0 ? "good, A\u00a0>\u00a00" : "bad, A\u00a0<\u00a00",
        ...zones.map((zone) => cell(sign, zone)),
      ),
    ),
  );
}

// ---------------------------------------------------------------- the demo

const CASES = [
  ["good, fallen", { ratio: 0.6, advantage: 2 }],
  ["good, risen", { ratio: 1.5, advantage: 2 }],
  ["bad, fallen", { ratio: 0.6, advantage: -2 }],
  ["bad, risen", { ratio: 1.3, advantage: -3 }],
];

const ROWS = [
  ["ratio", 0.01, 2, "ratio", "ρ", "ratio π/π_old"],
  ["advantage", 0.1, 1, "advantage", "A", "advantage"],
  ["epsilon", 0.01, 2, "epsilon", "ε", "half-width of the clip"],
  ["dual_clip", 0.1, 1, "dual clip", "c", "bound where A < 0"],
];

function controlsOf({ set }) {
  const rows = {};
  for (const [trait, step, digits, name, symbol, hint] of ROWS) {
    const words = (value) => format(value, digits);
    rows[trait] = sliderRow({ trait, name, symbol, hint, words, scale: inSteps(RANGES[trait], step), set });
  }
  const dual = checkbox({
    control: "dual",
    label: "dual clip",
    words: "dual clip",
    onChange: (on) => set({ dual: on }),
  });
  const cases = choices(
    "the four cases",
    ([name]) => [{ control: `case-${name}`, label: `the case ${name}` }, name],
    ([, update]) => set(update),
  );
  cases.offer(CASES);
  const { ratio, advantage, epsilon, dual_clip: bound } = rows;
  return {
    elements: [
      ...[ratio, advantage, epsilon].map((one) => one.element),
      html("div", { class: "rlhf-control" }, dual.element, cases.element),
      bound.element,
    ],
    show(s) {
      for (const [name, one] of Object.entries(rows)) one.show(s[name]);
      dual.show(s.dual);
      bound.element.hidden = !s.dual;
    },
  };
}

function build(page) {
  const controls = controlsOf(page);
  const numbers = tiles([
    ["plain", "ρA", "the ratio times the advantage"],
    ["clipped", "clip(ρ)A", "the same with the ratio held within the clip"],
    ["objective", "objective", "the smaller of the two, and what is maximised"],
    ["gradient", "gradient", "of the objective with respect to log π"],
  ]);
  const says = html("p", { class: "rlhf-says", "data-name": "says" });
  const plots = [1, -1].map((sign) => {
    const plot = picture(PLOT.width, PLOT.height, { "data-sign": sign });
    return { sign, plot, element: html("div", {}, plot) };
  });
  const legend = html(
    "p",
    { class: "rlhf-legend" },
    ...[key(), "objective, ", key("rlhf-key-ref"), "dashed: ρA, ", key("rlhf-key-true")],
    "gradient; the arrow is the way it pushes the ratio. Shaded: 1 − ε to 1 + ε.",
  );
  const cases = html("table", { class: "rlhf-bars rlhf-cases" });
  const pictures = html("div", { class: "rlhf-clip-plots" }, ...plots.map((one) => one.element));
  return {
    controls: controls.elements,
    figure: [numbers.element, says, pictures, legend, cases],
    draw(s) {
      controls.show(s);
      for (const name of Object.keys(numbers.output)) numbers.show(name, s.now[name], 3);
      says.textContent = inWords(s);
      says.dataset.zone = s.now.zone;
      says.dataset.active = String(s.now.active);
      for (const { sign, plot, element } of plots) {
        const current = s.advantage === 0 ? sign > 0 : Math.sign(s.advantage) === sign;
        drawSign(plot, s, current ? s.advantage : sign * (Math.abs(s.advantage) || 1), current);
        element.classList.toggle("rlhf-aside", !current);
      }
      drawCases(cases, s);
      return (
        `ratio ${format(s.ratio, 2)}, advantage ${format(s.advantage, 1)}: ` +
        `objective ${format(s.now.objective, 2)}, gradient ${format(s.now.gradient, 2)}. ${inWords(s)}`
      );
    },
  };
}

const STATE = ["ratio", "epsilon", "advantage", "dual_clip", "dual"];
export default demo({ kind: "rlhf-clip", state: STATE, problem, compute, build });
