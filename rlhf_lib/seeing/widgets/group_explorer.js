// The group explorer. The mathematics first, as pure functions; then what draws it.

const SIZES = [2, 12], REWARDS = [-2, 2];
const NAMES = { grpo: "GRPO", dr_grpo: "Dr. GRPO", dapo: "DAPO", gspo: "GSPO", cispo: "CISPO", rloo: "RLOO", "reinforce++": "REINFORCE++" };
const sum = (values) => values.reduce((a, b) => a + b, 0);

// The advantage of each completion: against its group, or for "return_to_go" against all tokens of the batch.
function advantagesOf({ advantage, baseline, scale_rewards: scale }, rewards, lengths) {
  const G = rewards.length, mean = sum(rewards) / G;
  if (advantage === "return_to_go") {
    const total = sum(lengths), middle = sum(rewards.map((r, i) => r * lengths[i])) / total;
    const variance = sum(rewards.map((r, i) => lengths[i] * (r - middle) ** 2)) / total;
    return rewards.map((r) => (r - middle) / Math.sqrt(variance + 1e-8));
  }
  if (baseline !== "none" && rewards.every((r) => r === rewards[0])) return rewards.map(() => 0);
  const factor = baseline === "leave_one_out" ? G / (G - 1) : 1;
  return rewards.map((r) => (factor * (r - (baseline === "none" ? 0 : mean))) / (scale === "none" ? 1 : spreadOf(rewards) + 1e-4));
}

function spreadOf(rewards) {
  const mean = sum(rewards) / rewards.length;
  return Math.sqrt(sum(rewards.map((r) => (r - mean) ** 2)) / (rewards.length - 1));
}

// −∂loss/∂log π of each token of a completion at ratio 1: what its advantage is divided by.
function weightsOf({ loss, aggregate_over: over }, advantages, lengths, budget) {
  const G = lengths.length, total = sum(lengths);
  return advantages.map((A, i) => {
    // with the ratio of whole completions, each token's log π stands in the loss of all of them
    const copies = loss === "rloo" ? lengths[i] : 1;
    return (A * copies) / (over === "sequences" ? G * lengths[i] : over === "tokens" ? total : G * budget);
  });
}

// What is wrong with a state, in the words of the Python side; null if nothing is.
function problem({ rewards, lengths, method, budget, completion, methods }) {
  if (!methods || !Object.hasOwn(methods, method)) return `method is ${method}; expected one of ${Object.keys(methods ?? {}).join(", ")}`;
  if (!Array.isArray(rewards) || rewards.length < SIZES[0] || rewards.length > SIZES[1]) {
    return `rewards has ${rewards?.length} entries; expected ${SIZES[0]} to ${SIZES[1]}, as a completion is compared with others of its group`;
  }
  const bad = rewards.findIndex((r) => typeof r !== "number" || !(r >= REWARDS[0] && r <= REWARDS[1]));
  if (bad >= 0) return `rewards[${bad}] is ${rewards[bad]}; expected a number from ${REWARDS[0]} to ${REWARDS[1]}`;
  if (!Array.isArray(lengths) || lengths.length !== rewards.length) return `lengths has ${lengths?.length} entries; expected ${rewards.length}, one for each reward`;
  const none = lengths.findIndex((length) => !Number.isInteger(length) || length < 1);
  if (none >= 0) return `lengths[${none}] is ${lengths[none]}; expected at least 1 token`;
  if (!Number.isInteger(budget) || budget < Math.max(...lengths)) return `budget is ${budget}; expected at least the longest completion, ${Math.max(...lengths)} tokens`;
  if (!Number.isInteger(completion)) return `completion is ${completion}; expected a whole number`;
  return null;
}

// Everything on display.
function compute(state) {
  const { rewards, lengths, budget } = state, settings = state.methods[state.method];
  const advantages = advantagesOf(settings, rewards, lengths);
  const weights = weightsOf(settings, advantages, lengths, budget);
  const pulls = weights.map((w, i) => w * lengths[i]);
  return { ...state, settings, advantages, weights, pulls, spread: spreadOf(rewards), total: sum(lengths),
    completion: clamp(state.completion, [0, rewards.length - 1]), teaches: rewards.some((r) => r !== rewards[0]),
    up: sum(pulls.map((p) => Math.max(p, 0))), down: sum(pulls.map((p) => Math.min(p, 0))) };
}

// ---------------------------------------------------------------- in words

// Two completions with the same reward, the longer one first, as unlike in length as there are; wrong ones before right ones.
function twins({ rewards, lengths, advantages }) {
  let best = null;
  rewards.forEach((r, i) => rewards.forEach((other, j) => {
    if (r !== other || lengths[i] <= lengths[j] || advantages[i] === 0) return;
    const score = (advantages[i] < 0 ? 1e6 : 0) + lengths[i] / lengths[j];
    if (!best || score > best.score) best = { score, long: i, brief: j, times: format(lengths[i] / lengths[j], 1), good: advantages[i] > 0 };
  }));
  return best;
}

function inWords(s) {
  const { baseline, scale_rewards: scale, advantage, aggregate_over: over, loss, dynamic_sampling: again } = s.settings;
  const G = s.rewards.length, wholeBatch = advantage === "return_to_go";
  if (!s.teaches) {
    return ["All rewards are equal. There is nothing to compare: every advantage is 0, and this group teaches nothing.",
      again ? "DAPO draws other groups in place of such a group, until the batch is full."
        : wholeBatch ? "REINFORCE++ compares with the whole batch, and here this group is all of it; beside other prompts it would still be pulled."
          : "It was sampled and scored for nothing, and takes up a share of the batch."];
  }
  const compared = wholeBatch
    ? `No groups: each reward is compared with the mean over all tokens of the batch (here only this group), ${format(sum(s.rewards.map((r, i) => r * s.lengths[i])) / s.total, 2)}. A long completion counts more in it.`
    : baseline === "leave_one_out" ? `Each reward is compared with the mean of the ${G - 1} others: ${G}/${G - 1} times its distance from the mean of all.`
      : `Each reward is compared with the mean of the group, ${format(sum(s.rewards) / G, 2)}.`;
  const factor = 1 / (s.spread + 1e-4);
  const divided = wholeBatch ? "The division is by the spread over all those tokens."
    : scale === "none" ? "Nothing is divided by the spread: a group that is nearly all right, or nearly all wrong, keeps its small voice."
      : `Dividing by the spread multiplies every advantage by ${format(factor, 2)}. Of right and wrong, that is most for groups that are nearly all right or nearly all wrong: their spread is smallest.`;
  const pair = twins(s), number = (i) => i + 1;
  const both = pair && `completion ${number(pair.long)} (${s.lengths[pair.long]} tokens) and completion ${number(pair.brief)} (${s.lengths[pair.brief]}), with the same reward`;
  const length = loss === "rloo"
    ? `A completion is one action: each of its tokens gets its whole advantage, over ${G} completions.` + (pair ? ` Of ${both}, the longer pulls ${pair.times} times as hard.` : "")
    : over === "sequences"
      ? "Division by length: a completion’s pull is shared among its tokens." + (pair ? ` Of ${both}, a token of the longer weighs ${pair.times} times less` + (pair.good ? ": short right answers are favoured." : ": long wrong answers are let off lightly.") : "")
      : (over === "tokens" ? `No division by a completion’s own length, only by all ${s.total} tokens of the batch: a token weighs its advantage.` : `No division by length, only by the constant ${G} × ${s.budget}: a token weighs its advantage, in any batch.`) +
        (pair ? ` Of ${both}, the longer pulls ${pair.times} times as hard.` : "");
  const later = { gspo: "At ratio 1 this is GRPO; GSPO differs in what it clips once the policy has moved.",
    cispo: "At ratio 1 this is DAPO’s pull; CISPO differs in the tokens it keeps once the policy has moved." }[loss];
  return [`${compared} ${divided}`, length, ...(later ? [later] : [])];
}

// ---------------------------------------------------------------- the plot

const PLOT = { width: 340, left: 46, right: 6, top: 22, upper: 92, gap: 42, lower: 128, bottom: 38 };
const HEIGHT = PLOT.top + PLOT.upper + PLOT.gap + PLOT.lower + PLOT.bottom;

function scaleOf(values, start, height) {
  let low = Math.min(0, ...values), high = Math.max(0, ...values);
  if (high - low < 1e-9) [low, high] = [-1, 1];
  const pad = 0.08 * (high - low);
  return { low: low - pad, high: high + pad, at: (v) => start + (height * (high + pad - v)) / (high - low + 2 * pad) };
}

function drawPlot(plot, s, choose) {
  const { width, left, right, top, upper, gap, lower } = PLOT;
  const wide = width - left - right, G = s.rewards.length, slot = wide / G;
  const text = (x, y, anchor, kind, words) => svg("text", { x, y, "text-anchor": anchor, class: kind }, words);
  const start = top + upper + gap, floor = start + lower;
  const A = scaleOf(s.advantages, top, upper), W = scaleOf(s.weights, start, lower);
  const parts = [text(left, top - 8, "start", "rlhf-axis", "advantage of each completion"),
    text(left, start - 8, "start", "rlhf-axis", "weight of each token; area = pull"),
    text(left + wide / 2, floor + 31, "middle", "rlhf-axis", `the ${s.total} tokens, one completion after another`)];
  for (const scale of [A, W]) for (const tick of ticks(scale.low, scale.high, 3)) {
    parts.push(svg("line", { class: Math.abs(tick) < 1e-12 ? "rlhf-group-zero" : "rlhf-grid", x1: left, x2: width - right, y1: scale.at(tick), y2: scale.at(tick) }));
    parts.push(text(left - 5, scale.at(tick) + 4, "end", "rlhf-tick", short(tick)));
  }
  const block = (name, i, x, across, scale, value) => {
    const rect = svg("rect", { class: `rlhf-group-block ${value < 0 ? "rlhf-group-down" : "rlhf-group-up"}${i === s.completion ? " rlhf-group-here" : ""}`,
      x, width: across, y: Math.min(scale.at(0), scale.at(value)), height: Math.abs(value) < 1e-9 ? 0 : Math.abs(scale.at(value) - scale.at(0)), "data-bar": name, "data-value": value });
    rect.addEventListener("click", () => choose(i));
    return rect;
  };
  let before = 0;
  s.rewards.forEach((_, i) => {
    const x = left + (wide * before) / s.total, across = (wide * s.lengths[i]) / s.total;
    parts.push(block("advantage", i, left + slot * (i + 0.2), slot * 0.6, A, s.advantages[i]), block("weight", i, x, across, W, s.weights[i]));
    parts.push(text(left + slot * (i + 0.5), top + upper + 13, "middle", "rlhf-tick", String(i + 1)));
    if (across > (i < 9 ? 8 : 14)) parts.push(text(x + across / 2, floor + 13, "middle", "rlhf-tick", String(i + 1)));
    before += s.lengths[i];
  });
  plot.replaceChildren(...parts);
  plot.setAttribute("aria-label", `Weight of each token: ${s.weights.map((w, i) => `completion ${i + 1}, ${s.lengths[i]} tokens of ${format(w, 4)}`).join("; ")}.`);
}

// ---------------------------------------------------------------- the demo

const STATE = ["rewards", "lengths", "method", "budget", "completion", "methods", "presets"];

function render({ model, el }) {
  const read = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  const set = (update) => {
    for (const [name, value] of Object.entries(update)) model.set(name, value);
    model.save_changes();
  };
  const message = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  const live = announcer();
  const button = (name, words, label, act) => {
    const element = html("button", { type: "button", class: "rlhf-button", "data-control": name, "aria-label": label }, words);
    element.addEventListener("click", act);
    return element;
  };
  const row = (words, ...children) => html("div", { class: "rlhf-control" }, html("span", { class: "rlhf-label" }, words), ...children);
  const place = (label) => html("span", { class: "rlhf-buttons", role: "group", "aria-label": label });
  const methodPlace = place("method"), presetPlace = place("groups to start from");
  const chosen = () => compute(read()).completion;
  const change = (name, i, value) => set({ [name]: model.get(name).map((old, k) => (k === i ? value : old)), completion: i });

  // the sliders of one completion
  const control = (trait, label, hint, positions, step, digits, onChange) => {
    const one = slider({ name: trait, label, hint, positions, toValue: (p) => Number((p * step).toFixed(6)), toPosition: (v) => v / step,
      describe: (v) => `${label} ${format(v, digits)}`, onChange });
    const output = html("output", { class: "rlhf-setting", "data-setting": trait }), title = html("span", {});
    return { element: row(title, one.element, output), input: one.element, title, show(value) { one.show(value); showNumber(output, value, digits); } };
  };
  const reward = control("reward", "reward", "of the chosen completion", REWARDS.map((end) => end * 10), 0.1, 1, (v) => change("rewards", chosen(), v));
  const length = control("length", "length", "its tokens", [1, 32], 1, 0, (v) => change("lengths", chosen(), v));
  const resize = (by) => {
    const { rewards, lengths } = read();
    if (by > 0) set({ rewards: [...rewards, 0], lengths: [...lengths, lengths.at(-1)], completion: rewards.length });
    else set({ rewards: rewards.slice(0, -1), lengths: lengths.slice(0, -1), completion: Math.min(chosen(), rewards.length - 2) });
  };
  const fewer = button("fewer", "one fewer", "one completion fewer", () => resize(-1)), more = button("more", "one more", "one completion more", () => resize(1));

  const tiles = {};
  const tile = (name, label, title) => {
    tiles[name] = html("output", { "data-name": name });
    return html("div", { class: "rlhf-tile", title }, html("span", {}, label), tiles[name]);
  };
  const says = html("div", { class: "rlhf-group-says", "data-name": "says" });
  const plot = svg("svg", { class: "rlhf-plot", viewBox: `0 0 ${PLOT.width} ${HEIGHT}`, role: "img" });
  const table = html("table", { class: "rlhf-bars" });
  const figure = html("div", { class: "rlhf-figure" },
    html("div", { class: "rlhf-tiles" }, tile("spread", "spread of rewards", "unbiased standard deviation"),
      tile("up", "pull up", "sum of the pulls that make completions likelier"), tile("down", "pull down", "sum of the pulls that make completions less likely")),
    html("div", { class: "rlhf-panels" }, html("div", { class: "rlhf-plot-place" }, plot,
      html("p", { class: "rlhf-legend" }, html("span", { class: "rlhf-key" }), "pushed up, ", html("span", { class: "rlhf-key rlhf-key-true" }), "pushed down; at ratio 1, before the policy moves")), table), says);
  const controls = html("div", {}, row("method", methodPlace), row("group", presetPlace), reward.element, length.element);
  el.classList.add("rlhf-demo", "rlhf-group");
  el.append(controls, message, figure, live.element);

  let rows = [];
  const buildTable = (G) => {
    const head = (words, title) => html("th", { scope: "col", class: "rlhf-right", title }, words);
    rows = Array.from({ length: G }, (_, i) => {
      const pick = button(`pick-${i}`, String(i + 1), `completion ${i + 1}: choose it for the sliders`, () => set({ completion: i }));
      const verdict = button(`verdict-${i}`, "", "", () => change("rewards", i, model.get("rewards")[i] === 1 ? 0 : 1));
      const cells = Object.fromEntries(["lengths", "advantages", "weights", "pulls"].map((name) => [name, html("td", { class: "rlhf-right", "data-name": `${name}-${i}` })]));
      return { pick, verdict, cells, element: html("tr", {}, html("th", { scope: "row" }, pick), html("td", {}, verdict), ...Object.values(cells)) };
    });
    table.replaceChildren(html("caption", { class: "rlhf-hidden" }, "Each completion: its reward and length, and what follows from them"),
      html("thead", {}, html("tr", {}, html("th", { scope: "col", title: "completion" }, "#"), html("th", { scope: "col", title: "press to switch between 1 and 0" }, "reward"),
        head("tokens", "length"), head("A", "advantage"), head("a token", "weight of each token"), head("pull", "weight times tokens"))),
      html("tbody", {}, ...rows.map((one) => one.element)),
      html("tfoot", {}, html("tr", {}, html("td", { colspan: 6 }, html("span", { class: "rlhf-buttons" }, fewer, more)))));
  };

  let drawn = false, built = "";
  const draw = () => {
    const state = read();
    const wrong = problem(state);
    figure.hidden = controls.hidden = Boolean(wrong) && !drawn;
    figure.classList.toggle("rlhf-stale", Boolean(wrong));
    message.hidden = !wrong;
    message.textContent = wrong ? `This figure cannot be drawn: ${wrong}.` + (drawn ? " Below is the last state that could." : "") : "";
    if (wrong) return;
    const s = compute(state), here = s.completion;
    if (!drawn) {
      methodPlace.replaceChildren(...Object.keys(s.methods).map((name) => button(`method-${name}`, NAMES[name] ?? name, `method ${NAMES[name] ?? name}`, () => set({ method: name }))));
      presetPlace.replaceChildren(...(s.presets ?? []).map(([name, rewards, lengths]) =>
        button(`preset-${name}`, name, `the group “${name}”`, () => set({ rewards, lengths: lengths.map((n) => Math.min(n, model.get("budget"))), completion: 0 }))));
    }
    if (built !== s.rewards.length) buildTable(s.rewards.length);
    built = s.rewards.length;
    for (const one of methodPlace.children) one.setAttribute("aria-pressed", String(one.dataset.control === `method-${s.method}`));
    length.input.max = s.budget;
    reward.title.textContent = `reward of ${here + 1}`;
    length.title.textContent = `length of ${here + 1}`;
    reward.show(s.rewards[here]);
    length.show(s.lengths[here]);
    fewer.disabled = s.rewards.length <= SIZES[0];
    more.disabled = s.rewards.length >= SIZES[1];
    for (const name of ["spread", "up", "down"]) showNumber(tiles[name], s[name], 3);
    rows.forEach(({ pick, verdict, cells, element }, i) => {
      for (const [name, digits] of [["lengths", 0], ["advantages", 2], ["weights", 4], ["pulls", 3]]) showNumber(cells[name], s[name][i], digits);
      const worth = s.rewards[i];
      verdict.textContent = `${short(worth)}${worth === 1 ? " ✓" : worth === 0 ? " ✗" : ""}`;
      verdict.dataset.value = String(worth);
      verdict.setAttribute("aria-label", `reward of completion ${i + 1} is ${short(worth)}; press for ${worth === 1 ? 0 : 1}`);
      pick.setAttribute("aria-pressed", String(i === here));
      if (i === here) element.setAttribute("aria-current", "true");
      else element.removeAttribute("aria-current");
    });
    drawPlot(plot, s, (i) => set({ completion: i }));
    const words = inWords(s);
    says.replaceChildren(...words.map((line) => html("p", {}, line)));
    live.say(`${NAMES[s.method] ?? s.method}. Completion ${here + 1}: reward ${short(s.rewards[here])}, ${s.lengths[here]} tokens, advantage ${format(s.advantages[here], 2)}, ` +
      `weight of a token ${format(s.weights[here], 4)}, pull ${format(s.pulls[here], 3)}. ${words[0]}`);
    drawn = true;
  };
  const unfollow = follow(model, STATE, draw);
  return () => { unfollow(); live.stop(); };
}

export default { render };
