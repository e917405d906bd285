// The clip explorer. The mathematics first, as pure functions; then what draws it.

const RANGES = { ratio: [0.05, 4], epsilon: [0.01, 0.5], advantage: [-3, 3], dual_clip: [1.6, 4] };
const EDGE = 1e-9; // a ratio this close to an edge of the clip counts as inside

// One token: its ratio and advantage, the clip, and a bound on the ratio where A < 0 (or null).
function clip(ratio, advantage, epsilon, bound) {
  const plain = ratio * advantage, clipped = clamp(ratio, [1 - epsilon, 1 + epsilon]) * advantage;
  const acts = bound !== null && advantage < 0;
  const zone = ratio < 1 - epsilon - EDGE ? "below" : ratio <= 1 + epsilon + EDGE ? "inside"
    : acts && ratio > bound + EDGE ? "beyond" : "above";
  const silent = advantage === 0 || zone === "beyond" || (advantage > 0 ? zone === "above" : zone === "below");
  const lower = Math.min(plain, clipped);
  return { plain, clipped, objective: acts ? Math.max(lower, bound * advantage) : lower, zone,
    active: !silent, gradient: silent ? 0 : plain };
}

// What is wrong with a state, in the words of the Python side; null if nothing is.
function problem(state) {
  for (const [name, [low, high]] of Object.entries(RANGES)) {
    const value = state[name];
    if (typeof value !== "number" || !Number.isFinite(value)) return `${name} is ${value}; expected a number from ${low} to ${high}`;
  }
  if (typeof state.dual !== "boolean") return `dual is ${state.dual}; expected true or false`;
  return null;
}

// Everything on display. Settings beyond their range are clamped, as in Python.
function compute(state) {
  const s = { dual: state.dual };
  for (const [name, range] of Object.entries(RANGES)) s[name] = clamp(state[name], range);
  const bound = s.dual ? s.dual_clip : null;
  const at = (ratio, advantage = s.advantage) => clip(ratio, advantage, s.epsilon, bound);
  return { ...s, bound, at, now: at(s.ratio) };
}

// The case in words: what the token is, what has become of it, and what follows.
function inWords(s) {
  if (s.advantage === 0) return "A = 0: a token neither better nor worse than expected. Nothing pushes it.";
  const good = s.advantage > 0, { zone, active } = s.now;
  const token = good ? "A good token (A > 0)" : "A bad token (A < 0)";
  const became = { below: "that has become less likely, by more than ε", inside: "whose ratio is inside the clip",
    above: "that has become more likely, by more than ε", beyond: "that has become more than c times as likely" }[zone];
  const follows = zone === "inside" ? `The two sides of the minimum are equal, and the gradient is active: it pushes the token ${good ? "up" : "down"}.`
    : zone === "beyond" ? "The dual clip holds the objective at cA: no gradient, although the token went the wrong way."
    : active ? `It went the wrong way, so the minimum takes ρA and the gradient is active: it pushes the token ${good ? "up" : "down"}` +
      (good ? "." : ", and harder the larger the ratio.")
    : `It went the right way, far enough: the minimum takes the clipped side, which is flat. No gradient: nothing pushes it ${good ? "further up" : "further down"}, and nothing holds it.`;
  return `${token} ${became}. ${follows}`;
}

// ---------------------------------------------------------------- the plots

const PLOT = { width: 320, left: 36, right: 10, top: 30, gap: 34, upper: 132, lower: 70, bottom: 38 };
const HEIGHT = PLOT.top + PLOT.upper + PLOT.gap + PLOT.lower + PLOT.bottom;

// The objective over the gradient, for one sign of the advantage.
function drawSign(plot, s, advantage, current) {
  const { width, left, right, top, upper, lower, gap } = PLOT;
  const xMax = s.dual || s.ratio > 2 ? 4 : 2, size = Math.abs(advantage) || 1;
  const X = (ratio) => left + ((width - left - right) * Math.min(ratio, xMax)) / xMax;
  const range = advantage >= 0 ? [0, xMax * size] : [-xMax * size, 0];
  const axis = (start, height) => (value) => start + height - (height * (value - range[0])) / (range[1] - range[0]);
  const Y = axis(top, upper), G = axis(top + upper + gap, lower);
  const floor = top + upper + gap + lower;
  const words = (x, y, anchor, kind, text) => svg("text", { x, y, "text-anchor": anchor, class: kind }, text);
  const line = (kind, x1, y1, x2, y2) => svg("line", { class: kind, x1, y1, x2, y2 });
  const parts = [svg("rect", { class: "rlhf-clip-band", x: X(1 - s.epsilon), width: X(1 + s.epsilon) - X(1 - s.epsilon), y: top, height: floor - top })];
  for (const tick of ticks(0, xMax, 4)) {
    for (const [start, height] of [[top, upper], [top + upper + gap, lower]]) parts.push(line("rlhf-grid", X(tick), start, X(tick), start + height));
    parts.push(words(X(tick), floor + 15, "middle", "rlhf-tick", short(tick)));
  }
  for (const [axisOf, count] of [[Y, 4], [G, 2]]) for (const tick of ticks(...range, count)) {
    parts.push(line("rlhf-grid", left, axisOf(tick), width - right, axisOf(tick)));
    parts.push(words(left - 6, axisOf(tick) + 4, "end", "rlhf-tick", short(tick)));
  }
  parts.push(words(left, top - 8, "start", "rlhf-axis", `objective, A = ${format(advantage, 1)}`));
  parts.push(words(left, top + upper + gap - 8, "start", "rlhf-axis", "its gradient with respect to log π"));
  parts.push(words((left + width - right) / 2, floor + 32, "middle", "rlhf-axis", "ratio ρ = π/π_old"));
  // corners and jumps are drawn exactly: a piece between any two edges is a straight line
  const edges = [0, 1 - s.epsilon, 1 + s.epsilon, ...(s.bound === null || advantage >= 0 ? [] : [s.bound]), xMax];
  const path = (pieces) => pieces.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(2)},${y.toFixed(2)}`).join("");
  const of = (ratio) => s.at(Math.max(ratio, 1e-6), advantage);
  parts.push(svg("path", { class: "rlhf-clip-plain", d: path([[X(0), Y(0)], [X(xMax), Y(xMax * advantage)]]) }));
  parts.push(svg("path", { class: "rlhf-curve", d: path(edges.map((x) => [X(x), Y(of(x).objective)])) }));
  parts.push(svg("path", { class: "rlhf-curve-grad", d: edges.slice(1).map((x, i) => {
    const active = of((edges[i] + x) / 2).active;
    return path([[X(edges[i]), G(active ? edges[i] * advantage : 0)], [X(x), G(active ? x * advantage : 0)]]);
  }).join("") }));
  if (current) {
    const { objective, gradient } = s.now, x = X(s.ratio), y = Y(objective);
    if (gradient) { // the way ascent moves the ratio
      const way = Math.sign(gradient), tip = x + way * 30;
      parts.push(line("rlhf-clip-push", x, y, tip - 6 * way, y));
      parts.push(svg("path", { class: "rlhf-clip-head", d: `M${tip},${y}l${-9 * way},-5v10z` }));
    }
    parts.push(svg("circle", { class: "rlhf-dot", r: 6, cx: x, cy: y, "data-ratio": s.ratio, "data-objective": objective }));
    parts.push(svg("circle", { class: "rlhf-dot-grad", r: 5, cx: x, cy: G(gradient), "data-gradient": gradient }));
  }
  plot.replaceChildren(...parts);
  plot.setAttribute("aria-label", `Clipped objective and its gradient against the ratio, for an advantage of ${format(advantage, 1)}` +
    (current ? `. At ${format(s.ratio, 2)}: objective ${format(s.now.objective, 2)}, gradient ${format(s.now.gradient, 2)}.` : "."));
}

// ---------------------------------------------------------------- the demo

const STATE = ["ratio", "epsilon", "advantage", "dual_clip", "dual"];
const CASES = [
  ["good, fallen", { ratio: 0.6, advantage: 2 }], ["good, risen", { ratio: 1.5, advantage: 2 }],
  ["bad, fallen", { ratio: 0.6, advantage: -2 }], ["bad, risen", { ratio: 1.3, advantage: -3 }],
];

function render({ model, el }) {
  const read = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  const set = (update) => {
    for (const [name, value] of Object.entries(update)) model.set(name, value);
    model.save_changes();
  };
  const message = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  const live = announcer();

  const row = (trait, step, digits, name, symbol, hint) => {
    const control = slider({ name: trait, label: name, hint, positions: RANGES[trait].map((end) => Math.round(end / step)),
      toValue: (p) => Number((p * step).toFixed(6)), toPosition: (v) => v / step,
      describe: (v) => `${name} ${format(v, digits)}`, onChange: (v) => set({ [trait]: v }) });
    const output = html("output", { class: "rlhf-setting", "data-setting": trait });
    return {
      element: html("div", { class: "rlhf-control" }, html("span", { class: "rlhf-label" }, symbol, html("small", {}, hint)), control.element, output),
      input: control.element,
      show(value) { control.show(value); showNumber(output, value, digits); },
    };
  };
  const rows = {
    ratio: row("ratio", 0.01, 2, "ratio", "ρ", "ratio π/π_old"),
    advantage: row("advantage", 0.1, 1, "advantage", "A", "advantage"),
    epsilon: row("epsilon", 0.01, 2, "epsilon", "ε", "half-width of the clip"),
    dual_clip: row("dual_clip", 0.1, 1, "dual clip", "c", "bound where A < 0"),
  };
  const check = html("input", { type: "checkbox", "data-control": "dual", "aria-label": "dual clip", "data-lm-suppress-shortcuts": "true" });
  check.addEventListener("change", () => set({ dual: check.checked }));
  const presets = CASES.map(([name, update]) => {
    const button = html("button", { type: "button", class: "rlhf-button", "data-control": `case-${name}`, "aria-label": `the case ${name}` }, name);
    button.addEventListener("click", () => set(update));
    return button;
  });

  const outputs = {};
  const tile = (name, label, title) => {
    outputs[name] = html("output", { "data-name": name });
    return html("div", { class: "rlhf-tile", title }, html("span", {}, label), outputs[name]);
  };
  const says = html("p", { class: "rlhf-says", "data-name": "says" });
  const plots = [1, -1].map((sign) => {
    const plot = svg("svg", { class: "rlhf-plot", viewBox: `0 0 ${PLOT.width} ${HEIGHT}`, role: "img", "data-sign": sign });
    return { sign, plot, element: html("div", {}, plot) };
  });
  const cases = html("table", { class: "rlhf-bars rlhf-cases" });
  const figure = html("div", { class: "rlhf-figure" },
    html("div", { class: "rlhf-tiles" }, tile("plain", "ρA", "the ratio times the advantage"),
      tile("clipped", "clip(ρ)A", "the same with the ratio held within the clip"),
      tile("objective", "objective", "the smaller of the two, and what is maximised"),
      tile("gradient", "gradient", "of the objective with respect to log π")), says,
    html("div", { class: "rlhf-clip-plots" }, ...plots.map((one) => one.element)),
    html("p", { class: "rlhf-legend" }, html("span", { class: "rlhf-key" }), "objective, ", html("span", { class: "rlhf-key rlhf-key-ref" }), "dashed: ρA, ",
      html("span", { class: "rlhf-key rlhf-key-true" }), "gradient; the arrow is the way it pushes the ratio. Shaded: 1 − ε to 1 + ε."),
    cases);
  const controls = html("div", {}, rows.ratio.element, rows.advantage.element, rows.epsilon.element,
    html("div", { class: "rlhf-control" }, html("label", { class: "rlhf-check" }, check, "dual clip"),
      html("span", { class: "rlhf-buttons", role: "group", "aria-label": "the four cases" }, ...presets)),
    rows.dual_clip.element);

  el.classList.add("rlhf-demo", "rlhf-clip");
  el.append(controls, message, figure, live.element);

  const drawCases = (s) => {
    const zones = s.bound === null ? ["below", "inside", "above"] : ["below", "inside", "above", "beyond"];
    const heads = { below: "ρ\u00a0<\u00a01\u00a0−\u00a0ε", inside: "inside", above: "ρ\u00a0>\u00a01\u00a0+\u00a0ε", beyond: "ρ\u00a0>\u00a0c" };
    const place = { below: (1 - s.epsilon) / 2, inside: 1, above: 1 + s.epsilon + 0.01, beyond: s.dual_clip + 1 };
    const cell = (sign, zone) => {
      const { active } = s.at(place[zone], sign);
      const here = Math.sign(s.advantage) === sign && s.now.zone === zone;
      const beyond = sign > 0 && zone === "beyond";
      return html("td", { "data-case": `${sign > 0 ? "+" : "-"}${zone}`, "data-active": String(active), "aria-current": here && "true" },
        beyond ? "no gradient" : active ? (sign > 0 ? "pushed up" : "pushed down") : "no gradient");
    };
    cases.replaceChildren(
      html("caption", { class: "rlhf-hidden" }, "Where the gradient passes, by the sign of the advantage and the ratio"),
      html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "the token is"), ...zones.map((zone) => html("th", { scope: "col" }, heads[zone])))),
      html("tbody", {}, ...[1, -1].map((sign) => html("tr", {}, html("th", { scope: "row" }, sign > 0 ? "good, A\u00a0>\u00a00" : "bad, A\u00a0<\u00a00"),
        ...zones.map((zone) => cell(sign, zone))))));
  };

  let drawn = false;
  const draw = () => {
    const state = read();
    const wrong = problem(state);
    figure.hidden = controls.hidden = Boolean(wrong) && !drawn;
    figure.classList.toggle("rlhf-stale", Boolean(wrong));
    message.hidden = !wrong;
    message.textContent = wrong
      ? `This figure cannot be drawn: ${wrong}.` + (drawn ? " Below is the last state that could." : "") : "";
    if (wrong) return;
    const s = compute(state);
    for (const [name, one] of Object.entries(rows)) one.show(s[name]);
    check.checked = s.dual;
    rows.dual_clip.element.hidden = !s.dual;
    for (const name of ["plain", "clipped", "objective", "gradient"]) showNumber(outputs[name], s.now[name], 3);
    says.textContent = inWords(s);
    says.dataset.zone = s.now.zone;
    says.dataset.active = String(s.now.active);
    const size = Math.abs(s.advantage);
    for (const { sign, plot, element } of plots) {
      const current = s.advantage === 0 ? sign > 0 : Math.sign(s.advantage) === sign;
      drawSign(plot, s, current ? s.advantage : sign * (size || 1), current);
      element.classList.toggle("rlhf-aside", !current);
    }
    drawCases(s);
    live.say(`ratio ${format(s.ratio, 2)}, advantage ${format(s.advantage, 1)}: objective ${format(s.now.objective, 2)}, ` +
      `gradient ${format(s.now.gradient, 2)}. ${inWords(s)}`);
    drawn = true;
  };
  const unfollow = follow(model, STATE, draw);
  return () => { unfollow(); live.stop(); };
}

export default { render };
