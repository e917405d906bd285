// GRPO, step by step: sample in groups, score, compare, update. Compare algorithms/grpo.py.

import { groupAdvantages, isSilent, mean } from "./advantages.js";
import { checkCounts, checkMultiples, k1, logRatioOf, OnlineLoop, SETTINGS } from "./loop.js";
import { clippedPolicyLoss, k3, tokenWeights } from "./losses.js";

const OWN = {
  numGenerations: 8, // G, completions of each prompt
  numIterations: 2, // passes over each batch
  aggregateOver: "sequences", // or "tokens"
};

/** beta weighs the KL, k3, in the loss of each token. */
export class GRPO extends OnlineLoop {
  constructor(given, settings = {}) {
    const config = { ...SETTINGS, ...OWN, ...settings };
    checkCounts(config, ["numGenerations", "numIterations"]);
    checkMultiples(config, ["numGenerations"]);
    super(given, config);
  }

  /** 1 and 2: completions in groups, and their scores. */
  collect() {
    return this.write(this.asked(this.config.numGenerations));
  }

  /** 3 and 4: compare the completions of each group, and update; the record of the step. */
  async learn(rollout) {
    const { config: c, reference } = this;
    const shares = groupAdvantages(rollout.scores, c.numGenerations);
    const refLogprobs = reference ? await this.refLogprobs(rollout) : rollout.logprobs;
    const updates = [];
    for (const rows of this.minibatches(c.numIterations)) {
      updates.push(await this.update(rollout, rows, shares, refLogprobs));
    }
    const groups = Array.from({ length: c.batchSize / c.numGenerations }, (_, g) =>
      rollout.scores.slice(g * c.numGenerations, (g + 1) * c.numGenerations),
    );
    return {
      reward: mean(rollout.scores),
      ...(reference ? { kl: mean(k1(logRatioOf(rollout.logprobs, refLogprobs))) } : {}),
      beta: this.beta,
      length: mean(rollout.logprobs.map((row) => row.length)),
      policyLoss: mean(updates.map((u) => u.loss)),
      gradientNorm: mean(updates.map((u) => u.norm)),
      zeroVarianceGroups: mean(groups.map((group) => Number(isSilent(group)))),
    };
  }

  /** One gradient step of the policy on a minibatch. */
  async update(rollout, rows, shares, refLogprobs) {
    const lengths = rows.map((i) => rollout.logprobs[i].length);
    const surrogate = this.policyLoss(
      await this.tokenLogprobs(rollout, rows),
      rows.flatMap((i) => rollout.logprobs[i]),
      rows.flatMap((i) => Array(rollout.logprobs[i].length).fill(shares[i])),
      rows.flatMap((i) => refLogprobs[i]),
    );
    return this.descend(surrogate, tokenWeights(lengths, this.config.aggregateOver));
  }

  /** The clipped surrogate, plus the KL, of each token; and its gradient in log π. */
  policyLoss(logprobs, old, advantages, refLogprobs) {
    const surrogate = clippedPolicyLoss(logprobs, old, advantages, this.config.epsilon);
    if (!this.beta) return surrogate;
    const kl = k3(logprobs, refLogprobs);
    return {
      loss: surrogate.loss.map((x, k) => x + this.beta * kl.loss[k]),
      slope: surrogate.slope.map((x, k) => x + this.beta * kl.slope[k]),
    };
  }
}
