// The reward microscope. Scores were computed in Python; here they are compared, and drawn.

const TYPED = "your own", PATIENCE = 8000, PAUSE = 400; // ms until Python counts as silent; of typing
const signed = (value, digits) => (Number(Math.abs(value).toFixed(digits)) === 0 ? format(0, digits)
  : value > 0 ? `+${format(value, digits)}` : format(value, digits));
const text = (row) => row.pieces.join("");

// What is wrong with a state, in the words of the Python side; null if nothing is.
function problem({ prompts, rows, case: place, edit, view, typed }) {
  if (!Array.isArray(prompts) || prompts.length === 0) return "replies is empty; expected at least one pair of prompt and reply";
  if (!Array.isArray(rows) || rows.length !== prompts.length) return `rows has ${rows?.length} entries; expected ${prompts.length}, one for each prompt`;
  if (!(Number.isInteger(place) && place >= 0 && place < prompts.length)) return `case is ${place}; expected 0 to ${prompts.length - 1}`;
  if (!["contributions", "running"].includes(view)) return `view is ${view}; expected contributions or running`;
  if (typeof edit !== "string") return `edit is ${edit}; expected the name of an edit`;
  const own = typed && Object.keys(typed).length ? [typed] : [];
  for (const list of [...rows, own]) {
    if (!Array.isArray(list) || (list !== own && list.length === 0)) return "rows has a prompt without a reply; expected one as written";
    for (const row of list) {
      const n = row?.pieces?.length;
      if (!(n >= 1)) return `the reply “${row?.name}” is empty; expected at least one word`;
      for (const [name, count] of [["contributions", n], ["running", n + 1]]) {
        if (!(row[name]?.length === count && row[name].every(Number.isFinite))) {
          return `${name} of “${row.name}” are not ${count} finite numbers; expected one for each word`;
        }
      }
      if (!Number.isFinite(row.score)) return `score of “${row.name}” is ${row.score}; expected a number`;
      if (row.gold !== null && !Number.isFinite(row.gold)) return `gold of “${row.name}” is ${row.gold}; expected a number`;
    }
  }
  return null;
}

// Everything on display, from the state of the model.
function compute(state) {
  const own = state.typed?.case === state.case ? [state.typed] : [];
  const rows = [...state.rows[state.case], ...own];
  const base = rows[0], row = rows.find((one) => one.name === state.edit) ?? base;
  const steps = row.running.slice(1).map((value, i) => value - row.running[i]);
  const effect = (one) => ({ score: one.score - base.score, gold: one.gold === null ? null : one.gold - base.gold });
  return {
    ...state, rows, base, row, values: state.view === "running" ? steps : row.contributions, effect,
    change: effect(row), whole: row.score - row.running[0],
  };
}

// The words of both replies in one order: kept, new (only after), gone (only before).
function difference(before, after) {
  const a = before.map((p) => p.trim()), b = after.map((p) => p.trim());
  const common = Array.from({ length: a.length + 1 }, () => Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) {
    common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
  }
  const parts = [];
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    if (i < a.length && j < b.length && a[i] === b[j]) parts.push({ kind: "kept", word: a[i++], at: j++ });
    else if (i < a.length && (j === b.length || common[i + 1][j] >= common[i][j + 1])) parts.push({ kind: "gone", word: a[i++] });
    else parts.push({ kind: "new", word: b[j], at: j++ });
  }
  return parts;
}

const liked = (change, up, down, same) => (Number(change.toFixed(2)) === 0 ? same : change > 0 ? up : down);

function verdict(s) {
  if (s.row === s.base) return "The reply as it was written. Try an edit: its bars show what it does to the score" + (s.base.gold === null ? "." : ", and to gold.");
  const score = `The reward model scores this edit ${liked(s.change.score, "higher", "lower", "the same")} (${signed(s.change.score, 2)})`;
  if (s.change.gold === null) return `${score}.`;
  const differ = Number(s.change.score.toFixed(2)) * s.change.gold < 0;
  return `${score}; by gold it is ${liked(s.change.gold, "better", "worse", "no better or worse")} (${signed(s.change.gold, 2)}).` +
    (differ ? " They disagree." : "");
}

function detail(s, at) {
  const word = s.row.pieces[at].trim(), value = s.values[at];
  return s.view === "running"
    ? `If the reply broke off after “${word}”: ${format(s.row.running[at + 1], 2)}; before it: ${format(s.row.running[at], 2)}. Step: ${signed(value, 2)}.`
    : `Without “${word}” the score is ${format(s.row.score - value, 2)} in place of ${format(s.row.score, 2)}: it contributes ${signed(value, 2)}.`;
}

const EXPLAINED = {
  contributions: "Below each word: r(reply) − r(reply without that word), exact for any reward function. Words act together, so these need not add up.",
  running: "Below each word: the score of the reply cut off after it, less that of the reply cut off before it. These steps add up to r(reply) − r(empty reply). " +
    "Each cut-off reply is scored as if it were whole, though a reward model learns from whole replies.",
};

// ---------------------------------------------------------------- the demo

const STATE = ["prompts", "rows", "case", "edit", "view", "typed"];

function render({ model, el }) {
  const read = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  const set = (update) => {
    for (const [name, value] of Object.entries(update)) model.set(name, value);
    model.save_changes();
  };
  const message = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  const note = (words) => { message.textContent = words; message.hidden = !words; };
  const live = announcer();
  const button = (attributes, words, act) => {
    const element = html("button", { type: "button", class: "rlhf-button", ...attributes }, words);
    element.addEventListener("click", act);
    return element;
  };

  const select = html("select", { class: "rlhf-select", "data-control": "case", "aria-label": "request", "data-lm-suppress-shortcuts": "true" });
  select.addEventListener("change", () => { note(""); set({ case: Number(select.value) }); fillField(); });

  // Python on the other side: it says so, and then there is a field to type in.
  let connected = false, asked = 0, waiting = 0, pause = 0;
  const field = html("textarea", { class: "rlhf-typing", rows: 3, "data-control": "reply", spellcheck: "false",
    "aria-label": "your own reply: scored by Python when you pause", "data-lm-suppress-shortcuts": "true" });
  const fieldRow = html("div", { class: "rlhf-control", hidden: true },
    html("span", { class: "rlhf-label" }, "edit it", html("small", {}, "scored when you pause")), field);
  const fillField = () => {
    clearTimeout(pause);
    clearTimeout(waiting);
    asked += 1; // an answer still under way is no longer wanted
    field.removeAttribute("aria-invalid");
    figure.classList.remove("rlhf-stale");
    field.value = text(compute(read()).row);
  };
  const fail = (words) => {
    note(`${words} Below is the last reply that was scored.`);
    field.setAttribute("aria-invalid", "true");
    figure.classList.add("rlhf-stale");
  };
  const ask = () => {
    asked += 1;
    if (!field.value.trim()) return fail("Not scored: the reply is empty; expected at least one word.");
    clearTimeout(waiting);
    waiting = setTimeout(() => fail("Python does not answer."), PATIENCE);
    model.send({ kind: "score", id: asked, case: model.get("case"), reply: field.value });
  };
  field.addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(ask, PAUSE); });
  const heard = (content) => {
    if (content?.kind !== "done" && content?.kind !== "failed") return;
    if (!connected) {
      connected = true;
      fieldRow.hidden = false;
      where.textContent = "";
      if (problem(read()) === null) fillField();
      return;
    }
    if (content.id !== asked) return; // typing went on
    clearTimeout(waiting);
    if (content.kind === "failed") return fail(`Not scored: ${content.text}.`);
    field.removeAttribute("aria-invalid");
    note("");
    set({ edit: TYPED });
    draw();
  };

  const outputs = {};
  const tile = (name, label, title, kind = "") => {
    outputs[name] = html("output", { "data-name": name });
    return html("div", { class: `rlhf-tile ${kind}`, title }, html("span", {}, label), outputs[name]);
  };
  const goldTiles = [tile("gold", "gold", "the truth, which no reward model sees", "rlhf-tile-true"),
    tile("gold_change", "its change", "of gold, against the reply as written", "rlhf-tile-true")];
  const request = html("p", { class: "rlhf-request", "data-name": "request" }); // a phone cuts the select short
  const says = html("p", { class: "rlhf-verdict", "data-name": "verdict" });
  const unknown = html("p", { class: "rlhf-legend", "data-name": "unknown", hidden: true });
  const table = html("table", { class: "rlhf-bars" });
  table.addEventListener("keydown", (event) => { // up and down among the edits
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const all = [...table.querySelectorAll("button")];
    const next = all[all.indexOf(event.target) + step];
    event.preventDefault();
    next?.focus();
    next?.click();
  });

  let at = 0; // the word that the line below tells of
  const words = html("div", { class: "rlhf-words", role: "group", "aria-label": "the reply, word by word: left and right go from word to word" });
  const about = html("p", { class: "rlhf-detail", "data-name": "detail", "aria-live": "polite" });
  const look = (place) => {
    const s = compute(read());
    at = clamp(place, [0, s.row.pieces.length - 1]);
    for (const one of words.querySelectorAll(".rlhf-word")) {
      const chosen = Number(one.dataset.index) === at;
      one.tabIndex = chosen ? 0 : -1;
      one.setAttribute("aria-pressed", String(chosen));
    }
    about.textContent = detail(s, at);
  };
  words.addEventListener("keydown", (event) => {
    const last = compute(read()).row.pieces.length - 1;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    look(to);
    words.querySelector(`[data-index="${at}"]`).focus();
  });

  const views = [["contributions", "leave one word out"], ["running", "read word by word"]].map(([name, label]) =>
    button({ "data-control": `view-${name}` }, label, () => set({ view: name })));
  const sums = html("p", { class: "rlhf-legend" });
  const explained = html("p", { class: "rlhf-legend", "data-name": "explained" });
  const where = html("p", { class: "rlhf-legend", "data-name": "where" },
    "Recorded edits, scored when this page was made. Where Python runs behind it, as in Jupyter, you can type your own.");
  const figure = html("div", { class: "rlhf-figure" }, request,
    html("div", { class: "rlhf-tiles" }, tile("score", "score", "what the reward function gives the reply"),
      tile("change", "its change", "of the score, against the reply as written"), ...goldTiles), says,
    html("div", { class: "rlhf-control" }, html("span", { class: "rlhf-buttons", role: "group", "aria-label": "what the words show" }, ...views)),
    words, about, unknown, sums, explained, table);
  const controls = html("div", {}, html("div", { class: "rlhf-control" },
    html("span", { class: "rlhf-label" }, "request", html("small", {}, "and a reply to it")), select), fieldRow);

  el.classList.add("rlhf-demo", "rlhf-micro");
  el.append(controls, message, figure, where, live.element);

  const drawTable = (s) => {
    const gold = s.base.gold !== null;
    const effects = s.rows.map(s.effect);
    const most = Math.max(0.01, ...effects.map((e) => Math.abs(e.score))), mostGold = Math.max(0.01, ...effects.map((e) => Math.abs(e.gold ?? 0)));
    const bar = (kind, share) => html("span", { class: kind }, html("span", {
      style: `left:${(50 + Math.min(0, 50 * share)).toFixed(2)}%;width:${(50 * Math.abs(share)).toFixed(2)}%` }));
    const cell = (value, name, kind) => {
      const element = html("td", { class: `rlhf-right ${kind}`, "data-name": name });
      element.textContent = signed(value, 2);
      element.dataset.value = String(value);
      return element;
    };
    const focused = table.contains(document.activeElement) ? document.activeElement.dataset.control : null;
    table.replaceChildren(
      html("caption", { class: "rlhf-hidden" }, "Each edit with its change of the score" + (gold ? " and of gold" : "")),
      html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "edit"),
        html("th", { scope: "col", "aria-hidden": "true" }, gold ? "each to its own scale" : ""),
        html("th", { scope: "col", class: "rlhf-right" }, html("span", { class: "rlhf-key" }), "score"),
        ...(gold ? [html("th", { scope: "col", class: "rlhf-right" }, html("span", { class: "rlhf-key rlhf-key-true" }), "gold")] : []))),
      html("tbody", {}, ...s.rows.map((row, i) => {
        const choose = button({ class: "rlhf-button rlhf-edit", "data-control": `edit-${row.name}`, "aria-pressed": String(row === s.row), "data-lm-suppress-shortcuts": "true",
          "aria-label": `${row.name}: score ${signed(effects[i].score, 2)}` + (gold ? `, gold ${signed(effects[i].gold, 2)}` : "") }, row.name, () => {
          note("");
          set({ edit: row.name });
          fillField();
        });
        return html("tr", {}, html("th", { scope: "row" }, choose),
          html("td", { class: "rlhf-bar-cell", "aria-hidden": "true" }, bar("rlhf-sided", effects[i].score / most),
            ...(gold ? [bar("rlhf-sided rlhf-sided-gold", effects[i].gold / mostGold)] : [])),
          cell(effects[i].score, "effect", ""), ...(gold ? [cell(effects[i].gold, "gold-effect", "rlhf-true")] : []));
      })));
    if (focused) [...table.querySelectorAll("button")].find((b) => b.dataset.control === focused)?.focus();
  };

  const drawWords = (s) => {
    const most = Math.max(0.05, ...s.rows.flatMap((row) => (s.view === "running"
      ? row.running.slice(1).map((value, i) => Math.abs(value - row.running[i])) : row.contributions.map(Math.abs))));
    words.replaceChildren(...difference(s.base.pieces, s.row.pieces).map(({ kind, word, at: place }) => {
      if (kind === "gone") return html("span", { class: "rlhf-gone", title: "taken out" }, html("del", {}, word));
      const value = s.values[place];
      const chip = button({ class: `rlhf-word rlhf-word-${kind}`, "data-index": place, "data-lm-suppress-shortcuts": "true", "data-sign": value < 0 ? "-" : "+",
        style: `--tint:${((40 * Math.abs(value)) / most).toFixed(1)}%`, "aria-label": `${word}${kind === "new" ? ", new" : ""}: ${signed(value, 2)}` },
        "", () => look(place));
      chip.append(html("span", {}, word), html("small", {}, signed(value, 2)));
      chip.dataset.value = String(value);
      chip.addEventListener("pointerenter", () => { about.textContent = detail(compute(read()), place); });
      chip.addEventListener("focus", () => look(place));
      return chip;
    }));
    words.onpointerleave = () => look(at);
  };

  let drawn = false, built = "", shown = "";
  const draw = () => {
    const state = read();
    const wrong = problem(state);
    figure.hidden = controls.hidden = Boolean(wrong) && !drawn;
    figure.classList.toggle("rlhf-stale", Boolean(wrong));
    if (wrong) {
      note(`These scores cannot be shown: ${wrong}.` + (drawn ? " Below are the last that could." : ""));
      return;
    }
    if (message.textContent.startsWith("These scores")) note("");
    if (built !== state.prompts.join("\n")) {
      select.replaceChildren(...state.prompts.map((prompt, i) => html("option", { value: i }, prompt)));
      built = state.prompts.join("\n");
    }
    const s = compute(state);
    select.value = String(s.case);
    const hasGold = s.base.gold !== null;
    for (const one of goldTiles) one.hidden = !hasGold;
    showNumber(outputs.score, s.row.score, 2);
    outputs.change.textContent = signed(s.change.score, 2);
    outputs.change.dataset.value = String(s.change.score);
    if (hasGold) {
      showNumber(outputs.gold, s.row.gold, 2);
      outputs.gold_change.textContent = signed(s.change.gold, 2);
      outputs.gold_change.dataset.value = String(s.change.gold);
    }
    request.textContent = s.prompts[s.case];
    says.textContent = verdict(s);
    for (const one of views) one.setAttribute("aria-pressed", String(one.dataset.control === `view-${s.view}`));
    const missing = s.row.unknown ?? [];
    unknown.hidden = missing.length === 0;
    unknown.textContent = `No word of the model's vocabulary, read as “unknown”: ${missing.join(", ")}.`;
    drawTable(s);
    drawWords(s);
    if (shown !== `${s.case} ${s.row.name}`) at = 0;
    shown = `${s.case} ${s.row.name}`;
    look(at);
    const total = html("span", { "data-name": "sum" }), whole = html("span", { "data-name": "whole" });
    const kept = (value) => Number(value.toFixed(4)); // the digits that were stored
    showNumber(total, kept(s.values.reduce((a, b) => a + b, 0)), 2);
    showNumber(whole, kept(s.whole), 2);
    sums.replaceChildren("Sum of the numbers below the words: ", total, ". Score less that of an empty reply: ", whole, ".");
    explained.textContent = EXPLAINED[s.view];
    live.say(`${s.row.name}: score ${format(s.row.score, 2)}` + (hasGold ? `, gold ${format(s.row.gold, 2)}` : "") + `. ${verdict(s)}`);
    drawn = true;
  };
  const unfollow = follow(model, STATE, draw);
  model.on("msg:custom", heard);
  model.send({ kind: "hello" });
  return () => {
    unfollow();
    live.stop();
    clearTimeout(pause);
    clearTimeout(waiting);
    model.off("msg:custom", heard);
  };
}

export default { render };
