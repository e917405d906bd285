// The training replay: scrub through the steps of recorded runs. What it draws is in training_view.js.

const problem = ({ prompts, runs, run, step }) =>
  runsProblem(prompts, runs) ??
  wrongEmpty("runs", runs, "at least one recorded run") ??
  wrongWhole("run", run, [0, runs.length - 1]) ??
  wrongWhole("step", step, [0, Infinity], "0 or more");

function build({ set }) {
  const view = trainingView((run, step) => set({ run, step }));
  return { figure: [view.element], draw: view.draw, stop: view.stop };
}

const STATE = ["prompts", "runs", "run", "step"];
const cannot = "This replay cannot be shown";
export default demo({ kind: "rlhf-replay", state: STATE, problem, build, cannot });
