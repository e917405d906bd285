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
  const found = STEP.exec(step), wanted = STEP.exec(expected);
  if (!found) return "not a step";
  if (found[1] !== wanted[1] || found[2] !== wanted[2]) return "other digits";
  if (found[3] !== wanted[3]) return wanted[3] ? "carry forgotten" : "no carry here";
  return "added wrongly";
}

// A reply read column by column. The answer is what follows the last ">"; without one, all of the text is.
function readReply(prompt, reply) {
  const [a, b] = parse(prompt), expected = columnsOf(a, b);
  const end = reply.lastIndexOf(">"), starts = reply.startsWith("<");
  const closed = end >= 0 || !starts;
  const written = end >= 0 || starts ? reply.slice(starts ? 1 : 0, end >= 0 ? end : undefined) : null;
  const steps = written === null ? [] : written.split(",");
  const answer = reply.slice(end + 1);
  return { steps, expected, closed, answer, faults: steps.map((step, k) => faultOf(step, expected[k])), right: answer === String(a + b) };
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

// What is wrong with a state, in the words of the Python side; null if nothing is.
function problem({ prompts, measured, step, sum }) {
  if (!Array.isArray(prompts) || prompts.length === 0) return "prompts is empty; expected at least one sum";
  const none = prompts.findIndex((prompt) => !parse(prompt));
  if (none >= 0) return `prompts[${none}] is ${prompts[none]}; expected a sum such as 4821+377=`;
  if (!Array.isArray(measured) || measured.length < 2) return `measured has ${measured?.length} entries; expected at least two, before training and after it`;
  for (const [i, row] of measured.entries()) {
    if (!Number.isInteger(row?.step) || row.step < 0) return `measured[${i}] has step=${row?.step}; expected a whole number, 0 or more`;
    for (const name of SHARES) if (!(typeof row[name] === "number" && row[name] >= 0 && row[name] <= 1)) return `measured[${i}] has ${name}=${row[name]}; expected a share from 0 to 1`;
    if (!(Number.isFinite(row.length) && row.length >= 0)) return `measured[${i}] has length=${row.length}; expected a mean of tokens, 0 or more`;
    if (!Array.isArray(row.replies) || row.replies.length !== prompts.length || !row.replies.every((reply) => typeof reply === "string")) {
      return `measured[${i}] has other replies; expected ${prompts.length} texts, one for each prompt`;
    }
    if (i === 0 && row.step !== 0) return `measured[0] has step=${row.step}; expected 0, before training`;
    if (i > 0 && row.step <= measured[i - 1].step) return `measured[${i}] has step=${row.step}; expected one after ${measured[i - 1].step}, the one before it`;
  }
  if (!measured.some((row) => row.step === step)) return `step is ${step}; expected one that was measured: ${measured.map((row) => row.step).join(", ")}`;
  if (!(Number.isInteger(sum) && sum >= 0 && sum < prompts.length)) return `sum is ${sum}; expected 0 to ${prompts.length - 1}`;
  return null;
}

// Everything on display.
function compute({ prompts, measured, step, sum }) {
  const here = measured.findIndex((row) => row.step === step), last = measured.length - 1;
  const prompt = prompts[sum], replies = measured.map((row) => row.replies[sum]);
  const turns = prompts.map((_, k) => measured.map((row) => row.replies[k])).filter((own) => workingSince(own) > 0);
  return { prompts, measured, step, sum, here, last, prompt, replies,
    cards: [["before", 0], ["here", here], ["after", last]].map(([name, i]) => ({ name, step: measured[i].step, reply: replies[i], ...readReply(prompt, replies[i]) })),
    verdicts: prompts.map((one, k) => readReply(one, measured[here].replies[k]).right),
    since: workingSince(replies), settled: settledSince(replies),
    turned: turns.length, atOnce: turns.filter((own) => settledSince(own) === workingSince(own)).length };
}

// ---------------------------------------------------------------- in words

function ofTheRun(s) {
  const [first, row] = [s.measured[0], s.measured[s.here]];
  const numbers = (name, digits) => (s.here === 0 ? "" : `${format(first[name], digits)} → `) + format(row[name], digits);
  const moved = `${s.here === 0 ? "Before training" : `From step 0 to step ${row.step}`}, of the sampled replies: begin with working ${numbers("working", 3)}, ` +
    `are right ${numbers("sampled", 3)}, mean length ${numbers("length", 1)} tokens.`;
  if (s.turned === 0) return [moved];
  return [moved, `Greedy replies to ${s.turned} of the ${s.prompts.length} sums below turn to working for good. In ${s.atOnce} of them the working they turn to is word for word the last one: ` +
    (2 * s.atOnce > s.turned ? "the habit flips, and the columns stay as they were." : "training changes the columns too, not the habit alone.")];
}

function ofTheSum(s) {
  const at = (i) => `step ${s.measured[i].step}`, sum = s.prompt.replace("=", "");
  if (s.since < 0) return `Training does not bring the greedy reply to ${sum} to working.`;
  const start = s.since === 0 ? `The greedy reply to ${sum} has working from the start` : `The greedy reply to ${sum} turns to working for good at ${at(s.since)}`;
  if (s.settled === s.since) return `${start}${s.since === s.last ? "." : ", and not one character of it changes after that."}`;
  return `${start}; it last changes at ${at(s.settled)}.`;
}

// ---------------------------------------------------------------- the curves

const PLOT = { width: 340, height: 168, left: 34, right: 8, top: 8, bottom: 34 };

function drawCurves(plot, s, lines, high, label) {
  const { width, height, left, right, top, bottom } = PLOT;
  const end = s.measured[s.last].step;
  const x = (step) => left + ((width - left - right) * step) / end;
  const y = (v) => height - bottom - ((height - top - bottom) * v) / high;
  const path = (name) => s.measured.map((row, i) => `${i ? "L" : "M"}${x(row.step).toFixed(2)},${y(row[name]).toFixed(2)}`).join("");
  const row = s.measured[s.here];
  plot.replaceChildren(
    ...ticks(0, high, 5).flatMap((v) => [
      svg("line", { class: "rlhf-grid", x1: left, x2: width - right, y1: y(v), y2: y(v) }),
      svg("text", { class: "rlhf-tick", x: left - 5, y: y(v) + 4, "text-anchor": "end" }, short(v))]),
    ...ticks(0, end, 5).map((v) => svg("text", { class: "rlhf-tick", x: x(v), y: height - bottom + 14, "text-anchor": "middle" }, String(v))),
    svg("text", { class: "rlhf-axis", x: left + (width - left - right) / 2, y: height - 4, "text-anchor": "middle" }, "training steps"),
    svg("line", { class: "rlhf-reason-cursor", x1: x(s.step), x2: x(s.step), y1: top, y2: height - bottom, "data-cursor": s.step }),
    ...lines.flatMap(([name, kind]) => [
      svg("path", { class: `rlhf-curve rlhf-reason-${kind}`, d: path(name), "data-curve": name }),
      svg("circle", { class: `rlhf-dot rlhf-reason-dot-${kind}`, cx: x(row.step), cy: y(row[name]), r: 4, "data-dot": name })]));
  plot.setAttribute("aria-label", `${label} over ${end} training steps; at step ${s.step}: ${lines.map(([name]) => `${name} ${format(row[name], 3)}`).join(", ")}.`);
}

// The measurement nearest to a click on a plot.
function nearest(plot, event, measured) {
  const box = plot.getBoundingClientRect(), { width, left, right } = PLOT;
  const along = ((event.clientX - box.left) * width / box.width - left) / (width - left - right);
  const aim = clamp(along, [0, 1]) * measured.at(-1).step;
  return measured.reduce((best, row) => (Math.abs(row.step - aim) < Math.abs(best - aim) ? row.step : best), 0);
}

// ---------------------------------------------------------------- a reply, read

function mark(right) {
  return html("span", { class: right ? "rlhf-reason-right" : "rlhf-reason-wrong", role: "img", "aria-label": right ? "right" : "wrong" }, right ? "✓" : "✗");
}

function line(name, written, right, remark, data) {
  const quiet = right === null;
  return html("li", { class: `rlhf-reason-line${quiet ? " rlhf-reason-quiet" : ""}`, ...data },
    html("span", { class: "rlhf-reason-place" }, name), html("span", { class: "rlhf-reason-written" }, written),
    quiet ? "" : mark(right), remark ? html("span", { class: "rlhf-reason-remark" }, remark) : "");
}

function drawCard({ element, head, text, list }, card, title) {
  const { steps, expected, faults, closed, answer, right, reply } = card;
  head.replaceChildren(html("strong", {}, title), ` step ${card.step}`);
  element.setAttribute("aria-label", `${title} step ${card.step}`);
  element.dataset.step = String(card.step);
  text.textContent = reply || "(an empty reply)";
  text.dataset.reply = reply;
  const rows = Array.from({ length: Math.max(steps.length, expected.length) }, (_, k) => {
    const place = PLACES[k] ?? `column ${k + 1}`;
    if (k >= steps.length && steps.length === 0) return line(place, "not written", null, "", { "data-fault": "none" });
    if (k >= steps.length) return line(place, "missing", false, `${expected[k]} belongs here`, { "data-fault": "missing" });
    const belongs = expected[k] === undefined ? "" : `: ${expected[k]} belongs here`;
    return line(place, steps[k] || "(nothing)", faults[k] === "", faults[k] && `${faults[k]}${belongs}`, { "data-written": steps[k], "data-fault": faults[k] });
  });
  const flawless = steps.length === expected.length && faults.every((fault) => fault === "");
  const total = sumOf(card.prompt);
  const remark = !closed ? "the working never ends: all of the text counts as the answer"
    : right ? (steps.length && !flawless ? "right and paid, whatever the working" : "")
      : `the sum is ${total}${steps.length && flawless ? ": right working, wrong answer" : ""}`;
  rows.push(line("answer", closed ? answer || "(nothing)" : "(all of it)", right, remark, { "data-answer": answer, "data-right": String(right), class: "rlhf-reason-line rlhf-reason-answer" }));
  list.replaceChildren(...rows);
}
const sumOf = (prompt) => String(parse(prompt).reduce((a, b) => a + b));

// ---------------------------------------------------------------- the demo

const STATE = ["prompts", "measured", "step", "sum"];
const CARDS = { before: "before training,", here: "at", after: "after training," };

function render({ model, el }) {
  const read = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  const set = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const message = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  const live = announcer();
  const button = (name, words, label, act) => {
    const element = html("button", { type: "button", class: "rlhf-button", "data-control": name, "aria-label": label }, words);
    element.addEventListener("click", act);
    return element;
  };

  // the step
  const steps = () => model.get("measured").map((row) => row.step);
  const move = (by) => set("step", steps()[clamp(steps().indexOf(model.get("step")) + by, [0, steps().length - 1])]);
  const scrub = slider({ name: "step", label: "training step", hint: "arrow keys move to the next measurement", positions: [0, 1],
    toValue: (p) => steps()[p], toPosition: (v) => steps().indexOf(v), describe: (v) => `step ${v}`, onChange: (v) => set("step", v) });
  const where = html("output", { class: "rlhf-setting rlhf-reason-where", "data-setting": "step" });
  const stepRow = html("div", { class: "rlhf-control rlhf-reason-scrub" }, html("span", { class: "rlhf-label" }, "step"),
    html("span", { class: "rlhf-buttons" }, button("back", "‹", "to the measurement before", () => move(-1)), button("next", "›", "to the next measurement", () => move(1))),
    html("span", { class: "rlhf-slider-place" }, scrub.element), where);

  // the curves
  const panel = (title, legend, high, lines, label) => {
    const plot = svg("svg", { class: "rlhf-plot rlhf-reason-plot", viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "img" });
    plot.addEventListener("click", (event) => set("step", nearest(plot, event, model.get("measured"))));
    const outputs = Object.fromEntries(lines.map(([name]) => [name, html("output", { "data-name": name })]));
    const keys = html("div", { class: "rlhf-reason-keys" }, ...lines.map(([name, kind], i) =>
      html("span", { class: "rlhf-reason-key" }, html("span", { class: `rlhf-reason-stroke rlhf-reason-stroke-${kind}` }), `${legend[i]} `, outputs[name])));
    return { element: html("div", { class: "rlhf-plot-place" }, html("p", { class: "rlhf-reason-title" }, title), plot, keys),
      show(s) {
        for (const [name] of lines) showNumber(outputs[name], s.measured[s.here][name], name === "length" ? 1 : 3);
        drawCurves(plot, s, lines, high(s), label);
      } };
  };
  const panels = [
    panel("Share of held-out sums", ["right, greedy", "right, sampled", "working, sampled"], () => 1, [["greedy", "first"], ["sampled", "second"], ["working", "third"]], "Shares of right replies, and of sampled replies with working,"),
    panel("Mean length of sampled replies", ["tokens, end included"], (s) => 1.08 * Math.max(1, ...s.measured.map((row) => row.length)), [["length", "first"]], "Mean length of sampled replies")];
  const run = html("div", { class: "rlhf-reason-says", "data-name": "run-says" });

  // the sums
  const picker = html("span", { class: "rlhf-buttons", role: "group", "aria-label": "the sum whose working is read" });
  const pickRow = html("div", { class: "rlhf-control" }, html("span", { class: "rlhf-label" }, "sum"), picker);
  const cards = Object.fromEntries(Object.keys(CARDS).map((name) => {
    const parts = { head: html("p", { class: "rlhf-reason-head" }), text: html("p", { class: "rlhf-reason-reply" }), list: html("ul", { class: "rlhf-reason-lines" }) };
    return [name, { ...parts, element: html("section", { class: `rlhf-reason-card rlhf-reason-${name}`, "data-card": name }, ...Object.values(parts)) }];
  }));
  const story = html("p", { class: "rlhf-reason-story", "data-name": "sum-says" });
  const figure = html("div", { class: "rlhf-figure" }, stepRow, html("div", { class: "rlhf-panels" }, ...panels.map((one) => one.element)), run,
    pickRow, html("div", { class: "rlhf-reason-cards" }, ...Object.values(cards).map((card) => card.element)), story,
    html("p", { class: "rlhf-legend" }, html("span", { class: "rlhf-reason-right" }, "✓"), " belongs in its column, ", html("span", { class: "rlhf-reason-wrong" }, "✗"),
      " does not: your browser has worked each sum out and compared. The reward of the run looked at the answer alone. All replies here are greedy."));
  el.classList.add("rlhf-demo", "rlhf-reason");
  el.append(message, figure, live.element);

  let drawn = false, built = "";
  const draw = () => {
    const state = read(), wrong = problem(state);
    figure.hidden = Boolean(wrong) && !drawn;
    figure.classList.toggle("rlhf-stale", Boolean(wrong));
    message.hidden = !wrong;
    message.textContent = wrong ? `This replay cannot be shown: ${wrong}.` + (drawn ? " Below is the last state that could." : "") : "";
    if (wrong) return;
    const s = compute(state);
    if (built !== s.prompts.join()) {
      picker.replaceChildren(...s.prompts.map((_, k) => button(`sum-${k}`, "", "", () => set("sum", k))));
      built = s.prompts.join();
    }
    scrub.element.max = s.last;
    scrub.show(s.step);
    where.textContent = `${s.step} of ${s.measured[s.last].step}`;
    where.dataset.value = String(s.step);
    for (const one of panels) one.show(s);
    run.replaceChildren(...ofTheRun(s).map((words) => html("p", {}, words)));
    for (const [k, one] of [...picker.children].entries()) {
      const name = s.prompts[k].replace("=", ""), right = s.verdicts[k];
      one.textContent = `${name} ${right ? "✓" : "✗"}`;
      one.setAttribute("aria-pressed", String(k === s.sum));
      one.setAttribute("aria-label", `${name}: ${right ? "right" : "wrong"} at step ${s.step}; read its working`);
    }
    for (const card of s.cards) drawCard(cards[card.name], { ...card, prompt: s.prompt }, CARDS[card.name]);
    story.textContent = ofTheSum(s);
    const row = s.measured[s.here], verdict = s.cards[1];
    live.say(`Step ${s.step}: greedy ${format(row.greedy, 3)}, sampled ${format(row.sampled, 3)}, with working ${format(row.working, 3)}, length ${format(row.length, 1)}. ` +
      `${s.prompt} ${verdict.reply || "an empty reply"}: answer ${verdict.right ? "right" : "wrong"}, ${verdict.faults.filter((fault) => fault === "").length} of ${verdict.expected.length} columns right.`);
    drawn = true;
  };
  const unfollow = follow(model, STATE, draw);
  return () => { unfollow(); live.stop(); };
}

export default { render };
