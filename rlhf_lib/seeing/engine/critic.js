// PPO's critic: here, or in a worker of its own, where it learns while the policy does. Both give the same
// numbers. Compare `state_values` of models/reward_model.py and `value_loss` of algorithms/ppo.py.

import { clippedValueLoss, tokenWeights } from "./losses.js";
import { optimizerStep } from "./optimization.js";
import { Batch, newKernel, Policy, tableOf } from "./policy.js";

export class Critic {
  /**
   * model     should start as the reward model; trained in place
   * config    that of PPO
   * longest   tokens of the longest text
   */
  constructor(model, config, longest) {
    Object.assign(this, { model, config });
    this.batch = new Batch(model, config.miniBatchSize * longest, config.miniBatchSize, longest);
  }

  /** V of the state before each completion token, completion by completion. */
  values(rollout) {
    this.rollout = rollout;
    const { batch, model } = this;
    return tableOf(batch, rollout, () => batch.tokenValues(model, batch.states));
  }

  /** A gradient step for each minibatch of the same rollout; the loss and the gradient norm of each. */
  learn(values, returns, minibatches, learningRate) {
    return minibatches.map((rows) => this.update(values, returns, rows, learningRate));
  }

  update(values, returns, rows, learningRate) {
    const { batch, config: c, model, rollout } = this;
    const of = (table) => rows.map((i) => table[i]);
    batch.set(of(rollout.texts), of(rollout.starts));
    const now = batch.tokenValues(model, batch.states).slice();
    const { loss, slope } = clippedValueLoss(now, of(values).flat(), of(returns).flat(), c.epsilonValue);
    const weights = tokenWeights(
      of(values).map((row) => row.length),
      "tokens",
    );
    batch.valuesBackward(
      model,
      slope.map((x, k) => x * weights[k]),
    );
    const norm = optimizerStep(model, learningRate, c.maxGradNorm);
    return { loss: loss.reduce((total, x, k) => total + x * weights[k], 0), norm };
  }
}

// ---------------------------------------------------------------- in a worker of its own

/** What such a worker does: `answer(message)` gives its answer, after a first message `critic`. */
export function criticOfWorker() {
  let critic = null;
  return async ({ act, given }) => {
    if (act === "start") {
      const model = new Policy(await newKernel(given.kernel), given.shape);
      model.load(given.weights);
      critic = new Critic(model, given.config, given.longest);
      return null;
    }
    return critic[act](...given);
  };
}

/** The same critic in a worker: what it gives are promises. */
export class CriticElsewhere {
  constructor(worker, given) {
    this.worker = worker;
    this.waiting = []; // for answers, which come in the order of the questions
    worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.waiting.shift();
      if (data.failed === undefined) resolve(data.answer);
      else reject(new Error(data.failed));
    };
    worker.onerror = ({ message }) => {
      for (const { reject } of this.waiting.splice(0))
        reject(new Error(message || "the critic's worker is gone"));
    };
    this.ask("start", given).catch(() => {}); // what fails at the start fails at the first question
  }

  ask(act, given) {
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.worker.postMessage({ kind: "critic", act, given });
    });
  }

  values({ texts, starts, logprobs }) {
    return this.ask("values", [{ texts, starts, logprobs }]);
  }

  learn(...given) {
    return this.ask("learn", given);
  }
}
