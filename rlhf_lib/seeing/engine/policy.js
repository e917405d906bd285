// The compiled kernel as an object, and a policy in it. Compare models/policy.py, models/tokens.py.

/** Instantiate the kernel from its bytes; each engine has its own memory. */
export async function newKernel(bytes) {
  if (!WebAssembly.validate(bytes)) throw new Error("this browser has no WebAssembly with SIMD");
  const { instance } = await WebAssembly.instantiate(bytes, { env: { log: Math.log } });
  return new Kernel(instance.exports);
}

class Kernel {
  constructor(exports) {
    this.run = exports;
  }

  // Views end when memory grows: ask for them again after anything that allocates.
  floats(address, n) {
    return new Float32Array(this.run.memory.buffer, address, n);
  }

  ints(address, n) {
    return new Int32Array(this.run.memory.buffer, address, n);
  }
}

/** A GPT-2 with a head for tokens and one for values. Without `trained` it has no gradient. */
export class Policy {
  constructor(kernel, { layers, width, heads, vocab, positions }, trained = true) {
    this.kernel = kernel;
    this.run = kernel.run;
    this.model = this.run.new_model(layers, width, heads, vocab, positions, Number(trained));
    if (!this.model) throw new Error(`no kernel for ${layers} layers of ${width} by ${heads} heads`);
    this.size = this.run.size(this.model); // with the head for values, which comes last
    Object.assign(this, { width, vocab, positions });
  }

  get weights() {
    return this.kernel.floats(this.run.weights(this.model), this.size);
  }

  get gradient() {
    return this.kernel.floats(this.run.gradient(this.model), this.size);
  }

  /** Weights in transformers' order, without a score head or with one. */
  load(weights) {
    const { size, width } = this;
    if (weights.length !== size && weights.length !== size - width) {
      const expected = `${size - width}, or ${size} with a head for values`;
      throw new Error(`weights has ${weights.length} entries; expected ${expected}`);
    }
    this.weights.set(weights);
    this.run.weights_changed(this.model);
  }
}

export function checkRoom({ positions }, longest) {
  if (!(longest > 0 && longest <= positions)) {
    throw new Error(`the longest text has ${longest} tokens; expected at most ${positions}, the context`);
  }
}

/** Refuses what the kernel would read beyond its memory. */
export function checkTexts(texts, room, longest, vocab) {
  if (texts.length > room) throw new Error(`there are ${texts.length} texts; expected at most ${room}`);
  for (const text of texts) {
    if (text.length === 0 || text.length > longest) {
      throw new Error(`a text has ${text.length} tokens; expected 1 to ${longest}`);
    }
    const wrong = text.find((token) => !(Number.isInteger(token) && token >= 0 && token < vocab));
    if (wrong !== undefined) throw new Error(`a token is ${wrong}; expected 0 to ${vocab - 1}`);
  }
}

/** Room for a batch of at most N tokens in B texts of at most `longest`; one for all of a shape. */
export class Batch {
  constructor(policy, N, B, longest) {
    const { kernel, run } = policy;
    checkRoom(policy, longest);
    Object.assign(this, { kernel, run, N, room: B, longest, vocab: policy.vocab });
    this.activations = run.new_activations(policy.model, N, longest);
    const room = () => run.allocate(4 * N);
    this.at = { tokens: room(), where: room(), read: room(), in: room(), out: room() };
    this.at.starts = run.allocate(4 * (B + 1));
  }

  /** Texts as arrays of tokens, and of each the number that is its prompt. */
  set(texts, prompts) {
    checkTexts(texts, this.room, this.longest, this.vocab);
    const starts = [0];
    for (const text of texts) starts.push(starts.at(-1) + text.length);
    if (starts.at(-1) > this.N) {
      throw new Error(`the texts have ${starts.at(-1)} tokens; expected at most ${this.N}`);
    }
    const empty = prompts.find((start, b) => !(start > 0 && start <= texts[b].length));
    if (empty !== undefined) throw new Error(`a prompt has ${empty} tokens; expected 1 to all of its text`);
    const where = texts.flatMap((text, b) =>
      Array.from({ length: text.length - prompts[b] }, (_, t) => starts[b] + prompts[b] + t),
    );
    this.B = texts.length;
    this.K = where.length;
    this.states = where.map((k) => k - 1); // before each completion token, where a critic reads
    this.last = starts.slice(1).map((next) => next - 1); // of each text, where a reward model reads
    this.kernel.ints(this.at.tokens, this.N).set(texts.flatMap((text) => [...text]));
    this.kernel.ints(this.at.starts, this.B + 1).set(starts);
    this.kernel.ints(this.at.where, this.N).set(where);
  }

  /** log π of every completion token, one after the other, (K,). */
  tokenLogprobs(policy, temperature = 1) {
    const { activations, at, B, K, run } = this;
    run.forward(policy.model, activations, at.tokens, at.starts, B);
    run.token_logprobs(policy.model, activations, at.tokens, at.where, K, temperature, at.out);
    return this.kernel.floats(at.out, K);
  }

  /** Adds to the policy's gradient; after tokenLogprobs, given the gradient in each of them. */
  backward(policy, dlogprobs, temperature = 1) {
    const { activations, at, run } = this;
    this.kernel.floats(at.in, this.K).set(dlogprobs);
    run.token_logprobs_backward(policy.model, activations, at.tokens, at.where, temperature, at.in);
    run.backward(policy.model, activations, at.tokens, at.starts);
  }

  /** The value head after some tokens, of the whole batch: `states`, or `last`. */
  tokenValues(model, where) {
    const { activations, at, B, run } = this;
    this.kernel.ints(at.read, where.length).set(where);
    run.forward(model.model, activations, at.tokens, at.starts, B);
    run.token_values(model.model, activations, at.read, where.length, at.out);
    return this.kernel.floats(at.out, where.length);
  }

  /** Adds to the model's gradient; after tokenValues, given the gradient in each of them. */
  valuesBackward(model, dvalues) {
    const { activations, at, run } = this;
    this.kernel.floats(at.in, dvalues.length).set(dvalues);
    run.token_values_backward(model.model, activations, at.read, at.in);
    run.backward(model.model, activations, at.tokens, at.starts);
  }
}

/** What `of()` says of each completion token, completion by completion, in parts that fit a batch. */
export function tableOf(batch, { texts, starts, logprobs }, of) {
  const found = [];
  for (let first = 0; first < texts.length; first += batch.room) {
    const last = first + batch.room;
    batch.set(texts.slice(first, last), starts.slice(first, last));
    let numbers = of().slice();
    for (const row of logprobs.slice(first, last)) {
      found.push([...numbers.subarray(0, row.length)]);
      numbers = numbers.subarray(row.length);
    }
  }
  return found;
}
