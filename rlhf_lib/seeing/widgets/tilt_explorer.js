// The tilt explorer. The mathematics first, as pure functions; then what draws it.

function tilt(reference, rewards, beta) {
  const scores = reference.map((p, i) => Math.log(p) + rewards[i] / beta);
  const top = Math.max(...scores);
  const weights = scores.map((s) => Math.exp(s - top));
  const total = weights.reduce((a, b) => a + b, 0);
  const policy = weights.map((w) => w / total);
  const kl = policy.reduce(
    (sum, p, i) => sum + (p > 0 ? p * (Math.log(p) - Math.log(reference[i])) : 0), 0);
  return { policy, kl, objective: beta * (top + Math.log(total)) };
}

const mean = (policy, values) => policy.reduce((sum, p, i) => sum + p * values[i], 0);

// The reference mass of the best rewarded replies: -ln of it is the largest KL that tilting can reach.
function bestMass(reference, rewards) {
  const best = Math.max(...rewards.filter((_, i) => reference[i] > 0));
  return reference.reduce((sum, p, i) => sum + (rewards[i] === best ? p : 0), 0);
}

// What is wrong with a state, in the words of the Python side; null if nothing is.
function problem({ reference, rewards, labels, bias, beta, beta_range, reward_shift, proxy_gap }) {
  const lists = { reference, rewards, bias, labels };
  for (const [name, values] of Object.entries(lists)) {
    if (!Array.isArray(values) || values.length === 0) return `${name} is empty; expected one entry per reply`;
    if (values.length !== reference.length) {
      return `${name} has ${values.length} entries; expected ${reference.length}, as reference has`;
    }
    if (name === "labels") continue;
    const at = values.findIndex((v) => typeof v !== "number" || !Number.isFinite(v));
    if (at >= 0) return `${name}[${at}] is ${values[at]}; expected finite numbers`;
  }
  const negative = reference.findIndex((p) => p < 0);
  if (negative >= 0) {
    return `reference[${negative}] is ${reference[negative]}; expected probabilities of at least 0`;
  }
  const total = reference.reduce((a, b) => a + b, 0);
  if (Math.abs(total - 1) > 1e-6) {
    return `reference sums to ${Number(total.toPrecision(6))}; expected probabilities that sum to 1`;
  }
  const [low, high] = Array.isArray(beta_range) ? beta_range : [];
  if (!(low > 0 && high > low && Number.isFinite(high))) {
    return `beta_range is ${beta_range}; expected two positive numbers, the smaller first`;
  }
  if (!(typeof beta === "number" && beta > 0 && Number.isFinite(beta))) {
    return `beta is ${beta}; expected a positive number`;
  }
  for (const [name, value] of Object.entries({ reward_shift, proxy_gap })) {
    if (typeof value !== "number" || !Number.isFinite(value)) return `${name} is ${value}; expected a number`;
  }
  const largest = Math.max(...rewards.map(Math.abs), ...bias.map(Math.abs));
  if (!Number.isFinite(10 * largest / low)) { // the sums on display stay finite, too
    return `a reward or bias of size ${largest} over beta=${low} overflows; expected a finite ratio`;
  }
  return null;
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
    return { ...t, expected: mean(t.policy, optimised), expectedTrue: mean(t.policy, truth) };
  };
  return { ...state, beta, shift, gap, truth, optimised, point, now: point(beta) };
}

const POSITIONS_PER_DECADE = 40; // 0.1, 1 and 10 lie on the slider exactly

function betaScale([low, high]) {
  const first = Math.ceil(POSITIONS_PER_DECADE * Math.log10(low) - 1e-9);
  const last = Math.floor(POSITIONS_PER_DECADE * Math.log10(high) + 1e-9);
  return {
    positions: [first, last],
    // three digits, so that the number on the page is the number that is used
    toValue: (s) => s <= first ? low : s >= last ? high
      : Number((10 ** (s / POSITIONS_PER_DECADE)).toPrecision(3)),
    toPosition: (beta) => POSITIONS_PER_DECADE * Math.log10(beta),
  };
}

// ---------------------------------------------------------------- the frontier

const PLOT = { width: 340, height: 268, left: 40, right: 12, top: 14, bottom: 40 };

function drawFrontier(plot, s) {
  const { width, height, left, right, top, bottom } = PLOT;
  const ceiling = -Math.log(bestMass(s.reference, s.optimised));
  const [low, high] = s.beta_range;
  const betas = Array.from({ length: 240 }, (_, i) => (low / 8) * ((high * 400) / low) ** (i / 239));
  const curve = betas.map(s.point);
  const values = curve.flatMap((p) => (s.gap > 0 ? [p.expected, p.expectedTrue] : [p.expected]));
  const floor = Math.min(...values), peak = Math.max(...values);
  const pad = 0.06 * (peak - floor || 1);
  const xMax = 1.1 * ceiling || 1, yMin = floor - pad, yMax = peak + pad;
  const X = (kl) => left + ((width - left - right) * kl) / xMax;
  const Y = (value) => height - bottom - ((height - top - bottom) * (value - yMin)) / (yMax - yMin);
  const path = (get) => curve.map((p, i) => `${i ? "L" : "M"}${X(p.kl).toFixed(2)},${Y(get(p)).toFixed(2)}`).join("");
  const text = (x, y, anchor, kind, ...children) =>
    svg("text", { x, y, "text-anchor": anchor, class: kind }, ...children);
  const parts = [];

  for (const tick of ticks(0, xMax, 5)) {
    parts.push(svg("line", { class: "rlhf-grid", x1: X(tick), x2: X(tick), y1: top, y2: height - bottom }));
    parts.push(text(X(tick), height - bottom + 15, "middle", "rlhf-tick", short(tick)));
  }
  for (const tick of ticks(yMin, yMax, 5)) {
    parts.push(svg("line", { class: "rlhf-grid", x1: left, x2: width - right, y1: Y(tick), y2: Y(tick) }));
    parts.push(text(left - 6, Y(tick) + 4, "end", "rlhf-tick", short(tick)));
  }
  parts.push(text((left + width - right) / 2, height - 6, "middle", "rlhf-axis", "KL(π*‖π_ref), nats"));
  parts.push(text(left - 34, top - 3, "start", "rlhf-axis", "E[r]"));
  parts.push(svg("line", { class: "rlhf-ceiling", x1: X(ceiling), x2: X(ceiling), y1: top, y2: height - bottom }));
  parts.push(text(X(ceiling) - 5, (height - bottom) * 0.55, "end", "rlhf-tick", "−ln π_ref(best)"));

  // The tangent has slope beta and meets the axis KL = 0 at J(pi*) = beta log Z.
  const { kl, expected, objective } = s.now;
  const reach = Math.min(xMax, kl + 0.25 * xMax, s.beta > 0 ? kl + (yMax - expected) / s.beta : xMax);
  parts.push(svg("line", {
    class: "rlhf-tangent", "data-slope": s.beta,
    x1: X(0), y1: Y(objective), x2: X(reach), y2: Y(expected + s.beta * (reach - kl)),
  }));
  parts.push(svg("path", { class: "rlhf-curve", d: path((p) => p.expected) }));
  if (s.gap > 0) parts.push(svg("path", { class: "rlhf-curve rlhf-curve-true", d: path((p) => p.expectedTrue) }));
  parts.push(svg("rect", { class: "rlhf-intercept", x: X(0) - 3.5, y: Y(objective) - 3.5, width: 7, height: 7 }));
  if (s.gap > 0) parts.push(svg("circle", { class: "rlhf-dot rlhf-dot-true", cx: X(kl), cy: Y(s.now.expectedTrue), r: 5 }));
  parts.push(svg("circle", { class: "rlhf-dot", cx: X(kl), cy: Y(expected), r: 5.5, "data-kl": kl, "data-expected": expected }));
  plot.replaceChildren(...parts);
  plot.setAttribute("aria-label",
    `Frontier: expected reward against KL. At beta ${short(s.beta)} the point is at KL ${format(kl, 3)} nats, ` +
    `reward ${format(expected, 3)}; the largest KL is ${format(ceiling, 3)}.`);
}

// ---------------------------------------------------------------- the bars

function drawBars(table, s) {
  const withGap = s.gap > 0;
  const head = html("tr", {},
    html("th", { scope: "col" }, "reply"),
    html("th", { scope: "col", class: "rlhf-right" }, withGap ? "proxy" : "r"),
    ...(withGap ? [html("th", { scope: "col", class: "rlhf-right rlhf-true" }, "true")] : []),
    html("th", { scope: "col" },
      html("span", { class: "rlhf-key rlhf-key-ref" }), "π_ref ", html("span", { class: "rlhf-key" }), "π*"),
    html("th", { scope: "col", class: "rlhf-right" }, "π*"));
  const rows = s.labels.map((label, i) => {
    const p = s.now.policy[i];
    const bar = (kind, value) => html("span", { class: kind, style: `width:${(100 * value).toFixed(2)}%` });
    const cell = html("td", { class: "rlhf-right" });
    showNumber(cell, p, 5);
    cell.classList.add("rlhf-policy");
    return html("tr", {},
      html("th", { scope: "row" }, label),
      html("td", { class: "rlhf-right" }, short(Number(s.optimised[i].toFixed(2)))),
      ...(withGap ? [html("td", { class: "rlhf-right rlhf-true" }, short(Number(s.truth[i].toFixed(2))))] : []),
      html("td", { class: "rlhf-bar-cell", "aria-hidden": "true" },
        bar("rlhf-bar rlhf-bar-ref", s.reference[i]), bar("rlhf-bar", p)),
      cell);
  });
  table.replaceChildren(
    html("caption", { class: "rlhf-hidden" }, "Each reply with its reward and its probability under the optimum"),
    html("thead", {}, head), html("tbody", {}, ...rows));
}

// ---------------------------------------------------------------- the demo

const STATE = ["labels", "reference", "rewards", "bias", "beta", "beta_range", "reward_shift", "shift_range",
  "proxy_gap", "gap_range", "compact"];

function render({ model, el }) {
  const read = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  const set = (name, value) => { note(""); model.set(name, value); model.save_changes(); };

  const message = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  const note = (text) => { message.textContent = text; message.hidden = !text; };
  const live = announcer();

  // beta: a slider, a field for exact values, three buttons
  let scale = null, betaSlider = null;
  const sliderPlace = html("span", { class: "rlhf-slider-place" });
  const field = html("input", { type: "text", inputmode: "decimal", class: "rlhf-field", "aria-label": "beta, exact value",
    "data-control": "beta-field", "data-lm-suppress-shortcuts": "true", autocomplete: "off", spellcheck: "false" });
  field.addEventListener("change", () => {
    const typed = field.value.trim().replace("−", "-");
    const value = typed === "" ? NaN : Number(typed);
    const range = model.get("beta_range");
    if (!(value > 0 && Number.isFinite(value))) {
      note(`beta is ${typed || "empty"}; expected a positive number. Still showing beta = ${short(model.get("beta"))}.`);
      field.setAttribute("aria-invalid", "true");
      return;
    }
    set("beta", clamp(value, range));
    draw();
    if (clamp(value, range) !== value) {
      note(`beta is ${short(value)}; this figure goes from ${short(range[0])} to ${short(range[1])}. ` +
        `Showing ${short(clamp(value, range))}.`);
    }
  });
  const presets = [0.1, 1, 10].map((beta) => {
    const button = html("button", { type: "button", class: "rlhf-button", "data-beta": beta, "aria-label": `beta = ${beta}` }, `β = ${beta}`);
    button.addEventListener("click", () => set("beta", beta));
    return button;
  });
  const betaRow = html("div", { class: "rlhf-control" },
    html("span", { class: "rlhf-label" }, "β", html("small", {}, "price of a nat")),
    sliderPlace, field, html("span", { class: "rlhf-buttons" }, ...presets));

  // the shift and the gap
  const linear = (name, trait, range, label, hint, step) => {
    const control = slider({
      name: trait, label: name, hint, positions: range.map((end) => Math.round(end / step)),
      toValue: (s) => Number((s * step).toFixed(6)), toPosition: (v) => v / step,
      describe: (v) => `${name} ${short(v)}`, onChange: (v) => set(trait, v),
    });
    const output = html("output", { class: "rlhf-setting", "data-setting": trait });
    return {
      element: html("div", { class: "rlhf-control" },
        html("span", { class: "rlhf-label" }, label, html("small", {}, hint)), control.element, output),
      show(value) { control.show(value); output.textContent = short(value); output.dataset.value = String(value); },
    };
  };
  const shift = linear("reward shift", "reward_shift", model.get("shift_range"), "c", "added to every reward", 0.5);
  const gap = linear("proxy gap", "proxy_gap", model.get("gap_range"), "gap", "proxy = true + gap·bias", 0.05);
  const more = model.get("compact")
    ? html("details", { class: "rlhf-more" }, html("summary", {}, "Shift the reward, or make it a flawed proxy"), shift.element, gap.element)
    : html("div", { class: "rlhf-more" }, shift.element, gap.element);

  // numbers
  const outputs = {};
  const tile = (name, label, title, kind = "") => {
    outputs[name] = html("output", { "data-name": name });
    return html("div", { class: `rlhf-tile ${kind}`, title }, html("span", {}, label), outputs[name]);
  };
  const rewardTile = tile("expected_reward", "E[r]", "expected reward under π*, of the reward that is optimised");
  const trueTile = tile("expected_true_reward", "E[true]", "expected true reward under π*", "rlhf-tile-true");
  const overTile = tile("overstatement", "proxy − true", "how much of the expected proxy is not there");
  const numbers = html("div", { class: "rlhf-tiles" },
    rewardTile, trueTile, overTile,
    tile("kl", "KL", "KL(π*‖π_ref), nats"),
    tile("objective", "J(π*) = β log Z", "the objective at its maximum: E[r] − β·KL"));

  const table = html("table", { class: "rlhf-bars" });
  const plot = svg("svg", { class: "rlhf-plot", viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img" });
  const legend = html("p", { class: "rlhf-legend" });
  const figure = html("div", { class: "rlhf-figure" },
    numbers, html("div", { class: "rlhf-panels" }, table, html("div", { class: "rlhf-plot-place" }, plot, legend)));

  el.classList.add("rlhf-demo", "rlhf-tilt");
  el.append(betaRow, message, figure, more, live.element);

  let drawn = false;
  const draw = () => {
    const state = read();
    const wrong = problem(state);
    figure.hidden = Boolean(wrong) && !drawn;
    figure.classList.toggle("rlhf-stale", Boolean(wrong));
    if (wrong) {
      note(`This figure cannot be drawn: ${wrong}.` + (drawn ? " Below is the last state that could." : ""));
      return;
    }
    if (message.textContent.startsWith("This figure")) note("");
    if (!scale || scale.range !== state.beta_range.join()) {
      scale = { ...betaScale(state.beta_range), range: state.beta_range.join() };
      betaSlider = slider({ name: "beta", label: "beta", hint: "price of one nat of KL", ...scale,
        describe: (b) => `beta ${short(b)}`, onChange: (b) => set("beta", b) });
      sliderPlace.replaceChildren(betaSlider.element);
      for (const button of presets) {
        button.hidden = clamp(Number(button.dataset.beta), state.beta_range) !== Number(button.dataset.beta);
      }
    }
    const s = compute(state);
    betaSlider.show(s.beta);
    field.value = short(s.beta);
    field.dataset.value = String(s.beta);
    field.removeAttribute("aria-invalid");
    for (const button of presets) button.setAttribute("aria-pressed", String(Number(button.dataset.beta) === s.beta));
    shift.show(s.shift);
    gap.show(s.gap);
    rewardTile.firstChild.textContent = s.gap > 0 ? "E[proxy]" : "E[r]";
    trueTile.hidden = overTile.hidden = !(s.gap > 0);
    showNumber(outputs.expected_reward, s.now.expected, 3);
    showNumber(outputs.expected_true_reward, s.now.expectedTrue, 3);
    showNumber(outputs.overstatement, s.now.expected - s.now.expectedTrue, 3);
    showNumber(outputs.kl, s.now.kl, 3);
    showNumber(outputs.objective, s.now.objective, 3);
    drawBars(table, s);
    drawFrontier(plot, s);
    legend.replaceChildren(
      ...(s.gap > 0 ? [html("span", { class: "rlhf-key" }), "proxy ", html("span", { class: "rlhf-key rlhf-key-true" }), "true. "] : []),
      "The line has slope β; it meets the left axis at β log Z (■).");
    const best = s.now.policy.indexOf(Math.max(...s.now.policy));
    live.say(`beta ${short(s.beta)}: expected reward ${format(s.now.expected, 3)}, ` +
      (s.gap > 0 ? `true reward ${format(s.now.expectedTrue, 3)}, ` : "") +
      `KL ${format(s.now.kl, 3)} nats, most likely ${s.labels[best]} at ${format(s.now.policy[best], 4)}.`);
    drawn = true;
  };
  const unfollow = follow(model, STATE, draw);
  return () => { unfollow(); live.stop(); };
}

export default { render };
