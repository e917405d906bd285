// The reward microscope. Scores were computed in Python; here they are compared, and drawn.

const TYPED = "your own"; // the name of what the reader typed
const PAUSE = 400; // ms without a key until it is scored
const VIEWS = { contributions: "leave one word out", running: "read word by word" };

function signed(value, digits) {
  if (Number(Math.abs(value).toFixed(digits)) === 0) return format(0, digits);
  return value > 0 ? `+${format(value, digits)}` : format(value, digits);
}

const replyOf = (scored) => scored.pieces.join("");
const stepsOf = ({ running }) => running.slice(1).map((value, i) => value - running[i]);

function wrongReply(scored) {
  const n = scored?.pieces?.length;
  const name = `“${scored?.name}”`;
  if (!(n >= 1)) return `the reply ${name} is empty; expected at least one word`;
  const wrongScores = ([list, count]) =>
    unless(
      scored[list]?.length === count && scored[list].every(Number.isFinite),
      `${list} of ${name} are not ${count} finite numbers; expected one for each word`,
    );
  const lists = [
    ["contributions", n],
    ["running", n + 1],
  ];
  return (
    firstWrong(lists, wrongScores) ??
    wrongNumber(`score of ${name}`, scored.score) ??
    (scored.gold === null ? null : wrongNumber(`gold of ${name}`, scored.gold))
  );
}

const wrongReplies = (list) =>
  unless(
    Array.isArray(list) && list.length > 0,
    "rows has a prompt without a reply; expected one as written",
  ) ?? firstWrong(list, wrongReply);

function problem({ prompts, rows, case: place, edit, view, typed }) {
  return (
    wrongEmpty("replies", prompts, "at least one pair of prompt and reply") ??
    wrongLength("rows", rows, prompts.length, "one for each prompt") ??
    wrongWhole("case", place, [0, prompts.length - 1]) ??
    unless(Object.hasOwn(VIEWS, view), `view is ${view}; expected ${Object.keys(VIEWS).join(" or ")}`) ??
    unless(typeof edit === "string", `edit is ${edit}; expected the name of an edit`) ??
    firstWrong(rows, wrongReplies) ??
    (typed && Object.keys(typed).length ? wrongReply(typed) : null)
  );
}

// Everything on display, from the state of the model.
function compute(state) {
  const own = state.typed?.case === state.case ? [state.typed] : [];
  const rows = [...state.rows[state.case], ...own];
  const base = rows[0];
  const shown = rows.find((one) => one.name === state.edit) ?? base;
  const effect = (one) => ({
    score: one.score - base.score,
    gold: one.gold === null ? null : one.gold - base.gold,
  });
  const valuesOf = (one) => (state.view === "running" ? stepsOf(one) : one.contributions);
  return {
    ...state,
    rows,
    base,
    shown,
    hasGold: base.gold !== null,
    values: valuesOf(shown),
    most: Math.max(0.05, ...rows.flatMap((one) => valuesOf(one).map(Math.abs))),
    effects: rows.map(effect),
    change: effect(shown),
    whole: shown.score - shown.running[0],
  };
}

// The words of both replies in one order: kept, new (only after), gone (only before).
function difference(before, after) {
  const [a, b] = [before, after].map((pieces) => pieces.map((p) => p.trim()));
  const common = commonWords(a, b);
  const parts = [];
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    const [left, right] = [i < a.length, j < b.length];
    if (left && right && a[i] === b[j]) parts.push({ kind: "kept", word: a[i++], at: j++ });
    else if (left && (!right || common[i + 1][j] >= common[i][j + 1])) {
      parts.push({ kind: "gone", word: a[i++] });
    } else parts.push({ kind: "new", word: b[j], at: j++ });
  }
  return parts;
}

// How many words the rest of a from i and the rest of b from j have in common, in order.
function commonWords(a, b) {
  const common = Array.from({ length: a.length + 1 }, () => Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    }
  }
  return common;
}

// ---------------------------------------------------------------- in words

function liked(change, up, down, same) {
  if (Number(change.toFixed(2)) === 0) return same;
  return change > 0 ? up : down;
}

function verdict({ shown, base, change, hasGold }) {
  if (shown === base) {
    const gold = hasGold ? ", and to gold." : ".";
    return `The reply as it was written. Try an edit: its bars show what it does to the score${gold}`;
  }
  const higher = liked(change.score, "higher", "lower", "the same");
  const score = `The reward model scores this edit ${higher} (${signed(change.score, 2)})`;
  if (change.gold === null) return `${score}.`;
  const better = liked(change.gold, "better", "worse", "no better or worse");
  const differ = Number(change.score.toFixed(2)) * change.gold < 0;
  return `${score}; by gold it is ${better} (${signed(change.gold, 2)}).${differ ? " They disagree." : ""}`;
}

function detail({ shown, values, view }, at) {
  const word = shown.pieces[at].trim();
  const value = values[at];
  if (view === "running") {
    const [before, after] = [at, at + 1].map((i) => format(shown.running[i], 2));
    const step = signed(value, 2);
    return `If the reply broke off after “${word}”: ${after}; before it: ${before}. Step: ${step}.`;
  }
  const [without, whole] = [shown.score - value, shown.score].map((score) => format(score, 2));
  return (
    `Without “${word}” the score is ${without} in place of ${whole}: ` + `it contributes ${signed(value, 2)}.`
  );
}

const EXPLAINED = {
  contributions:
    "Below each word: r(reply) − r(reply without that word), exact for any reward function. Words act " +
    "together, so these need not add up.",
  running:
    "Below each word: the score of the reply cut off after it, less that of the reply cut off before it. " +
    "These steps add up to r(reply) − r(empty reply). Each cut-off reply is scored as if it were whole, " +
    "though a reward model learns from whole replies.",
};

// ---------------------------------------------------------------- a reply of your own

// Python says that it is there; then there is a field to type in, and each pause is scored.
function typingOf({ el, model, note, read, redraw, set }) {
  const field = html("textarea", {
    class: "rlhf-typing",
    rows: 3,
    "data-control": "reply",
    spellcheck: "false",
    "aria-label": "your own reply: scored by Python when you pause",
    ...OWN_KEYS,
  });
  const element = row("edit it", "scored when you pause", field);
  element.hidden = true;
  const where = html(
    "p",
    { class: "rlhf-legend", "data-name": "where" },
    "Recorded edits, scored when this page was made. Where Python runs behind it, as in Jupyter, " +
      "you can type your own.",
  );
  let connected = false;
  let asked = 0;
  let pause = 0;
  const dim = (on) => el.querySelector(".rlhf-figure").classList.toggle("rlhf-stale", on);
  const fail = (words) => {
    note(`${words} Below is the last reply that was scored.`);
    field.setAttribute("aria-invalid", "true");
    dim(true);
  };
  const kernel = python(model, {
    wanted: ({ id }) => !connected || id === asked, // else typing went on
    answered({ kind, text: words }) {
      if (!connected) connect();
      else if (kind === "failed") fail(`Not scored: ${words}.`);
      else {
        field.removeAttribute("aria-invalid");
        set({ edit: TYPED });
        redraw();
      }
    },
    silent: () => fail("Python does not answer."),
  });
  const fillField = () => {
    clearTimeout(pause);
    kernel.settle();
    asked += 1; // an answer still under way is no longer wanted
    field.removeAttribute("aria-invalid");
    dim(false);
    field.value = replyOf(compute(read()).shown);
  };
  const connect = () => {
    connected = true;
    element.hidden = false;
    where.textContent = "";
    if (problem(read()) === null) fillField();
  };
  const ask = () => {
    asked += 1;
    kernel.settle();
    if (!field.value.trim()) fail("Not scored: the reply is empty; expected at least one word.");
    else kernel.ask({ kind: "score", id: asked, case: model.get("case"), reply: field.value });
  };
  field.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(ask, PAUSE);
  });
  const stop = () => {
    clearTimeout(pause);
    kernel.stop();
  };
  return { element, where, fillField, start: kernel.hello, stop };
}

// ---------------------------------------------------------------- the table of edits

function editsOf(choose) {
  const element = html("table", { class: "rlhf-bars" });
  const all = () => [...element.querySelectorAll("button")];
  // up and down among the edits
  element.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const next = all()[all().indexOf(event.target) + step];
    event.preventDefault();
    next?.focus();
    next?.click();
  });
  return {
    element,
    show(s) {
      const focused = element.contains(document.activeElement) && document.activeElement.dataset.control;
      drawEdits(element, s, choose);
      if (focused) {
        all()
          .find((one) => one.dataset.control === focused)
          ?.focus();
      }
    },
  };
}

function drawEdits(table, s, choose) {
  const most = (name) => Math.max(0.01, ...s.effects.map((effect) => Math.abs(effect[name] ?? 0)));
  const [mostScore, mostGold] = [most("score"), most("gold")];
  const withGold = (make) => (s.hasGold ? [make()] : []);
  const cell = (value, name, kind) => {
    const element = html("td", { class: `rlhf-right ${kind}`, "data-name": name });
    showText(element, signed(value, 2), value);
    return element;
  };
  const rowOf = (one, i) => {
    const { score, gold } = s.effects[i];
    const bars = [
      sidedBar("rlhf-sided", score, mostScore),
      ...withGold(() => sidedBar("rlhf-sided rlhf-sided-gold", gold, mostGold)),
    ];
    return tableRow(
      editButton(one, s, i, choose),
      html("td", { class: "rlhf-bar-cell", "aria-hidden": "true" }, ...bars),
      cell(score, "effect", ""),
      ...withGold(() => cell(gold, "gold-effect", "rlhf-true")),
    );
  };
  const head = (kind, words) => html("th", { scope: "col", class: "rlhf-right" }, key(kind), words);
  const columns = [
    column("edit"),
    column(s.hasGold ? "each to its own scale" : "", { "aria-hidden": "true" }),
    head("", "score"),
    ...withGold(() => head("rlhf-key-true", "gold")),
  ];
  const caption = `Each edit with its change of the score${s.hasGold ? " and of gold" : ""}`;
  fillTable(table, caption, columns, s.rows.map(rowOf));
}

function editButton(one, s, i, choose) {
  const { score, gold } = s.effects[i];
  const names = {
    control: `edit-${one.name}`,
    label: `${one.name}: score ${signed(score, 2)}${s.hasGold ? `, gold ${signed(gold, 2)}` : ""}`,
    class: "rlhf-button rlhf-edit",
    "aria-pressed": String(one === s.shown),
    ...OWN_KEYS,
  };
  return button(names, one.name, () => choose(one.name));
}

// ---------------------------------------------------------------- the words

// The reply with a number below each word; the line `about` tells of one of them.
function wordsOf() {
  const said = "the reply, word by word: left and right go from word to word";
  const element = html("div", { class: "rlhf-words", role: "group", "aria-label": said });
  const about = html("p", { class: "rlhf-detail", "data-name": "detail", "aria-live": "polite" });
  let s = null;
  let at = 0; // the word that is told of
  let reply = "";
  const look = (place) => {
    at = clamp(place, [0, s.shown.pieces.length - 1]);
    for (const one of element.querySelectorAll(".rlhf-word")) {
      const chosen = Number(one.dataset.index) === at;
      one.tabIndex = chosen ? 0 : -1;
      one.setAttribute("aria-pressed", String(chosen));
    }
    about.textContent = detail(s, at);
  };
  const peek = (place) => {
    about.textContent = detail(s, place);
  };
  element.addEventListener("pointerleave", () => look(at));
  element.addEventListener("keydown", (event) => {
    const last = s.shown.pieces.length - 1;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    look(to);
    element.querySelector(`[data-index="${at}"]`).focus();
  });
  return {
    element,
    about,
    show(state) {
      s = state;
      element.replaceChildren(
        ...difference(s.base.pieces, s.shown.pieces).map((part) => wordOf(part, s, look, peek)),
      );
      const now = `${s.case} ${s.shown.name}`;
      if (reply !== now) at = 0;
      reply = now;
      look(at);
    },
  };
}

function wordOf({ kind, word, at }, s, look, peek) {
  if (kind === "gone") return html("span", { class: "rlhf-gone", title: "taken out" }, html("del", {}, word));
  const value = s.values[at];
  const names = {
    label: `${word}${kind === "new" ? ", new" : ""}: ${signed(value, 2)}`,
    class: `rlhf-word rlhf-word-${kind}`,
    "data-index": at,
    "data-sign": value < 0 ? "-" : "+",
    "data-value": String(value),
    style: `--tint:${((40 * Math.abs(value)) / s.most).toFixed(1)}%`,
    ...OWN_KEYS,
  };
  const chip = button(names, html("span", {}, word), () => look(at));
  chip.append(html("small", {}, signed(value, 2)));
  chip.addEventListener("pointerenter", () => peek(at));
  chip.addEventListener("focus", () => look(at));
  return chip;
}

// ---------------------------------------------------------------- the demo

function numbersOf() {
  const numbers = tiles([
    ["score", "score", "what the reward function gives the reply"],
    ["change", "its change", "of the score, against the reply as written"],
    ["gold", "gold", "the truth, which no reward model sees", "rlhf-tile-true"],
    ["gold_change", "its change", "of gold, against the reply as written", "rlhf-tile-true"],
  ]);
  const showChange = (name, value) => showText(numbers.output[name], signed(value, 2), value);
  return {
    element: numbers.element,
    show({ shown, change, hasGold }) {
      numbers.tile.gold.hidden = numbers.tile.gold_change.hidden = !hasGold;
      numbers.show("score", shown.score, 2);
      showChange("change", change.score);
      if (!hasGold) return;
      numbers.show("gold", shown.gold, 2);
      showChange("gold_change", change.gold);
    },
  };
}

function drawSums(element, s) {
  const [total, whole] = ["sum", "whole"].map((name) => html("span", { "data-name": name }));
  const kept = (value) => Number(value.toFixed(4)); // the digits that were stored
  showNumber(total, kept(sum(s.values)), 2);
  showNumber(whole, kept(s.whole), 2);
  element.replaceChildren(
    "Sum of the numbers below the words: ",
    total,
    ". Score less that of an empty reply: ",
    whole,
    ".",
  );
}

function build(page) {
  const { set } = page;
  const typing = typingOf(page);
  const choose = (update) => {
    set(update);
    typing.fillField();
  };
  const prompts = select({
    control: "case",
    label: "request",
    onChange: (value) => choose({ case: Number(value) }),
  });
  const offer = whenChanged((list) => prompts.offer(list.map((prompt, i) => [i, prompt])));
  const views = choices(
    "what the words show",
    (view) => [{ control: `view-${view}` }, VIEWS[view]],
    (view) => set({ view }, { keepNote: true }),
  );
  views.offer(Object.keys(VIEWS));
  const numbers = numbersOf();
  const words = wordsOf();
  const edits = editsOf((edit) => choose({ edit }));
  const legend = (name) => html("p", { class: "rlhf-legend", "data-name": name });
  // once more in full: a phone cuts the select short
  const request = html("p", { class: "rlhf-request", "data-name": "request" });
  const says = html("p", { class: "rlhf-verdict", "data-name": "verdict" });
  const [unknown, sums, explained] = [legend("unknown"), legend(), legend("explained")];
  const viewRow = html("div", { class: "rlhf-control" }, views.element);
  return {
    controls: [row("request", "and a reply to it", prompts.element), typing.element],
    figure: [
      ...[request, numbers.element, says, viewRow, words.element, words.about],
      ...[unknown, sums, explained, edits.element],
    ],
    below: [typing.where],
    start: typing.start,
    stop: typing.stop,
    draw(s) {
      offer(s.prompts);
      prompts.show(s.case);
      views.show(s.view);
      for (const one of [numbers, edits, words]) one.show(s);
      request.textContent = s.prompts[s.case];
      says.textContent = verdict(s);
      const missing = s.shown.unknown ?? [];
      unknown.hidden = missing.length === 0;
      unknown.textContent = `No word of the model's vocabulary, read as “unknown”: ${missing.join(", ")}.`;
      drawSums(sums, s);
      explained.textContent = EXPLAINED[s.view];
      const gold = s.hasGold ? `, gold ${format(s.shown.gold, 2)}` : "";
      return `${s.shown.name}: score ${format(s.shown.score, 2)}${gold}. ${verdict(s)}`;
    },
  };
}

export default demo({
  kind: "rlhf-micro",
  state: ["prompts", "rows", "case", "edit", "view", "typed"],
  cannot: "These scores cannot be shown",
  last: "Below are the last that could.",
  problem,
  compute,
  build,
});
