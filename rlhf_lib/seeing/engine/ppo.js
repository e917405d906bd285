// PPO against a learned reward, held near a reference by a price on the KL. Compare algorithms/ppo.py.
//
// 1. sample completions of a batch of prompts from the policy
// 2. score them with the reward function
// 3. price the distance from the reference: per token −β (log π − log π_ref), score on the last token
// 4. estimate advantages with the critic (GAE), whiten them
// 5. a few epochs of minibatches: clipped policy loss, clipped value loss

import { explainedVariance, gae, mean, tokenRewards, whiten } from "./advantages.js";
import { checkCounts, checkPositive, k1, logRatioOf, OnlineLoop, SETTINGS } from "./loop.js";
import { clippedPolicyLoss, tokenWeights } from "./losses.js";

const OWN = {
  numPpoEpochs: 2, // passes over each batch
  gamma: 1, // discount of a token
  lam: 0.95, // λ of generalised advantage estimation
  epsilonValue: 0.2, // clip of the critic's move
  criticLearningRate: 5e-4,
};

/** The settings of a run, checked. */
export function ppoConfig(settings = {}) {
  const config = { ...SETTINGS, ...OWN, ...settings };
  checkCounts(config, ["numPpoEpochs"]);
  checkPositive(config, ["criticLearningRate", "epsilonValue"]);
  return config;
}

/** Beside what every loop takes: a critic (critic.js), which has a model of its own. */
export class PPO extends OnlineLoop {
  constructor({ critic, ...given }, settings = {}) {
    const config = ppoConfig(settings);
    if (!given.reference) throw new Error("there is no reference; expected one to measure the KL to");
    super(given, config);
    this.critic = critic;
  }

  /** 1 and 2: a batch of completions, and their scores. */
  collect() {
    return this.write(this.asked());
  }

  /** 3 to 5: price, estimate advantages, update; the record of the step. */
  async learn(rollout) {
    const { config: c, critic } = this;
    const asked = critic.values(rollout); // a critic in another worker reads while the reference does
    const refLogprobs = await this.refLogprobs(rollout);
    const values = await asked;
    const logRatio = logRatioOf(rollout.logprobs, refLogprobs);

    const rewards = tokenRewards(rollout.scores, logRatio, this.beta);
    const { advantages, returns } = gae(rewards, values, c.gamma, c.lam);
    const experience = { ...rollout, advantages: whiten(advantages) };
    const minibatches = this.minibatches(c.numPpoEpochs);
    const learning = critic.learn(values, returns, minibatches, c.criticLearningRate * this.pace);
    const updates = [];
    for (const rows of minibatches) updates.push(await this.update(experience, rows));
    const ofCritic = await learning;
    return {
      reward: mean(rollout.scores),
      kl: mean(k1(logRatio)),
      beta: this.beta,
      length: mean(rollout.logprobs.map((row) => row.length)),
      policyLoss: mean(updates.map((u) => u.loss)),
      gradientNorm: mean(updates.map((u) => u.norm)),
      valueLoss: mean(ofCritic.map((u) => u.loss)),
      valueGradientNorm: mean(ofCritic.map((u) => u.norm)),
      explainedVariance: explainedVariance(values, returns),
    };
  }

  /** One gradient step of the policy on a minibatch. */
  async update(experience, rows) {
    const of = (table) => rows.flatMap((i) => table[i]);
    const weights = tokenWeights(
      rows.map((i) => experience.logprobs[i].length),
      "tokens",
    );
    const surrogate = clippedPolicyLoss(
      await this.tokenLogprobs(experience, rows),
      of(experience.logprobs),
      of(experience.advantages),
      this.config.epsilon,
    );
    return this.descend(surrogate, weights);
  }
}
