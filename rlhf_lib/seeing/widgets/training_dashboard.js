// The training dashboard. With Python behind it: start, pause, stop, and β turned while the run goes on.
// Without: the recorded runs, in the same view (training_view.js).

const NO_RUNS =
  "There is no Python behind this page, and no recorded run to show. Open the notebook in Jupyter, " +
  "on Binder or on Colab to train.";
const RECORDED =
  "There is no Python behind this page, which this figure needs to train: these runs are recorded. Opened " +
  "in Jupyter, on Binder or on Colab, it trains, and β is yours to turn.";
const SILENT =
  "Python does not answer: it is busy with another cell, or gone. A run that was started goes on meanwhile.";

const problem = ({ prompts, recorded, live, total, beta }) =>
  runsProblem(prompts, recorded) ??
  runsProblem(prompts, [live]) ??
  wrongWhole("total", total, [1, Infinity], "at least 1 step") ??
  unless(Number.isFinite(beta) && beta >= 0, `beta is ${beta}; expected 0 or more`);

// ---------------------------------------------------------------- what steers a run

function goAndStop(ask, read, redraw) {
  let pausing = false; // asked to pause, and still in its step
  const go = button({ control: "go", label: "start training" }, "start", () => {
    const pause = read().status === "running" && !pausing;
    ask({ kind: pause ? "pause" : "start" });
    pausing = pause;
    redraw();
  });
  const halt = button({ control: "stop", label: "stop after this step, and save" }, "stop", () =>
    ask({ kind: "stop" }),
  );
  const progress = html("progress", { "aria-label": "steps done", max: 1 });
  const output = html("output", { class: "rlhf-setting rlhf-where", "data-name": "status" });
  return {
    element: html("div", { class: "rlhf-control" }, buttons(null, go, halt), progress, output),
    show({ status, live, total }) {
      const running = status === "running";
      const done = live.steps.at(-1) ?? 0;
      if (!running) pausing = false;
      go.textContent = running && !pausing ? "pause" : running || live.steps.length ? "go on" : "start";
      go.setAttribute("aria-label", `${go.textContent} training`);
      go.disabled = status === "done";
      halt.disabled = !running && status !== "paused";
      progress.max = total;
      progress.value = done;
      showText(output, `${pausing ? "pausing" : status}, step ${done} of ${total}`, status);
      output.dataset.step = String(done);
    },
  };
}

// ---------------------------------------------------------------- the demo

// The runs to choose from: the live one first where it can be steered, else last.
function runsOf({ live, recorded }, connected) {
  if (!connected) return [...recorded, ...(live.steps.length ? [live] : [])];
  return [...(live.steps.length || live.at.length ? [live] : []), ...recorded];
}

function build({ model, read, note, redraw }) {
  let connected = false;
  let refusal = "";
  let here = null; // the run and the step on display, and whether the newest step is followed
  const kernel = python(model, {
    answered(content) {
      connect();
      refusal = content.kind === "failed" ? `Refused: ${content.text}. The run is as it was.` : "";
      redraw();
    },
    silent: () => note(SILENT),
  });
  const connect = () => {
    if (!connected) here = null; // the list of runs changes its order
    connected = true;
  };
  const goStop = goAndStop(kernel.ask, read, redraw);
  const beta = betaControl(kernel.ask);
  const steer = html("div", { class: "rlhf-steer" }, goStop.element, beta.element);
  const from = html("p", { class: "rlhf-where-from", "data-name": "where" });
  const view = trainingView((run, step) => {
    const shown = runsOf(read(), connected)[run];
    here = { run, step, following: shown === undefined || step >= (shown.steps.at(-1) ?? 0) };
    redraw();
  });
  return {
    figure: [from, steer, view.element],
    draw(s) {
      const runs = runsOf(s, connected);
      here ??= { run: 0, step: 0, following: connected };
      const newest = s.live.steps.at(-1) ?? s.live.at.at(-1) ?? 0;
      const mine = connected && runs[here.run] === s.live;
      if (mine && here.following && !view.playing()) here.step = newest;
      note(refusal || s.message);
      steer.hidden = !connected;
      from.hidden = connected;
      from.textContent = runs.length ? RECORDED : NO_RUNS;
      goStop.show(s);
      beta.show(s.beta, Boolean(refusal));
      const { run, step } = here;
      return view.draw({ prompts: s.prompts, runs, run, step, total: connected ? s.total : 0 });
    },
    changed: connect, // only Python changes what it owns, so it is there
    start: kernel.hello,
    stop() {
      kernel.stop();
      beta.stop();
      view.stop();
    },
  };
}

const STATE = ["prompts", "recorded", "live", "total", "status", "message", "beta"];
const cannot = "This dashboard cannot be drawn";
export default demo({ kind: "rlhf-dashboard", state: STATE, problem, build, cannot });
