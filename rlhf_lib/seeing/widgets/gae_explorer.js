// The GAE explorer. The mathematics first, as pure functions; then what draws it.

const RANGES = { score: [-5, 5], beta: [0, 1], gamma: [0, 1], lam: [0, 1] };
const CELLS = { log_ratios: [-4, 4], values: [-6, 6] };
const WORDS = { log_ratios: "log-ratio", values: "value" };
const MOST_TOKENS = 10;

// The KL charge of each token and the score on the last; lumped, everything on the last.
function tokenRewards({ log_ratios, score, beta, lumped }) {
  const charges = log_ratios.map((x) => (lumped ? 0 : 0 - beta * x));
  charges[charges.length - 1] += lumped ? score - beta * log_ratios.reduce((a, b) => a + b, 0) : score;
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

// What is wrong with a state, in the words of the Python side; null if nothing is.
function problem(state) {
  const { tokens, token, lumped } = state;
  if (!Array.isArray(tokens) || tokens.length < 2 || tokens.length > MOST_TOKENS) return `tokens has ${tokens?.length} entries; expected 2 to ${MOST_TOKENS}`;
  for (const [name, [low, high]] of Object.entries(CELLS)) {
    const list = state[name];
    if (!Array.isArray(list) || list.length !== tokens.length) return `${name} has ${list?.length} entries; expected ${tokens.length}, one for each token`;
    const at = list.findIndex((v) => typeof v !== "number" || !Number.isFinite(v));
    if (at >= 0) return `${name}[${at}] is ${list[at]}; expected a number from ${low} to ${high}`;
  }
  for (const [name, [low, high]] of Object.entries(RANGES)) {
    if (typeof state[name] !== "number" || !Number.isFinite(state[name])) return `${name} is ${state[name]}; expected a number from ${low} to ${high}`;
  }
  if (typeof lumped !== "boolean") return `lumped is ${lumped}; expected true or false`;
  if (!Number.isInteger(token)) return `token is ${token}; expected a whole number`;
  return null;
}

// Everything on display. Settings beyond their range are clamped, as in Python.
function compute(state) {
  const s = { ...state, token: clamp(state.token, [0, state.tokens.length - 1]) };
  for (const [name, range] of Object.entries(RANGES)) s[name] = clamp(state[name], range);
  for (const [name, range] of Object.entries(CELLS)) s[name] = state[name].map((v) => clamp(v, range));
  const { values, gamma, lam } = s, T = s.tokens.length;
  const rewards = tokenRewards(s);
  const { deltas, advantages } = gae(rewards, values, gamma, lam);
  const other = gae(tokenRewards({ ...s, lumped: !s.lumped }), values, gamma, lam).advantages;
  const after = s.tokens.map((_, t) => T - 1 - t);
  const power = (k) => (gamma * lam) ** k;
  return {
    ...s, rewards, deltas, advantages, other, returns: advantages.map((a, t) => a + values[t]),
    scoreWeight: after.map(power),
    criticWeight: after.map((n) => gamma * (1 - lam) * Array.from({ length: n }, (_, k) => power(k)).reduce((a, b) => a + b, 0)),
  };
}

// ---------------------------------------------------------------- the plot

const PLOT = { width: 340, left: 34, right: 8, top: 24, upper: 120, gap: 32, lower: 120, bottom: 46 };
const HEIGHT = PLOT.top + PLOT.upper + PLOT.gap + PLOT.lower + PLOT.bottom;

function scaleOf(values, start, height) {
  const low = Math.min(0, ...values), high = Math.max(0, ...values), pad = 0.08 * (high - low || 1);
  const [from, to] = [low - pad, high + pad];
  return { from, to, at: (v) => start + height - (height * (v - from)) / (to - from),
    back: (y) => from + ((start + height - y) / height) * (to - from) };
}

function drawPlot(plot, s, scales) {
  const { width, left, right, top, upper, gap, lower } = PLOT;
  const T = s.tokens.length, slot = (width - left - right) / T, X = (t) => left + slot * (t + 0.5);
  const [A, V] = scales;
  const text = (x, y, anchor, kind, words, more = {}) => svg("text", { x, y, "text-anchor": anchor, class: kind, ...more }, words);
  const line = (kind, x1, y1, x2, y2) => svg("line", { class: kind, x1, y1, x2, y2 });
  const parts = [svg("rect", { class: "rlhf-gae-here", x: X(s.token) - slot / 2, width: slot, y: top, height: upper + gap + lower })];
  for (const scale of [A, V]) for (const tick of ticks(scale.from, scale.to, 4)) {
    parts.push(line(Math.abs(tick) < 1e-9 ? "rlhf-gae-zero" : "rlhf-grid", left, scale.at(tick), width - right, scale.at(tick)));
    parts.push(text(left - 5, scale.at(tick) + 4, "end", "rlhf-tick", short(tick)));
  }
  parts.push(text(left, top - 9, "start", "rlhf-axis", "δ and A of each token"));
  parts.push(text(left, top + upper + gap - 9, "start", "rlhf-axis", "V before it, and its return A + V"));
  const bar = (kind, t, value, shift, wide, name) => svg("rect", { class: kind, x: X(t) + shift * slot, width: wide * slot,
    y: Math.min(A.at(0), A.at(value)), height: Math.abs(A.at(value) - A.at(0)), "data-bar": name, "data-token": t, "data-value": value });
  s.tokens.forEach((token, t) => {
    parts.push(bar("rlhf-gae-delta", t, s.deltas[t], -0.4, 0.36, "delta"), bar("rlhf-gae-advantage", t, s.advantages[t], 0, 0.38, "advantage"));
    if (s.compare) parts.push(bar("rlhf-gae-other", t, s.other[t], -0.02, 0.42, "other"));
    parts.push(svg("rect", { class: "rlhf-gae-return", x: X(t) - 0.3 * slot, width: 0.6 * slot, y: V.at(s.returns[t]) - 1.5, height: 3, "data-bar": "return", "data-value": s.returns[t] }));
    const y = top + upper + gap + lower + 13;
    parts.push(text(X(t) + 4, y, "end", "rlhf-tick", token.length > 8 ? `${token.slice(0, 7)}…` : token, { transform: `rotate(-35 ${X(t) + 4} ${y})` }));
  });
  parts.push(svg("path", { class: "rlhf-gae-line", d: s.values.map((v, t) => `${t ? "L" : "M"}${X(t).toFixed(2)},${V.at(v).toFixed(2)}`).join("") }));
  plot.replaceChildren(...parts);
  return { X, V };
}

// ---------------------------------------------------------------- the demo

const STATE = ["tokens", "log_ratios", "values", "score", "beta", "gamma", "lam", "lumped", "token", "presets"];

function render({ model, el }) {
  const read = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  const set = (update) => {
    for (const [name, value] of Object.entries(update)) model.set(name, value);
    model.save_changes();
  };
  const message = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  const note = (words) => { message.textContent = words; message.hidden = !words; };
  const live = announcer();
  const button = (name, words, label, act) => {
    const element = html("button", { type: "button", class: "rlhf-button", "data-control": name, "aria-label": label }, words);
    element.addEventListener("click", () => { note(""); act(); });
    return element;
  };

  const row = (trait, step, digits, name, symbol, hint, ...beside) => {
    const control = slider({ name: trait, label: name, hint, positions: RANGES[trait].map((end) => Math.round(end / step)),
      toValue: (p) => Number((p * step).toFixed(6)), toPosition: (v) => v / step,
      describe: (v) => `${name} ${format(v, digits)}`, onChange: (v) => { note(""); set({ [trait]: v }); } });
    const output = html("output", { class: "rlhf-setting", "data-setting": trait });
    return {
      element: html("div", { class: "rlhf-control" }, html("span", { class: "rlhf-label" }, symbol, html("small", {}, hint)), control.element, output, ...beside),
      show(value) { control.show(value); showNumber(output, value, digits); },
    };
  };
  const ends = [0, 1].map((value) => button(`lam-${value}`, `λ = ${value}`, `lambda = ${value}`, () => set({ lam: value })));
  const rows = {
    lam: row("lam", 0.01, 2, "lambda", "λ", "how far to look ahead", html("span", { class: "rlhf-buttons" }, ...ends)),
    gamma: row("gamma", 0.01, 2, "gamma", "γ", "discount a token"),
    score: row("score", 0.1, 1, "score", "score", "of the whole reply"),
    beta: row("beta", 0.01, 2, "beta", "β", "price of a nat"),
  };
  const check = html("input", { type: "checkbox", "data-control": "lumped", "aria-label": "lumped reward: all charges on the last token", "data-lm-suppress-shortcuts": "true" });
  check.addEventListener("change", () => { note(""); set({ lumped: check.checked }); });
  const presetPlace = html("span", { class: "rlhf-buttons", role: "group", "aria-label": "states to start from" });

  const plot = svg("svg", { class: "rlhf-plot", viewBox: `0 0 ${PLOT.width} ${HEIGHT}`, role: "group" });
  const art = svg("g", {}), handles = svg("g", {});
  plot.append(art, handles);
  const legend = html("p", { class: "rlhf-legend" });
  const table = html("table", { class: "rlhf-bars" });
  const sum = html("div", { class: "rlhf-sum", "aria-live": "off" });
  const figure = html("div", { class: "rlhf-figure" },
    html("div", { class: "rlhf-panels" }, html("div", { class: "rlhf-plot-place" }, plot, legend), table), sum);
  const controls = html("div", {}, rows.lam.element, rows.gamma.element, rows.score.element, rows.beta.element,
    html("div", { class: "rlhf-control" }, presetPlace, html("label", { class: "rlhf-check" }, check, "lumped reward")));
  el.classList.add("rlhf-demo", "rlhf-gae");
  el.append(controls, message, figure, live.element);

  const change = (name, t, value) => set({ [name]: model.get(name).map((old, i) => (i === t ? clamp(value, CELLS[name]) : old)), token: t });

  // the table: two fields a token, built once for a list of tokens
  let cells = [];
  const buildTable = (s) => {
    cells = s.tokens.map((token, t) => {
      const fields = Object.entries(CELLS).map(([name, range]) => {
        const field = html("input", { type: "text", inputmode: "decimal", class: "rlhf-field rlhf-cell", "data-control": `${name}-${t}`,
          "aria-label": `${WORDS[name]} of token ${t + 1}, ${token}`, "data-lm-suppress-shortcuts": "true", autocomplete: "off", spellcheck: "false" });
        const show = () => {
          field.value = short(Number(compute(read())[name][t].toFixed(4)));
          field.dataset.value = String(compute(read())[name][t]);
          field.removeAttribute("aria-invalid");
        };
        field.addEventListener("change", () => {
          const typed = field.value.trim().replace("−", "-"), value = typed === "" ? NaN : Number(typed);
          const wanted = `${WORDS[name]} of “${token}” is ${typed || "empty"}; expected a number from ${short(range[0])} to ${short(range[1])}.`;
          if (!Number.isFinite(value)) {
            note(`${wanted} Still showing ${short(model.get(name)[t])}.`);
            field.setAttribute("aria-invalid", "true");
            return;
          }
          note(clamp(value, range) === value ? "" : `${wanted} Showing ${short(clamp(value, range))}.`);
          change(name, t, value);
          show();
        });
        field.addEventListener("keydown", (event) => {
          const way = { ArrowUp: 1, ArrowDown: -1 }[event.key];
          if (!way) return;
          event.preventDefault();
          note("");
          change(name, t, Number((model.get(name)[t] + way * 0.1).toFixed(6)));
          show();
        });
        field.addEventListener("focus", () => { if (model.get("token") !== t) set({ token: t }); });
        return { name, field, show };
      });
      const outputs = Object.fromEntries(["rewards", "deltas", "advantages", "returns"].map((name) =>
        [name, html("td", { class: "rlhf-right", "data-name": `${name}-${t}` })]));
      const element = html("tr", {}, html("th", { scope: "row", title: token }, token),
        ...fields.map(({ field }) => html("td", { class: "rlhf-right" }, field)), ...Object.values(outputs));
      element.addEventListener("click", () => set({ token: t }));
      return { fields, outputs, element };
    });
    const head = (words, title, kind = "rlhf-right") => html("th", { scope: "col", class: kind, title }, words);
    table.replaceChildren(
      html("caption", { class: "rlhf-hidden" }, "Each token: two numbers to edit, and what follows from them"),
      html("thead", {}, html("tr", {}, head("token", "what was written", ""), head("log-ratio", "log π − log π_ref, nats"), head("V", "value of the state before the token"),
        head("r", "reward of the token"), head("δ", "temporal difference"), head("A", "advantage"), head("A+V", "return: what the critic is trained towards"))),
      html("tbody", {}, ...cells.map((cell) => cell.element)));
  };

  // a handle on each value: drag it, or move it with the arrow keys
  let held = null, dots = [], scales = null;
  const buildHandles = (s) => {
    dots = s.tokens.map((token, t) => {
      const dot = svg("circle", { class: "rlhf-gae-handle", r: 7, tabindex: 0, role: "slider", "data-control": `handle-${t}`, "aria-label": `value before token ${t + 1}, ${token}`,
        "aria-valuemin": CELLS.values[0], "aria-valuemax": CELLS.values[1], "aria-orientation": "vertical", "data-lm-suppress-shortcuts": "true" });
      dot.addEventListener("keydown", (event) => {
        const step = { ArrowUp: 0.1, ArrowRight: 0.1, ArrowDown: -0.1, ArrowLeft: -0.1, PageUp: 1, PageDown: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        note("");
        change("values", t, Number((model.get("values")[t] + step).toFixed(6)));
      });
      dot.addEventListener("pointerdown", (event) => {
        held = t;
        dot.setPointerCapture(event.pointerId);
        note("");
      });
      dot.addEventListener("pointermove", (event) => {
        if (held !== t) return;
        const box = plot.getBoundingClientRect();
        const y = ((event.clientY - box.top) / box.height) * HEIGHT;
        change("values", t, Number(scales[1].back(y).toFixed(2)));
      });
      for (const end of ["pointerup", "pointercancel"]) dot.addEventListener(end, () => { held = null; draw(); });
      dot.addEventListener("focus", () => { if (model.get("token") !== t) set({ token: t }); });
      return dot;
    });
    handles.replaceChildren(...dots);
  };

  const signedTerm = (value) => (value < 0 || Object.is(value, -0) ? ` − ${format(-value, 2)}` : ` + ${format(value, 2)}`);
  const drawSum = (s) => {
    const t = s.token, last = t === s.tokens.length - 1, next = s.values[t + 1] ?? 0, following = s.advantages[t + 1] ?? 0;
    const weights = [s.scoreWeight[t], s.criticWeight[t]];
    const number = (name, value) => {
      const element = html("b", { "data-name": name });
      showNumber(element, value, 2);
      return element;
    };
    const paid = s.log_ratios.slice(0, t).reduce((a, b) => a - s.beta * b, 0);
    const trust = html("div", { class: "rlhf-trust", "aria-hidden": "true" }, ...weights.map((w) => html("span", { style: `width:${(100 * w).toFixed(2)}%` })));
    sum.replaceChildren(
      html("div", {}, html("b", {}, `“${s.tokens[t]}”`), `: δ = r + γ·V next − V = ${format(s.rewards[t], 2)}${signedTerm(s.gamma * next)}${signedTerm(-s.values[t])} = ${format(s.deltas[t], 2)}` + (last ? " (nothing comes after: V next is 0)" : "")),
      html("div", {}, `A = δ + γλ·A next = ${format(s.deltas[t], 2)}${signedTerm(s.gamma * s.lam * following)} = ${format(s.advantages[t], 2)}`),
      html("div", {}, html("span", { class: "rlhf-key" }), "One point more of score moves this A by ", number("score_weight", weights[0]), "; ",
        html("span", { class: "rlhf-key rlhf-key-true" }), "all later values wrong by one move it by ", number("critic_weight", weights[1]), ". ",
        s.lam === 0 ? "λ = 0: only δ, so a wrong critic is believed (bias), and the chance in the rest of the reply is kept out (little variance)."
          : s.lam === 1 ? "λ = 1: the critic’s later values cancel (no bias from them), and all the chance in the rest of the reply comes in (variance)." : "λ sets the split."),
      trust,
      ...(s.compare ? [html("div", { "data-name": "lumped-says" }, s.lumped
        ? `Lumped: A is ${format(s.advantages[t], 2)}; with each charge on its own token it is ${format(s.other[t], 2)}. ` +
          (s.gamma === 1 && s.lam === 1 ? `The difference, ${format(s.advantages[t] - s.other[t], 2)}, is the charges of the tokens before (${format(paid, 2)}): this token is blamed for them.`
            : "Every charge now sits on the last token and reaches each token with the weight of the score, its own or not.")
        : "")] : []));
    sum.dataset.token = String(t);
  };

  let drawn = false, built = "";
  const draw = () => {
    const state = read();
    const wrong = problem(state);
    figure.hidden = controls.hidden = Boolean(wrong) && !drawn;
    figure.classList.toggle("rlhf-stale", Boolean(wrong));
    if (wrong) {
      note(`This figure cannot be drawn: ${wrong}.` + (drawn ? " Below is the last state that could." : ""));
      return;
    }
    if (message.textContent.startsWith("This figure")) note("");
    const s = { ...compute(state), compare: state.lumped };
    if (built !== s.tokens.join("\n")) {
      buildTable(s);
      buildHandles(s);
      presetPlace.replaceChildren(...(s.presets ?? []).map(([name, log_ratios, values, score]) =>
        button(`preset-${name}`, name, `the state “${name}”`, () => set({ log_ratios, values, score }))));
      built = s.tokens.join("\n");
    }
    for (const [name, one] of Object.entries(rows)) one.show(s[name]);
    ends.forEach((one, value) => one.setAttribute("aria-pressed", String(s.lam === value)));
    check.checked = s.lumped;
    if (held === null) { // while a value is dragged, the scale stays under the hand
      const { top, upper, gap, lower } = PLOT;
      scales = [scaleOf([...s.deltas, ...s.advantages, ...(s.compare ? s.other : [])], top, upper),
        scaleOf([...s.values, ...s.returns], top + upper + gap, lower)];
    }
    const { X, V } = drawPlot(art, s, scales);
    dots.forEach((dot, t) => {
      dot.setAttribute("cx", X(t));
      dot.setAttribute("cy", V.at(s.values[t]));
      dot.setAttribute("aria-valuenow", s.values[t]);
      dot.setAttribute("aria-valuetext", format(s.values[t], 2));
    });
    plot.setAttribute("aria-label", `Advantages: ${s.advantages.map((a, t) => `${s.tokens[t]} ${format(a, 2)}`).join(", ")}.`);
    const key = (kind, words) => [html("span", { class: "rlhf-pair" }, html("span", { class: `rlhf-key ${kind}` }), words), " "];
    legend.replaceChildren(...key("rlhf-key-ref", "δ"), ...key("", "A, and V"), ...key("rlhf-key-true", "return"),
      ...(s.compare ? key("rlhf-key-other", "A with each charge on its own token") : []), "Drag the dots of V, or use the arrow keys.");
    cells.forEach((cell, t) => {
      for (const [name, output] of Object.entries(cell.outputs)) showNumber(output, s[name][t], 2);
      for (const { field, show } of cell.fields) if (field !== document.activeElement) show();
      if (t === s.token) cell.element.setAttribute("aria-current", "true");
      else cell.element.removeAttribute("aria-current");
    });
    drawSum(s);
    live.say(`“${s.tokens[s.token]}”: delta ${format(s.deltas[s.token], 2)}, advantage ${format(s.advantages[s.token], 2)}, return ${format(s.returns[s.token], 2)}.`);
    drawn = true;
  };
  const unfollow = follow(model, STATE, draw);
  return () => { unfollow(); live.stop(); };
}

export default { render };
