// A reward model: it scores completions, and is fitted to comparisons.
// Compare models/reward_model.py and algorithms/reward_training.py.

import { mean } from "./advantages.js";
import { shuffled } from "./loop.js";
import { bradleyTerryLoss } from "./losses.js";
import { optimizerStep } from "./optimization.js";
import { Batch } from "./policy.js";

const SETTINGS = {
  batchSize: 8, // pairs a step
  maxSteps: 40,
  learningRate: 3e-4, // times the warm-up, and a line that falls to 0
  warmupSteps: 3, // steps at less than the learning rate
  centerRewardsCoefficient: 0.01, // weight of the penalty that centres the scores
  maxGradNorm: 1,
};
const BETAS = [0.9, 0.98]; // of Adam
const EPS = 1e-8;
const HEAD_DEVIATION = 0.02;

/** A policy's weights with a small random head: where a reward model starts. */
export function withHead(weights, width, uniform) {
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  const head = Float32Array.from({ length: width }, () => HEAD_DEVIATION * normal());
  const all = new Float32Array(weights.length + width);
  all.set(weights);
  all.set(head, weights.length);
  return all;
}

/** Scores of completions by a model with a head, `rows` at a time, in texts of at most `longest` tokens. */
export class RewardModel {
  constructor(model, world, rows, longest) {
    Object.assign(this, { model, world, rows });
    this.batch = new Batch(model, rows * longest, rows, longest);
  }

  /** A reward function: the score at the last token of each text, the end token. */
  reward = (prompts, completions) => {
    const { rows } = this;
    const found = [];
    for (let first = 0; first < prompts.length; first += rows) {
      found.push(...this.read(prompts.slice(first, first + rows), completions.slice(first, first + rows)));
    }
    return found;
  };

  read(prompts, completions) {
    const { batch, model, world } = this;
    const encoded = prompts.map(world.encode);
    const texts = completions.map((text, i) => [...encoded[i], ...world.encode(text), world.END]);
    batch.set(
      texts,
      encoded.map((prompt) => prompt.length),
    );
    return batch.tokenValues(model, batch.last).slice();
  }

  /** Scale the head so that scores have standard deviation 1 on the given completions. */
  standardise(prompts, completions) {
    const { model } = this;
    const scores = this.reward(prompts, completions);
    const middle = mean(scores);
    const squares = scores.reduce((total, x) => total + (x - middle) ** 2, 0);
    const deviation = Math.sqrt(squares / (scores.length - 1));
    if (!(deviation > 0)) throw new Error("the reward model tells none of its replies apart");
    const head = model.weights.subarray(model.size - model.width);
    head.forEach((x, c) => (head[c] = x / deviation));
    return { mean: middle, deviation };
  }
}

/** Fits a reward model to pairs {prompt, chosen, rejected}, step by step, by the Bradley–Terry loss. */
export class RewardTraining {
  constructor(rewardModel, pairs, uniform, settings = {}) {
    if (!pairs.length) throw new Error("there are no comparisons; expected at least 1");
    Object.assign(this, { rewardModel, pairs, uniform, config: { ...SETTINGS, ...settings } });
    this.stepNumber = 0;
    this.order = [];
  }

  get learningRate() {
    const { learningRate, maxSteps, warmupSteps } = this.config;
    const pace = Math.min(1, (this.stepNumber + 1) / (warmupSteps + 1));
    return learningRate * pace * (1 - this.stepNumber / maxSteps);
  }

  /** The next pairs, in an order that is reshuffled in every pass. */
  collect() {
    const { batchSize } = this.config;
    const found = [];
    while (found.length < Math.min(batchSize, this.pairs.length)) {
      if (!this.order.length) this.order = shuffled(this.pairs.length, this.uniform);
      found.push(this.pairs[this.order.pop()]);
    }
    return found;
  }

  step() {
    const record = this.learn(this.collect());
    this.stepNumber += 1;
    return { step: this.stepNumber, ...record };
  }

  /** One gradient step on some pairs. */
  learn(pairs) {
    const { config: c, rewardModel } = this;
    const { batch, model } = rewardModel;
    const [prompts, chosen, rejected] = ["prompt", "chosen", "rejected"].map((side) =>
      pairs.map((pair) => pair[side]),
    );
    const scores = rewardModel.read([...prompts, ...prompts], [...chosen, ...rejected]);
    const [winners, losers] = [scores.subarray(0, pairs.length), scores.subarray(pairs.length)];
    const { loss, slope } = bradleyTerryLoss(winners, losers, c.centerRewardsCoefficient);
    batch.valuesBackward(model, [...slope.chosen, ...slope.rejected]);
    optimizerStep(model, this.learningRate, c.maxGradNorm, BETAS, EPS);
    return { loss, accuracy: mean([...winners].map((x, k) => Number(x > losers[k]))) };
  }
}
