// The training replay: scrub through the steps of recorded runs. What it draws is in training_view.js.

// What is wrong with a state, in the words of the Python side; null if nothing is.
function problem({ prompts, runs, run, step }) {
  const wrong = runsProblem(prompts, runs);
  if (wrong) return wrong;
  if (runs.length === 0) return "runs is empty; expected at least one recorded run";
  if (!(Number.isInteger(run) && run >= 0 && run < runs.length)) return `run is ${run}; expected 0 to ${runs.length - 1}`;
  if (!(Number.isInteger(step) && step >= 0)) return `step is ${step}; expected 0 or more`;
  return null;
}

const STATE = ["prompts", "runs", "run", "step"];

function render({ model, el }) {
  const message = html("p", { class: "rlhf-message", role: "alert", hidden: true });
  const view = trainingView((run, step) => {
    model.set("run", run);
    model.set("step", step);
    model.save_changes();
  });
  const figure = html("div", { class: "rlhf-figure" }, view.element);
  el.classList.add("rlhf-demo", "rlhf-replay");
  el.append(message, figure);
  const draw = () => {
    const state = Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
    const wrong = problem(state);
    message.hidden = !wrong;
    figure.hidden = Boolean(wrong);
    if (wrong) message.textContent = `This replay cannot be shown: ${wrong}.`;
    else view.draw(state);
  };
  const unfollow = follow(model, STATE, draw);
  return () => { unfollow(); view.stop(); };
}

export default { render };
