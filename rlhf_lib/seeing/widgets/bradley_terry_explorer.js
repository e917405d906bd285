// The Bradley–Terry explorer. The mathematics first, as pure functions; then what draws it.

const total = (wins) => wins.flat().reduce((a, b) => a + b, 0);

// nats, summed over comparisons
const lossOf = (scores, wins, ridge = 0) => wins.reduce((sum, row, i) =>
  sum + row.reduce((part, w, j) => part + w * softplus(scores[j] - scores[i]), 0), 0) +
  (ridge / 2) * scores.reduce((sum, s) => sum + s * s, 0);

// wins less expected wins: the gradient of the log-likelihood
const surplusOf = (scores, wins) => wins.map((row, i) => row.reduce((sum, w, j) =>
  sum + w - (w + wins[j][i]) * sigmoid(scores[i] - scores[j]), 0));

// Items in groups, within which each lost to each directly or through others; the unbeaten ones first.
function beatenGroups(wins) {
  const n = wins.length;
  const reach = wins.map((row, i) => row.map((w, j) => w > 0 || i === j));
  for (let k = 0; k < n; k++) for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
    reach[i][j] = reach[i][j] || (reach[i][k] && reach[k][j]);
  }
  const groups = [], seen = new Set();
  for (let i = 0; i < n; i++) {
    if (seen.has(i)) continue;
    const group = reach[i].map((_, j) => j).filter((j) => reach[i][j] && reach[j][i]);
    group.forEach((j) => seen.add(j));
    groups.push(group);
  }
  const size = (group) => reach[group[0]].filter(Boolean).length;
  return groups.sort((a, b) => size(b) - size(a) || a[0] - b[0]);
}

function fitScores(wins, ridge) {
  const n = wins.length;
  const derivatives = (scores) => {
    const hessian = wins.map((row) => row.map(() => 1 / n)); // pins the mean, which the data leave free
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
      const p = sigmoid(scores[i] - scores[j]);
      const weight = (wins[i][j] + wins[j][i]) * p * (1 - p);
      hessian[i][i] += weight + (i === j ? ridge : 0);
      hessian[i][j] -= weight;
    }
    return { hessian, gradient: surplusOf(scores, wins).map((g, i) => g - ridge * scores[i]) };
  };
  return newton(Array(n).fill(0), derivatives, (scores) => lossOf(scores, wins, ridge));
}

// What is wrong with a state, in the words of the Python side; null if nothing is.
function problem({ labels, wins, scores, ridge }) {
  if (!Array.isArray(wins) || wins.length < 2 || wins.length > 6) return `wins has ${wins?.length} items; expected 2 to 6`;
  const n = wins.length;
  if (!wins.every((row) => Array.isArray(row) && row.length === n)) return `wins is not square; expected (${n}, ${n})`;
  if (!wins.flat().every((w) => Number.isInteger(w) && w >= 0)) return "wins has an entry that is negative or not finite; expected counts";
  const own = wins.findIndex((row, i) => row[i] !== 0);
  if (own >= 0) return `wins[${own}] counts an item against itself; expected zeros on the diagonal`;
  for (const [name, values] of Object.entries({ labels, scores })) {
    if (!Array.isArray(values) || values.length !== n) return `${name} has ${values?.length} entries; expected ${n}, as wins has`;
  }
  if (!scores.every(Number.isFinite)) return `scores is ${scores}; expected finite numbers`;
  if (typeof ridge !== "number" || !Number.isFinite(ridge)) return `ridge is ${ridge}; expected a number from 0 to 2`;
  return null;
}

const RIDGE_RANGE = [0, 2];

function compute(state) {
  const ridge = clamp(state.ridge, RIDGE_RANGE);
  const games = total(state.wins), groups = beatenGroups(state.wins);
  const fit = ridge > 0 || groups.length === 1 ? fitScores(state.wins, ridge) : null;
  return {
    ...state, ridge, games, groups, fit, surplus: surplusOf(state.scores, state.wins),
    loss: lossOf(state.scores, state.wins) / Math.max(1, games),
    fitLoss: fit && lossOf(fit, state.wins) / Math.max(1, games),
  };
}

// ---------------------------------------------------------------- the curve

const PLOT = { width: 340, height: 230, left: 36, right: 12, top: 22, bottom: 40 };

// One dot a pair: how far apart the scores are, and how often the upper one really won.
function drawCurve(plot, s) {
  const { width, height, left, right, top, bottom } = PLOT;
  const X = (gap) => left + ((width - left - right) * (clamp(gap, [-2, 8]) + 2)) / 10;
  const Y = (p) => height - bottom - (height - top - bottom) * p;
  const text = (x, y, anchor, kind, words) => svg("text", { x, y, "text-anchor": anchor, class: kind }, words);
  const parts = [];
  for (let gap = -2; gap <= 8; gap += 2) {
    parts.push(svg("line", { class: "rlhf-grid", x1: X(gap), x2: X(gap), y1: top, y2: height - bottom }));
    parts.push(text(X(gap), height - bottom + 15, "middle", "rlhf-tick", short(gap)));
  }
  for (const p of [0, 0.5, 1]) {
    parts.push(svg("line", { class: "rlhf-grid", x1: left, x2: width - right, y1: Y(p), y2: Y(p) }));
    parts.push(text(left - 6, Y(p) + 4, "end", "rlhf-tick", short(p)));
  }
  parts.push(text((left + width - right) / 2, height - 6, "middle", "rlhf-axis", "gap in score, upper − lower"));
  parts.push(text(left, top - 7, "start", "rlhf-axis", "share of wins"));
  const curve = Array.from({ length: 101 }, (_, i) => -2 + i / 10);
  parts.push(svg("path", { class: "rlhf-curve",
    d: curve.map((gap, i) => `${i ? "L" : "M"}${X(gap).toFixed(2)},${Y(sigmoid(gap)).toFixed(2)}`).join("") }));
  const named = []; // pairs at one place share a label
  for (let i = 0; i < s.labels.length; i++) for (let j = i + 1; j < s.labels.length; j++) {
    const games = s.wins[i][j] + s.wins[j][i];
    if (!games) continue;
    const [up, low] = s.scores[i] >= s.scores[j] ? [i, j] : [j, i];
    const gap = s.scores[up] - s.scores[low], share = s.wins[up][low] / games;
    parts.push(svg("line", { class: "rlhf-ceiling", x1: X(gap), x2: X(gap), y1: Y(share), y2: Y(sigmoid(gap)) }));
    parts.push(svg("circle", { class: "rlhf-dot rlhf-dot-true", cx: X(gap), cy: Y(share),
      r: 3 + Math.min(5, Math.sqrt(games)), "data-pair": `${up}-${low}`, "data-gap": gap, "data-share": share }));
    const name = `${s.labels[up]}>${s.labels[low]}`;
    const near = named.find((one) => Math.hypot(one.x - X(gap), one.y - Y(share)) < 12);
    if (near) near.names.push(name);
    else named.push({ x: X(gap), y: Y(share), above: share > sigmoid(gap), names: [name] });
  }
  for (const { x, y, above, names } of named) { // on the side away from the curve, where there is room
    const words = names.join(", "), wide = 5.8 * words.length;
    const leftward = above ? x - 10 - wide > left : x + 10 + wide > width;
    parts.push(text(leftward ? x - 10 : x + 10, above ? y - 2 : y + 15, leftward ? "end" : "start", "rlhf-tick", words));
  }
  plot.replaceChildren(...parts);
  plot.setAttribute("aria-label", "Share of wins against the gap in score: the curve is the model, each dot a pair. " +
    `The loss is ${format(s.loss, 3)} nats a comparison.`);
}

// ---------------------------------------------------------------- the demo

const STATE = ["labels", "wins", "scores", "ridge", "presets"];

function render({ model, el }) {
  const read = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  const set = (update) => {
    for (const [name, value] of Object.entries(update)) model.set(name, value);
    model.save_changes();
  };
  const message = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  const live = announcer();
  const history = []; // tables before, for undo
  const setWins = (wins) => {
    history.push(model.get("wins"));
    set({ wins });
  };
  const button = (name, words, label, act) => {
    const element = html("button", { type: "button", class: "rlhf-button", "data-control": name, "aria-label": label }, words);
    element.addEventListener("click", act);
    return element;
  };

  // scores: one row an item, built once for a number of items
  const items = html("div", { class: "rlhf-items" });
  let rows = [];
  const build = (s) => {
    rows = s.labels.map((label, i) => {
      const control = slider({ name: `score-${i}`, label: `score of ${label}`, hint: "in log-odds",
        positions: [-120, 120], toValue: (p) => p / 20, toPosition: (v) => clamp(v * 20, [-120, 120]),
        describe: (v) => format(v, 2),
        onChange: (v) => set({ scores: model.get("scores").map((old, k) => (k === i ? v : old)) }) });
      const own = html("output", { class: "rlhf-setting", "data-name": `score-${i}` });
      const fit = html("span", { class: "rlhf-fit", "data-name": `fit-${i}` });
      const surplus = html("span", { class: "rlhf-surplus", "data-name": `surplus-${i}` });
      return { control, own, fit, surplus, element: html("div", { class: "rlhf-control rlhf-item" },
        html("span", { class: "rlhf-item-name" }, label), control.element, own, surplus, fit) };
    });
    items.replaceChildren(...rows.map((row) => row.element));
  };

  const table = html("table", { class: "rlhf-bars rlhf-wins" });
  const buildTable = (s) => {
    const cells = s.wins.map((row, i) => row.map((_, j) => {
      if (i === j) return html("td", { class: "rlhf-none" }, "·");
      const add = html("button", { type: "button", class: "rlhf-button rlhf-win", "data-control": `win-${i}-${j}` });
      add.addEventListener("click", () => setWins(model.get("wins").map((r, a) =>
        r.map((w, b) => (a === i && b === j ? w + 1 : w)))));
      return html("td", {}, add);
    }));
    table.replaceChildren(
      html("caption", { class: "rlhf-hidden" }, "Row preferred to column: press to add one comparison"),
      html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "preferred ↓ to →"),
        ...s.labels.map((label) => html("th", { scope: "col" }, label)))),
      html("tbody", {}, ...cells.map((row, i) => html("tr", {}, html("th", { scope: "row" }, s.labels[i]), ...row))));
  };

  const ridge = slider({ name: "ridge", label: "ridge", hint: "strength of the prior", positions: [0, 40],
    toValue: (p) => p / 20, toPosition: (v) => v * 20, describe: (v) => `ridge ${short(v)}`,
    onChange: (v) => set({ ridge: v }) });
  const ridgeOut = html("output", { class: "rlhf-setting", "data-name": "ridge" });
  const steps = (count) => () => {
    let scores = [...model.get("scores")];
    const wins = model.get("wins"), lambda = clamp(model.get("ridge"), RIDGE_RANGE);
    const games = Math.max(1, total(wins));
    for (let k = 0; k < count; k++) {
      const gradient = surplusOf(scores, wins).map((g, i) => g - lambda * scores[i]);
      scores = scores.map((s, i) => s + gradient[i] / games);
    }
    set({ scores });
  };
  const toFit = button("fit", "to the fit", "set the scores to the fit", () => {
    const { fit } = compute(read());
    if (fit) set({ scores: fit });
  });
  const undo = button("undo", "undo", "take the last change of the table back", () => {
    if (history.length) set({ wins: history.pop() });
  });
  const presetPlace = html("span", { class: "rlhf-buttons" });

  const outputs = {};
  const tile = (name, label, title) => {
    outputs[name] = html("output", { "data-name": name });
    return html("div", { class: "rlhf-tile", title }, html("span", {}, label), outputs[name]);
  };
  const numbers = html("div", { class: "rlhf-tiles" },
    tile("loss", "loss of your scores", "nats per comparison"),
    tile("fit_loss", "loss of the fit", "nats per comparison, without the ridge"),
    tile("games", "comparisons", "how many there are"));
  const status = html("p", { class: "rlhf-legend rlhf-status", "data-name": "status" });
  const plot = svg("svg", { class: "rlhf-plot", viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img" });
  const figure = html("div", { class: "rlhf-figure" },
    html("div", { class: "rlhf-heads" }, html("span", {}, "score"), html("span", { title: "wins less expected wins" }, "surplus"), html("span", {}, "fit")),
    items,
    html("div", { class: "rlhf-control" },
      html("span", { class: "rlhf-buttons" }, html("span", { class: "rlhf-word" }, "gradient steps:"),
        ...[1, 10, 100].map((n) => button(`steps-${n}`, `${n}`, `${n} gradient steps`, steps(n)))),
      html("span", { class: "rlhf-buttons" }, toFit,
        button("zero", "to 0", "set all scores to 0", () => set({ scores: model.get("scores").map(() => 0) })))),
    numbers,
    html("div", { class: "rlhf-panels" },
      html("div", { class: "rlhf-table-place" }, table,
        html("div", { class: "rlhf-control" }, html("span", { class: "rlhf-buttons" }, undo,
          button("clear", "clear", "remove all comparisons", () => setWins(model.get("wins").map((r) => r.map(() => 0))))),
          presetPlace),
        html("div", { class: "rlhf-control rlhf-line" },
          html("span", { class: "rlhf-item-name rlhf-wide" }, "ridge λ"), ridge.element, ridgeOut), status),
      html("div", { class: "rlhf-plot-place" }, plot,
        html("p", { class: "rlhf-legend" }, html("span", { class: "rlhf-key" }), "the model, σ(gap)  ",
          html("span", { class: "rlhf-key rlhf-key-true" }), "a pair, as compared"))));

  el.classList.add("rlhf-demo", "rlhf-bt");
  el.append(message, figure, live.element);

  let built = "", drawn = false;
  const draw = () => {
    const state = read();
    const wrong = problem(state);
    figure.hidden = Boolean(wrong) && !drawn;
    figure.classList.toggle("rlhf-stale", Boolean(wrong));
    message.hidden = !wrong;
    message.textContent = wrong
      ? `This figure cannot be drawn: ${wrong}.` + (drawn ? " Below is the last state that could." : "") : "";
    if (wrong) return;
    const s = compute(state);
    if (built !== s.labels.join("\n")) {
      build(s);
      buildTable(s);
      presetPlace.replaceChildren(...(s.presets ?? []).map(([name, wins]) =>
        button(`preset-${name}`, name, `the table “${name}”`, () => { setWins(wins); set({ scores: wins.map(() => 0) }); })));
      built = s.labels.join("\n");
    }
    rows.forEach((row, i) => {
      row.control.show(s.scores[i]);
      showNumber(row.own, s.scores[i], 2);
      showNumber(row.surplus, s.surplus[i], 2);
      row.fit.dataset.value = s.fit ? String(s.fit[i]) : "";
      row.fit.textContent = s.fit ? format(s.fit[i], 2) : "none";
    });
    for (const cell of table.querySelectorAll(".rlhf-win")) {
      const [, i, j] = cell.dataset.control.split("-").map(Number);
      const p = sigmoid(s.scores[i] - s.scores[j]);
      cell.dataset.value = String(p);
      cell.replaceChildren(html("b", {}, String(s.wins[i][j])), html("small", {}, format(p, 2)));
      cell.setAttribute("aria-label", `${s.labels[i]} preferred to ${s.labels[j]}: ${s.wins[i][j]} times, ` +
        `probability ${format(p, 2)}. Press to add one.`);
    }
    ridge.show(s.ridge);
    showNumber(ridgeOut, s.ridge, 2);
    showNumber(outputs.loss, s.loss, 3);
    showNumber(outputs.games, s.games, 0);
    if (s.fit) showNumber(outputs.fit_loss, s.fitLoss, 3);
    else { outputs.fit_loss.textContent = "none"; outputs.fit_loss.dataset.value = ""; }
    toFit.disabled = !s.fit;
    undo.disabled = history.length === 0;
    const names = (group) => `{${group.map((i) => s.labels[i]).join(", ")}}`;
    status.textContent = s.groups.length === 1 ? "However the items are divided, each side has lost to the other: the fit is finite."
      : `${names(s.groups[0])} never lost to another item: ` +
        (s.fit ? "finite by the ridge alone." : "no finite fit. The best gap is infinite.");
    drawCurve(plot, s);
    live.say(`Loss ${format(s.loss, 3)} nats a comparison` + (s.fit ? `, of the fit ${format(s.fitLoss, 3)}.` : ". No finite fit."));
    drawn = true;
  };
  const unfollow = follow(model, STATE, draw);
  return () => { unfollow(); live.stop(); };
}

export default { render };
