// What test_engine.py asks of the engine, answered in JSON: node engine.mjs FOLDER < question > answer.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(`${folder}/${name}.js`));
const { newKernel, Policy, Batch } = await load("policy");
const [{ Decoder, draws }, { optimizerStep }, { GRPO }, { PPO }, { Critic }, reward, random, weights] =
  await Promise.all(
    ["rollout", "optimization", "grpo", "ppo", "critic", "reward_model", "random", "weights"].map(load),
  );
const [losses, advantages, sums, { Letters }, { Machine, TwoMachines }, { answering, Elsewhere }] =
  await Promise.all(["losses", "advantages", "sums", "letters", "machine", "elsewhere"].map(load));

const asked = JSON.parse(readFileSync(0, "utf8"));
const floats = (text) => new Float32Array(Uint8Array.from(Buffer.from(text, "base64")).buffer);
const text = (numbers) => Buffer.from(Float32Array.from(numbers).buffer).toString("base64");
const kernel = await newKernel(readFileSync(asked.kernel ?? `${folder}/kernel.wasm`));

function policyOf({ shape, weights }, trained = true) {
  const policy = new Policy(kernel, shape, trained);
  policy.load(floats(weights));
  return policy;
}

function batchOf(policy, { texts, starts }) {
  const tokens = texts.reduce((total, one) => total + one.length, 0);
  const batch = new Batch(policy, tokens, texts.length, Math.max(...texts.map((one) => one.length)));
  batch.set(texts, starts);
  return batch;
}

/** From here on the loop has a second machine, with the same models. */
function share(loop, { model, reference, longest }) {
  const [policy, kept] = [policyOf(model), reference ? policyOf(reference, false) : null];
  const second = new Machine({ policy, reference: kept, end: sums.END }, loop.config, longest);
  loop.machine = new TwoMachines(loop.machine, second);
}

/** Steps of a loop on samples that are given, in minibatches that are given. */
async function stepped(loop, { rollout, orders, steps, betas }, models) {
  loop.minibatches = () => orders;
  loop.collect = () => rollout;
  const records = [];
  for (let i = 0; i < steps; i++) {
    if (betas) loop.beta = betas[i];
    records.push(await loop.step());
  }
  const found = Object.entries(models).map(([name, model]) => [name, text(model.weights)]);
  return { records, ...Object.fromEntries(found) };
}

const answers = {
  score({ model, texts, starts, slope, temperature }) {
    const policy = policyOf(model);
    const batch = batchOf(policy, { texts, starts });
    const logprobs = text(batch.tokenLogprobs(policy, temperature));
    batch.backward(policy, floats(slope), temperature);
    return { logprobs, gradient: text(policy.gradient) };
  },
  values({ model, texts, where, slope }) {
    const policy = policyOf(model);
    const batch = batchOf(policy, { texts, starts: texts.map(() => 1) });
    const values = text(batch.tokenValues(policy, where));
    batch.valuesBackward(policy, floats(slope));
    return { values, gradient: text(policy.gradient) };
  },
  adam({ model, gradients, learningRate, maxGradNorm }) {
    const policy = policyOf(model);
    const norms = gradients.map((gradient) => {
      policy.gradient.set(floats(gradient));
      return optimizerStep(policy, learningRate, maxGradNorm);
    });
    return { norms, weights: text(policy.weights) };
  },
  refused({ model, value }) {
    const policy = policyOf(model);
    policy.gradient[5] = value === "nan" ? NaN : Infinity;
    const before = text(policy.weights);
    try {
      optimizerStep(policy, 1e-3, 1);
    } catch (error) {
      const forgotten = policy.gradient.every((x) => x === 0);
      return { said: error.message, same: before === text(policy.weights), forgotten };
    }
    return { said: null };
  },
  sample({ model, prompts, T, end, temperature, seed }) {
    const policy = policyOf(model, false);
    const decoder = new Decoder(policy, prompts.length, T + Math.max(...prompts.map((one) => one.length)));
    const uniforms = draws(prompts.length, T, random.uniforms(seed));
    return decoder.sample(policy, prompts, T, end, uniforms, temperature);
  },
  losses({ logprobs, old, advantages: A, reference, epsilon, lengths }) {
    const { loss, slope } = losses.clippedPolicyLoss(logprobs, old, A, epsilon);
    const kl = losses.k3(logprobs, reference);
    const weights = ["tokens", "sequences"].map((over) => losses.tokenWeights(lengths, over));
    const value = losses.clippedValueLoss(logprobs, old, reference, epsilon);
    const of = (name, found) => [
      [name, [...found.loss]],
      [`${name}Slope`, [...found.slope]],
    ];
    return Object.fromEntries([
      ["weights", weights],
      ...of("policy", { loss, slope }),
      ...of("kl", kl),
      ...of("value", value),
    ]);
  },
  bradleyTerry: ({ chosen, rejected, centering }) => {
    const { loss, slope } = losses.bradleyTerryLoss(chosen, rejected, centering);
    return { loss, chosen: [...slope.chosen], rejected: [...slope.rejected] };
  },
  groups: ({ rewards, groupSize }) => advantages.groupAdvantages(rewards, groupSize),
  advantages({ scores, logRatio, values, beta, gamma, lam }) {
    const rewards = advantages.tokenRewards(scores, logRatio, beta);
    const found = advantages.gae(rewards, values, gamma, lam);
    const whitened = advantages.whiten(found.advantages);
    return { rewards, ...found, whitened, explained: advantages.explainedVariance(values, found.returns) };
  },
  verify({ prompts, completions }) {
    const written = completions.map((completion) => sums.decode(sums.encode(completion)));
    return { right: sums.strictVerifier(prompts, completions), written };
  },
  prompts: ({ n, seed, heldOut, digits }) => sums.prompts(n, random.uniforms(seed), heldOut, digits),
  grpo({ model, reference, settings, rollout, orders, steps, shared }) {
    const policy = policyOf(model);
    const kept = reference ? policyOf(reference, false) : null;
    const longest = Math.max(...rollout.starts);
    const given = { policy, reference: kept, world: sums, reward: sums.strictVerifier, prompts: [], longest };
    const loop = new GRPO(given, settings);
    if (shared) share(loop, { model, reference, longest });
    return stepped(loop, { rollout, orders, steps }, { policy });
  },
  ppo({ model, reference, critic, settings, rollout, orders, steps, betas }) {
    const [policy, kept, judge] = [policyOf(model), policyOf(reference, false), policyOf(critic)];
    const longest = Math.max(...rollout.starts);
    const given = { policy, reference: kept, world: sums, prompts: [], longest };
    const loop = new PPO(given, settings);
    const room = Math.max(...rollout.texts.map((one) => one.length));
    loop.critic = new Critic(judge, loop.config, room);
    return stepped(loop, { rollout, orders, steps, betas }, { policy, critic: judge });
  },
  reward({ model, pairs, settings, lists, longest, prompts, completions, steps }) {
    const judge = policyOf(model);
    const scorer = new reward.RewardModel(judge, new Letters(lists), 2 * pairs.length, longest);
    const training = new reward.RewardTraining(scorer, pairs, () => 0, settings);
    training.collect = () => pairs;
    const before = scorer.reward(prompts, completions);
    const records = Array.from({ length: steps }, () => training.step());
    const after = text(judge.weights);
    const standard = scorer.standardise(prompts, completions);
    return { before, records, after, standard, scores: scorer.reward(prompts, completions) };
  },
  head: ({ width, seed }) => {
    const found = reward.withHead(new Float32Array(3), width, random.uniforms(seed));
    return [...found];
  },
  tokens({ lists, texts, rows }) {
    const world = new Letters(lists);
    return {
      ids: texts.map(world.encode),
      texts: rows.map(world.decode),
      unknown: texts.map((one) => world.unknown(one)),
    };
  },
  utility({ lists, prompts, completions }) {
    const world = new Letters(lists);
    return prompts.map((prompt, i) => [
      world.features(prompt, completions[i]),
      world.utility(prompt, completions[i]),
    ]);
  },
  requests: ({ lists, n, seed, heldOut }) => new Letters(lists).prompts(n, random.uniforms(seed), heldOut),
  parse({ lists, prompt }) {
    try {
      return new Letters(lists).parse(prompt);
    } catch (error) {
      return error.message;
    }
  },
  async unpacked({ base, difference, width }) {
    try {
      const start = await weights.unpack(Buffer.from(base, "base64"));
      if (difference === undefined) return text(start);
      return text(await weights.unpackDifference(Buffer.from(difference, "base64"), start, width));
    } catch (error) {
      return { said: error.message };
    }
  },
  refuses({ model, texts, starts, room, longest, prompts }) {
    try {
      const policy = policyOf(model);
      if (prompts) {
        const decoder = new Decoder(policy, room, longest);
        decoder.sample(policy, prompts, 4, 1, draws(prompts.length, 4, () => 0.5));
      } else new Batch(policy, 20, room, longest).set(texts, starts);
    } catch (error) {
      return error.message;
    }
    return null;
  },
  settings({ settings, model }) {
    try {
      const policy = policyOf(model);
      new GRPO({ policy, world: sums, prompts: [], longest: 10 }, settings);
    } catch (error) {
      return error.message;
    }
    return null;
  },
  async elsewhere() {
    const why = (asked) => asked.catch((error) => error.message);
    const answer = answering({ critic: () => Promise.reject(new Error("no room")) });
    const unmade = ["critic", "values", "learn"].map((act) => why(answer({ act, given: [] })));
    const worker = { postMessage() {} };
    const critic = new Elsewhere(worker, ["values"], "critic", {});
    const waiting = [why(critic.made), why(critic.values())];
    worker.onerror({ message: "boom" });
    return { unmade: await Promise.all(unmade), gone: await Promise.all([...waiting, why(critic.values())]) };
  },
  async train({ model, reference, seed, steps, settings, shared }) {
    const policy = policyOf(model);
    const kept = reference ? policyOf(reference, false) : null;
    const prompts = sums.prompts(8000, random.uniforms(seed));
    const held = sums.prompts(200, random.uniforms(seed + 1), true);
    const given = { policy, reference: kept, world: sums, reward: sums.strictVerifier, prompts, longest: 10 };
    const loop = new GRPO({ ...given, uniform: random.uniforms(seed) }, settings);
    if (shared) share(loop, { model, reference, longest: 10 });
    const solved = async () => advantages.mean((await loop.write(held)).scores);
    const before = await solved();
    const [records, written] = [[], []];
    for (let i = 0; i < steps; i++) {
      records.push(await loop.step());
      written.push(loop.rollout.completions);
    }
    return { before, after: await solved(), records, written, weights: text(policy.weights) };
  },
};

console.log(JSON.stringify(await answers[asked.question](asked)));
