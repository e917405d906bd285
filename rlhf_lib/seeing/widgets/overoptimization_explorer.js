// The over-optimisation explorer. The fit first, as pure functions; then what draws it.

const Z = 1.96; // standard errors each side of a 95 % interval
// quantile .975 of Student's t, for 1 to 10 degrees of freedom, as in Python's STUDENT
const STUDENT = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

// What alpha and beta are multiplied by; d log d is 0 at 0.
const TERMS = {
  best_of_n: (d) => [d, -d * d],
  rl: (d) => [d, d > 0 ? -d * Math.log(d) : 0],
};
const gain = (form, d, [alpha, beta]) => TERMS[form](d)[0] * alpha + TERMS[form](d)[1] * beta;

// Least squares for two coefficients, by the normal equations.
function fitForm(form, distances, gains) {
  let [aa, ab, bb, ag, bg] = [0, 0, 0, 0, 0];
  distances.forEach((d, i) => {
    const [a, b] = TERMS[form](d);
    aa += a * a; ab += a * b; bb += b * b; ag += a * gains[i]; bg += b * gains[i];
  });
  const determinant = aa * bb - ab * ab;
  return [(bb * ag - ab * bg) / determinant, (aa * bg - ab * ag) / determinant];
}

// Mean and half the 95 % interval; one run says nothing of how others would differ.
function interval(values) {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  if (values.length === 1) return [mean, null];
  const variance = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1);
  return [mean, STUDENT[values.length - 2] * Math.sqrt(variance / values.length)];
}

function peak(form, alpha, beta) {
  if (!(beta > 0)) return Infinity;
  return form === "best_of_n" ? Math.max(0, alpha / (2 * beta)) : Math.exp(alpha / beta - 1);
}

const nearest = (values, wanted) => [...new Set(values)].sort((a, b) => a - b)
  .reduce((best, v) => (Math.abs(v - wanted) < Math.abs(best - wanted) ? v : best));

// What is wrong with a state, in the words of the Python side; null if nothing is.
function problem({ runs, method, pairs, seed, point }) {
  if (!Array.isArray(runs) || runs.length === 0) return "runs is empty; expected recorded runs";
  for (const [i, run] of runs.entries()) {
    if (!TERMS[run?.form]) return `runs[${i}]['form'] is ${run?.form}; expected one of best_of_n, rl`;
    for (const key of ["d", "where", "gold", "gold_se", "proxy", "replies"]) {
      const length = Array.isArray(run[key]) ? run[key].length : 0;
      if (length !== run.d?.length) return `runs[${i}]['${key}'] has ${length} entries; expected ${run.d?.length}, one for each d`;
    }
    for (const key of ["d", "gold", "gold_se", "proxy"]) {
      const bad = run[key].find((v) => typeof v !== "number" || !Number.isFinite(v));
      if (bad !== undefined) return `runs[${i}]['${key}'] has the entry ${bad}; expected finite numbers`;
    }
    if (new Set(run.d.filter((d) => d > 0)).size < 3) return `runs[${i}]['d'] has fewer than 3 distances above 0; expected enough to fit two coefficients`;
  }
  const methods = new Set(runs.map((run) => run.method));
  if (!methods.has(method)) return `method is ${method}; expected one of ${[...methods].join(", ")}, which were recorded`;
  for (const [name, value] of Object.entries({ pairs, seed })) {
    if (!Number.isInteger(value)) return `${name} is ${value}; expected a whole number`;
  }
  const longest = Math.max(...runs.map((run) => run.d.length));
  if (!(Number.isInteger(point) && point >= 0 && point < longest)) return `point is ${point}; expected 0 to ${longest - 1}`;
  return null;
}

// Everything on display, from the state of the model.
function compute(state) {
  const ofMethod = state.runs.filter((run) => run.method === state.method);
  const pairs = nearest(ofMethod.map((run) => run.pairs), state.pairs);
  const runs = ofMethod.filter((run) => run.pairs === pairs);
  const seed = nearest(runs.map((run) => run.seed), state.seed);
  const run = runs.find((r) => r.seed === seed);
  const point = Math.min(state.point, run.d.length - 1);
  const { form } = run;
  const fits = runs.map((r) => fitForm(form, r.d, r.gold));
  const [alpha, beta] = [0, 1].map((k) => interval(fits.map((f) => f[k])));
  const fitted = (d) => interval(fits.map((f) => gain(form, d, f)));
  return {
    methods: [...new Set(state.runs.map((r) => r.method))], method: state.method,
    allPairs: [...new Set(state.runs.map((r) => r.pairs))].sort((a, b) => a - b),
    recordedPairs: new Set(ofMethod.map((r) => r.pairs)), seeds: runs.map((r) => r.seed).sort((a, b) => a - b),
    pairs, runs, seed, run, point, form, alpha, beta, fitted, d: run.d[point], where: run.where[point],
    gold: run.gold[point], margin: Z * run.gold_se[point], proxy: run.proxy[point],
    peak: peak(form, alpha[0], beta[0]), replies: run.replies[point],
    // one scale for all methods and sizes, so that curves can be compared from one to the next
    reach: Math.max(...state.runs.flatMap((r) => r.d)),
    ends: ["proxy", "gold"].map((key) => {
      const values = state.runs.flatMap((r) => r[key]);
      const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
      const pad = 0.06 * (high - low || 1);
      return [low - pad, high + pad];
    }),
  };
}

const plusMinus = ([mean, half], digits) => (half === null ? format(mean, digits) : `${format(mean, digits)} ± ${format(half, digits)}`);

// ---------------------------------------------------------------- the plots

const PLOT = { left: 40, right: 12, top: 20, gap: 30, bottom: 40, proxy: 110, gold: 190 };

function drawCurves(plot, s, width) {
  const { left, right, top, gap, bottom } = PLOT;
  const height = top + PLOT.proxy + gap + PLOT.gold + bottom;
  plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const X = (d) => left + ((width - left - right) * d) / (1.03 * s.reach);
  const text = (x, y, anchor, kind, ...children) => svg("text", { x, y, "text-anchor": anchor, class: kind }, ...children);
  const parts = [];
  const panel = (index, from, tall, key, title) => {
    const [low, high] = s.ends[index];
    const floor = from + tall;
    const Y = (value) => floor - (tall * (clamp(value, [low, high]) - low)) / (high - low);
    for (const tick of ticks(0, 1.03 * s.reach, width > 400 ? 8 : 5)) {
      parts.push(svg("line", { class: "rlhf-grid", x1: X(tick), x2: X(tick), y1: from, y2: floor }));
      if (index) parts.push(text(X(tick), floor + 15, "middle", "rlhf-tick", short(tick)));
    }
    for (const tick of ticks(low, high, tall > 150 ? 6 : 3)) {
      const kind = Math.abs(tick) < 1e-9 ? "rlhf-zero" : "rlhf-grid";
      parts.push(svg("line", { class: kind, x1: left, x2: width - right, y1: Y(tick), y2: Y(tick) }));
      parts.push(text(left - 6, Y(tick) + 4, "end", "rlhf-tick", short(tick)));
    }
    parts.push(text(left - 30, from - 7, "start", "rlhf-axis", title));
    const line = (run) => run.d.map((d, i) => `${i ? "L" : "M"}${X(d).toFixed(1)},${Y(run[key][i]).toFixed(1)}`).join("");
    if (key === "gold") {
      const grid = Array.from({ length: 81 }, (_, i) => (i / 80) * Math.max(...s.runs.flatMap((r) => r.d)));
      const band = grid.map((d) => [d, ...s.fitted(d)]);
      if (band[0][2] !== null) {
        const edge = (sign, points) => points.map(([d, mean, half]) => `${X(d).toFixed(1)},${Y(mean + sign * half).toFixed(1)}`).join("L");
        parts.push(svg("path", { class: "rlhf-band", d: `M${edge(1, band)}L${edge(-1, [...band].reverse())}Z` }));
      }
      for (const run of s.runs) if (run !== s.run) parts.push(svg("path", { class: `rlhf-run rlhf-run-${key}`, opacity: 0.35, d: line(run) }));
      const inside = band.filter(([, mean]) => mean >= low && mean <= high);
      parts.push(svg("path", { class: "rlhf-form", d: inside.map(([d, mean], i) => `${i ? "L" : "M"}${X(d).toFixed(1)},${Y(mean).toFixed(1)}`).join("") }));
      s.run.d.forEach((d, i) => parts.push(svg("line", { class: "rlhf-error", x1: X(d), x2: X(d),
        y1: Y(s.run.gold[i] - Z * s.run.gold_se[i]), y2: Y(s.run.gold[i] + Z * s.run.gold_se[i]) })));
    } else {
      for (const run of s.runs) if (run !== s.run) parts.push(svg("path", { class: `rlhf-run rlhf-run-${key}`, opacity: 0.35, d: line(run) }));
    }
    parts.push(svg("path", { class: `rlhf-run rlhf-run-chosen rlhf-run-${key}`, d: line(s.run) }));
    parts.push(svg("circle", { class: `rlhf-dot ${key === "gold" ? "rlhf-dot-true" : ""}`, "data-key": key, "data-d": s.d,
      "data-value": s[key], cx: X(s.d), cy: Y(s[key]), r: 5 }));
  };
  parts.push(svg("line", { class: "rlhf-cursor", x1: X(s.d), x2: X(s.d), y1: top, y2: height - bottom }));
  panel(0, top, PLOT.proxy, "proxy", "proxy gain (what is optimised)");
  panel(1, top + PLOT.proxy + gap, PLOT.gold, "gold", "gold gain (what was wanted)");
  parts.push(text((left + width - right) / 2, height - 6, "middle", "rlhf-axis", "√KL from the initial policy, √nats"));
  plot.replaceChildren(...parts);
  plot.setAttribute("aria-label", `Proxy and gold gain against the square root of the KL, ${s.runs.length} runs of ${s.method} with ${s.pairs} pairs. ` +
    `At ${s.where}, square root of KL ${format(s.d, 2)}: proxy ${format(s.proxy, 2)}, gold ${format(s.gold, 2)}; the fitted form gives ${format(s.fitted(s.d)[0], 2)}.`);
}

function drawReplies(list, none, s) {
  const kept = s.runs.filter((run) => run.replies.some((replies) => replies.length)).map((run) => run.seed);
  none.hidden = s.replies.length > 0;
  none.textContent = kept.length ? `The replies of run ${kept.join(", ")} can be read here; those of the others were not kept.` : "No replies were kept here.";
  list.replaceChildren(...s.replies.map(([prompt, reply, gold, proxy]) => html("li", { class: "rlhf-reply" },
    html("span", { class: "rlhf-reply-head" }, html("span", {}, prompt),
      html("span", { class: "rlhf-reply-gold" }, `gold ${format(gold, 1)}, proxy ${format(proxy, 1)}`)),
    html("span", { class: "rlhf-reply-text" }, reply || "(an empty reply)"))));
}

// ---------------------------------------------------------------- the demo

const STATE = ["runs", "method", "pairs", "seed", "point"];

function render({ model, el }) {
  const read = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  const set = (name, value) => { model.set(name, value); model.save_changes(); };
  const message = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  const note = (text) => { message.textContent = text; message.hidden = !text; };
  const live = announcer();

  const row = (label, hint, ...controls) => html("div", { class: "rlhf-control" },
    html("span", { class: "rlhf-label" }, label, html("small", {}, hint)), ...controls);
  const select = html("select", { class: "rlhf-select", "data-control": "method", "aria-label": "method", "data-lm-suppress-shortcuts": "true" });
  select.addEventListener("change", () => set("method", select.value));
  const group = (label) => html("span", { class: "rlhf-buttons", role: "group", "aria-label": label });
  const pairButtons = group("pairs the proxy was trained on"), seedButtons = group("run");
  const place = html("span", { class: "rlhf-slider-place" });
  const setting = html("output", { class: "rlhf-setting", "data-setting": "point" });
  const controls = html("div", {},
    row("method", "that optimises the proxy", select), row("pairs", "the proxy learnt from", pairButtons),
    row("run", "a seed of everything", seedButtons), row("along the run", "towards larger KL", place, setting));

  const outputs = {};
  const tile = (name, label, title, kind = "") => {
    outputs[name] = html("output", { "data-name": name });
    outputs[`${name}Margin`] = html("small", { "data-margin": name });
    return html("div", { class: `rlhf-tile ${kind}`, title }, html("span", {}, label), outputs[name], outputs[`${name}Margin`]);
  };
  const tiles = html("div", { class: "rlhf-tiles" },
    tile("d", "√KL", "square root of the KL from the initial policy"),
    tile("proxy", "proxy gain", "learned reward less that of the initial policy"),
    tile("gold", "gold gain", "gold reward less that of the initial policy, with its 95 % interval over prompts", "rlhf-tile-true"),
    tile("fitted", "fitted form", "what the form gives here: mean over the runs, and the 95 % interval of that mean"),
    tile("alpha", "α", "mean over the runs, and the 95 % interval of that mean"),
    tile("beta", "β of the form", "mean over the runs, and the 95 % interval of that mean"),
    tile("peak", "peak at √KL", "where the form of the mean coefficients is highest"));
  const plot = svg("svg", { class: "rlhf-plot", role: "img" });
  const key = (kind, text) => [html("span", { class: `rlhf-key ${kind}` }), `${text} `];
  const legend = html("p", { class: "rlhf-legend" }, ...key("", "proxy,"), ...key("rlhf-key-true", "gold with 95 % intervals over prompts; thin: the other runs."),
    ...key("rlhf-key-form", "the fitted form, shaded: the 95 % interval of its mean over runs."));
  const list = html("ul", { class: "rlhf-replies", "aria-label": "recorded replies" });
  const none = html("p", { class: "rlhf-legend rlhf-none", hidden: true });
  const figure = html("div", { class: "rlhf-figure" }, tiles,
    html("div", { class: "rlhf-panels" }, html("div", { class: "rlhf-plot-place" }, plot, legend), list, none));
  el.classList.add("rlhf-demo", "rlhf-overopt");
  el.append(controls, message, figure, live.element);

  // The letters keep their size: on a phone the plot is drawn for half the width.
  let drawn = false, drawnNarrow = false, built = {}, along = null;
  const narrow = () => el.clientWidth > 0 && el.clientWidth < 480;
  const rebuild = (name, lists, make) => {
    const text = JSON.stringify(lists);
    if (built[name] !== text) { built[name] = text; make(); }
  };
  const buttons = (place, name, values, enabled) => place.replaceChildren(...values.map((value) => {
    const button = html("button", { type: "button", class: "rlhf-button", [`data-${name}`]: value, disabled: !enabled(value),
      "aria-label": `${name} ${value}${enabled(value) ? "" : ", not recorded"}` }, String(value));
    button.addEventListener("click", () => set(name, value));
    return button;
  }));
  const draw = () => {
    drawnNarrow = narrow();
    const state = read();
    const wrong = problem(state);
    figure.hidden = controls.hidden = Boolean(wrong) && !drawn;
    figure.classList.toggle("rlhf-stale", Boolean(wrong));
    note(wrong ? `These runs cannot be shown: ${wrong}.` + (drawn ? " Below is the last state that could." : "") : "");
    if (wrong) return;
    const s = compute(state);
    rebuild("methods", s.methods, () => select.replaceChildren(...s.methods.map((name) => html("option", { value: name }, name))));
    rebuild("pairs", [s.allPairs, [...s.recordedPairs]], () => buttons(pairButtons, "pairs", s.allPairs, (v) => s.recordedPairs.has(v)));
    rebuild("seeds", s.seeds, () => buttons(seedButtons, "seed", s.seeds, () => true));
    rebuild("point", [s.run.where], () => {
      const { where } = s.run;
      along = slider({ name: "point", label: "along the run", hint: "towards larger KL", positions: [0, where.length - 1],
        toValue: (i) => i, toPosition: (i) => i, describe: (i) => where[i], onChange: (i) => set("point", i) });
      // a new slider in place of the one that is being moved must keep the focus
      const focused = place.contains(document.activeElement);
      place.replaceChildren(along.element);
      if (focused) along.element.focus();
    });
    select.value = s.method;
    for (const [place, name] of [[pairButtons, "pairs"], [seedButtons, "seed"]]) {
      for (const button of place.children) button.setAttribute("aria-pressed", String(Number(button.dataset[name]) === s[name]));
    }
    along.show(s.point);
    setting.textContent = s.where;
    setting.dataset.value = String(s.point);
    const fitted = s.fitted(s.d);
    for (const [name, value, half] of [["d", s.d, null], ["proxy", s.proxy, null], ["gold", s.gold, s.margin],
      ["fitted", ...fitted], ["alpha", ...s.alpha], ["beta", ...s.beta]]) {
      showNumber(outputs[name], value, 2);
      outputs[`${name}Margin`].textContent = half === null ? "" : `± ${format(half, 2)}`;
      outputs[`${name}Margin`].dataset.value = half === null ? "" : String(half);
    }
    outputs.peak.textContent = Number.isFinite(s.peak) ? format(s.peak, 2) : "none";
    outputs.peak.dataset.value = String(s.peak);
    outputs.dMargin.textContent = `${format(s.d * s.d, 2)} nats`;
    drawCurves(plot, s, drawnNarrow ? 340 : 640);
    drawReplies(list, none, s);
    live.say(`${s.method}, ${s.pairs} pairs, run ${s.seed}, ${s.where}: square root of KL ${format(s.d, 2)}, ` +
      `proxy gain ${format(s.proxy, 2)}, gold gain ${plusMinus([s.gold, s.margin], 2)}.` + (s.replies.length ? ` First reply: ${s.replies[0][1]}` : ""));
    drawn = true;
  };
  const unfollow = follow(model, STATE, draw);
  const resized = new ResizeObserver(() => { if (narrow() !== drawnNarrow) draw(); });
  resized.observe(el);
  return () => { unfollow(); resized.disconnect(); live.stop(); };
}

export default { render };
