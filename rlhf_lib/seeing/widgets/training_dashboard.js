// The training dashboard. With Python behind it: start, pause, stop, and β turned while the run goes on.
// Without: the recorded runs, in the same view (training_view.js).

const LOWEST = 1e-3, HIGHEST = 1; // of the slider, on a log scale; its first position is 0
const POSITIONS = 60;
const toBeta = (p) => (p === 0 ? 0 : Number((LOWEST * (HIGHEST / LOWEST) ** ((p - 1) / (POSITIONS - 1))).toPrecision(2)));
const toPosition = (beta) => (beta <= 0 ? 0
  : 1 + clamp((POSITIONS - 1) * Math.log(beta / LOWEST) / Math.log(HIGHEST / LOWEST), [0, POSITIONS - 1]));

// What is wrong with a state, in the words of the Python side; null if nothing is.
function problem({ prompts, recorded, live, total, beta }) {
  const wrong = runsProblem(prompts, recorded) ?? runsProblem(prompts, [live]);
  if (wrong) return wrong;
  if (!(Number.isInteger(total) && total >= 1)) return `total is ${total}; expected at least 1 step`;
  if (!(Number.isFinite(beta) && beta >= 0)) return `beta is ${beta}; expected 0 or more`;
  return null;
}

const STATE = ["prompts", "recorded", "live", "total", "status", "message", "beta"];
const PATIENCE = 8000; // ms until Python counts as busy
const WORDS = { ready: "ready", running: "running", paused: "paused", stopped: "stopped", done: "done", failed: "failed" };

function render({ model, el }) {
  const read = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  let connected = false, pending = 0, run = -1, step = 0, following = true, said = "";

  const message = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  const tell = (text) => { message.textContent = text; message.hidden = !text; };
  const ask = (content) => {
    clearTimeout(pending);
    pending = setTimeout(() => {
      tell("Python does not answer: it is busy with another cell, or gone. A run that was started goes on meanwhile.");
    }, PATIENCE);
    model.send(content);
  };
  const heard = (content) => {
    if (content?.kind !== "done" && content?.kind !== "failed") return;
    clearTimeout(pending);
    connected = true;
    said = content.kind === "failed" ? `Refused: ${content.text}. The run is as it was.` : "";
    draw();
  };

  const button = (name, words, title, act) => {
    const element = html("button", { type: "button", class: "rlhf-button", "data-control": name, "aria-label": title }, words);
    element.addEventListener("click", act);
    return element;
  };
  const go = button("go", "start", "start training", () => {
    ask({ kind: read().status === "running" && !pausing ? "pause" : "start" });
    pausing = read().status === "running" && !pausing;
    draw();
  });
  let pausing = false; // asked to pause, and still in its step
  const halt = button("stop", "stop", "stop after this step, and save", () => ask({ kind: "stop" }));
  const progress = html("progress", { "aria-label": "steps done", max: 1 });
  const status = html("output", { class: "rlhf-setting rlhf-where", "data-name": "status" });
  let waiting = 0;
  const turn = (value) => {
    clearTimeout(waiting);
    field.value = typeof value === "number" ? short(value) : value;
    waiting = setTimeout(() => ask({ kind: "beta", value: typeof value === "number" ? value : value.trim().replace("−", "-").replace(",", ".") }), 120);
  };
  const knob = slider({ name: "beta", label: "β", hint: "price of a nat of KL, from the next step on; log scale, 0 at the left end",
    positions: [0, POSITIONS], toValue: toBeta, toPosition, describe: (v) => `β = ${short(v)}`, onChange: turn });
  const field = html("input", { class: "rlhf-field", "data-control": "beta-field", inputmode: "decimal", "aria-label": "β as a number, 0 or more",
    "data-lm-suppress-shortcuts": "true", autocomplete: "off" });
  field.addEventListener("change", () => turn(field.value));
  const steer = html("div", { class: "rlhf-steer" },
    html("div", { class: "rlhf-control" }, html("span", { class: "rlhf-buttons" }, go, halt), progress, status),
    html("div", { class: "rlhf-control" }, html("span", { class: "rlhf-label" }, "β", html("small", {}, "of the next step")),
      html("span", { class: "rlhf-slider-place" }, knob.element), field));
  const from = html("p", { class: "rlhf-where-from", "data-name": "where" });

  const view = trainingView((nextRun, nextStep) => {
    run = nextRun;
    step = nextStep;
    const shown = runs(read())[run];
    following = shown === undefined || step >= (shown.steps.at(-1) ?? 0);
    draw();
  });
  const figure = html("div", { class: "rlhf-figure" }, from, steer, view.element);
  el.classList.add("rlhf-demo", "rlhf-dashboard");
  el.append(message, figure);

  const runs = (s) => {
    const begun = s.live.steps.length > 0 || s.live.at.length > 0;
    return connected ? [...(begun ? [s.live] : []), ...s.recorded] : [...s.recorded, ...(s.live.steps.length ? [s.live] : [])];
  };
  let wasConnected = false;
  function draw() {
    const s = read();
    const wrong = problem(s);
    figure.hidden = Boolean(wrong);
    if (wrong) {
      tell(`This dashboard cannot be drawn: ${wrong}.`);
      return;
    }
    const all = runs(s);
    if (connected !== wasConnected || run < 0) { // the list of runs has changed its order
      wasConnected = connected;
      run = 0;
      following = connected;
      step = 0;
    }
    const mine = connected && all[run] === s.live;
    if (mine && following && !view.playing()) step = s.live.steps.at(-1) ?? s.live.at.at(-1) ?? 0;
    tell(said || s.message);
    steer.hidden = !connected;
    from.hidden = connected;
    from.textContent = all.length
      ? "There is no Python behind this page, so nothing can be trained here: these runs are recorded. Opened in Jupyter, on Binder or on Colab, this figure trains, and β is yours to turn."
      : "There is no Python behind this page, and no recorded run to show. Open the notebook in Jupyter, on Binder or on Colab to train.";
    if (s.status !== "running") pausing = false;
    go.textContent = s.status === "running" ? (pausing ? "go on" : "pause") : s.live.steps.length ? "go on" : "start";
    go.setAttribute("aria-label", `${go.textContent} training`);
    go.disabled = s.status === "done";
    halt.disabled = s.status !== "running" && s.status !== "paused";
    const done = s.live.steps.at(-1) ?? 0;
    progress.max = s.total;
    progress.value = done;
    status.textContent = `${pausing ? "pausing" : WORDS[s.status] ?? s.status}, step ${done} of ${s.total}`;
    status.dataset.value = s.status;
    status.dataset.step = String(done);
    knob.show(s.beta);
    if (document.activeElement !== field || !said) field.value = short(s.beta);
    field.setAttribute("aria-invalid", String(Boolean(said)));
    view.draw({ prompts: s.prompts, runs: all, run, step, total: connected ? s.total : 0 });
  }
  const changed = () => { // only Python changes what it owns, so it is there
    if (!connected) { connected = true; }
    draw();
  };
  model.on("msg:custom", heard);
  const events = STATE.map((name) => `change:${name}`);
  for (const event of events) model.on(event, changed);
  draw();
  model.send({ kind: "hello" });
  return () => {
    for (const event of events) model.off(event, changed);
    model.off("msg:custom", heard);
    clearTimeout(pending);
    clearTimeout(waiting);
    view.stop();
  };
}

export default { render };
