// The worker of a page: it trains step by step, and hears what it is told between two steps; or it writes.
//
// To train it hears "start", once, with everything; then "go", "pause" and "beta". It says "fitted" after
// each step of a reward model that learns from the reader's comparisons, "measured" before the first step and
// every few, "step" after each, and "done". For a reward model alone it hears "fit", and says "fitted" and
// "scored". To write it hears "open", "load" for each model and "write", and says "written", or "refused"
// where a prompt cannot be answered. All else that goes wrong is "failed".

import { mean } from "./advantages.js";
import { Critic } from "./critic.js";
import { answering, Elsewhere } from "./elsewhere.js";
import { GRPO } from "./grpo.js";
import { Lab } from "./lab.js";
import { Letters } from "./letters.js";
import { Machine, TwoMachines } from "./machine.js";
import { newKernel, Policy } from "./policy.js";
import { PPO, ppoConfig } from "./ppo.js";
import { uniforms } from "./random.js";
import { RewardModel, RewardTraining, withHead } from "./reward_model.js";
import * as sums from "./sums.js";
import { unpack, unpackDifference } from "./weights.js";

const TRAINING_PROMPTS = 8000;
const STANDARD = 64; // replies on which a fitted reward has standard deviation 1
const SCORED = 16; // replies that are scored at a time
const HELD_OUT = 128; // prompts that are measured on, beside those that are shown

/** A model with these weights. */
function modelOf(engine, shape, weights, trained) {
  const model = new Policy(engine, shape, trained);
  model.load(weights);
  return model;
}

const longestOf = (world, prompts) => Math.max(...prompts.map((prompt) => world.encode(prompt).length));

// What can be run: each gives the loop, the held-out prompts, and the worth of a reply to one.
const runs = {
  /** GRPO with the verifier. */
  async sums({ engine, kernel, script, weights, shape, settings, seed, asked }) {
    const numbers = await unpack(weights.policy);
    const policy = modelOf(engine, shape, numbers, true);
    const reference = settings.beta > 0 ? modelOf(engine, shape, numbers, false) : null;
    const uniform = uniforms(seed);
    const prompts = sums.prompts(TRAINING_PROMPTS, uniform);
    const held = [...asked, ...sums.prompts(HELD_OUT, uniforms(seed + 1), true)];
    const longest = longestOf(sums, [...prompts, ...held]);
    const given = { policy, reference, world: sums, reward: sums.strictVerifier, prompts, longest, uniform };
    const loop = new GRPO(given, settings);
    const start = { kernel, shape, weights: numbers, priced: Boolean(reference), longest };
    const second = await beside(script, "machine", { ...start, end: sums.END, config: loop.config });
    loop.machine = new TwoMachines(loop.machine, second);
    return { loop, held, worth: sums.isRight };
  },

  /** PPO with the book's reward model, or with one that is fitted to the reader's comparisons. */
  async letters({ engine, kernel, script, weights, shape, settings, seed, asked, lists, comparisons }) {
    const world = new Letters(lists);
    const sft = await unpack(weights.policy);
    const [policy, reference] = [true, false].map((trained) => modelOf(engine, shape, sft, trained));
    const uniform = uniforms(seed);
    const prompts = world.prompts(TRAINING_PROMPTS, uniform);
    const held = [...asked, ...world.prompts(HELD_OUT, uniforms(seed + 1), true)];
    const longest = longestOf(world, [...prompts, ...held, ...(comparisons ?? []).map((one) => one.prompt)]);
    const room = longest + settings.maxNewTokens + 1; // a reply that was cut off gets an end token too
    const scorer = comparisons
      ? withHead(sft, shape.width, uniform)
      : await unpackDifference(weights.reward, sft, shape.width);
    const judge = modelOf(engine, shape, scorer, Boolean(comparisons));
    const rewardModel = new RewardModel(judge, world, settings.miniBatchSize, room);
    const config = ppoConfig(settings);
    const { reward } = rewardModel;
    const given = { policy, reference, world, reward, prompts, longest, uniform };
    const loop = new PPO(given, settings);
    if (comparisons) {
      await fit(rewardModel, comparisons, uniform);
      const { prompts: asked, completions } = await loop.write(prompts.slice(-STANDARD));
      rewardModel.standardise(asked, completions);
    }
    const start = { kernel, shape, weights: judge.weights.slice(), config, longest: room };
    loop.critic = await beside(script, "critic", start);
    const worth = (prompt, reply) => world.utility(prompt, reply);
    return { loop, held, worth, features: (prompt, reply) => world.counted(prompt, reply) };
  },
};

/** Fits a reward model, and says how it goes. */
async function fit(rewardModel, comparisons, uniform) {
  const training = new RewardTraining(rewardModel, comparisons, uniform);
  while (training.stepNumber < training.config.maxSteps) {
    const record = training.step();
    postMessage({ kind: "fitted", record, of: training.config.maxSteps });
    await new Promise((heardMeanwhile) => setTimeout(heardMeanwhile));
  }
}

// What can be in a worker of its own, from what it is told, and what it is asked.
const makers = {
  async critic({ kernel, shape, weights, config, longest }) {
    return new Critic(modelOf(await newKernel(kernel), shape, weights, true), config, longest);
  },
  async machine({ kernel, shape, weights, priced, end, config, longest }) {
    const engine = await newKernel(kernel);
    const policy = modelOf(engine, shape, weights, true);
    const reference = priced ? modelOf(engine, shape, weights, false) : null;
    return new Machine({ policy, reference, end }, config, longest);
  },
};
const ACTS = {
  critic: ["values", "learn"],
  machine: ["sample", "refLogprobs", "tokenLogprobs", "gradient", "load"],
};

/** One of these in a worker of its own, so that two cores learn; here where a worker can have none. */
async function beside(script, name, given) {
  let other = null;
  try {
    const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    other = new Elsewhere(new Worker(url), ACTS[name], name, given);
    await other.made;
    URL.revokeObjectURL(url);
    return other;
  } catch {
    other?.worker.terminate();
    return makers[name](given);
  }
}

/** By how much each edit of some letters changes their score, on average, and half its 95 % interval. */
function scoresOf(rewardModel, asked, { clean, ...edits }) {
  const unchanged = rewardModel.reward(asked, clean);
  const compared = Object.entries(edits).map(([name, texts]) => {
    const changes = rewardModel.reward(asked, texts).map((score, i) => score - unchanged[i]);
    const middle = mean(changes);
    const squares = changes.reduce((total, x) => total + (x - middle) ** 2, 0);
    const error = Math.sqrt(squares / Math.max(1, changes.length - 1) / changes.length);
    return [name, { mean: middle, half: 1.96 * error }];
  });
  return Object.fromEntries(compared);
}

let run = null;
let lab = null;
const answer = answering(makers); // where this worker is the one beside another

const heard = {
  async start({ kernel, world, ...given }) {
    const made = await runs[world]({ engine: await newKernel(kernel), kernel, ...given });
    const { asked, total, every, seed } = given;
    run = { ...made, shown: asked.length, total, every, going: false, looping: false };
    run.measuring = uniforms(seed + 2);
    await measure();
  },
  go() {
    run.going = true;
    if (!run.looping) train().catch(fail);
  },
  pause() {
    run.going = false;
  },
  beta({ beta }) {
    run.loop.beta = beta;
  },
  async fit({ kernel, shape, lists, weights, comparisons, asked, edits, seed }) {
    const world = new Letters(lists);
    const uniform = uniforms(seed);
    const start = withHead(await unpack(weights.policy), shape.width, uniform);
    const judge = modelOf(await newKernel(kernel), shape, start, true);
    const replies = comparisons.flatMap((one) => [one.chosen, one.rejected]);
    const answered = comparisons.flatMap((one) => [one.prompt, one.prompt]);
    const longest =
      longestOf(world, [...answered, ...asked]) +
      longestOf(world, [...replies, ...Object.values(edits).flat()]);
    const rewardModel = new RewardModel(judge, world, SCORED, longest + 1);
    await fit(rewardModel, comparisons, uniform);
    rewardModel.standardise(answered, replies);
    postMessage({ kind: "scored", scores: scoresOf(rewardModel, asked, edits) });
  },
  async open({ kernel, shape, lists }) {
    lab = new Lab(await newKernel(kernel), shape, new Letters(lists), lists.maxNewTokens);
  },
  load: ({ name, bytes }) => lab.load(name, bytes),
  write({ name, prompt, seed }) {
    const wrong = lab.wrongPrompt(prompt);
    if (wrong) postMessage({ kind: "refused", text: wrong });
    else postMessage({ kind: "written", name, prompt, found: lab.write(name, prompt, uniforms(seed)) });
  },
};

async function train() {
  const { loop, total, every, worth } = run;
  run.looping = true;
  while (run.going && loop.stepNumber < total) {
    const before = performance.now();
    const record = await loop.step();
    const seconds = (performance.now() - before) / 1000;
    const { prompts, completions } = loop.rollout;
    postMessage({
      kind: "step",
      record: { ...record, worth: meanWorth(worth, prompts, completions) },
      seconds,
    });
    if (loop.stepNumber % every === 0 || loop.stepNumber === total) await measure();
    await new Promise((heardMeanwhile) => setTimeout(heardMeanwhile));
  }
  run.looping = run.going = false;
  if (loop.stepNumber === total) postMessage({ kind: "done" });
}

const meanWorth = (worth, prompts, completions) =>
  prompts.reduce((total, prompt, i) => total + worth(prompt, completions[i]), 0) / prompts.length;

function meanFeatures(features, prompts, completions) {
  const counted = prompts.map((prompt, i) => features(prompt, completions[i]));
  const mean = (name) => counted.reduce((total, one) => total + one[name], 0) / counted.length;
  return Object.fromEntries(Object.keys(counted[0]).map((name) => [name, mean(name)]));
}

/** A reply to each held-out prompt: their mean worth, and what was written to those that are shown. */
async function measure() {
  const { loop, held, shown, measuring, worth, features } = run;
  const { prompts, completions } = await loop.write(held, measuring);
  const [others, replies] = [prompts.slice(shown), completions.slice(shown)];
  postMessage({
    kind: "measured",
    step: loop.stepNumber,
    worth: meanWorth(worth, others, replies),
    ...(features ? { features: meanFeatures(features, others, replies) } : {}),
    replies: prompts.slice(0, shown).map((prompt, i) => [completions[i], worth(prompt, completions[i])]),
  });
}

let failed = false; // then nothing more is heard
function fail(error) {
  failed = true;
  if (run) run.going = false;
  postMessage({ kind: "failed", text: error.message });
}

let before = Promise.resolve(); // what is heard waits for what was heard before: starting takes a while
onmessage = ({ data }) => {
  if (data.kind === "elsewhere") {
    before = before
      .then(() => answer(data))
      .then(
        (found) => postMessage({ answer: found }, ArrayBuffer.isView(found) ? [found.buffer] : []),
        (error) => postMessage({ failed: error.message }),
      );
    return;
  }
  before = before.then(() => failed || heard[data.kind](data)).catch(fail);
};
