// A reward model that is fitted to the reader's comparisons in the page, and what it has learnt to like: the
// same letters, changed in one way each. After in_page.js, comparing.js and taste.js.

const CLEAN = "clean"; // the edit that changes nothing

const problem = ({ pairs, asked, edits }) =>
  unless(Array.isArray(pairs) && pairs.every(isPair), "pairs has an entry that is no pair") ??
  unless(
    Array.isArray(edits?.[CLEAN]) && Object.values(edits).every((texts) => texts.length === asked.length),
    "the edited replies do not fit their prompts",
  );

// The fit in a worker: ready, loading, fitting, done or failed.
function fitOf({ model, read, changed }) {
  let state = null;
  let worker = null;
  const forget = () => {
    state = { status: "ready", why: "", fit: [], of: 0, scores: null };
  };
  forget();
  const heard = {
    fitted: ({ record, of }) => {
      state.fit.push(record);
      Object.assign(state, { status: "fitting", of });
    },
    scored: ({ scores }) => Object.assign(state, { status: "done", scores }),
    failed: ({ text: why }) => Object.assign(state, { status: "failed", why }),
  };
  const end = () => {
    worker?.end();
    worker = null;
  };
  return {
    now: () => state,
    end,
    reset() {
      end();
      forget();
      changed();
    },
    async go() {
      const { weights, shape, lists, asked, edits, seed } = read();
      state.status = "loading";
      changed();
      let mine = null;
      const said = (news) => {
        if (worker !== mine) return; // of a fit that was given up
        heard[news.kind](news);
        changed();
      };
      try {
        mine = engineOf(said);
        worker = mine;
        const found = await weightsOf(model, weights);
        const given = { shape, lists, asked, edits, seed, comparisons: keptComparisons() };
        mine.tell({ kind: "fit", kernel: bytesOf(KERNEL), weights: found, ...given });
      } catch (error) {
        said({ kind: "failed", text: error.message });
      }
    },
  };
}

// By how much each edit changes the score of a letter, in deviations of the scores of the compared replies.
function drawScores(table, scores) {
  const names = Object.keys(scores).sort((a, b) => scores[b].mean - scores[a].mean);
  const most = Math.max(1, ...names.map((name) => Math.abs(scores[name].mean)));
  const rows = names.map((name) => {
    const { mean, half } = scores[name];
    return tableRow(
      name,
      html("td", { class: "rlhf-bar-cell", "aria-hidden": "true" }, sidedBar("rlhf-sided", mean, most)),
      numberCell(mean, 2, { "data-edit": name }),
      html("td", { class: "rlhf-right" }, `± ${format(half, 2)}`),
    );
  });
  const columns = [
    column("a letter, changed"),
    column("score"),
    numberColumn("change"),
    numberColumn("95 %"),
  ];
  fillTable(table, "What each change does to the score of a letter", columns, rows);
}

function build({ model, read, note, redraw }) {
  const unable = cannotRun();
  const fit = fitOf({ model, read, changed: redraw });
  const stage = comparisonStage({ read, redraw });
  let possible = false;
  const go = button({ control: "go", label: "fit a reward model" }, "fit", () => possible && fit.go());
  const again = button({ control: "again", label: "compare more" }, "compare more", () => fit.reset());
  const output = html("output", {
    class: "rlhf-setting rlhf-where",
    "data-name": "status",
    "aria-live": "off",
  });
  const table = html("table", { class: "rlhf-bars rlhf-weights" });
  const panel = html("div", { class: "rlhf-panels", hidden: true }, table);
  const steer = html("div", { class: "rlhf-control" }, buttons(null, go, again), output);
  return {
    figure: [stage.element, steer, panel],
    draw() {
      const { status, why, fit: steps, of, scores } = fit.now();
      const idle = status === "ready";
      stage.show({ shown: true, idle, words: fitWords(steps) });
      possible = idle && !unable && keptComparisons().length >= FEWEST;
      attribute(go, "aria-disabled", possible ? null : "true");
      attribute(again, "aria-disabled", idle ? "true" : null);
      note(unable ?? (status === "failed" ? `The fit has stopped: ${why}.` : ""));
      const last = steps.at(-1);
      const where = last ? `step ${steps.length} of ${of}, loss ${format(last.loss, 2)}` : status;
      showText(output, where, status);
      panel.hidden = !scores;
      if (scores) drawScores(table, scores);
      return status === "done" ? "The reward model is fitted." : "";
    },
    stop: fit.end,
  };
}

const STATE = ["pairs", "asked", "edits", "seed", "weights", "shape", "lists"];
const cannot = "This figure cannot be drawn";
export default demo({ kind: "rlhf-reward-fit", state: STATE, problem, build, cannot });
