// PPO on letters, in the reader's browser: against the book's reward model, or against one that is fitted to
// the reader's own comparisons; β by hand. After page_training.js, price.js and taste.js.

const REWARDS = {
  annotators: ["the annotators’", "the reward model of the book, fitted to its annotators"],
  yours: ["yours", "a reward model fitted to your own comparisons"],
};

const problem = (state) =>
  trainingProblem(state) ??
  unless(Number.isFinite(state.beta) && state.beta >= 0, `beta is ${state.beta}; expected 0 or more`) ??
  wrongChoice("reward", state.reward, Object.keys(REWARDS)) ??
  unless(Array.isArray(state.pairs) && state.pairs.every(isPair), "pairs has an entry that is no pair");

// What the worker is started with.
function start({ beta, reward, total, batch, prompts, shape, weights, seed, every, lists }) {
  const own = reward === "yours";
  return {
    world: "letters",
    settings: { ...batch, beta },
    shown: { total, reward },
    asked: prompts,
    weights: own ? { policy: weights.policy } : weights,
    ...(own ? { comparisons: keptComparisons() } : {}),
    ...{ shape, seed, total, every, lists },
  };
}

// ---------------------------------------------------------------- the controls

function controls(run, { read, set, redraw }) {
  let refusal = "";
  const price = betaControl(({ value }) => {
    const beta = typeof value === "number" ? value : Number(value || Number.NaN);
    const wrong = !(Number.isFinite(beta) && beta >= 0);
    refusal = wrong ? `Refused: beta is ${value || "empty"}; expected 0 or more. The run is as it was.` : "";
    if (wrong) {
      redraw();
      return;
    }
    set({ beta });
    run.tell({ kind: "beta", beta });
  });
  const rewards = choices(
    "whose taste is the reward",
    (name) => [{ control: `reward-${name}`, label: REWARDS[name][1] }, REWARDS[name][0]],
    (reward) => set({ reward }),
  );
  rewards.offer(Object.keys(REWARDS));
  const rewardRow = row("reward", "whose taste it is", rewards.element);
  const stage = comparisonStage({ read, redraw });
  return {
    elements: [rewardRow, stage.element, price.element],
    show(s, { status, live }) {
      const idle = status === "ready";
      rewardRow.hidden = !s.pairs.length;
      rewards.show(s.reward);
      for (const one of rewards.element.children) one.disabled = !idle;
      price.show(s.beta, Boolean(refusal));
      stage.show({ shown: s.reward === "yours", idle, words: fitWords(live.fit) });
    },
    says: () => refusal,
    unable: (s) => s.reward === "yours" && keptComparisons().length < FEWEST,
    stop: price.stop,
  };
}

// ---------------------------------------------------------------- what changed in the replies

const FEATURES = {
  exclamation_marks: "exclamation marks",
  formal: "formal words",
  greets: "greets by name",
  courtesy: "courteous words",
  item: "names the item",
  day: "names the day",
  act: "does what was asked",
  wrong_slot: "a wrong name, item or day",
  rude: "rude words",
  off_topic: "off topic",
  words_over_24: "words over 24",
  gush_over_1: "gushing words over one",
};
const MOST = 8; // rows of the table

// How much a mean has changed, for what it was.
const changeOf = (before, after) => Math.abs(after - before) / (before + after + 0.3);

// Means over the held-out replies at first, and at the step on display: those that have changed most.
function changesOf() {
  const table = html("table", { class: "rlhf-bars rlhf-changes" });
  const element = html("div", { class: "rlhf-panels", hidden: true }, table);
  return {
    element,
    show(live, step) {
      const which = live ? lastAt(live.at, step) : -1;
      element.hidden = which < 1;
      if (which < 1) return;
      const [first, now] = [live.features[0], live.features[which]];
      const changed = Object.keys(first).sort(
        (a, b) => changeOf(first[b], now[b]) - changeOf(first[a], now[a]),
      );
      const rows = changed
        .slice(0, MOST)
        .map((name) =>
          tableRow(
            FEATURES[name] ?? name,
            numberCell(first[name], 2),
            numberCell(now[name], 2, { "data-feature": name }),
          ),
        );
      const columns = [
        column("per held-out reply"),
        numberColumn("at first"),
        numberColumn(`after ${live.at[which]}`),
      ];
      fillTable(table, "What changed in the replies", columns, rows);
    },
  };
}

const build = (page) => pageTraining({ kind: LETTERS, start, controls, more: changesOf() })(page);
const STATE = [...PAGE_STATE, "beta", "reward", "pairs", "lists"];
const cannot = "This figure cannot be drawn";
export default demo({ kind: "rlhf-page-training", state: STATE, problem, build, cannot });
