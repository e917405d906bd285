// The sample explorer. Recorded samples: the numbers first, as pure functions; then what draws them.

const Z = 1.96; // standard errors each side of a 95 % interval

function wilson(count, n) {
  const share = count / n;
  const centre = share + (Z * Z) / (2 * n);
  const reach = Z * Math.sqrt((share * (1 - share)) / n + (Z * Z) / (4 * n * n));
  const scale = 1 + (Z * Z) / n;
  return [Math.max(0, (centre - reach) / scale), Math.min(1, (centre + reach) / scale)];
}

// What is wrong with a state, in the words of the Python side; null if nothing is.
function problem({ prompts, stages, temperatures, styles, replies, counts, totals, prompt, stage, temperature }) {
  const lists = { prompts, stages, temperatures, styles };
  for (const [name, values] of Object.entries(lists)) {
    if (!Array.isArray(values) || values.length === 0) return `${name} is empty; expected recorded samples`;
  }
  if (!(Number.isInteger(prompt) && prompt >= 0 && prompt < prompts.length)) {
    return `prompt is ${prompt}; expected 0 to ${prompts.length - 1}`;
  }
  for (const [name, value, recorded] of [["stage", stage, stages], ["temperature", temperature, temperatures]]) {
    if (!recorded.includes(value)) return `${name} is ${value}; expected one of ${recorded.join(", ")}, which were recorded`;
  }
  for (const [s, name] of stages.entries()) {
    for (const [t, at] of temperatures.entries()) {
      const where = `of stage ${name} at temperature ${at}`;
      const [n, asked, mean, deviation] = totals?.[s]?.[t] ?? [];
      if (!(n >= 1 && asked >= 0 && asked <= n && Number.isFinite(mean) && deviation >= 0)) {
        return `totals ${where} are ${JSON.stringify(totals?.[s]?.[t])}; expected n, asked, mean and deviation`;
      }
      const cell = counts?.[s]?.[t];
      if (!(Array.isArray(cell) && cell.length === styles.length && cell.every((c) => c >= 0)
        && cell.reduce((a, b) => a + b, 0) === n)) {
        return `counts ${where} are ${JSON.stringify(cell)}; expected ${styles.length} that sum to ${n}`;
      }
      for (const p of prompts.keys()) {
        const rows = replies?.[p]?.[s]?.[t];
        if (!(Array.isArray(rows) && rows.length && rows.every((row) =>
          typeof row?.[0] === "string" && styles[row[1]] !== undefined && Number.isFinite(row[2])))) {
          return `replies to prompt ${p} ${where} are missing; expected text, style and gold of each`;
        }
      }
    }
  }
  return null;
}

// Everything on display, from the state of the model.
function compute(state) {
  const s = state.stages.indexOf(state.stage), t = state.temperatures.indexOf(state.temperature);
  const share = (i, j) => state.counts[i][j].map((count) => count / state.totals[i][j][0]);
  const [n, asked, gold, deviation] = state.totals[s][t];
  const plain = state.temperatures.indexOf(1) < 0 ? 0 : state.temperatures.indexOf(1);
  return {
    ...state, n, gold, margin: (Z * deviation) / Math.sqrt(n), asked: asked / n, askedInterval: wilson(asked, n),
    shares: share(s, t), intervals: state.counts[s][t].map((count) => wilson(count, n)),
    before: share(0, plain), plain: state.temperatures[plain],
    widest: Math.max(...state.stages.flatMap((_, i) => state.temperatures.flatMap((_, j) => share(i, j)))),
    shown: state.replies[state.prompt][s][t].map(([text, style, value]) => ({ text, style: state.styles[style], value })),
  };
}

const percent = (value) => `${(100 * value).toFixed(0)} %`;
const between = ([low, high]) => `${(100 * low).toFixed(0)}–${(100 * high).toFixed(0)} %`;

// ---------------------------------------------------------------- the parts

function drawReplies(list, s) {
  list.replaceChildren(...s.shown.map(({ text, style, value }) => {
    const gold = html("span", { class: "rlhf-reply-gold" });
    gold.dataset.value = String(value);
    gold.textContent = `gold ${format(value, 2)}`;
    return html("li", { class: "rlhf-reply" },
      html("span", { class: "rlhf-reply-head" }, html("span", { class: "rlhf-reply-style" }, style), gold),
      html("span", { class: "rlhf-reply-text" }, text || "(an empty reply)"));
  }));
}

function drawMix(table, s) {
  // One scale for all settings, so that bars can be compared from one to the next.
  const bar = (kind, value) => html("span", { class: kind, style: `width:${((100 * value) / s.widest).toFixed(2)}%` });
  const head = html("tr", {},
    html("th", { scope: "col" }, "style"),
    html("th", { scope: "col" },
      html("span", { class: "rlhf-pair" }, html("span", { class: "rlhf-key rlhf-key-ref" }), `${s.stages[0]}, T = ${short(s.plain)}`), " ",
      html("span", { class: "rlhf-pair" }, html("span", { class: "rlhf-key" }), `${s.stage}, T = ${short(s.temperature)}`)),
    html("th", { scope: "col", class: "rlhf-right" }, "share"),
    html("th", { scope: "col", class: "rlhf-right" }, "95 %"));
  const rows = s.styles.map((style, i) => {
    const cell = html("td", { class: "rlhf-right rlhf-share" }, percent(s.shares[i]));
    cell.dataset.value = String(s.shares[i]);
    cell.dataset.low = String(s.intervals[i][0]);
    cell.dataset.high = String(s.intervals[i][1]);
    return html("tr", {},
      html("th", { scope: "row" }, style),
      html("td", { class: "rlhf-bar-cell", "aria-hidden": "true" },
        bar("rlhf-bar rlhf-bar-ref", s.before[i]), bar("rlhf-bar", s.shares[i])),
      cell, html("td", { class: "rlhf-right" }, between(s.intervals[i])));
  });
  table.replaceChildren(
    html("caption", { class: "rlhf-hidden" }, `Share of each style among ${s.n} samples, with its 95 % interval`),
    html("thead", {}, head), html("tbody", {}, ...rows));
}

// ---------------------------------------------------------------- the demo

const STATE = ["prompts", "stages", "temperatures", "styles", "replies", "counts", "totals", "prompt", "stage", "temperature"];

function render({ model, el }) {
  const read = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  const set = (name, value) => { model.set(name, value); model.save_changes(); };

  const message = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  const note = (text) => { message.textContent = text; message.hidden = !text; };
  const live = announcer();

  const labelled = (label, hint, ...controls) => html("div", { class: "rlhf-control" },
    html("span", { class: "rlhf-label" }, label, html("small", {}, hint)), ...controls);
  const select = html("select", { class: "rlhf-select", "data-control": "prompt", "aria-label": "request",
    "data-lm-suppress-shortcuts": "true" });
  select.addEventListener("change", () => set("prompt", Number(select.value)));
  const stageButtons = html("span", { class: "rlhf-buttons", role: "group", "aria-label": "stage of training" });
  const temperaturePlace = html("span", { class: "rlhf-slider-place" });
  const setting = html("output", { class: "rlhf-setting", "data-setting": "temperature" });
  const controls = html("div", {},
    labelled("request", "what is asked", select),
    labelled("stage", "who answers", stageButtons),
    labelled("temperature", "how it is sampled", temperaturePlace, setting));

  const outputs = {};
  const tile = (name, label, title) => {
    outputs[name] = html("output", { "data-name": name });
    outputs[`${name}Interval`] = html("small", { "data-interval": name });
    return html("div", { class: "rlhf-tile", title }, html("span", {}, label), outputs[name], outputs[`${name}Interval`]);
  };
  const counted = html("p", { class: "rlhf-legend" });
  const list = html("ul", { class: "rlhf-replies", "aria-label": "recorded replies" });
  const table = html("table", { class: "rlhf-bars" });
  const figure = html("div", { class: "rlhf-figure" },
    html("div", { class: "rlhf-tiles" },
      tile("gold", "gold utility, mean", "mean over the measured samples, with its 95 % interval"),
      tile("asked", "did as asked", "share of the measured samples, with its 95 % interval")),
    html("div", { class: "rlhf-panels" }, list, table), counted);

  el.classList.add("rlhf-demo", "rlhf-samples");
  el.append(controls, message, figure, live.element);

  let drawn = false, built = "", temperatureSlider = null;
  const build = (state) => {
    select.replaceChildren(...state.prompts.map((text, i) => html("option", { value: i }, text)));
    stageButtons.replaceChildren(...state.stages.map((name) => {
      const button = html("button", { type: "button", class: "rlhf-button", "data-stage": name, "aria-label": `stage ${name}` }, name);
      button.addEventListener("click", () => set("stage", name));
      return button;
    }));
    temperatureSlider = slider({
      name: "temperature", label: "temperature", hint: "1 samples from the model itself",
      positions: [0, state.temperatures.length - 1],
      toValue: (i) => state.temperatures[i], toPosition: (value) => state.temperatures.indexOf(value),
      describe: (value) => `temperature ${short(value)}`, onChange: (value) => set("temperature", value),
    });
    temperaturePlace.replaceChildren(temperatureSlider.element);
  };
  const draw = () => {
    const state = read();
    const wrong = problem(state);
    figure.hidden = controls.hidden = Boolean(wrong) && !drawn;
    figure.classList.toggle("rlhf-stale", Boolean(wrong));
    if (wrong) {
      note(`These samples cannot be shown: ${wrong}.` + (drawn ? " Below are the last that could." : ""));
      return;
    }
    note("");
    const lists = JSON.stringify([state.prompts, state.stages, state.temperatures]);
    if (lists !== built) { build(state); built = lists; }
    const s = compute(state);
    select.value = String(s.prompt);
    temperatureSlider.show(s.temperature);
    setting.textContent = short(s.temperature);
    setting.dataset.value = String(s.temperature);
    for (const button of stageButtons.children) button.setAttribute("aria-pressed", String(button.dataset.stage === s.stage));
    showNumber(outputs.gold, s.gold, 2);
    outputs.goldInterval.textContent = `± ${format(s.margin, 2)}`;
    outputs.goldInterval.dataset.value = String(s.margin);
    outputs.asked.textContent = percent(s.asked);
    outputs.asked.dataset.value = String(s.asked);
    outputs.askedInterval.textContent = between(s.askedInterval);
    drawReplies(list, s);
    drawMix(table, s);
    counted.textContent = `In full: ${s.shown.length} recorded replies to this request. Numbers and bars: ${s.n} other requests, ` +
      "one sample each, with 95 % intervals (normal for the mean, Wilson’s for shares).";
    const top = s.shares.indexOf(Math.max(...s.shares));
    live.say(`${s.stage} at temperature ${short(s.temperature)}: gold utility ${format(s.gold, 2)}, did as asked ${percent(s.asked)}, ` +
      `most often ${s.styles[top]}, ${percent(s.shares[top])}. First reply: ${s.shown[0].text}`);
    drawn = true;
  };
  const unfollow = follow(model, STATE, draw);
  return () => { unfollow(); live.stop(); };
}

export default { render };
