// The reasoning replay. Reading a reply first, as pure functions; then what draws it.

const PROMPT = /^(0|[1-9][0-9]{0,8})\+(0|[1-9][0-9]{0,8})=$/;
const STEP = /^([0-9]+)\+([0-9]+)(\+1)?=([0-9]+)$/;
const PLACES = ["ones", "tens", "hundreds", "thousands"];
const SHARES = ["greedy", "sampled", "working"];

// The two numbers of a prompt; null if it is no sum.
function parse(prompt) {
  const match = typeof prompt === "string" ? PROMPT.exec(prompt) : null;
  return match && [Number(match[1]), Number(match[2])];
}

// The step that belongs into each column of a + b, ones first, with its carry.
function columnsOf(a, b) {
  const steps = [];
  let carry = 0;
  while (a || b || steps.length === 0) {
    const total = (a % 10) + (b % 10) + carry;
    steps.push(`${a % 10}+${b % 10}${carry ? "+1" : ""}=${total}`);
    [a, b, carry] = [Math.floor(a / 10), Math.floor(b / 10), Math.floor(total / 10)];
  }
  return steps;
}

// What is wrong with a step of the working, in words; "" if nothing is.
function faultOf(step, expected) {
  if (step === expected) return "";
  if (expected === undefined) return "no such column";
  const found = STEP.exec(step);
  const wanted = STEP.exec(expected);
  if (!found) return "not a step";
  if (found[1] !== wanted[1] || found[2] !== wanted[2]) return "other digits";
  if (found[3] !== wanted[3]) return wanted[3] ? "carry forgotten" : "no carry here";
  return "added wrongly";
}

// A reply read column by column. The answer is what follows the last ">"; without one, all of the text is.
function readReply(prompt, reply) {
  const numbers = parse(prompt);
  const expected = columnsOf(...numbers);
  const end = reply.lastIndexOf(">");
  const starts = reply.startsWith("<");
  const closed = end >= 0 || !starts;
  const written = end >= 0 || starts ? reply.slice(starts ? 1 : 0, end >= 0 ? end : undefined) : null;
  const steps = written === null ? [] : written.split(",");
  const faults = steps.map((step, k) => faultOf(step, expected[k]));
  const answer = reply.slice(end + 1);
  const total = String(sum(numbers));
  return { reply, steps, expected, closed, answer, faults, total, right: answer === total };
}

// The first measurement from which on `holds` is true of every reply to the end; −1 if it is not of the last.
function sinceWhen(replies, holds) {
  let since = -1;
  for (let i = replies.length - 1; i >= 0 && holds(replies[i]); i -= 1) since = i;
  return since;
}
const works = (reply) => reply.startsWith("<");
const workingSince = (replies) => sinceWhen(replies, works);
const settledSince = (replies) => sinceWhen(replies, (reply) => reply === replies.at(-1));

const problem = ({ prompts, measured, step, sum: chosen }) =>
  wrongEmpty("prompts", prompts, "at least one sum") ??
  wrongEntry("prompts", prompts, parse, "a sum such as 4821+377=") ??
  unless(
    Array.isArray(measured) && measured.length >= 2,
    `measured has ${measured?.length} entries; expected at least two, before training and after it`,
  ) ??
  firstWrong(measured, (one, i) => wrongMeasurement(one, i, measured[i - 1], prompts.length)) ??
  unless(
    measured.some((one) => one.step === step),
    `step is ${step}; expected one that was measured: ${measured.map((one) => one.step).join(", ")}`,
  ) ??
  wrongWhole("sum", chosen, [0, prompts.length - 1]);

function wrongMeasurement(one, i, before, count) {
  const check = (holds, what, expected) => unless(holds, `measured[${i}] has ${what}; expected ${expected}`);
  const isShare = (value) => typeof value === "number" && value >= 0 && value <= 1;
  const step = `step=${one?.step}`;
  return (
    check(Number.isInteger(one?.step) && one.step >= 0, step, "a whole number, 0 or more") ??
    firstWrong(SHARES, (name) => check(isShare(one[name]), `${name}=${one[name]}`, "a share from 0 to 1")) ??
    check(
      Number.isFinite(one.length) && one.length >= 0,
      `length=${one.length}`,
      "a mean of tokens, 0 or more",
    ) ??
    check(
      Array.isArray(one.replies) &&
        one.replies.length === count &&
        one.replies.every((reply) => typeof reply === "string"),
      "other replies",
      `${count} texts, one for each prompt`,
    ) ??
    (before
      ? check(one.step > before.step, step, `one after ${before.step}, the one before it`)
      : check(one.step === 0, step, "0, before training"))
  );
}

// Everything on display.
function compute({ prompts, measured, step, sum: chosen }) {
  const here = measured.findIndex((one) => one.step === step);
  const last = measured.length - 1;
  const prompt = prompts[chosen];
  const repliesTo = (k) => measured.map((one) => one.replies[k]);
  const replies = repliesTo(chosen);
  const cardAt = ([name, i]) => ({ name, step: measured[i].step, ...readReply(prompt, replies[i]) });
  const turns = range(prompts.length)
    .map(repliesTo)
    .filter((own) => workingSince(own) > 0);
  return {
    ...{ prompts, measured, step, chosen, here, last, prompt },
    cards: Object.entries({ before: 0, here, after: last }).map(cardAt),
    verdicts: prompts.map((one, k) => readReply(one, measured[here].replies[k]).right),
    since: workingSince(replies),
    settled: settledSince(replies),
    turned: turns.length,
    atOnce: turns.filter((own) => settledSince(own) === workingSince(own)).length,
  };
}

// ---------------------------------------------------------------- in words

function ofTheRun(s) {
  const [first, now] = [s.measured[0], s.measured[s.here]];
  const numbers = (name, digits) =>
    (s.here === 0 ? "" : `${format(first[name], digits)} → `) + format(now[name], digits);
  const when = s.here === 0 ? "Before training" : `From step 0 to step ${now.step}`;
  const moved =
    `${when}, of the sampled replies: begin with working ${numbers("working", 3)}, ` +
    `are right ${numbers("sampled", 3)}, mean length ${numbers("length", 1)} tokens.`;
  if (s.turned === 0) return [moved];
  const habit =
    2 * s.atOnce > s.turned
      ? "the habit flips, and the columns stay as they were."
      : "training changes the columns too, not the habit alone.";
  return [
    moved,
    `Greedy replies to ${s.turned} of the ${s.prompts.length} sums below turn to working for good. ` +
      `In ${s.atOnce} of them the working they turn to is word for word the last one: ${habit}`,
  ];
}

function ofTheSum({ measured, prompt, since, settled, last }) {
  const name = prompt.replace("=", "");
  if (since < 0) return `Training does not bring the greedy reply to ${name} to working.`;
  const start =
    since === 0
      ? `The greedy reply to ${name} has working from the start`
      : `The greedy reply to ${name} turns to working for good at step ${measured[since].step}`;
  if (settled !== since) return `${start}; it last changes at step ${measured[settled].step}.`;
  return `${start}${since === last ? "." : ", and not one character of it changes after that."}`;
}

// ---------------------------------------------------------------- the curves

const PLOT = { width: 340, height: 168, left: 34, right: 332, top: 8, bottom: 134 };
const PANELS = [
  {
    title: "Share of held-out sums",
    label: "Shares of right replies, and of sampled replies with working,",
    high: () => 1,
    digits: 3,
    lines: [
      ["greedy", "first", "right, greedy"],
      ["sampled", "second", "right, sampled"],
      ["working", "third", "working, sampled"],
    ],
  },
  {
    title: "Mean length of sampled replies",
    label: "Mean length of sampled replies",
    high: (measured) => 1.08 * Math.max(1, ...measured.map((one) => one.length)),
    digits: 1,
    lines: [["length", "first", "tokens, end included"]],
  },
];

const stepScale = (measured) => linear([0, measured.at(-1).step], [PLOT.left, PLOT.right]);

function drawCurves(plot, s, { lines, high, label }) {
  const { height, left, right, top, bottom } = PLOT;
  const end = s.measured[s.last].step;
  const most = high(s.measured);
  const x = stepScale(s.measured);
  const y = linear([0, most], [bottom, top]);
  const now = s.measured[s.here];
  const all = lines.map(([name]) => `${name} ${format(now[name], 3)}`).join(", ");
  const curveOf = ([name, kind]) => {
    const points = s.measured.map((one) => [x(one.step), y(one[name])]);
    const dot = [x(now.step), y(now[name])];
    return [
      curve(`rlhf-curve rlhf-reason-${kind}`, points, { "data-curve": name }),
      circle(`rlhf-dot rlhf-reason-dot-${kind}`, dot, 4, { "data-dot": name }),
    ];
  };
  drawInto(
    plot,
    `${label} over ${end} training steps; at step ${s.step}: ${all}.`,
    yAxis(y, ticks(0, most, 5), [left, right], { gap: 5 }),
    xNumbers(x, ticks(0, end, 5), bottom + 14, String),
    axisTitle([(left + right) / 2, height - 4], "middle", "training steps"),
    line("rlhf-cursor", [x(s.step), top], [x(s.step), bottom], { "data-cursor": s.step }),
    lines.map(curveOf),
  );
}

// The measurement nearest to a click on a plot.
function nearest(plot, event, measured) {
  const box = plot.getBoundingClientRect();
  const place = ((event.clientX - box.left) * PLOT.width) / box.width;
  const aim = stepScale(measured).back(clamp(place, [PLOT.left, PLOT.right]));
  const closer = (best, { step }) => (Math.abs(step - aim) < Math.abs(best - aim) ? step : best);
  return measured.reduce(closer, 0);
}

function panelOf(panel, { model, set }) {
  const plot = picture(PLOT.width, PLOT.height, { class: "rlhf-plot rlhf-reason-plot" });
  plot.addEventListener("click", (event) => set({ step: nearest(plot, event, model.get("measured")) }));
  const outputs = panel.lines.map(([name]) => html("output", { "data-name": name }));
  const strokes = panel.lines.map(([, kind, words], i) =>
    html(
      "span",
      { class: "rlhf-reason-key" },
      html("span", { class: `rlhf-reason-stroke rlhf-reason-stroke-${kind}` }),
      `${words} `,
      outputs[i],
    ),
  );
  const element = html(
    "div",
    { class: "rlhf-plot-place" },
    html("p", { class: "rlhf-reason-title" }, panel.title),
    plot,
    html("div", { class: "rlhf-reason-keys" }, ...strokes),
  );
  return {
    element,
    show(s) {
      for (const [i, [name]] of panel.lines.entries()) {
        showNumber(outputs[i], s.measured[s.here][name], panel.digits);
      }
      drawCurves(plot, s, panel);
    },
  };
}

// ---------------------------------------------------------------- a reply, read

const RIGHT = ["rlhf-reason-right", "✓"];
const WRONG = ["rlhf-reason-wrong", "✗"];

function mark(right) {
  const [kind, sign] = right ? RIGHT : WRONG;
  return html("span", { class: kind, role: "img", "aria-label": right ? "right" : "wrong" }, sign);
}

// A line of a card: its name, what is written there, and whether that is right; null for neither.
const lineOf = (kind, name, written, right, remark, data) =>
  html(
    "li",
    { class: `rlhf-reason-line ${kind}`.trim(), ...data },
    html("span", { class: "rlhf-reason-place" }, name),
    html("span", { class: "rlhf-reason-written" }, written),
    right === null ? "" : mark(right),
    remark ? html("span", { class: "rlhf-reason-remark" }, remark) : "",
  );

function columnLine({ steps, expected, faults }, k) {
  const name = PLACES[k] ?? `column ${k + 1}`;
  if (steps.length === 0) {
    return lineOf("rlhf-reason-quiet", name, "not written", null, "", { "data-fault": "none" });
  }
  const belongs = `${expected[k]} belongs here`;
  if (k >= steps.length) return lineOf("", name, "missing", false, belongs, { "data-fault": "missing" });
  const [written, fault] = [steps[k], faults[k]];
  const remark = fault && `${fault}${expected[k] === undefined ? "" : `: ${belongs}`}`;
  const data = { "data-written": written, "data-fault": fault };
  return lineOf("", name, written || "(nothing)", fault === "", remark, data);
}

function answerLine(card) {
  const { closed, answer, right } = card;
  const data = { "data-answer": answer, "data-right": String(right) };
  const written = closed ? answer || "(nothing)" : "(all of it)";
  return lineOf("rlhf-reason-answer", "answer", written, right, ofTheAnswer(card), data);
}

function ofTheAnswer({ closed, right, steps, expected, faults, total }) {
  const flawless = steps.length === expected.length && faults.every((fault) => fault === "");
  if (!closed) return "the working never ends: all of the text counts as the answer";
  if (right) return steps.length && !flawless ? "right and paid, whatever the working" : "";
  return `the sum is ${total}${steps.length && flawless ? ": right working, wrong answer" : ""}`;
}

function cardOf([name, title]) {
  const head = html("p", { class: "rlhf-reason-head" });
  const words = html("p", { class: "rlhf-reason-reply" });
  const list = html("ul", { class: "rlhf-reason-lines" });
  const kind = `rlhf-reason-card rlhf-reason-${name}`;
  const element = html("section", { class: kind, "data-card": name }, head, words, list);
  return {
    element,
    show(card) {
      const { step, reply, steps, expected } = card;
      head.replaceChildren(html("strong", {}, title), ` step ${step}`);
      attribute(element, "aria-label", `${title} step ${step}`);
      element.dataset.step = String(step);
      words.textContent = reply || "(an empty reply)";
      words.dataset.reply = reply;
      const count = Math.max(steps.length, expected.length);
      list.replaceChildren(...range(count).map((k) => columnLine(card, k)), answerLine(card));
    },
  };
}

// ---------------------------------------------------------------- the demo

const CARDS = { before: "before training,", here: "at", after: "after training," };

function stepRow({ model, set }) {
  const steps = () => model.get("measured").map((one) => one.step);
  const move = (by) => {
    const all = steps();
    set({ step: all[clamp(all.indexOf(model.get("step")) + by, [0, all.length - 1])] });
  };
  const scrub = slider({
    name: "step",
    label: "training step",
    hint: "arrow keys move to the next measurement",
    describe: (step) => `step ${step}`,
    onChange: (step) => set({ step }),
  });
  const back = button({ control: "back", label: "to the measurement before" }, "‹", () => move(-1));
  const next = button({ control: "next", label: "to the next measurement" }, "›", () => move(1));
  const where = setting("step");
  const element = row("step", null, buttons(null, back, next), scrub.element, where);
  element.classList.add("rlhf-reason-scrub");
  return {
    element,
    show(s) {
      scrub.rescale(listed(steps()));
      scrub.show(s.step);
      showText(where, `${s.step} of ${s.measured[s.last].step}`, s.step);
    },
  };
}

function sumRow({ set }) {
  const sums = choices(
    "the sum whose working is read",
    (k) => [{ control: `sum-${k}` }, ""],
    (k) => set({ sum: k }),
  );
  const offer = whenChanged((count) => sums.offer(range(count)));
  return {
    element: row("sum", null, sums.element),
    show({ prompts, verdicts, chosen, step }) {
      offer(prompts.length);
      sums.show(chosen);
      for (const [k, one] of [...sums.element.children].entries()) {
        const name = prompts[k].replace("=", "");
        const verdict = verdicts[k] ? "right" : "wrong";
        one.textContent = `${name} ${verdicts[k] ? "✓" : "✗"}`;
        one.setAttribute("aria-label", `${name}: ${verdict} at step ${step}; read its working`);
      }
    },
  };
}

function legendOf() {
  const sign = ([kind, words]) => html("span", { class: kind }, words);
  return html(
    "p",
    { class: "rlhf-legend" },
    ...[sign(RIGHT), " belongs in its column, ", sign(WRONG)],
    " does not: your browser has worked each sum out and compared. " +
      "The reward of the run looked at the answer alone. All replies here are greedy.",
  );
}

function build(page) {
  const steps = stepRow(page);
  const panels = PANELS.map((panel) => panelOf(panel, page));
  const told = html("div", { class: "rlhf-reason-says", "data-name": "run-says" });
  const sums = sumRow(page);
  const cards = Object.entries(CARDS).map(cardOf);
  const story = html("p", { class: "rlhf-reason-story", "data-name": "sum-says" });
  const elements = (parts) => parts.map((part) => part.element);
  return {
    figure: [
      steps.element,
      html("div", { class: "rlhf-panels" }, ...elements(panels)),
      told,
      sums.element,
      html("div", { class: "rlhf-reason-cards" }, ...elements(cards)),
      story,
      legendOf(),
    ],
    draw(s) {
      for (const part of [steps, ...panels, sums]) part.show(s);
      told.replaceChildren(...ofTheRun(s).map((words) => html("p", {}, words)));
      cards.forEach((card, i) => card.show(s.cards[i]));
      story.textContent = ofTheSum(s);
      return aloud(s);
    },
  };
}

function aloud({ measured, here, step, prompt, cards }) {
  const { greedy, sampled, working, length } = measured[here];
  const { reply, right, faults, expected } = cards[1];
  const columns = faults.filter((fault) => fault === "").length;
  return (
    `Step ${step}: greedy ${format(greedy, 3)}, sampled ${format(sampled, 3)}, ` +
    `with working ${format(working, 3)}, length ${format(length, 1)}. ` +
    `${prompt} ${reply || "an empty reply"}: answer ${right ? "right" : "wrong"}, ` +
    `${columns} of ${expected.length} columns right.`
  );
}

const STATE = ["prompts", "measured", "step", "sum"];
const cannot = "This replay cannot be shown";
export default demo({ kind: "rlhf-reason", state: STATE, problem, compute, build, cannot });
