// The GAE explorer. The mathematics first, as pure functions; then what draws it.

const RANGES = { score: [-5, 5], beta: [0, 1], gamma: [0, 1], lam: [0, 1] };
const CELLS = { log_ratios: [-4, 4], values: [-6, 6] };
const WORDS = { log_ratios: "log-ratio", values: "value" };
const MOST_TOKENS = 10;

// The KL charge of each token and the score on the last; lumped, everything on the last.
function tokenRewards({ log_ratios, score, beta, lumped }) {
  const charges = log_ratios.map((x) => (lumped ? 0 : 0 - beta * x));
  charges[charges.length - 1] += lumped ? score - beta * sum(log_ratios) : score;
  return charges;
}

// deltas and advantages; after the last token both V and A are 0
function gae(rewards, values, gamma, lam) {
  const deltas = rewards.map((r, t) => r + gamma * (values[t + 1] ?? 0) - values[t]);
  const advantages = [];
  for (let t = rewards.length - 1, following = 0; t >= 0; t--) {
    following = deltas[t] + gamma * lam * following;
    advantages[t] = following;
  }
  return { deltas, advantages };
}

function problem(state) {
  const { tokens, token, lumped } = state;
  if (!Array.isArray(tokens) || tokens.length < 2 || tokens.length > MOST_TOKENS) {
    return `tokens has ${tokens?.length} entries; expected 2 to ${MOST_TOKENS}`;
  }
  const wrongList = ([name, [low, high]]) =>
    wrongLength(name, state[name], tokens.length, "one for each token") ??
    wrongNumbers(name, state[name], `a number from ${low} to ${high}`);
  return (
    firstWrong(Object.entries(CELLS), wrongList) ??
    firstWrong(Object.entries(RANGES), ([name, ends]) => wrongSetting(name, state[name], ends)) ??
    wrongSwitch("lumped", lumped) ??
    unless(Number.isInteger(token), `token is ${token}; expected a whole number`)
  );
}

// Everything on display. Settings beyond their range are clamped, as in Python.
function compute(state) {
  const s = { ...state, token: clamp(state.token, [0, state.tokens.length - 1]) };
  for (const [name, ends] of Object.entries(RANGES)) s[name] = clamp(state[name], ends);
  for (const [name, ends] of Object.entries(CELLS)) s[name] = state[name].map((v) => clamp(v, ends));
  const { values, gamma, lam } = s;
  const rewards = tokenRewards(s);
  const { deltas, advantages } = gae(rewards, values, gamma, lam);
  const after = s.tokens.map((_, t) => s.tokens.length - 1 - t);
  const power = (k) => (gamma * lam) ** k;
  return {
    ...s,
    rewards,
    deltas,
    advantages,
    other: gae(tokenRewards({ ...s, lumped: !s.lumped }), values, gamma, lam).advantages,
    returns: advantages.map((a, t) => a + values[t]),
    scoreWeight: after.map(power),
    criticWeight: after.map((n) => gamma * (1 - lam) * sum(range(n).map(power))),
  };
}

// ---------------------------------------------------------------- the plot

const PLOT = { width: 340, height: 342, left: 34, right: 332, upper: [24, 144], lower: [176, 296] };

// A scale that holds 0 and the values, and where it begins and ends.
function scaleOf(values, [top, bottom]) {
  const ends = extent([0, ...values], 0.08);
  return { marks: ticks(...ends, 4), at: linear(ends, [bottom, top]) };
}
const scalesOf = (s) => [
  scaleOf([...s.deltas, ...s.advantages, ...(s.lumped ? s.other : [])], PLOT.upper),
  scaleOf([...s.values, ...s.returns], PLOT.lower),
];

const slotOf = (s) => (PLOT.right - PLOT.left) / s.tokens.length;
const middleOf = (s, t) => PLOT.left + slotOf(s) * (t + 0.5);

function drawPlot(plot, s, [upper, lower]) {
  const { left, right } = PLOT;
  const slot = slotOf(s);
  const axis = { gap: 5, zero: true };
  const columnOf = (token, t) => [
    bars(s, t, upper.at),
    rect("rlhf-gae-return", [middleOf(s, t) - 0.3 * slot, lower.at(s.returns[t]) - 1.5], [0.6 * slot, 3], {
      "data-bar": "return",
      "data-value": s.returns[t],
    }),
    tokenName(token, [middleOf(s, t) + 4, PLOT.lower[1] + 13]),
  ];
  plot.replaceChildren(
    ...[
      rect(
        "rlhf-gae-here",
        [middleOf(s, s.token) - slot / 2, PLOT.upper[0]],
        [slot, PLOT.lower[1] - PLOT.upper[0]],
      ),
      yAxis(upper.at, upper.marks, [left, right], axis),
      yAxis(lower.at, lower.marks, [left, right], axis),
      axisTitle([left, PLOT.upper[0] - 9], "start", "δ and A of each token"),
      axisTitle([left, PLOT.lower[0] - 9], "start", "V before it, and its return A + V"),
      s.tokens.map(columnOf),
      curve(
        "rlhf-gae-line",
        s.values.map((v, t) => [middleOf(s, t), lower.at(v)]),
      ),
    ].flat(Infinity),
  );
}

function bars(s, t, y) {
  const slot = slotOf(s);
  const one = (name, value, shift, wide) =>
    rect(
      `rlhf-gae-${name}`,
      [middleOf(s, t) + shift * slot, Math.min(y(0), y(value))],
      [wide * slot, Math.abs(y(value) - y(0))],
      { "data-bar": name, "data-token": t, "data-value": value },
    );
  return [
    one("delta", s.deltas[t], -0.4, 0.36),
    one("advantage", s.advantages[t], 0, 0.38),
    s.lumped ? one("other", s.other[t], -0.02, 0.42) : [],
  ];
}

const tokenName = (token, [x, y]) =>
  text("rlhf-tick", [x, y], "end", token.length > 8 ? `${token.slice(0, 7)}…` : token, {
    transform: `rotate(-35 ${x} ${y})`,
  });

// Handles on the values: drag one, or move it with the arrow keys. While one is dragged, the scales stay
// under the hand.
const KEY_STEPS = {
  ArrowUp: 0.1,
  ArrowRight: 0.1,
  ArrowDown: -0.1,
  ArrowLeft: -0.1,
  PageUp: 1,
  PageDown: -1,
};

function handlesOf({ change, look, redraw, model }, plot) {
  const element = svg("g", {});
  let held = null;
  let dots = [];
  let scales = null;
  const handle = (token, t) => {
    const dot = svg("circle", {
      class: "rlhf-gae-handle",
      r: 7,
      tabindex: 0,
      role: "slider",
      "data-control": `handle-${t}`,
      "aria-label": `value before token ${t + 1}, ${token}`,
      "aria-valuemin": CELLS.values[0],
      "aria-valuemax": CELLS.values[1],
      "aria-orientation": "vertical",
      ...OWN_KEYS,
    });
    dot.addEventListener("keydown", (event) => {
      const step = KEY_STEPS[event.key];
      if (!step) return;
      event.preventDefault();
      change("values", t, Number((model.get("values")[t] + step).toFixed(6)));
    });
    dot.addEventListener("pointerdown", (event) => {
      held = t;
      dot.setPointerCapture(event.pointerId);
    });
    dot.addEventListener("pointermove", (event) => {
      if (held !== t) return;
      const box = plot.getBoundingClientRect();
      const y = ((event.clientY - box.top) / box.height) * PLOT.height;
      change("values", t, Number(scales[1].at.back(y).toFixed(2)));
    });
    for (const end of ["pointerup", "pointercancel"]) {
      dot.addEventListener(end, () => {
        held = null;
        redraw();
      });
    }
    dot.addEventListener("focus", () => look(t));
    return dot;
  };
  return {
    element,
    offer(tokens) {
      dots = tokens.map(handle);
      element.replaceChildren(...dots);
    },
    scales: (s) => (held === null ? (scales = scalesOf(s)) : scales),
    show(s) {
      dots.forEach((dot, t) => {
        attribute(dot, "cx", middleOf(s, t));
        attribute(dot, "cy", scales[1].at(s.values[t]));
        attribute(dot, "aria-valuenow", s.values[t]);
        attribute(dot, "aria-valuetext", format(s.values[t], 2));
      });
    },
  };
}

// ---------------------------------------------------------------- the table: two fields a token

function cellField({ change, look, note, read, model }, name, token, t) {
  const ends = CELLS[name];
  const said = (typed) =>
    `${WORDS[name]} of “${token}” is ${typed}; ` +
    `expected a number from ${short(ends[0])} to ${short(ends[1])}.`;
  const field = numberField({
    control: `${name}-${t}`,
    label: `${WORDS[name]} of token ${t + 1}, ${token}`,
    class: "rlhf-field rlhf-cell",
    onNumber(value, typed) {
      change(name, t, value);
      show();
      const used = clamp(value, ends);
      if (used !== value) note(`${said(typed)} Showing ${short(used)}.`);
    },
    onRefused: (typed) => note(`${said(typed)} Still showing ${short(model.get(name)[t])}.`),
  });
  const show = () => {
    const value = compute(read())[name][t];
    field.show(value, short(Number(value.toFixed(4))));
  };
  field.element.addEventListener("keydown", (event) => {
    const way = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!way) return;
    event.preventDefault();
    change(name, t, Number((model.get(name)[t] + way * 0.1).toFixed(6)));
    show();
  });
  field.element.addEventListener("focus", () => look(t));
  return { element: field.element, show };
}

const RESULTS = ["rewards", "deltas", "advantages", "returns"];
const COLUMNS = [
  ["log-ratio", "log π − log π_ref, nats"],
  ["V", "value of the state before the token"],
  ["r", "reward of the token"],
  ["δ", "temporal difference"],
  ["A", "advantage"],
  ["A+V", "return: what the critic is trained towards"],
];

function tableOf(page) {
  const element = html("table", { class: "rlhf-bars" });
  let rows = [];
  const rowOf = (token, t) => {
    const fields = Object.keys(CELLS).map((name) => cellField(page, name, token, t));
    const outputs = RESULTS.map((name) => html("td", { class: "rlhf-right", "data-name": `${name}-${t}` }));
    const line = html(
      "tr",
      {},
      html("th", { scope: "row", title: token }, token),
      ...fields.map((one) => html("td", { class: "rlhf-right" }, one.element)),
      ...outputs,
    );
    line.addEventListener("click", () => page.set({ token: t }, { keepNote: true }));
    return { fields, outputs, line };
  };
  return {
    element,
    offer(tokens) {
      rows = tokens.map(rowOf);
      fillTable(
        element,
        "Each token: two numbers to edit, and what follows from them",
        [
          column("token", { title: "what was written" }),
          ...COLUMNS.map(([words, title]) => numberColumn(words, title)),
        ],
        rows.map((one) => one.line),
      );
    },
    show(s) {
      rows.forEach(({ fields, outputs, line }, t) => {
        outputs.forEach((output, i) => showNumber(output, s[RESULTS[i]][t], 2));
        for (const field of fields) if (field.element !== document.activeElement) field.show();
        attribute(line, "aria-current", t === s.token && "true");
      });
    },
  };
}

// ---------------------------------------------------------------- the sums of one token, written out

const signedTerm = (value) =>
  value < 0 || Object.is(value, -0) ? ` − ${format(-value, 2)}` : ` + ${format(value, 2)}`;

const SPLIT = {
  0:
    "λ = 0: only δ, so a wrong critic is believed (bias), and the chance in the rest of the reply is kept " +
    "out (little variance).",
  1:
    "λ = 1: the critic’s later values cancel (no bias from them), and all the chance in the rest of the " +
    "reply comes in (variance).",
};

function drawSum(place, s) {
  const t = s.token;
  const last = t === s.tokens.length - 1;
  const weights = [s.scoreWeight[t], s.criticWeight[t]];
  const number = (name, value) => {
    const element = html("b", { "data-name": name });
    showNumber(element, value, 2);
    return element;
  };
  const delta = format(s.deltas[t], 2);
  const terms = signedTerm(s.gamma * (s.values[t + 1] ?? 0)) + signedTerm(-s.values[t]);
  const following = signedTerm(s.gamma * s.lam * (s.advantages[t + 1] ?? 0));
  const shares = weights.map((w) => html("span", { style: `width:${(100 * w).toFixed(2)}%` }));
  place.replaceChildren(
    html(
      "div",
      {},
      html("b", {}, `“${s.tokens[t]}”`),
      `: δ = r + γ·V next − V = ${format(s.rewards[t], 2)}${terms} = ${delta}` +
        (last ? " (nothing comes after: V next is 0)" : ""),
    ),
    html("div", {}, `A = δ + γλ·A next = ${delta}${following} = ${format(s.advantages[t], 2)}`),
    html(
      "div",
      {},
      ...[key(), "One point more of score moves this A by ", number("score_weight", weights[0]), "; "],
      ...[key("rlhf-key-true"), "all later values wrong by one move it by "],
      ...[number("critic_weight", weights[1]), ". ", SPLIT[s.lam] ?? "λ sets the split."],
    ),
    html("div", { class: "rlhf-trust", "aria-hidden": "true" }, ...shares),
    ...(s.lumped ? [html("div", { "data-name": "lumped-says" }, lumpedInWords(s, t))] : []),
  );
  place.dataset.token = String(t);
}

function lumpedInWords(s, t) {
  const paid = s.log_ratios.slice(0, t).reduce((total, x) => total - s.beta * x, 0);
  const [own, other] = [s.advantages[t], s.other[t]];
  return (
    `Lumped: A is ${format(own, 2)}; with each charge on its own token it is ${format(other, 2)}. ` +
    (s.gamma === 1 && s.lam === 1
      ? `The difference, ${format(own - other, 2)}, is the charges of the tokens before ` +
        `(${format(paid, 2)}): this token is blamed for them.`
      : "Every charge now sits on the last token and reaches each token with the weight of the score, " +
        "its own or not.")
  );
}

// ---------------------------------------------------------------- the demo

function controlsOf({ set }) {
  const ends = choices(
    null,
    (lam) => [{ control: `lam-${lam}`, label: `lambda = ${lam}` }, `λ = ${lam}`],
    (lam) => set({ lam }),
  );
  ends.offer([0, 1]);
  const rowOf = (trait, step, digits, name, symbol, hint, ...beside) => {
    const words = (value) => format(value, digits);
    const scale = inSteps(RANGES[trait], step);
    return sliderRow({ trait, name, symbol, hint, words, scale, set }, ...beside);
  };
  const rows = {
    lam: rowOf("lam", 0.01, 2, "lambda", "λ", "how far to look ahead", ends.element),
    gamma: rowOf("gamma", 0.01, 2, "gamma", "γ", "discount a token"),
    score: rowOf("score", 0.1, 1, "score", "score", "of the whole reply"),
    beta: rowOf("beta", 0.01, 2, "beta", "β", "price of a nat"),
  };
  const lumped = checkbox({
    control: "lumped",
    label: "lumped reward: all charges on the last token",
    words: "lumped reward",
    onChange: (on) => set({ lumped: on }),
  });
  const presets = choices(
    "states to start from",
    ([name]) => [{ control: `preset-${name}`, label: `the state “${name}”` }, name],
    ([, log_ratios, values, score]) => set({ log_ratios, values, score }),
  );
  return {
    elements: [
      ...Object.values(rows).map((one) => one.element),
      html("div", { class: "rlhf-control" }, presets.element, lumped.element),
    ],
    offer: presets.offer,
    show(s) {
      for (const [name, one] of Object.entries(rows)) one.show(s[name]);
      ends.show(s.lam);
      lumped.show(s.lumped);
    },
  };
}

function drawLegend(legend, s) {
  const entries = [
    ["rlhf-key-ref", "δ"],
    ["", "A, and V"],
    ["rlhf-key-true", "return"],
    ...(s.lumped ? [["rlhf-key-other", "A with each charge on its own token"]] : []),
  ];
  legend.replaceChildren(
    ...entries.flatMap(([kind, words]) => [pair(kind, words), " "]),
    "Drag the dots of V, or use the arrow keys.",
  );
}

function build(page) {
  const { model, set } = page;
  const change = (name, t, value) => {
    const list = model.get(name).map((old, i) => (i === t ? clamp(value, CELLS[name]) : old));
    set({ [name]: list, token: t });
  };
  const look = (t) => {
    if (model.get("token") !== t) set({ token: t }, { keepNote: true });
  };
  const controls = controlsOf(page);
  const plot = picture(PLOT.width, PLOT.height, { role: "group" });
  const art = svg("g", {});
  const handles = handlesOf({ ...page, change, look }, plot);
  plot.append(art, handles.element);
  const table = tableOf({ ...page, change, look });
  const legend = html("p", { class: "rlhf-legend" });
  const equations = html("div", { class: "rlhf-sum", "aria-live": "off" });
  const place = html("div", { class: "rlhf-plot-place" }, plot, legend);
  const offer = whenChanged((tokens, presets) => {
    table.offer(tokens);
    handles.offer(tokens);
    controls.offer(presets ?? []);
  });
  return {
    controls: controls.elements,
    figure: [html("div", { class: "rlhf-panels" }, place, table.element), equations],
    draw(s) {
      offer(s.tokens, s.presets);
      controls.show(s);
      drawPlot(art, s, handles.scales(s));
      handles.show(s);
      const all = s.advantages.map((a, t) => `${s.tokens[t]} ${format(a, 2)}`);
      attribute(plot, "aria-label", `Advantages: ${all.join(", ")}.`);
      drawLegend(legend, s);
      table.show(s);
      drawSum(equations, s);
      const t = s.token;
      return (
        `“${s.tokens[t]}”: delta ${format(s.deltas[t], 2)}, advantage ${format(s.advantages[t], 2)}, ` +
        `return ${format(s.returns[t], 2)}.`
      );
    },
  };
}

const STATE = [
  "tokens",
  "log_ratios",
  "values",
  "score",
  "beta",
  "gamma",
  "lam",
  "lumped",
  "token",
  "presets",
];
export default demo({ kind: "rlhf-gae", state: STATE, problem, compute, build });
