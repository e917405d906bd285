// Writing with the models of the letters world, to any prompt. Compare models/rollout.py.

import { mean } from "./advantages.js";
import { k1, logRatioOf } from "./loop.js";
import { Batch, Policy, tableOf } from "./policy.js";
import { Decoder, draws } from "./rollout.js";
import { unpack, unpackDifference } from "./weights.js";

const ROWS = 64; // replies at a time
const REFERENCE = "sft"; // what the others are packed against, and what their distance is measured to

export class Lab {
  constructor(engine, shape, world, maxNewTokens) {
    Object.assign(this, { engine, shape, world, maxNewTokens, models: {} });
    this.longestPrompt = shape.positions - maxNewTokens;
  }

  /** A model from what a page has fetched; the reference first. */
  async load(name, bytes) {
    if (this.models[name]) return;
    const { engine, shape } = this;
    if (name === REFERENCE) this.start = await unpack(bytes);
    const weights = name === REFERENCE ? this.start : await unpackDifference(bytes, this.start, shape.width);
    const model = new Policy(engine, shape, false);
    model.load(weights);
    this.models[name] = model;
    this.decoder ??= new Decoder(model, ROWS, shape.positions);
    this.batch ??= new Batch(model, ROWS * shape.positions, ROWS, shape.positions);
  }

  /** Why a prompt cannot be answered, or nothing. */
  wrongPrompt(prompt) {
    const { length } = this.world.encode(prompt);
    if (!length) return "the prompt is empty; expected a few words";
    if (length <= this.longestPrompt) return "";
    return `the prompt has ${length} words and marks; expected at most ${this.longestPrompt}`;
  }

  /** 64 replies of a model to a prompt, and how far it is from the reference there, in nats. */
  write(name, prompt, uniform) {
    const { batch, decoder, maxNewTokens, models, world } = this;
    const tokens = world.encode(prompt);
    const asked = Array(ROWS).fill(tokens);
    const uniforms = draws(ROWS, maxNewTokens, uniform);
    const { texts, logprobs } = decoder.sample(models[name], asked, maxNewTokens, world.END, uniforms);
    const rollout = { texts, logprobs, starts: asked.map(() => tokens.length) };
    const reference = tableOf(batch, rollout, () => batch.tokenLogprobs(models[REFERENCE]));
    const gaps = name === REFERENCE ? texts.map(() => 0) : k1(logRatioOf(logprobs, reference));
    const middle = mean(gaps);
    const deviation = Math.sqrt(gaps.reduce((sum, x) => sum + (x - middle) ** 2, 0) / (ROWS - 1));
    return {
      unknown: [...new Set(world.unknown(prompt))],
      replies: texts.map((text, i) => ({
        text: world.decode(text.slice(tokens.length)),
        gap: gaps[i],
        gold: this.gold(prompt, world.decode(text.slice(tokens.length))),
      })),
      kl: { mean: middle, half: (1.96 * deviation) / Math.sqrt(ROWS) },
      length: mean(logprobs.map((row) => row.length)),
    };
  }

  /** Null where the prompt is no request of this world. */
  gold(prompt, reply) {
    try {
      return this.world.utility(prompt, reply);
    } catch {
      return null;
    }
  }
}
