// The sample explorer. Recorded samples: the numbers first, as pure functions; then what draws them.

const Z = 1.96; // standard errors each side of a 95 % interval

function wilson(count, n) {
  const share = count / n;
  const centre = share + (Z * Z) / (2 * n);
  const reach = Z * Math.sqrt((share * (1 - share)) / n + (Z * Z) / (4 * n * n));
  const scale = 1 + (Z * Z) / n;
  return [Math.max(0, (centre - reach) / scale), Math.min(1, (centre + reach) / scale)];
}

function problem(state) {
  const { prompts, stages, temperatures, styles, prompt, stage, temperature } = state;
  const lists = Object.entries({ prompts, stages, temperatures, styles });
  const recorded = ", which were recorded";
  return (
    firstWrong(lists, ([name, values]) => wrongEmpty(name, values, "recorded samples")) ??
    wrongWhole("prompt", prompt, [0, prompts.length - 1]) ??
    wrongChoice("stage", stage, stages, recorded) ??
    wrongChoice("temperature", temperature, temperatures, recorded) ??
    firstWrong(stages, (_, s) => firstWrong(temperatures, (_, t) => wrongSamples(state, s, t)))
  );
}

// What is wrong with the samples of one stage at one temperature.
function wrongSamples({ prompts, stages, temperatures, styles, replies, counts, totals }, s, t) {
  const where = `of stage ${stages[s]} at temperature ${temperatures[t]}`;
  const total = totals?.[s]?.[t];
  const count = counts?.[s]?.[t];
  const [n, asked, mean, deviation] = total ?? [];
  const isReply = (reply) =>
    typeof reply?.[0] === "string" && styles[reply[1]] !== undefined && Number.isFinite(reply[2]);
  const wrongReplies = (_, p) => {
    const some = replies?.[p]?.[s]?.[t];
    return unless(
      Array.isArray(some) && some.length > 0 && some.every(isReply),
      `replies to prompt ${p} ${where} are missing; expected text, style and gold of each`,
    );
  };
  return (
    unless(
      n >= 1 && asked >= 0 && asked <= n && Number.isFinite(mean) && deviation >= 0,
      `totals ${where} are ${JSON.stringify(total)}; expected n, asked, mean and deviation`,
    ) ??
    unless(
      Array.isArray(count) &&
        count.length === styles.length &&
        count.every((c) => c >= 0) &&
        sum(count) === n,
      `counts ${where} are ${JSON.stringify(count)}; expected ${styles.length} that sum to ${n}`,
    ) ??
    firstWrong(prompts, wrongReplies)
  );
}

// Everything on display, from the state of the model.
function compute(state) {
  const { stages, temperatures, styles, counts, totals } = state;
  const s = stages.indexOf(state.stage);
  const t = temperatures.indexOf(state.temperature);
  const plain = Math.max(0, temperatures.indexOf(1));
  const shares = (i, j) => counts[i][j].map((count) => count / totals[i][j][0]);
  const [n, asked, gold, deviation] = totals[s][t];
  return {
    ...state,
    n,
    gold,
    margin: (Z * deviation) / Math.sqrt(n),
    asked: asked / n,
    askedInterval: wilson(asked, n),
    shares: shares(s, t),
    intervals: counts[s][t].map((count) => wilson(count, n)),
    before: shares(0, plain),
    plain: temperatures[plain],
    // one scale for all settings, so that bars can be compared from one to the next
    widest: Math.max(...stages.flatMap((_, i) => temperatures.flatMap((_, j) => shares(i, j)))),
    shown: state.replies[state.prompt][s][t].map(([reply, style, value]) => [reply, styles[style], value]),
  };
}

const between = ([low, high]) => `${(100 * low).toFixed(0)}–${(100 * high).toFixed(0)} %`;

// ---------------------------------------------------------------- the parts

function drawReplies(list, s) {
  const entry = ([reply, style, value]) => {
    const gold = html("span", { class: "rlhf-reply-gold" });
    showText(gold, `gold ${format(value, 2)}`, value);
    return html(
      "li",
      { class: "rlhf-reply" },
      html("span", { class: "rlhf-reply-head" }, html("span", { class: "rlhf-reply-style" }, style), gold),
      html("span", { class: "rlhf-reply-text" }, reply || "(an empty reply)"),
    );
  };
  list.replaceChildren(...s.shown.map(entry));
}

function drawMix(table, s) {
  const now = `${s.stage}, T = ${short(s.temperature)}`;
  const before = `${s.stages[0]}, T = ${short(s.plain)}`;
  const legend = html("th", { scope: "col" }, pair("rlhf-key-ref", before), " ", pair("", now));
  const rows = s.styles.map((style, i) => {
    const [low, high] = s.intervals[i];
    const share = html("td", { class: "rlhf-right rlhf-share", "data-low": low, "data-high": high });
    showText(share, percent(s.shares[i]), s.shares[i]);
    return tableRow(
      style,
      html(
        "td",
        { class: "rlhf-bar-cell", "aria-hidden": "true" },
        bar("rlhf-bar rlhf-bar-ref", s.before[i] / s.widest),
        bar("rlhf-bar", s.shares[i] / s.widest),
      ),
      share,
      html("td", { class: "rlhf-right" }, between(s.intervals[i])),
    );
  });
  fillTable(
    table,
    `Share of each style among ${s.n} samples, with its 95 % interval`,
    [column("style"), legend, numberColumn("share"), numberColumn("95 %")],
    rows,
  );
}

// ---------------------------------------------------------------- the demo

function controlsOf({ set }) {
  const prompt = select({
    control: "prompt",
    label: "request",
    onChange: (value) => set({ prompt: Number(value) }),
  });
  const stage = choices(
    "stage of training",
    (name) => [{ "data-stage": name, label: `stage ${name}` }, name],
    (name) => set({ stage: name }),
  );
  const temperature = sliderRow({
    trait: "temperature",
    name: "temperature",
    hint: "how it is sampled",
    spokenHint: "1 samples from the model itself",
    set,
  });
  const offer = whenChanged((prompts, stages, temperatures) => {
    prompt.offer(prompts.map((words, i) => [i, words]));
    stage.offer(stages);
    temperature.rescale(listed(temperatures));
  });
  return {
    elements: [
      row("request", "what is asked", prompt.element),
      row("stage", "who answers", stage.element),
      temperature.element,
    ],
    show(s) {
      offer(s.prompts, s.stages, s.temperatures);
      prompt.show(s.prompt);
      stage.show(s.stage);
      temperature.show(s.temperature);
    },
  };
}

function build(page) {
  const controls = controlsOf(page);
  const numbers = tiles(
    [
      ["gold", "gold utility, mean", "mean over the measured samples, with its 95 % interval"],
      ["asked", "did as asked", "share of the measured samples, with its 95 % interval"],
    ],
    "data-interval",
  );
  const counted = html("p", { class: "rlhf-legend" });
  const list = html("ul", { class: "rlhf-replies", "aria-label": "recorded replies" });
  const table = html("table", { class: "rlhf-bars" });
  return {
    controls: controls.elements,
    figure: [numbers.element, html("div", { class: "rlhf-panels" }, list, table), counted],
    draw(s) {
      controls.show(s);
      numbers.show("gold", s.gold, 2);
      showText(numbers.beside.gold, `± ${format(s.margin, 2)}`, s.margin);
      showText(numbers.output.asked, percent(s.asked), s.asked);
      numbers.beside.asked.textContent = between(s.askedInterval);
      drawReplies(list, s);
      drawMix(table, s);
      counted.textContent =
        `In full: ${s.shown.length} recorded replies to this request. Numbers and bars: ${s.n} other ` +
        "requests, one sample each, with 95 % intervals (normal for the mean, Wilson’s for shares).";
      return inWords(s);
    },
  };
}

function inWords(s) {
  const top = s.shares.indexOf(Math.max(...s.shares));
  return (
    `${s.stage} at temperature ${short(s.temperature)}: gold utility ${format(s.gold, 2)}, ` +
    `did as asked ${percent(s.asked)}, most often ${s.styles[top]}, ${percent(s.shares[top])}. ` +
    `First reply: ${s.shown[0][0]}`
  );
}

const STATE = [
  ...["prompts", "stages", "temperatures", "styles", "replies", "counts", "totals"],
  ...["prompt", "stage", "temperature"],
];
export default demo({
  kind: "rlhf-samples",
  state: STATE,
  problem,
  compute,
  build,
  cannot: "These samples cannot be shown",
  last: "Below are the last that could.",
});
