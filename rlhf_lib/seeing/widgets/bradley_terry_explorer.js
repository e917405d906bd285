// The Bradley–Terry explorer. The mathematics first, as pure functions; then what draws it.

const SCORE_RANGE = [-6, 6]; // of the sliders; gradient steps may leave it
const RIDGE_RANGE = [0, 2];
const MOST_ITEMS = 6;

const gamesOf = (wins) => sum(wins.flat());

// nats, summed over comparisons
const lossOf = (scores, wins, ridge = 0) =>
  sum(wins.map((won, i) => sum(won.map((w, j) => w * softplus(scores[j] - scores[i]))))) +
  (ridge / 2) * dot(scores, scores);

// wins less expected wins: the gradient of the log-likelihood
const surplusOf = (scores, wins) =>
  wins.map((won, i) =>
    won.reduce((surplus, w, j) => surplus + w - (w + wins[j][i]) * sigmoid(scores[i] - scores[j]), 0),
  );

// Items in groups, within which each lost to each directly or through others; the unbeaten ones first.
function beatenGroups(wins) {
  const items = range(wins.length);
  const reach = wins.map((won, i) => won.map((w, j) => w > 0 || i === j));
  for (const k of items) {
    for (const i of items) {
      for (const j of items) reach[i][j] = reach[i][j] || (reach[i][k] && reach[k][j]);
    }
  }
  const groups = [];
  const seen = new Set();
  for (const i of items) {
    if (seen.has(i)) continue;
    const group = items.filter((j) => reach[i][j] && reach[j][i]);
    for (const j of group) seen.add(j);
    groups.push(group);
  }
  const size = (group) => reach[group[0]].filter(Boolean).length;
  return groups.sort((a, b) => size(b) - size(a) || a[0] - b[0]);
}

function fitScores(wins, ridge) {
  const items = range(wins.length);
  const derivatives = (scores) => {
    // 1/n pins the mean, which the data leave free
    const hessian = wins.map((won) => won.map(() => 1 / wins.length));
    for (const i of items) {
      for (const j of items) {
        const p = sigmoid(scores[i] - scores[j]);
        const weight = (wins[i][j] + wins[j][i]) * p * (1 - p);
        hessian[i][i] += weight + (i === j ? ridge : 0);
        hessian[i][j] -= weight;
      }
    }
    return { hessian, gradient: penalized(scores, wins, ridge) };
  };
  return newton(Array(wins.length).fill(0), derivatives, (scores) => lossOf(scores, wins, ridge));
}

// The gradient of the log-likelihood less the ridge's penalty.
const penalized = (scores, wins, ridge) => surplusOf(scores, wins).map((g, i) => g - ridge * scores[i]);

function climb(scores, wins, ridge, steps) {
  const games = Math.max(1, gamesOf(wins));
  let now = scores;
  for (let step = 0; step < steps; step++) {
    const gradient = penalized(now, wins, ridge);
    now = now.map((s, i) => s + gradient[i] / games);
  }
  return now;
}

function problem({ labels, wins, scores, ridge }) {
  const n = wins?.length;
  if (!Array.isArray(wins) || n < 2 || n > MOST_ITEMS) {
    return `wins has ${n} items; expected 2 to ${MOST_ITEMS}`;
  }
  const square = wins.every((won) => Array.isArray(won) && won.length === n);
  const own = wins.findIndex((won, i) => won?.[i] !== 0);
  return (
    unless(square, `wins is not square; expected (${n}, ${n})`) ??
    unless(
      wins.flat().every((w) => Number.isInteger(w) && w >= 0),
      "wins has an entry that is negative or not finite; expected counts",
    ) ??
    unless(own < 0, `wins[${own}] counts an item against itself; expected zeros on the diagonal`) ??
    wrongLength("labels", labels, n, "as wins has") ??
    wrongLength("scores", scores, n, "as wins has") ??
    unless(scores.every(Number.isFinite), `scores is ${scores}; expected finite numbers`) ??
    wrongSetting("ridge", ridge, RIDGE_RANGE)
  );
}

// Everything on display. A ridge beyond its range is clamped, as in Python.
function compute(state) {
  const { wins, scores } = state;
  const ridge = clamp(state.ridge, RIDGE_RANGE);
  const games = gamesOf(wins);
  const groups = beatenGroups(wins);
  const fit = ridge > 0 || groups.length === 1 ? fitScores(wins, ridge) : null;
  const mean = (points) => lossOf(points, wins) / Math.max(1, games);
  return {
    ...state,
    ridge,
    games,
    groups,
    fit,
    surplus: surplusOf(scores, wins),
    loss: mean(scores),
    fitLoss: fit && mean(fit),
  };
}

// ---------------------------------------------------------------- the curve

const PLOT = { width: 340, height: 230, left: 36, right: 328, top: 22, bottom: 190 };
const GAPS = [-2, 8];

// One dot a pair: how far apart the scores are, and how often the upper one really won.
function drawCurve(plot, s) {
  const { height, left, right, top, bottom } = PLOT;
  const across = linear(GAPS, [left, right]);
  const x = (gap) => across(clamp(gap, GAPS));
  const y = linear([0, 1], [bottom, top]);
  const marks = [-2, 0, 2, 4, 6, 8];
  const pairs = pairsOf(s);
  drawInto(
    plot,
    "Share of wins against the gap in score: the curve is the model, each dot a pair. " +
      `The loss is ${format(s.loss, 3)} nats a comparison.`,
    xGrid(x, marks, [top, bottom]),
    xNumbers(x, marks, bottom + 15),
    yAxis(y, [0, 0.5, 1], [left, right]),
    axisTitle([(left + right) / 2, height - 6], "middle", "gap in score, upper − lower"),
    axisTitle([left, top - 7], "start", "share of wins"),
    curve(
      "rlhf-curve",
      range(101).map((i) => [x(-2 + i / 10), y(sigmoid(-2 + i / 10))]),
    ),
    pairs.map((one) => pairMarks(one, x, y)),
    pairNames(s.labels, pairs, x, y),
  );
}

// The pairs that were compared, each with the item of the higher score as `up`.
function pairsOf({ scores, wins }) {
  const items = range(scores.length);
  return items.flatMap((i) =>
    items.slice(i + 1).flatMap((j) => {
      const games = wins[i][j] + wins[j][i];
      const [up, low] = scores[i] >= scores[j] ? [i, j] : [j, i];
      return games ? [{ up, low, games, gap: scores[up] - scores[low], share: wins[up][low] / games }] : [];
    }),
  );
}

const pairMarks = ({ up, low, games, gap, share }, x, y) => [
  line("rlhf-ceiling", [x(gap), y(share)], [x(gap), y(sigmoid(gap))]),
  circle("rlhf-dot rlhf-dot-true", [x(gap), y(share)], 3 + Math.min(5, Math.sqrt(games)), {
    "data-pair": `${up}-${low}`,
    "data-gap": gap,
    "data-share": share,
  }),
];

// Names on the side away from the curve, where there is room. Pairs at one place share a label.
function pairNames(labels, pairs, x, y) {
  const places = [];
  for (const { up, low, gap, share } of pairs) {
    const [left, top] = [x(gap), y(share)];
    const name = `${labels[up]}>${labels[low]}`;
    const near = places.find((one) => Math.hypot(one.left - left, one.top - top) < 12);
    if (near) near.names.push(name);
    else places.push({ left, top, above: share > sigmoid(gap), names: [name] });
  }
  return places.map(({ left, top, above, names }) => {
    const words = names.join(", ");
    const wide = 5.8 * words.length;
    const leftward = above ? left - 10 - wide > PLOT.left : left + 10 + wide > PLOT.width;
    const place = [leftward ? left - 10 : left + 10, above ? top - 2 : top + 15];
    return text("rlhf-tick", place, leftward ? "end" : "start", words);
  });
}

// ---------------------------------------------------------------- the controls

const reading = (name, kind = "rlhf-setting") => html("output", { class: kind, "data-name": name });

// One row an item: its score to move, its surplus and its fit.
function itemsOf({ model, set }) {
  const element = html("div", { class: "rlhf-items" });
  let rows = [];
  const rowOf = (label, i) => {
    const control = slider({
      name: `score-${i}`,
      label: `score of ${label}`,
      hint: "in log-odds",
      scale: inSteps(SCORE_RANGE, 0.05),
      describe: (value) => format(value, 2),
      onChange: (value) => set({ scores: model.get("scores").map((old, k) => (k === i ? value : old)) }),
    });
    const own = reading(`score-${i}`);
    const surplus = html("span", { class: "rlhf-surplus", "data-name": `surplus-${i}` });
    const fit = html("span", { class: "rlhf-fit", "data-name": `fit-${i}` });
    const name = html("span", { class: "rlhf-item-name" }, label);
    const parts = [name, control.element, own, surplus, fit];
    return {
      control,
      own,
      surplus,
      fit,
      element: html("div", { class: "rlhf-control rlhf-item" }, ...parts),
    };
  };
  return {
    element,
    offer(labels) {
      rows = labels.map(rowOf);
      element.replaceChildren(...rows.map((one) => one.element));
    },
    show(s) {
      for (const [i, { control, own, surplus, fit }] of rows.entries()) {
        control.show(s.scores[i]);
        showNumber(own, s.scores[i], 2);
        showNumber(surplus, s.surplus[i], 2);
        showFit(fit, s.fit?.[i], 2);
      }
    },
  };
}

const showFit = (output, value, digits) =>
  value === undefined ? showText(output, "none", "") : showNumber(output, value, digits);

// Wins of each over each: a press adds one.
function tableOf({ model }, setWins) {
  const element = html("table", { class: "rlhf-bars rlhf-wins" });
  let cells = [];
  const add = (i, j) =>
    setWins(model.get("wins").map((won, a) => won.map((w, b) => (a === i && b === j ? w + 1 : w))));
  const cellOf = (i, j) => {
    if (i === j) return html("td", { class: "rlhf-none" }, "·");
    const names = { control: `win-${i}-${j}`, class: "rlhf-button rlhf-win" };
    const press = button(names, "", () => add(i, j));
    cells.push({ i, j, press });
    return html("td", {}, press);
  };
  return {
    element,
    offer(labels) {
      cells = [];
      fillTable(
        element,
        "Row preferred to column: press to add one comparison",
        [column("preferred ↓ to →"), ...labels.map((label) => column(label))],
        labels.map((label, i) => tableRow(label, ...labels.map((_, j) => cellOf(i, j)))),
      );
    },
    show({ labels, scores, wins }) {
      for (const { i, j, press } of cells) {
        const p = sigmoid(scores[i] - scores[j]);
        press.dataset.value = String(p);
        press.replaceChildren(html("b", {}, String(wins[i][j])), html("small", {}, format(p, 2)));
        const said =
          `${labels[i]} preferred to ${labels[j]}: ${wins[i][j]} times, ` +
          `probability ${format(p, 2)}. Press to add one.`;
        attribute(press, "aria-label", said);
      }
    },
  };
}

// Ways to move all scores at once.
function movesOf({ model, read, set }) {
  const move = (steps) => () => {
    const { scores, wins, ridge } = read();
    set({ scores: climb(scores, wins, clamp(ridge, RIDGE_RANGE), steps) });
  };
  const names = (steps) => ({ control: `steps-${steps}`, label: `${steps} gradient steps` });
  const steps = [1, 10, 100].map((count) => button(names(count), `${count}`, move(count)));
  const toFit = button({ control: "fit", label: "set the scores to the fit" }, "to the fit", () => {
    const { fit } = compute(read());
    if (fit) set({ scores: fit });
  });
  const zero = button({ control: "zero", label: "set all scores to 0" }, "to 0", () =>
    set({ scores: model.get("scores").map(() => 0) }),
  );
  const words = html("span", { class: "rlhf-word" }, "gradient steps:");
  return {
    element: html(
      "div",
      { class: "rlhf-control" },
      buttons(null, words, ...steps),
      buttons(null, toFit, zero),
    ),
    show({ fit }) {
      toFit.disabled = !fit;
    },
  };
}

// The table with what exchanges it, and a way back.
function comparisonsOf(page) {
  const { model, set } = page;
  const history = [];
  const setWins = (wins, more = {}) => {
    history.push(model.get("wins"));
    set({ wins, ...more });
  };
  const table = tableOf(page, setWins);
  const undo = button({ control: "undo", label: "take the last change of the table back" }, "undo", () => {
    if (history.length) set({ wins: history.pop() });
  });
  const clear = button({ control: "clear", label: "remove all comparisons" }, "clear", () =>
    setWins(model.get("wins").map((won) => won.map(() => 0))),
  );
  const presets = choices(
    null,
    ([name]) => [{ control: `preset-${name}`, label: `the table “${name}”` }, name],
    ([, wins]) => setWins(wins, { scores: wins.map(() => 0) }),
  );
  return {
    elements: [
      table.element,
      html("div", { class: "rlhf-control" }, buttons(null, undo, clear), presets.element),
    ],
    offer(labels, tables) {
      table.offer(labels);
      presets.offer(tables ?? []);
    },
    show(s) {
      table.show(s);
      undo.disabled = history.length === 0;
    },
  };
}

function ridgeOf({ set }) {
  const control = slider({
    name: "ridge",
    label: "ridge",
    hint: "strength of the prior",
    scale: inSteps(RIDGE_RANGE, 0.05),
    describe: (value) => `ridge ${short(value)}`,
    onChange: (value) => set({ ridge: value }),
  });
  const output = reading("ridge");
  const name = html("span", { class: "rlhf-item-name rlhf-wide" }, "ridge λ");
  return {
    element: html("div", { class: "rlhf-control rlhf-line" }, name, control.element, output),
    show(ridge) {
      control.show(ridge);
      showNumber(output, ridge, 2);
    },
  };
}

// ---------------------------------------------------------------- the demo

function statusOf({ groups, labels, fit }) {
  if (groups.length === 1) {
    return "However the items are divided, each side has lost to the other: the fit is finite.";
  }
  const unbeaten = groups[0].map((i) => labels[i]).join(", ");
  const follows = fit ? "finite by the ridge alone." : "no finite fit. The best gap is infinite.";
  return `{${unbeaten}} never lost to another item: ${follows}`;
}

function build(page) {
  const items = itemsOf(page);
  const moves = movesOf(page);
  const comparisons = comparisonsOf(page);
  const ridge = ridgeOf(page);
  const numbers = tiles([
    ["loss", "loss of your scores", "nats per comparison"],
    ["fit_loss", "loss of the fit", "nats per comparison, without the ridge"],
    ["games", "comparisons", "how many there are"],
  ]);
  const surplus = html("span", { title: "wins less expected wins" }, "surplus");
  const heads = [html("span", {}, "score"), surplus, html("span", {}, "fit")];
  const status = html("p", { class: "rlhf-legend rlhf-status", "data-name": "status" });
  const plot = picture(PLOT.width, PLOT.height);
  const legend = [key(), "the model, σ(gap)  ", key("rlhf-key-true"), "a pair, as compared"];
  const left = [...comparisons.elements, ridge.element, status];
  const right = [plot, html("p", { class: "rlhf-legend" }, ...legend)];
  const panels = [
    html("div", { class: "rlhf-table-place" }, ...left),
    html("div", { class: "rlhf-plot-place" }, ...right),
  ];
  const offer = whenChanged((labels, presets) => {
    items.offer(labels);
    comparisons.offer(labels, presets);
  });
  return {
    figure: [
      html("div", { class: "rlhf-heads" }, ...heads),
      items.element,
      moves.element,
      numbers.element,
      html("div", { class: "rlhf-panels" }, ...panels),
    ],
    draw(s) {
      offer(s.labels, s.presets);
      for (const one of [items, moves, comparisons]) one.show(s);
      ridge.show(s.ridge);
      numbers.show("loss", s.loss, 3);
      numbers.show("games", s.games, 0);
      showFit(numbers.output.fit_loss, s.fit ? s.fitLoss : undefined, 3);
      status.textContent = statusOf(s);
      drawCurve(plot, s);
      const ofFit = s.fit ? `, of the fit ${format(s.fitLoss, 3)}.` : ". No finite fit.";
      return `Loss ${format(s.loss, 3)} nats a comparison${ofFit}`;
    },
  };
}

const STATE = ["labels", "wins", "scores", "ridge", "presets"];
export default demo({ kind: "rlhf-bt", state: STATE, problem, compute, build });
