// What the loops share: sampling, scoring, minibatches, the pace. Compare algorithms/loop.py.

import { Machine } from "./machine.js";
import { draws } from "./rollout.js";

export const SETTINGS = {
  batchSize: 64, // completions a step
  miniBatchSize: 32, // completions of one update
  maxNewTokens: 32, // longest completion, its end token included
  learningRate: 3e-4, // of the policy
  warmupSteps: 3,
  beta: 0.1, // reward per nat of KL
  epsilon: 0.2, // clip of the policy ratio
  temperature: 1,
  missingEosPenalty: 1, // taken off the score of a completion that was cut off
  maxGradNorm: 1,
};
const COUNTS = ["batchSize", "miniBatchSize", "maxNewTokens"];
const POSITIVE = ["learningRate", "epsilon", "temperature", "maxGradNorm"];

export class OnlineLoop {
  /**
   * policy      trained in place
   * reference   of the same shape, never changed; null if beta is and stays 0
   * world       `encode`, `decode` and `END` of its tokenizer
   * reward      (prompts, completions) => a number for each
   * prompts     texts to draw from, in their order, over and over
   * longest     tokens of the longest prompt
   * uniform     () => a number in [0, 1): all that is random
   */
  constructor({ policy, reference = null, world, reward, prompts, longest, uniform }, config) {
    checkSettings(config);
    Object.assign(this, { reference, world, reward, prompts, uniform, config });
    this.beta = config.beta;
    this.machine = new Machine({ policy, reference, end: world.END }, config, longest);
    this.stepNumber = 0;
  }

  /** The price of a nat, from the next step on. */
  get beta() {
    return this.price;
  }

  set beta(beta) {
    if (!(beta >= 0 && beta < Infinity)) throw new Error(`beta is ${beta}; expected 0 or more`);
    if (beta && !this.reference) throw new Error(`beta is ${beta} without a reference; expected 0`);
    this.price = beta;
  }

  async step() {
    const rollout = await this.collect();
    const record = await this.learn(rollout);
    this.stepNumber += 1;
    this.rollout = rollout;
    return { step: this.stepNumber, ...record };
  }

  /** What the learning rates of this step are multiplied by. */
  get pace() {
    return Math.min(1, (this.stepNumber + 1) / (this.config.warmupSteps + 1));
  }

  /** log π, as it is now, of each token of some rows; the next `descend` is on these. */
  tokenLogprobs({ texts, starts }, rows) {
    const of = (table) => rows.map((i) => table[i]);
    return this.machine.tokenLogprobs(of(texts), of(starts));
  }

  /** One step of the policy down the weighted sum of its tokens' losses. */
  async descend({ loss, slope }, weights) {
    const weighted = slope.map((x, k) => x * weights[k]);
    const norm = await this.machine.descend(weighted, this.config.learningRate * this.pace);
    return { loss: loss.reduce((total, x, k) => total + x * weights[k], 0), norm };
  }

  /** The prompts of this step, each `times` times. */
  asked(times = 1) {
    const { batchSize } = this.config;
    const first = this.stepNumber * (batchSize / times);
    return Array.from(
      { length: batchSize },
      (_, i) => this.prompts[(first + Math.floor(i / times)) % this.prompts.length],
    );
  }

  /** A completion of each prompt by the policy, with its score. */
  async write(prompts, uniform = this.uniform) {
    const { config: c, world } = this;
    const encoded = prompts.map(world.encode);
    const texts = [];
    const logprobs = [];
    for (let first = 0; first < prompts.length; first += c.batchSize) {
      const some = encoded.slice(first, first + c.batchSize);
      const found = await this.machine.sample(some, draws(some.length, c.maxNewTokens, uniform));
      texts.push(...found.texts);
      logprobs.push(...found.logprobs);
    }
    const completions = texts.map((text, i) => world.decode(text.slice(encoded[i].length)));
    const cutOff = (text) => Number(text.at(-1) !== world.END);
    return {
      prompts,
      completions,
      texts,
      starts: encoded.map((prompt) => prompt.length), // where each completion begins
      logprobs, // of each token when it was drawn
      scores: this.reward(prompts, completions).map((r, i) => r - c.missingEosPenalty * cutOff(texts[i])),
    };
  }

  /** log π_ref of each sampled token, completion by completion. */
  refLogprobs({ texts, starts, logprobs }) {
    return this.machine.refLogprobs(texts, starts, logprobs);
  }

  /** Row numbers of each update, reshuffled in every pass. */
  minibatches(passes) {
    const { batchSize, miniBatchSize } = this.config;
    const found = [];
    for (let pass = 0; pass < passes; pass++) {
      const order = shuffled(batchSize, this.uniform);
      for (let i = 0; i < batchSize; i += miniBatchSize) found.push(order.slice(i, i + miniBatchSize));
    }
    return found;
  }
}

/** log π − log π_ref of each token. */
export const logRatioOf = (logprobs, refLogprobs) =>
  logprobs.map((row, i) => row.map((x, t) => x - refLogprobs[i][t]));

/** k1 of each completion, in nats: the sum of its log ratios. */
export const k1 = (logRatio) => logRatio.map((row) => row.reduce((total, x) => total + x, 0));

export function checkCounts(config, names) {
  for (const name of names) {
    if (!(Number.isInteger(config[name]) && config[name] > 0)) {
      throw new Error(`${name} is ${config[name]}; expected a whole number above 0`);
    }
  }
}

export function checkMultiples(config, names) {
  for (const name of names) {
    if (config.batchSize % config[name]) {
      throw new Error(`batchSize is ${config.batchSize}; expected a multiple of ${name}=${config[name]}`);
    }
  }
}

export function checkPositive(config, names) {
  for (const name of names) {
    if (!(config[name] > 0)) throw new Error(`${name} is ${config[name]}; expected a number above 0`);
  }
}

function checkSettings(config) {
  checkCounts(config, COUNTS);
  checkMultiples(config, ["miniBatchSize"]);
  checkPositive(config, POSITIVE);
}

/** The numbers 0 to n − 1 in a random order. */
export function shuffled(n, uniform) {
  const order = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(uniform() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
