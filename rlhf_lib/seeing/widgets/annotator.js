// Be the annotator. The fit first, as pure functions; then the stage, the keys, and what they draw.

const SIDES = ["first", "second"];

// Rows of the fit: the features of the chosen reply less those of the other.
const rowsOf = (choices, differences) =>
  choices.map(([pair, side]) => differences[pair].map((d) => (side === "first" ? d : -d)));

const fitOf = (choices, s) => fitWeights(rowsOf(choices, s.differences), s.ridge, s.names.length);

// How many choices were the likelier ones by the fit to those before; at even odds there is no verdict.
function foresight(choices, s) {
  const verdicts = choices.map(([pair, side], i) => {
    const score = dot(fitOf(choices.slice(0, i), s), s.differences[pair]);
    return Math.abs(score) > 1e-9 ? { p: sigmoid(side === "first" ? score : -score) } : null;
  });
  const judged = verdicts.filter(Boolean);
  return { last: verdicts.at(-1) ?? null, judged: judged.length, foreseen: judged.filter((v) => v.p > 0.5).length };
}

// What is wrong with a state, in the words of the Python side; null if nothing is.
function problem({ pairs, names, differences, labels, recorded, ridge, reference }) {
  if (!Array.isArray(pairs) || pairs.length === 0) return "pairs has none that can be labelled; expected at least 1";
  if (!pairs.every((pair) => Array.isArray(pair) && pair.length === 3 && pair.every((t) => typeof t === "string"))) {
    return "pairs has an entry that is not prompt, first and second; expected text";
  }
  if (!Array.isArray(differences) || differences.length !== pairs.length) {
    return `differences has ${differences?.length} rows; expected ${pairs.length}, one for each pair`;
  }
  if (!differences.every((row) => row.length === names.length && row.every(Number.isFinite))) {
    return `differences has a row without ${names.length} finite numbers; expected one for each feature`;
  }
  for (const [name, choices] of Object.entries({ labels, recorded })) {
    const at = Array.isArray(choices) ? choices.findIndex(([pair, side]) => !pairs[pair] || !SIDES.includes(side)) : 0;
    if (at >= 0 && choices?.length !== 0) {
      return `${name}[${at}] is ${choices?.[at]}; expected a pair from 0 to ${pairs.length - 1}, and 'first' or 'second'`;
    }
  }
  if (!(ridge > 0 && Number.isFinite(ridge))) return `ridge is ${ridge}; expected a positive number`;
  if (reference.length && reference.length !== names.length) {
    return `reference has ${reference.length} entries; expected ${names.length}, one for each feature`;
  }
  return null;
}

function drawWeights(table, s, weights) {
  const most = Math.max(1, ...weights.map(Math.abs), ...s.reference.map(Math.abs));
  const bar = (kind, value) => html("span", { class: kind }, html("span", {
    style: `left:${(50 + Math.min(0, (50 * value) / most)).toFixed(2)}%;width:${((50 * Math.abs(value)) / most).toFixed(2)}%` }));
  const rows = s.names.map((name, i) => {
    const cell = html("td", { class: "rlhf-right rlhf-weight", "data-feature": name });
    showNumber(cell, weights[i], 2);
    return html("tr", {}, html("th", { scope: "row" }, name.replaceAll("_", " ")),
      html("td", { class: "rlhf-bar-cell", "aria-hidden": "true" }, bar("rlhf-two", weights[i]),
        ...(s.reference.length ? [bar("rlhf-two rlhf-two-ref", s.reference[i])] : [])),
      cell, ...(s.reference.length ? [html("td", { class: "rlhf-right" }, format(s.reference[i], 2))] : []));
  });
  table.replaceChildren(
    html("caption", { class: "rlhf-hidden" }, "Weight of each feature, in log-odds"),
    html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "feature"),
      html("th", { scope: "col" }, html("span", { class: "rlhf-key" }), "these labels ",
        ...(s.reference.length ? [html("span", { class: "rlhf-key rlhf-key-ref" }), s.reference_name] : [])),
      html("th", { scope: "col", class: "rlhf-right" }, "weight"),
      ...(s.reference.length ? [html("th", { scope: "col", class: "rlhf-right" }, s.reference_name)] : []))),
    html("tbody", {}, ...rows));
}

// ---------------------------------------------------------------- the demo

const STATE = ["pairs", "names", "differences", "labels", "recorded", "recorded_by", "reference", "reference_name",
  "ridge", "dropped", "file_name"];
const PATIENCE = 8000; // ms until Python counts as silent

function render({ model, el }) {
  const read = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  let mode = model.get("recorded")?.length ? "replay" : "label";
  let chosenMode = false, connected = false, saves = false, pending = 0, step = 0;
  const skipped = new Set();

  const message = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  const tell = (text) => { message.textContent = text; message.hidden = !text; };
  const live = announcer();
  const button = (name, words, label, act) => {
    const element = html("button", { type: "button", class: "rlhf-button", "data-control": name, "aria-label": label }, words);
    element.addEventListener("click", act);
    return element;
  };

  // Python on the other side: a choice counts once it says so.
  const ask = (content) => {
    clearTimeout(pending);
    pending = setTimeout(() => {
      pending = 0;
      tell("Python does not answer. The last choice is not saved; nothing else was lost.");
    }, PATIENCE);
    model.send(content);
  };
  const heard = (content) => {
    if (content?.kind !== "done" && content?.kind !== "failed") return;
    clearTimeout(pending);
    pending = 0;
    if (content.kind === "failed") {
      tell(`Not saved: ${content.text}`);
      return;
    }
    tell("");
    saves = content.saves;
    if (!connected) {
      connected = true;
      if (!chosenMode) mode = "label";
    }
    draw();
  };

  const current = (s) => {
    const done = new Set(s.labels.map(([pair]) => pair));
    const open = s.pairs.map((_, i) => i).filter((i) => !done.has(i));
    return open.find((i) => !skipped.has(i)) ?? open[0] ?? -1;
  };
  const choose = (side) => {
    if (mode !== "label" || pending) return;
    const s = read(), pair = current(s);
    if (pair < 0) return;
    skipped.delete(pair);
    if (connected) ask({ kind: "label", pair, side });
    else {
      model.set("labels", [...s.labels, [pair, side]]);
      model.save_changes();
    }
  };
  const undo = () => {
    if (mode !== "label" || pending || !model.get("labels").length) return;
    if (connected) ask({ kind: "undo" });
    else {
      model.set("labels", model.get("labels").slice(0, -1));
      model.save_changes();
    }
  };
  const skip = () => {
    const s = read(), pair = current(s);
    if (mode !== "label" || pair < 0) return;
    if (skipped.has(pair)) skipped.clear(); // all that is open has been skipped: start over
    skipped.add(pair);
    draw();
  };
  const go = (to) => { step = clamp(to, [0, model.get("recorded").length]); draw(); };
  const setMode = (to) => () => { mode = to; chosenMode = true; tell(""); draw(); };

  const modes = {
    replay: button("mode-replay", "replay", "replay the recorded session", setMode("replay")),
    label: button("mode-label", "label yourself", "label pairs yourself", setMode("label")),
  };
  const where = html("p", { class: "rlhf-legend", "data-name": "where" });
  const prompt = html("p", { class: "rlhf-ask", "data-name": "prompt" });
  const cards = SIDES.map((side, i) => {
    const key = html("span", { class: "rlhf-card-key" });
    const text = html("span", { "data-name": side });
    const card = html("button", { type: "button", class: "rlhf-card", "data-control": side, "data-lm-suppress-shortcuts": "true" }, key, text);
    card.addEventListener("click", () => choose(side));
    return { side, card, key, text, arrow: "←→"[i] };
  });
  const note = html("p", { class: "rlhf-note", "data-name": "note" });
  const labelRow = html("span", { class: "rlhf-buttons" },
    button("skip", "can’t tell (S)", "skip this pair", skip), button("undo", "undo (U)", "take the last label back", undo));
  const stepper = slider({ name: "step", label: "step of the recorded session", hint: "choices replayed", positions: [0, 1],
    toValue: (p) => p, toPosition: (v) => v, describe: (v) => `${v} choices`, onChange: go });
  const stepRow = html("span", { class: "rlhf-buttons rlhf-slider-place" },
    button("back", "‹", "one choice back", () => go(step - 1)), stepper.element,
    button("next", "›", "one choice on", () => go(step + 1)));
  const progress = html("span", { class: "rlhf-word", "data-name": "progress" });
  const stage = html("div", { class: "rlhf-stage", tabindex: 0, role: "group", "data-control": "stage", "data-lm-suppress-shortcuts": "true" },
    prompt, html("div", { class: "rlhf-cards" }, ...cards.map((c) => c.card)), note);
  const acts = { label: { ArrowLeft: () => choose("first"), ArrowRight: () => choose("second"), s: skip, u: undo, Backspace: undo },
    replay: { ArrowLeft: () => go(step - 1), ArrowRight: () => go(step + 1), Home: () => go(0), End: () => go(Infinity) } };
  stage.addEventListener("keydown", (event) => {
    const act = acts[mode][event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (mode === "replay" || !event.repeat) act(); // a key held down labels once
  });

  // Without Python the labels leave the page as a file of the same format.
  const download = button("download", "download labels", "download the labels as JSON lines", () => {
    const { labels, pairs } = read();
    const lines = labels.map(([pair, side], i) => JSON.stringify({ kind: "label", id: `page-${Date.now()}-${i}`,
      annotator: "me", prompt: pairs[pair][0], chosen: pairs[pair][side === "first" ? 1 : 2],
      rejected: pairs[pair][side === "first" ? 2 : 1] }));
    const link = html("a", { download: "my-labels.jsonl",
      href: URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "application/jsonl" })) });
    link.click();
    URL.revokeObjectURL(link.href);
  });

  const outputs = {};
  const tile = (name, label, title) => {
    outputs[name] = html("output", { "data-name": name });
    return html("div", { class: "rlhf-tile", title }, html("span", {}, label), outputs[name]);
  };
  const table = html("table", { class: "rlhf-bars rlhf-weights" });
  const figure = html("div", { class: "rlhf-figure" },
    html("div", { class: "rlhf-control" }, html("span", { class: "rlhf-buttons" }, modes.replay, modes.label), progress),
    where, stage, html("div", { class: "rlhf-control" }, labelRow, stepRow, download),
    html("div", { class: "rlhf-tiles" }, tile("labelled", "choices so far", "that the fit has seen"),
      tile("foreseen", "foreseen by the fit", "choices that the fit to the earlier ones held to be likelier")),
    html("div", { class: "rlhf-panels" }, table));
  el.classList.add("rlhf-demo", "rlhf-annotator");
  el.append(message, figure, live.element);

  let drawn = false;
  function draw() {
    const s = read();
    const wrong = problem(s);
    figure.hidden = Boolean(wrong) && !drawn;
    figure.classList.toggle("rlhf-stale", Boolean(wrong));
    if (wrong) {
      tell(`This figure cannot be drawn: ${wrong}.`);
      return;
    }
    if (message.textContent.startsWith("This figure")) tell("");
    if (!s.recorded.length) mode = "label";
    const replay = mode === "replay";
    step = clamp(step, [0, s.recorded.length]);
    const choices = replay ? s.recorded.slice(0, step) : s.labels;
    const pair = replay ? s.recorded[Math.max(0, step - 1)][0] : current(s);
    const picked = replay && step > 0 ? s.recorded[step - 1][1] : null;
    const weights = fitOf(choices, s), seen = foresight(choices, s);

    modes.replay.hidden = !s.recorded.length;
    for (const [name, element] of Object.entries(modes)) element.setAttribute("aria-pressed", String(name === mode));
    labelRow.hidden = replay;
    stepRow.hidden = !replay;
    download.hidden = replay || (connected && saves);
    download.disabled = !s.labels.length;
    stepper.element.max = s.recorded.length;
    stepper.show(step);
    progress.textContent = replay ? `choice ${step} of ${s.recorded.length}`
      : `${s.labels.length} of ${s.pairs.length} pairs labelled`;
    where.textContent = (replay ? `Recorded session. ${s.recorded_by}`
      : connected && saves ? `Every choice is appended to ${s.file_name} before it counts.`
        : connected ? "Choices are kept in memory only: give the demo a path to save them."
          : "There is no Python behind this page: your choices stay here, and are gone when you leave. Download keeps them.") +
      (s.dropped ? ` Dropped: ${s.dropped}.` : "");
    prompt.textContent = pair < 0 ? "All pairs are labelled." : s.pairs[pair][0];
    for (const { side, card, key, text, arrow } of cards) {
      card.disabled = replay || pair < 0;
      card.classList.toggle("rlhf-card-picked", picked === side);
      key.textContent = picked === side ? "preferred" : replay ? "" : `${arrow} this one is better`;
      text.textContent = pair < 0 ? "" : s.pairs[pair][side === "first" ? 1 : 2];
    }
    note.textContent = !choices.length ? (replay ? "Step on with → or the button ›." : "Which reply is better? Click here once, then use ← and →.")
      : !seen.last ? "The last choice: the fit had no opinion before it."
        : `The last choice: before it, the fit gave it a probability of ${format(seen.last.p, 2)}.`;
    showNumber(outputs.labelled, choices.length, 0);
    outputs.foreseen.dataset.value = String(seen.foreseen);
    outputs.foreseen.dataset.judged = String(seen.judged);
    outputs.foreseen.textContent = seen.judged ? `${seen.foreseen} of ${seen.judged}` : "none yet";
    stage.setAttribute("aria-label", replay ? "Recorded session: arrow keys step through it"
      : "Two replies: left arrow if the first is better, right arrow if the second is; S to skip, U to undo");
    drawWeights(table, s, weights);
    live.say(replay ? `${progress.textContent}. Prefers the ${picked ?? "…"}.`
      : pair < 0 ? "All pairs are labelled." : `${progress.textContent}. ${s.pairs[pair][0]} First: ${s.pairs[pair][1]} Second: ${s.pairs[pair][2]}`);
    drawn = true;
  }
  model.on("msg:custom", heard);
  const unfollow = follow(model, STATE, draw);
  model.send({ kind: "hello" });
  return () => { unfollow(); model.off("msg:custom", heard); clearTimeout(pending); live.stop(); };
}

export default { render };
