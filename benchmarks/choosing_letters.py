"""Which method, on letters: eight ways to learn from the same comparisons, at equal compute.

    python -m benchmarks.choosing_letters --tune            # the learning rates, on seed 6
    python -m benchmarks.choosing_letters --seeds 1 2 3 4 5  # then each method at its best one
    python -m benchmarks.choosing_letters --check            # assert the floors on the record

Every run starts from the shipped SFT model of the letters world, and shares the material of
`dpo_letters`: a seed stands for its own pool of annotators, its own 3,500 comparisons of SFT
replies, the reward model of these, its own 400 held-out prompts and its order of the data.

Compute is counted in passes: a token that a model reads is one, a token that it learns from three,
as a backward pass costs about two forward ones, and the models are all of one size. Padding counts,
and so does what sampling reads. Each method takes as many steps as about `BUDGET` passes pay for,
at a learning rate that is chosen on the tuning seed alone, by gold at the end: of three, and of the
next one where the best lies at the edge. (KTO's batch of 64 is of completions, each judged by
itself.) A run is measured on its way; once for each seed it is recorded what its reward model cost,
and what the best of n replies are worth by it. One line a run goes to
`results/choosing_letters.jsonl`, with settings, hardware and versions; a run that is there is not
made again. Chapter: choosing.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from functools import lru_cache, partial
from pathlib import Path

import torch

from benchmarks.dpo_letters import Material, OnlineDPO
from benchmarks.provenance import provenance
from benchmarks.recording import check, command_line, record, recorded
from rlhf_lib.algorithms import DPO, GRPO, PPO, SFT, DPOConfig, GRPOConfig, PPOConfig, SFTConfig
from rlhf_lib.algorithms.best_of_n import RejectionSampling, RejectionSamplingConfig, best_of_n
from rlhf_lib.algorithms.loop import OnlineConfig
from rlhf_lib.algorithms.reward_training import RewardConfig, RewardTraining
from rlhf_lib.mathematics.overoptimization import best_of_n_curve
from rlhf_lib.mathematics.tilt import best_of_n_kl_bound
from rlhf_lib.models.reward_model import new_reward_model
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.running import artifacts
from rlhf_lib.worlds import letters

RESULTS = Path(__file__).parent / "results" / "choosing_letters.jsonl"
BUDGET = 1_300_000  # passes of one run
MARKS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)  # shares of the steps after which a run is measured
FACTORS = (1 / 9, 1 / 3, 1, 3, 9)  # of the learning rate below; the middle three are tried first
TUNED_ON = 6  # a seed that is in no comparison, measured at the end alone
REWARD = "reward model"  # the line that has no policy
BEST_OF, OF_PROMPTS = 64, 100  # replies of a prompt, and prompts, for the best of n
RUNS = {
    "sft on chosen": SFTConfig(max_steps=270, batch_size=32, learning_rate=1e-4, warmup_steps=9),
    "rejection": RejectionSamplingConfig(
        max_steps=90, batch_size=32, num_generations=4, num_train_epochs=1
    ),
    "dpo": DPOConfig(max_steps=100),
    "kto": DPOConfig(max_steps=58, loss_type="kto", batch_size=64),
    "online dpo": DPOConfig(max_steps=70),
    "rloo": GRPOConfig(**GRPOConfig.VARIANTS["rloo"], max_steps=48),
    "grpo": GRPOConfig(kl_in="reward", aggregate_over="tokens", max_steps=48),
    "ppo": PPOConfig(max_steps=26),
}


class Passes:
    """What models compute, by name: tokens that are read, and tokens that are learnt from.

    A token that a model reads without a gradient is one pass, one with a gradient three.
    """

    def __init__(self, **models):
        self.read = dict.fromkeys(models, 0)
        self.learnt = dict.fromkeys(models, 0)
        self.counting = True
        for name, model in models.items():
            embeddings = model.get_input_embeddings()
            embeddings.register_forward_hook(partial(self.count, name))

    def count(self, name: str, module, inputs: tuple, output) -> None:
        if self.counting:
            counted = self.learnt if torch.is_grad_enabled() else self.read
            counted[name] += inputs[0].numel()

    def total(self) -> int:
        return sum(self.read.values()) + 3 * sum(self.learnt.values())


def replies_a_step(name: str, config) -> int:
    """Fresh replies that a step samples."""
    if isinstance(config, RejectionSamplingConfig):
        return config.batch_size * config.num_generations
    if isinstance(config, OnlineConfig):
        return config.batch_size
    return 2 * config.batch_size if name == "online dpo" else 0


def loop_of(given: Material, name: str, config):
    """The loop of a run, on fresh copies; and the models that may compute in it."""
    policy, sft, reward_model = map(copy.deepcopy, (given.sft, given.sft, given.reward_model))
    models = {"policy": policy, "reference": sft, "reward": reward_model}
    reward, tokenizer = LearnedReward(reward_model, given.tokenizer), given.tokenizer
    if isinstance(config, PPOConfig):
        critic = copy.deepcopy(given.reward_model)
        loop = PPO(policy, sft, critic, tokenizer, reward, given.asked, config)
        return loop, {**models, "critic": critic}
    if isinstance(config, GRPOConfig):
        return GRPO(policy, sft, tokenizer, reward, given.asked, config), models
    if isinstance(config, RejectionSamplingConfig):
        return RejectionSampling(policy, tokenizer, reward, given.asked, config), models
    if isinstance(config, SFTConfig):
        chosen = given.pairs.select_columns(["prompt", "chosen"])
        return SFT(policy, tokenizer, chosen.rename_column("chosen", "completion"), config), models
    how = (policy, sft, tokenizer, given.pairs, config)
    if name == "online dpo":
        return OnlineDPO(*how, asked=list(given.asked["prompt"]), reward=reward), models
    return DPO(*how), models


@lru_cache(maxsize=1)
def material(seed: int) -> tuple[Material, dict]:
    """What the runs of a seed share, and what is measured before any of them."""
    given = Material(seed)
    return given, {"step": 0, "passes": 0, "replies": 0, "seconds": 0.0, **given.written(given.sft)}


def run(seed: int, name: str, factor: float) -> dict:
    """One run, measured at its start and on its way."""
    if name == REWARD:
        return of_the_reward_model(seed)
    given, start = material(seed)
    settings = RUNS[name]
    changed = dict(seed=seed, learning_rate=factor * settings.learning_rate)
    if isinstance(settings, PPOConfig):
        changed["critic_learning_rate"] = factor * settings.critic_learning_rate
    config = dataclasses.replace(settings, **changed)
    loop, models = loop_of(given, name, config)
    passes, shares = Passes(**models), MARKS[-1:] if seed == TUNED_ON else MARKS
    marks = {math.ceil(share * config.max_steps) for share in shares}
    begun, learning, curve = time.perf_counter(), 0.0, [start]
    for line in loop:
        learning += line["seconds"]
        if line["step"] in marks:
            passes.counting = False
            curve.append(
                {
                    "step": line["step"],
                    "passes": passes.total(),
                    "replies": line["step"] * replies_a_step(name, config),
                    "seconds": round(learning, 2),
                    **given.written(models["policy"]),
                }
            )
            passes.counting = True
    return {
        "seed": seed,
        "run": name,
        "factor": factor,
        "settings": dataclasses.asdict(config),
        "read": passes.read,
        "learnt": passes.learnt,
        "curve": curve,
        "seconds": time.perf_counter() - begun,
        "threads": torch.get_num_threads(),
        "provenance": provenance(),
    }


def of_the_reward_model(seed: int) -> dict:
    """What the reward model of a seed cost, and what the best of n replies are worth by it."""
    given, start = material(seed)
    config = RewardConfig(learning_rate=artifacts.RATES["tiny"]["reward"], seed=seed)
    training = RewardTraining(new_reward_model(given.sft), given.tokenizer, given.pairs, config)
    tokens = 0
    for training.step_number in range(config.max_steps):
        tokens += training.collect()[0].input_ids.numel()
    policy, reward_model = copy.deepcopy(given.sft), copy.deepcopy(given.reward_model)
    passes = Passes(policy=policy, reward=reward_model)
    reward = LearnedReward(reward_model, given.tokenizer)
    draws = torch.Generator().manual_seed(seed)
    prompts = given.held_out[:OF_PROMPTS]
    how = dict(max_new_tokens=letters.MAX_NEW_TOKENS, generator=draws)
    found = best_of_n(policy, given.tokenizer, prompts, reward, BEST_OF, **how)
    each, gold = passes.total() / found.scores.numel(), found.score_all(letters.gold_reward)
    curves = {"reward": best_of_n_curve(found.scores), "gold": best_of_n_curve(found.scores, gold)}
    counts = [2**k for k in range(BEST_OF.bit_length()) if 2**k <= BEST_OF]
    return {
        "seed": seed,
        "run": REWARD,
        "factor": 1,
        "accuracy": given.accuracy,
        "training_passes": 3 * tokens,
        "sft": start,
        "prompts": len(prompts),
        "best_of": [
            {
                "n": n,
                "kl": best_of_n_kl_bound(n),  # at most
                "passes": n * each,  # a reply that is served
                **{name: curve.mean(dim=0)[n - 1].item() for name, curve in curves.items()},
            }
            for n in counts
        ],
        "provenance": provenance(),
    }


def tried(name: str) -> dict[float, float]:
    """Gold at the end of the runs of a method on the tuning seed, by the factor of its rate."""
    lines = [line for line in recorded(RESULTS) if line["seed"] == TUNED_ON]
    return {x["factor"]: x["curve"][-1]["gold"] for x in lines if x["run"] == name}


def to_try(golds: dict[float, float]) -> list[float]:
    """The factors that are still to be tried: the middle three, then the neighbours of the best."""
    if missing := [factor for factor in FACTORS[1:-1] if factor not in golds]:
        return missing
    best = FACTORS.index(max(golds, key=golds.__getitem__))
    return [factor for factor in FACTORS[max(0, best - 1) : best + 2] if factor not in golds]


def chosen_factors() -> dict[str, float]:
    """For each method the factor of its rate with the highest gold at the end, as tuned."""
    found = {name: tried(name) for name in RUNS}
    if missing := [name for name, golds in found.items() if to_try(golds)]:
        raise ValueError(f"{', '.join(missing)}: not all rates were tried; expected --tune first")
    return {name: max(golds, key=golds.__getitem__) for name, golds in found.items()}


def assert_floors(line: dict) -> None:
    """What the chapter says of every run."""
    where = f"{line['run']}, seed {line['seed']}, rate times {line['factor']:.2g}"
    if line["run"] == REWARD:
        assert line["accuracy"] > 0.6, f"{where}: {line['accuracy']:.2f} of pairs"
        one, *_, last = line["best_of"]
        assert last["reward"] > one["reward"] and last["gold"] > one["gold"], where
        return
    spent = line["curve"][-1]["passes"]
    least = 0.8 if line["seed"] == TUNED_ON else 0.9  # a rate too high makes replies shorter
    assert least < spent / BUDGET < 1.1, f"{where}: {spent:,} passes; expected about {BUDGET:,}"


def main() -> None:
    parser = command_line(__doc__, threads=1)
    parser.add_argument("--tune", action="store_true", help=f"the rates, on seed {TUNED_ON}")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.tune:
        for name in options.runs:
            while factors := to_try(tried(name)):
                plan = [(TUNED_ON, name, factor) for factor in factors]
                record(RESULTS, ("seed", "run", "factor"), plan, run)
    elif not options.check:
        chosen = {REWARD: 1, **chosen_factors()}
        names = [REWARD, *options.runs]  # the reward model has no rate
        plan = [(seed, name, chosen[name]) for seed in options.seeds for name in names]
        record(RESULTS, ("seed", "run", "factor"), plan, run)
    check(RESULTS, assert_floors)


if __name__ == "__main__":
    main()
