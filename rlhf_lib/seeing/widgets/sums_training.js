// GRPO on sums, in the reader's browser: start, pause, begin again with other settings.
// After page_training.js.

const RATES = [1e-4, 3e-4, 1e-3];
const GROUPS = [2, 4, 8, 16];
const SUMS = {
  metrics: {
    reward: ["solved, share", "of the batch; dots: held-out sums", 2],
    length: ["length, tokens", "of a completion", 1],
    zeroVarianceGroups: ["silent groups, share", "all samples right or all wrong: nothing to learn from", 2],
  },
  held: "reward",
  worth: (right) => (right ? "right" : "wrong"),
  says: ({ reward, length }) => `solved ${reward}, length ${length}`,
};

const problem = (state) =>
  trainingProblem(state) ??
  wrongChoice("rate", state.rate, RATES) ??
  wrongChoice("samples", state.samples, GROUPS) ??
  wrongSwitch("compact", state.compact);

const start = ({ rate, samples, total, batch, prompts, shape, weights, seed, every }) => ({
  world: "sums",
  settings: { ...batch, learningRate: rate, numGenerations: samples },
  shown: { rate, samples, total },
  asked: prompts,
  ...{ shape, weights, seed, total, every },
});

function controls(_, { set }) {
  const rates = choices(
    "learning rate",
    (rate) => [{ control: `rate-${rate}`, label: `learning rate ${rate}` }, rate.toExponential()],
    (rate) => set({ rate }),
  );
  const groups = choices(
    "samples of each sum",
    (samples) => [{ control: `samples-${samples}`, label: `${samples} samples a sum` }, String(samples)],
    (samples) => set({ samples }),
  );
  rates.offer(RATES);
  groups.offer(GROUPS);
  const rows = [row("G", "samples of each sum", groups.element), row("rate", "learning rate", rates.element)];
  return {
    elements: rows,
    show({ rate, samples, compact }, { status }) {
      for (const one of rows) one.hidden = compact;
      rates.show(rate);
      groups.show(samples);
      for (const one of [...rates.element.children, ...groups.element.children]) {
        one.disabled = status !== "ready";
      }
    },
  };
}

const build = pageTraining({ kind: SUMS, start, controls });
const STATE = [...PAGE_STATE, "rate", "samples", "compact"];
const cannot = "This figure cannot be drawn";
export default demo({ kind: "rlhf-page-training", state: STATE, problem, build, cannot });
