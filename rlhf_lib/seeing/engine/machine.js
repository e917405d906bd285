// What a step asks of the models: of one machine for all rows, or of two for half of them each, which may
// be in two workers. Compare machinery/machine.py and machinery/processes.py.

import { optimizerStep } from "./optimization.js";
import { Batch, tableOf } from "./policy.js";
import { Decoder } from "./rollout.js";

export class Machine {
  /**
   * policy      trained in place
   * reference   of the same shape, or null
   * end         the token that ends a completion
   * config      that of the loop
   * longest     tokens of the longest prompt
   */
  constructor({ policy, reference, end }, config, longest) {
    Object.assign(this, { policy, reference, end, config });
    const room = longest + config.maxNewTokens;
    this.decoder = new Decoder(policy, config.batchSize, room);
    this.batch = new Batch(policy, config.miniBatchSize * room, config.miniBatchSize, room);
  }

  /** A completion of each prompt, from the uniform numbers of its row. */
  sample(prompts, uniforms) {
    const { config: c, decoder, end, policy } = this;
    return decoder.sample(policy, prompts, c.maxNewTokens, end, uniforms, c.temperature);
  }

  /** log π_ref of each token in `logprobs`, completion by completion. */
  refLogprobs(texts, starts, logprobs) {
    const { batch, config, reference } = this;
    const of = () => batch.tokenLogprobs(reference, config.temperature);
    return tableOf(batch, { texts, starts, logprobs }, of);
  }

  /** log π of each completion token of a minibatch, one after the other, (K,). */
  tokenLogprobs(texts, starts) {
    const { batch, config, policy } = this;
    batch.set(texts, starts);
    return batch.tokenLogprobs(policy, config.temperature).slice();
  }

  /** The policy's gradient, from that in each number of the last tokenLogprobs. */
  gradient(slope) {
    const { batch, config, policy } = this;
    batch.backward(policy, slope, config.temperature);
    const found = policy.gradient.slice();
    policy.gradient.fill(0);
    return found;
  }

  /** One step of the policy, from the same; the norm of its gradient. */
  descend(slope, learningRate) {
    return this.move(this.gradient(slope), learningRate);
  }

  move(gradient, learningRate) {
    this.policy.gradient.set(gradient);
    return optimizerStep(this.policy, learningRate, this.config.maxGradNorm);
  }

  load(weights) {
    this.policy.load(weights);
  }
}

/** Two machines with the same models. The first is here; the second may be elsewhere (elsewhere.js). */
export class TwoMachines {
  constructor(first, second) {
    Object.assign(this, { first, second });
  }

  /** What each says of its rows. The second is asked first: elsewhere it works while the first does. */
  async both(act, cut, ...tables) {
    const second = this.second[act](...tables.map((table) => table.slice(cut)));
    const first = this.first[act](...tables.map((table) => table.slice(0, cut)));
    return [first, await second];
  }

  async sample(prompts, uniforms) {
    const found = await this.both("sample", Math.ceil(prompts.length / 2), prompts, uniforms);
    return { texts: found.flatMap((one) => one.texts), logprobs: found.flatMap((one) => one.logprobs) };
  }

  async refLogprobs(texts, starts, logprobs) {
    return (await this.both("refLogprobs", middle(texts), texts, starts, logprobs)).flat();
  }

  async tokenLogprobs(texts, starts) {
    const [first, second] = await this.both("tokenLogprobs", middle(texts), texts, starts);
    this.cut = first.length;
    return Float32Array.from([...first, ...second]);
  }

  /** The first moves by the sum of both gradients, and the second follows. */
  async descend(slope, learningRate) {
    const [gradient, other] = await this.both("gradient", this.cut, slope);
    const norm = this.first.move(
      gradient.map((x, i) => x + other[i]),
      learningRate,
    );
    await this.second.load(this.first.policy.weights.slice());
    return norm;
  }
}

/** How many of the rows have half of all tokens. */
function middle(texts) {
  const half = texts.reduce((total, text) => total + text.length, 0) / 2;
  let [rows, tokens] = [0, 0];
  while (tokens + texts[rows].length / 2 < half) tokens += texts[rows++].length;
  return rows;
}
