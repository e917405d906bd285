// PPO's critic: here, or in a worker of its own (elsewhere.js), where it learns while the policy does. Both
// give the same numbers. Compare `state_values` in models/reward_model.py and `value_loss` in
// algorithms/ppo.py.

import { clippedValueLoss, tokenWeights } from "./losses.js";
import { optimizerStep } from "./optimization.js";
import { Batch, tableOf } from "./policy.js";

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
