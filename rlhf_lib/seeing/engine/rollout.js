// Sampling. Compare models/rollout.py; the loop itself is rollout.c.

import { checkRoom, checkTexts } from "./policy.js";

/** T draws for each of B completions, one completion after the other. */
export const draws = (B, T, uniform) => Array.from({ length: B }, () => Array.from({ length: T }, uniform));

/** Room to sample B completions at a time, in texts of at most S tokens, prompt included. */
export class Decoder {
  constructor(policy, B, S) {
    const { kernel, run } = policy;
    checkRoom(policy, S);
    Object.assign(this, { kernel, run, B, S });
    this.decoder = run.new_decoder(policy.model, B, S);
    this.at = { tokens: run.allocate(4 * B * S), lengths: run.allocate(4 * B) };
    this.at.uniforms = run.allocate(4 * B * S);
    this.at.logprobs = run.allocate(4 * B * S);
  }

  /**
   * One completion of each prompt, an array of tokens, of at most T tokens.
   *
   * `uniforms` has T numbers in [0, 1) for each: its completion is a function of them, whatever stands beside
   * it. Returns whole texts and the log-probability of each token drawn.
   */
  sample(policy, prompts, T, end, uniforms, temperature = 1) {
    const { at, kernel, S } = this;
    const B = prompts.length;
    checkTexts(prompts, this.B, S - T, policy.vocab);
    const tokens = kernel.ints(at.tokens, B * S);
    prompts.forEach((prompt, b) => tokens.set(prompt, b * S));
    const lengths = kernel.ints(at.lengths, B);
    lengths.set(prompts.map((prompt) => prompt.length));
    kernel.floats(at.uniforms, B * T).set(uniforms.flatMap((row) => [...row]));
    const ended = this.run.sample(
      policy.model,
      this.decoder,
      at.tokens,
      at.lengths,
      B,
      T,
      end,
      temperature,
      at.uniforms,
      at.logprobs,
    );
    const logprobs = kernel.floats(at.logprobs, B * T);
    return {
      ended,
      texts: prompts.map((_, b) => [...tokens.subarray(b * S, b * S + lengths[b])]),
      logprobs: prompts.map((prompt, b) => [...logprobs.subarray(b * T, b * T + lengths[b] - prompt.length)]),
    };
  }
}
