// The group explorer. The mathematics first, as pure functions; then what draws it.

const SIZES = [2, 12];
const REWARDS = [-2, 2];
const NAMES = {
  grpo: "GRPO",
  dr_grpo: "Dr. GRPO",
  dapo: "DAPO",
  gspo: "GSPO",
  cispo: "CISPO",
  sapo: "SAPO",
  gmpo: "GMPO",
  rloo: "RLOO",
  "reinforce++": "REINFORCE++",
};

const meanOf = (values) => sum(values) / values.length;
const tokenMean = (rewards, lengths) => sum(rewards.map((r, i) => r * lengths[i])) / sum(lengths);

// The advantage of each completion: against its group, or for "return_to_go" against all tokens of the batch.
function advantagesOf({ advantage, baseline, scale_rewards: scale }, rewards, lengths) {
  const G = rewards.length;
  if (advantage === "return_to_go") {
    const middle = tokenMean(rewards, lengths);
    const variance = sum(rewards.map((r, i) => lengths[i] * (r - middle) ** 2)) / sum(lengths);
    return rewards.map((r) => (r - middle) / Math.sqrt(variance + 1e-8));
  }
  if (baseline !== "none" && rewards.every((r) => r === rewards[0])) return rewards.map(() => 0);
  const factor = baseline === "leave_one_out" ? G / (G - 1) : 1;
  const middle = baseline === "none" ? 0 : meanOf(rewards);
  const divisor = scale === "none" ? 1 : spreadOf(rewards) + 1e-4;
  return rewards.map((r) => (factor * (r - middle)) / divisor);
}

function spreadOf(rewards) {
  const middle = meanOf(rewards);
  return Math.sqrt(sum(rewards.map((r) => (r - middle) ** 2)) / (rewards.length - 1));
}

// −∂loss/∂log π of each token of a completion at ratio 1: what its advantage is divided by.
function weightsOf({ loss, aggregate_over: over }, advantages, lengths, budget) {
  const G = lengths.length;
  const total = sum(lengths);
  return advantages.map((A, i) => {
    // with the ratio of whole completions, each token's log π stands in the loss of all of them
    const copies = loss === "rloo" ? lengths[i] : 1;
    return (A * copies) / (over === "sequences" ? G * lengths[i] : over === "tokens" ? total : G * budget);
  });
}

function problem({ rewards, lengths, method, budget, completion, methods }) {
  const [few, many] = SIZES;
  const [low, high] = REWARDS;
  return (
    unless(
      methods && Object.hasOwn(methods, method),
      `method is ${method}; expected one of ${Object.keys(methods ?? {}).join(", ")}`,
    ) ??
    unless(
      Array.isArray(rewards) && rewards.length >= few && rewards.length <= many,
      `rewards has ${rewards?.length} entries; expected ${few} to ${many}, ` +
        "as a completion is compared with others of its group",
    ) ??
    wrongEntry(
      "rewards",
      rewards,
      (r) => typeof r === "number" && r >= low && r <= high,
      `a number from ${low} to ${high}`,
    ) ??
    wrongLength("lengths", lengths, rewards.length, "one for each reward") ??
    wrongEntry("lengths", lengths, (n) => Number.isInteger(n) && n >= 1, "at least 1 token") ??
    wrongBudget(budget, Math.max(...lengths)) ??
    unless(Number.isInteger(completion), `completion is ${completion}; expected a whole number`)
  );
}
const wrongBudget = (budget, longest) =>
  wrongWhole("budget", budget, [longest, Infinity], `at least the longest completion, ${longest} tokens`);

// Everything on display.
function compute(state) {
  const { rewards, lengths, budget, methods, method } = state;
  const settings = methods[method];
  const advantages = advantagesOf(settings, rewards, lengths);
  const weights = weightsOf(settings, advantages, lengths, budget);
  const pulls = weights.map((w, i) => w * lengths[i]);
  return {
    ...state,
    settings,
    advantages,
    weights,
    pulls,
    spread: spreadOf(rewards),
    total: sum(lengths),
    completion: clamp(state.completion, [0, rewards.length - 1]),
    teaches: rewards.some((r) => r !== rewards[0]),
    up: sum(pulls.map((p) => Math.max(p, 0))),
    down: sum(pulls.map((p) => Math.min(p, 0))),
  };
}

// ---------------------------------------------------------------- in words

const nameOf = (method) => NAMES[method] ?? method;

// Two completions with the same reward, the longer one first, as unlike in length as there are; wrong ones
// before right ones.
function twins({ rewards, lengths, advantages }) {
  let best = null;
  for (const i of range(rewards.length)) {
    for (const j of range(rewards.length)) {
      if (rewards[i] !== rewards[j] || lengths[i] <= lengths[j] || advantages[i] === 0) continue;
      const times = lengths[i] / lengths[j];
      const score = (advantages[i] < 0 ? 1e6 : 0) + times;
      if (!best || score > best.score) best = { score, long: i, brief: j, times, good: advantages[i] > 0 };
    }
  }
  return best;
}

function inWords(s) {
  const later = {
    gspo: "At ratio 1 this is GRPO; GSPO differs in what it clips once the policy has moved.",
    cispo: "At ratio 1 this is DAPO’s pull; CISPO differs in the tokens it keeps once the policy has moved.",
  }[s.settings.loss];
  if (!s.teaches) return withoutContrast(s.settings);
  return [`${ofTheComparison(s)} ${ofTheDivision(s)}`, ofTheLength(s), ...(later ? [later] : [])];
}

const withoutContrast = ({ advantage, dynamic_sampling: again }) => [
  "All rewards are equal. There is nothing to compare: every advantage is 0, and this group teaches nothing.",
  again
    ? "DAPO draws other groups in place of such a group, until the batch is full."
    : advantage === "return_to_go"
      ? "REINFORCE++ compares with the whole batch, and here this group is all of it; beside other " +
        "prompts it would still be pulled."
      : "It was sampled and scored for nothing, and takes up a share of the batch.",
];

function ofTheComparison({ settings, rewards, lengths }) {
  const G = rewards.length;
  if (settings.advantage === "return_to_go") {
    return (
      "No groups: each reward is compared with the mean over all tokens of the batch (here only this " +
      `group), ${format(tokenMean(rewards, lengths), 2)}. A long completion counts more in it.`
    );
  }
  return settings.baseline === "leave_one_out"
    ? `Each reward is compared with the mean of the ${G - 1} others: ` +
        `${G}/${G - 1} times its distance from the mean of all.`
    : `Each reward is compared with the mean of the group, ${format(meanOf(rewards), 2)}.`;
}

function ofTheDivision({ settings, spread }) {
  if (settings.advantage === "return_to_go") return "The division is by the spread over all those tokens.";
  return settings.scale_rewards === "none"
    ? "Nothing is divided by the spread: a group that is nearly all right, or nearly all wrong, keeps its " +
        "small voice."
    : `Dividing by the spread multiplies every advantage by ${format(1 / (spread + 1e-4), 2)}. ` +
        "Of right and wrong, that is most for groups that are nearly all right or nearly all wrong: their " +
        "spread is smallest.";
}

function ofTheLength(s) {
  const { loss, aggregate_over: over } = s.settings;
  const G = s.rewards.length;
  const found = twins(s);
  const times = found && format(found.times, 1);
  const one = (i) => `completion ${i + 1} (${s.lengths[i]}`;
  const both = found && ` Of ${one(found.long)} tokens) and ${one(found.brief)}), with the same reward, `;
  const harder = found ? `${both}the longer pulls ${times} times as hard.` : "";
  if (loss === "rloo") {
    const whole = "A completion is one action: each of its tokens gets its whole advantage";
    return `${whole}, over ${G} completions.${harder}`;
  }
  if (over === "tokens") {
    return (
      `No division by a completion’s own length, only by all ${s.total} tokens of the batch: ` +
      `a token weighs its advantage.${harder}`
    );
  }
  if (over !== "sequences") {
    return (
      `No division by length, only by the constant ${G} × ${s.budget}: ` +
      `a token weighs its advantage, in any batch.${harder}`
    );
  }
  const shared = "Division by length: a completion’s pull is shared among its tokens.";
  if (!found) return shared;
  const favour = found.good ? "short right answers are favoured" : "long wrong answers are let off lightly";
  return `${shared}${both}a token of the longer weighs ${times} times less: ${favour}.`;
}

// ---------------------------------------------------------------- the plot

const PLOT = { width: 340, height: 322, left: 46, right: 334, upper: [22, 114], lower: [156, 284] };

// A scale that holds 0 and the values, and its marks.
function scaleOf(values, [top, bottom]) {
  const ends = extent([0, ...values], 0);
  const [low, high] = extent(ends[1] - ends[0] < 1e-9 ? [-1, 1] : ends, 0.08);
  return { at: linear([low, high], [bottom, top]), marks: ticks(low, high, 3) };
}

function drawPlot(plot, s, choose) {
  const { left, right, upper, lower } = PLOT;
  const A = scaleOf(s.advantages, upper);
  const W = scaleOf(s.weights, lower);
  const axis = { gap: 5, zero: true };
  drawInto(
    plot,
    `Weight of each token: ${s.weights
      .map((w, i) => `completion ${i + 1}, ${s.lengths[i]} tokens of ${format(w, 4)}`)
      .join("; ")}.`,
    axisTitle([left, upper[0] - 8], "start", "advantage of each completion"),
    axisTitle([left, lower[0] - 8], "start", "weight of each token; area = pull"),
    axisTitle(
      [(left + right) / 2, lower[1] + 31],
      "middle",
      `the ${s.total} tokens, one completion after another`,
    ),
    yAxis(A.at, A.marks, [left, right], axis),
    yAxis(W.at, W.marks, [left, right], axis),
    s.rewards.map((_, i) => blocksOf(s, i, A.at, W.at, choose)),
  );
}

// The two blocks of a completion: above its advantage, below as wide as its tokens.
function blocksOf(s, i, A, W, choose) {
  const { left, right, upper, lower } = PLOT;
  const slot = (right - left) / s.rewards.length;
  const wide = (tokens) => ((right - left) * tokens) / s.total;
  const start = left + wide(sum(s.lengths.slice(0, i)));
  const across = wide(s.lengths[i]);
  const block = (name, from, breadth, y, value) => {
    const colour = value < 0 ? "rlhf-group-down" : "rlhf-group-up";
    const kind = `rlhf-group-block ${colour}${i === s.completion ? " rlhf-group-here" : ""}`;
    const tall = Math.abs(value) < 1e-9 ? 0 : Math.abs(y(value) - y(0));
    const place = [from, Math.min(y(0), y(value))];
    const mark = rect(kind, place, [breadth, tall], { "data-bar": name, "data-value": value });
    mark.addEventListener("click", () => choose(i));
    return mark;
  };
  const number = (at, y) => text("rlhf-tick", [at, y], "middle", String(i + 1));
  return [
    block("advantage", left + slot * (i + 0.2), slot * 0.6, A, s.advantages[i]),
    block("weight", start, across, W, s.weights[i]),
    number(left + slot * (i + 0.5), upper[1] + 13),
    across > (i < 9 ? 8 : 14) ? number(start + across / 2, lower[1] + 13) : [],
  ];
}

// ---------------------------------------------------------------- the table

// the digits of each column
const CELLS = { lengths: 0, advantages: 2, weights: 4, pulls: 3 };

function resizer({ read, set }) {
  const fewer = button({ control: "fewer", label: "one completion fewer" }, "one fewer", () => {
    const { rewards, lengths, completion } = compute(read());
    const last = rewards.length - 2;
    set({
      rewards: rewards.slice(0, -1),
      lengths: lengths.slice(0, -1),
      completion: Math.min(completion, last),
    });
  });
  const more = button({ control: "more", label: "one completion more" }, "one more", () => {
    const { rewards, lengths } = read();
    set({ rewards: [...rewards, 0], lengths: [...lengths, lengths.at(-1)], completion: rewards.length });
  });
  return {
    element: buttons(null, fewer, more),
    show(size) {
      fewer.disabled = size <= SIZES[0];
      more.disabled = size >= SIZES[1];
    },
  };
}

function completionRow({ model, set, change }, i) {
  const pick = button(
    { control: `pick-${i}`, label: `completion ${i + 1}: choose it for the sliders` },
    String(i + 1),
    () => set({ completion: i }),
  );
  const verdict = button({ control: `verdict-${i}` }, "", () =>
    change("rewards", i, model.get("rewards")[i] === 1 ? 0 : 1),
  );
  const cells = Object.keys(CELLS).map((name) =>
    html("td", { class: "rlhf-right", "data-name": `${name}-${i}` }),
  );
  const element = tableRow(pick, html("td", {}, verdict), ...cells);
  return {
    element,
    show(s) {
      Object.entries(CELLS).forEach(([name, digits], k) => showNumber(cells[k], s[name][i], digits));
      const worth = s.rewards[i];
      showText(verdict, `${short(worth)}${{ 1: " ✓", 0: " ✗" }[worth] ?? ""}`, worth);
      const press = `press for ${worth === 1 ? 0 : 1}`;
      attribute(verdict, "aria-label", `reward of completion ${i + 1} is ${short(worth)}; ${press}`);
      attribute(pick, "aria-pressed", String(i === s.completion));
      attribute(element, "aria-current", i === s.completion && "true");
    },
  };
}

function tableOf(page) {
  const element = html("table", { class: "rlhf-bars" });
  const size = resizer(page);
  let rows = [];
  const offer = whenChanged((count) => {
    rows = range(count).map((i) => completionRow(page, i));
    fillTable(
      element,
      "Each completion: its reward and length, and what follows from them",
      [
        column("#", { title: "completion" }),
        column("reward", { title: "press to switch between 1 and 0" }),
        numberColumn("tokens", "length"),
        numberColumn("A", "advantage"),
        numberColumn("a token", "weight of each token"),
        numberColumn("pull", "weight times tokens"),
      ],
      rows.map((one) => one.element),
    );
    element.append(html("tfoot", {}, html("tr", {}, html("td", { colspan: 6 }, size.element))));
  });
  return {
    element,
    show(s) {
      offer(s.rewards.length);
      size.show(s.rewards.length);
      for (const one of rows) one.show(s);
    },
  };
}

// ---------------------------------------------------------------- the demo

// A slider of the chosen completion, whose label says which one that is.
function chosenRow({ name, hint, scale, digits, onChange }) {
  const describe = (value) => `${name} ${format(value, digits)}`;
  const knob = slider({ name, label: name, hint, scale, describe, onChange });
  const output = setting(name);
  const title = html("span", {});
  return {
    element: row(title, null, knob.element, output),
    rescale: knob.rescale,
    show(value, i) {
      title.textContent = `${name} of ${i + 1}`;
      knob.show(value);
      showNumber(output, value, digits);
    },
  };
}

function controlsOf({ model, read, set, change }) {
  const methods = choices(
    "method",
    (name) => [{ control: `method-${name}`, label: `method ${nameOf(name)}` }, nameOf(name)],
    (method) => set({ method }),
  );
  const presets = choices(
    "groups to start from",
    ([name]) => [{ control: `preset-${name}`, label: `the group “${name}”` }, name],
    ([, rewards, lengths]) =>
      set({ rewards, lengths: lengths.map((n) => Math.min(n, model.get("budget"))), completion: 0 }),
  );
  const ofChosen = (name) => (value) => change(name, compute(read()).completion, value);
  const reward = chosenRow({
    name: "reward",
    hint: "of the chosen completion",
    scale: inSteps(REWARDS, 0.1),
    digits: 1,
    onChange: ofChosen("rewards"),
  });
  const length = chosenRow({ name: "length", hint: "its tokens", digits: 0, onChange: ofChosen("lengths") });
  const offer = whenChanged((names, groups) => {
    methods.offer(names);
    presets.offer(groups);
  });
  return {
    elements: [
      row("method", null, methods.element),
      row("group", null, presets.element),
      reward.element,
      length.element,
    ],
    show(s) {
      const i = s.completion;
      offer(Object.keys(s.methods), s.presets ?? []);
      methods.show(s.method);
      length.rescale(inSteps([1, s.budget], 1));
      reward.show(s.rewards[i], i);
      length.show(s.lengths[i], i);
    },
  };
}

function build(page) {
  const { model, set } = page;
  const change = (name, i, value) =>
    set({ [name]: model.get(name).map((old, k) => (k === i ? value : old)), completion: i });
  const controls = controlsOf({ ...page, change });
  const numbers = tiles([
    ["spread", "spread of rewards", "unbiased standard deviation"],
    ["up", "pull up", "sum of the pulls that make completions likelier"],
    ["down", "pull down", "sum of the pulls that make completions less likely"],
  ]);
  const table = tableOf({ ...page, change });
  const plot = picture(PLOT.width, PLOT.height);
  const signs = [
    key(),
    "pushed up, ",
    key("rlhf-key-true"),
    "pushed down; at ratio 1, before the policy moves",
  ];
  const place = html(
    "div",
    { class: "rlhf-plot-place" },
    plot,
    html("p", { class: "rlhf-legend" }, ...signs),
  );
  const says = html("div", { class: "rlhf-group-says", "data-name": "says" });
  return {
    controls: controls.elements,
    figure: [numbers.element, html("div", { class: "rlhf-panels" }, place, table.element), says],
    draw(s) {
      const i = s.completion;
      controls.show(s);
      for (const name of ["spread", "up", "down"]) numbers.show(name, s[name], 3);
      table.show(s);
      drawPlot(plot, s, (k) => set({ completion: k }));
      const words = inWords(s);
      says.replaceChildren(...words.map((one) => html("p", {}, one)));
      return (
        `${nameOf(s.method)}. Completion ${i + 1}: reward ${short(s.rewards[i])}, ${s.lengths[i]} tokens, ` +
        `advantage ${format(s.advantages[i], 2)}, weight of a token ${format(s.weights[i], 4)}, ` +
        `pull ${format(s.pulls[i], 3)}. ${words[0]}`
      );
    },
  };
}

const STATE = ["rewards", "lengths", "method", "budget", "completion", "methods", "presets"];
export default demo({ kind: "rlhf-group", state: STATE, problem, compute, build });
