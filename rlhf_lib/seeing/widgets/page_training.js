// Training in the reader's browser: the loop runs in a worker, what is drawn is in training_view.js. For the
// demos that train in a page; after in_page.js.

// ---------------------------------------------------------------- the run

// What a run has said, in the form of the recorded ones.
function newRun() {
  return {
    name: "here",
    note: "",
    steps: [],
    curves: {},
    at: [],
    held: [],
    replies: [],
    features: [],
    fit: [],
  };
}

// Adds to it what the worker says.
const recording = (held) => ({
  fitted: (run, { record }) => run.fit.push(record),
  measured(run, { step, worth, replies, features }) {
    run.at.push(step);
    run.held.push(worth);
    run.replies.push(replies);
    run.features.push(features);
  },
  step(run, { record }) {
    run.steps.push(record.step);
    const named = { ...record, [held]: record.worth };
    for (const [metric, values] of Object.entries(run.curves)) values.push(named[metric] ?? null);
  },
});

// The run in this page. `start()` gives what the worker is started with, and as `shown` the settings that
// stay on display with its curves; `changed()` is called after every news.
function pageRun({ model, metrics, held, start, changed }) {
  let status = "ready"; // loading, fitting, running, paused, done or failed
  let why = "";
  let live = null;
  let worker = null;
  const record = recording(held);
  const forget = () => {
    live = newRun();
    for (const metric of Object.keys(metrics)) live.curves[metric] = [];
  };
  forget();
  const become = (next, words = "") => {
    [status, why] = [next, words];
    changed();
  };
  const end = () => {
    worker?.end(); // and with it the one that it may have beside it
    worker = null;
  };
  const finish = (...how) => {
    end();
    become(...how);
  };
  const hear = (news) => {
    record[news.kind]?.(live, news);
    if (news.kind === "measured" && status === "fitting") status = "running";
    if (news.kind === "done" || news.kind === "failed") finish(news.kind, news.text);
    else changed();
  };
  const begin = async () => {
    let mine = null;
    try {
      mine = engineOf((news) => {
        if (worker === mine) hear(news); // else it is of a run that was given up
      });
      worker = mine;
      const { shown, weights, ...given } = start();
      live.settings = shown;
      become("loading");
      const found = await weightsOf(model, weights);
      if (worker !== mine || status !== "loading") return;
      mine.tell({ kind: "start", kernel: bytesOf(KERNEL), script: WORKER, weights: found, ...given });
      mine.tell({ kind: "go" });
      become(given.comparisons ? "fitting" : "running");
    } catch (error) {
      if (worker === mine) finish("failed", error.message);
    }
  };
  return {
    go() {
      if (status === "ready") return begin();
      if (status !== "running" && status !== "paused") return;
      const running = status === "running";
      worker.tell({ kind: running ? "pause" : "go" });
      become(running ? "paused" : "running");
    },
    tell: (message) => worker?.tell(message),
    reset() {
      if (status === "ready") return;
      end();
      forget();
      become("ready");
    },
    end,
    now: () => ({ status, why, live }),
  };
}

// ---------------------------------------------------------------- what steers it

const WORDS = {
  ready: "ready",
  loading: "fetching the model",
  fitting: "fitting the reward model",
  running: "training",
  paused: "paused",
  done: "done",
  failed: "stopped",
};

// Start and pause, begin again, and where the run is.
function steering(run) {
  let possible = true;
  const press = () => possible && run.go();
  const go = button({ control: "go", label: "start training" }, "start", press);
  const again = button({ control: "again", label: "begin again" }, "begin again", run.reset);
  const progress = html("progress", { "aria-label": "steps done", max: 1 });
  const names = { class: "rlhf-setting rlhf-where", "data-name": "status", "aria-live": "off" };
  const output = html("output", names);
  return {
    element: html("div", { class: "rlhf-control" }, buttons(null, go, again), progress, output),
    // `unable`: why it cannot be started, or nothing.
    show(total, { status, live }, unable) {
      const idle = status === "ready";
      go.textContent = idle ? "start" : status === "paused" ? "go on" : "pause";
      go.setAttribute("aria-label", `${go.textContent} training`);
      // Not `disabled`: a button that disables itself when it is pressed takes the keyboard's focus away.
      possible = idle ? !unable : status === "running" || status === "paused";
      attribute(go, "aria-disabled", possible ? null : "true");
      attribute(again, "aria-disabled", idle ? "true" : null);
      const done = live.steps.at(-1) ?? 0;
      progress.max = total;
      progress.value = done;
      showText(output, `${WORDS[status]}, step ${done} of ${total}`, status);
      output.dataset.step = String(done);
    },
  };
}

// ---------------------------------------------------------------- the demo

const SHAPE = ["layers", "width", "heads", "vocab", "positions"];

const trainingProblem = ({ prompts, recorded, total, shape }) =>
  runsProblem(prompts, recorded) ??
  wrongWhole("total", total, [1, Infinity], "at least 1 step") ??
  firstWrong(SHAPE, (name) =>
    wrongWhole(`shape.${name}`, shape?.[name], [1, Infinity], "a whole number above 0"),
  );

// The parts of a demo that trains in the page.
//
// kind       what is shown of a run, as training_view.js takes it
// start      (state) => what the worker is started with
// controls   (run, page) => its own: `elements`, `show(state, now)`, and, where needed, `unable(state)`,
//            `says()` and `stop()`
// more       an element below the curves: `element`, `show(live)`
function pageTraining({ kind, start, controls, more = null }) {
  return (page) => {
    const { model, read, note, redraw } = page;
    const unable = cannotRun();
    const { metrics, held } = kind;
    const run = pageRun({ model, metrics, held, start: () => start(read()), changed: redraw });
    const own = controls(run, page);
    const steer = steering(run);
    const element = html(
      "div",
      { class: "rlhf-steer", hidden: Boolean(unable) },
      ...own.elements,
      steer.element,
    );
    let here = null; // the run and the step on display
    let following = true; // whether that is the newest step
    let wasMine = false;
    const view = trainingView((chosen, step) => {
      here = { run: chosen, step };
      following = false;
      redraw();
    }, kind);
    return {
      figure: [element, view.element, ...(more ? [more.element] : [])],
      draw(s) {
        const now = run.now();
        const { live, status } = now;
        const mine = live.at.length > 0 || status !== "ready";
        const runs = mine ? [live, ...s.recorded] : s.recorded;
        const newest = live.steps.at(-1) ?? 0;
        if (mine !== wasMine) {
          view.stop();
          [here, following, wasMine] = [null, true, mine];
        }
        if (mine && following) here = { run: 0, step: newest };
        here ??= { run: 0, step: 0 };
        if (mine && here.run === 0 && here.step >= newest) following = true;
        const recorded = s.recorded.length ? " Below is a recorded run." : "";
        if (unable) note(unable + recorded);
        else if (status === "failed") note(`The run has stopped: ${now.why}.`);
        else note(own.says?.() ?? "");
        const settings = { ...s, ...live.settings }; // those of the run, whatever is set meanwhile
        own.show(settings, now);
        steer.show(settings.total, now, own.unable?.(s));
        more?.show(mine && here.run === 0 ? live : null, here.step);
        const words = view.draw({ prompts: s.prompts, runs, ...here, total: mine ? settings.total : 0 });
        return status === "running" ? "" : words;
      },
      start: own.start,
      stop() {
        own.stop?.();
        run.end();
        view.stop();
      },
    };
  };
}

const PAGE_STATE = ["prompts", "recorded", "seed", "total", "every", "batch", "shape", "weights"];
