"""The letters experiment from nothing, over fresh seeds: pretraining to over-optimisation.

    python -m benchmarks.letters_seeds --seeds 1 2 3 4 5     # about 7 minutes a seed on one core
    python -m benchmarks.letters_seeds --check               # assert the floors on what is recorded

Each seed trains its own base model, SFT model, annotator pool, reward model and policies, and is
measured on 400 held-out prompts. One line a seed goes to `results/letters_seeds.jsonl`, with the
settings, hardware and versions; a seed that is there is not run again. Chapters ppo-live and grpo
read that file.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections import Counter
from functools import partial
from pathlib import Path

import torch

from benchmarks.provenance import provenance
from benchmarks.recording import check, command_line, record
from rlhf_lib.algorithms.grpo import GRPO, GRPOConfig
from rlhf_lib.algorithms.ppo import PPO, PPOConfig
from rlhf_lib.algorithms.reward_training import pair_accuracy
from rlhf_lib.mathematics.overoptimization import best_of_n_curve
from rlhf_lib.mathematics.tilt import best_of_n_kl_bound
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.models.rollout import sample
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import letters

RESULTS = Path(__file__).parent / "results" / "letters_seeds.jsonl"
RUNS = {
    "ppo": PPOConfig(),
    "ppo_beta_0": PPOConfig(beta=0.0, learning_rate=2e-4, max_steps=50),
    "grpo": GRPOConfig(beta=0.6),  # as published: k3 in the loss, divided by the group's deviation
    "grpo_kl_in_reward": GRPOConfig(kl_in="reward", aggregate_over="tokens"),
    "grpo_kl_in_reward_128": GRPOConfig(
        kl_in="reward", aggregate_over="tokens", batch_size=128, mini_batch_size=64
    ),
}
KEPT = ("step", "reward", "gold", "kl", "entropy", "length", "clip_fraction", "seconds")


def run_seed(seed: int) -> dict:
    say = lambda text: print(f"seed {seed}: {text}", flush=True)
    start = time.perf_counter()
    base, tokenizer = artifacts.pretrain(seed)
    say(f"base after {time.perf_counter() - start:.0f} s")
    sft = artifacts.fine_tune(base, tokenizer, seed)
    annotators = letters.Annotators(seed=seed)
    pairs = artifacts.compare(sft, tokenizer, artifacts.PAIRS, seed, annotators)
    reward_model = artifacts.train_reward(sft, tokenizer, pairs, seed)
    test = artifacts.compare(sft, tokenizer, 500, seed + 1_000, annotators)
    say(f"reward model after {time.perf_counter() - start:.0f} s")

    reward = LearnedReward(reward_model, tokenizer)
    held_out = list(letters.prompts(400, seed=seed + 9, held_out=True)["prompt"])
    prompts = letters.prompts(4_000, seed=seed + 100)

    measured = partial(
        held_out_of, sft=sft, tokenizer=tokenizer, prompts=held_out, reward=reward, seed=seed
    )
    found = {
        "seed": seed,
        "base": measured(base),
        "sft": measured(sft),
        "reward_accuracy": pair_accuracy(reward_model, tokenizer, test),
        "runs": {},
    }
    for name, config in RUNS.items():
        config = dataclasses.replace(config, seed=seed)
        policy = copy.deepcopy(sft)
        if isinstance(config, PPOConfig):
            loop = PPO(policy, sft, copy.deepcopy(reward_model), tokenizer, reward, prompts, config)
        else:
            loop = GRPO(policy, sft, tokenizer, reward, prompts, config)
        curve = []
        for step in loop:
            gold = letters.gold_reward(loop.rollout.prompts, loop.rollout.completions)
            step["gold"] = sum(gold) / len(gold)
            curve.append({k: round(step[k], 4) for k in KEPT})
        found["runs"][name] = {
            "settings": dataclasses.asdict(config),
            "curve": curve,
            "held_out": measured(policy),
        }
        say(
            f"{name}: "
            + ", ".join(
                f"{k} {found['runs'][name]['held_out'][k]:.2f}" for k in ("gold", "reward", "kl")
            )
        )
    found["best_of_n"] = best_of_n(sft, tokenizer, reward, held_out[:100], seed)
    return {**found, "seconds": time.perf_counter() - start, "provenance": provenance()}


def held_out_of(policy, sft, tokenizer, prompts: list[str], reward, seed: int) -> dict:
    """Gold, learned reward and KL to SFT of a policy on held-out prompts; styles and samples."""
    rewards = {"gold": letters.gold_reward, "reward": reward}
    result = evaluate(policy, tokenizer, prompts, rewards, sft, seed=seed)
    mix = Counter(map(letters.classify, prompts, result["completions"]))
    return {
        **{k: v for k, v in result.items() if isinstance(v, float)},
        "mix": {name: mix[name] / len(prompts) for name in letters.OUTCOMES},
        "samples": list(zip(prompts, result["completions"]))[:4],
    }


def best_of_n(sft, tokenizer, reward, prompts: list[str], seed: int, N: int = 256) -> list[dict]:
    """Proxy and gold of best-of-n for n = 1, 2, 4 … N, each over all subsets of size n."""
    generator = torch.Generator().manual_seed(seed)
    proxy, gold = torch.empty(len(prompts), N), torch.empty(len(prompts), N)
    for i, prompt in enumerate(prompts):
        rollout = sample(sft, tokenizer, [prompt] * N, letters.MAX_NEW_TOKENS, generator=generator)
        for table, score in ((proxy, reward), (gold, letters.gold_reward)):
            table[i] = torch.tensor(score(rollout.prompts, rollout.completions))
    curves = {
        name: best_of_n_curve(proxy, table).mean(dim=0)
        for name, table in (("reward", proxy), ("gold", gold))
    }
    return [
        {
            "n": n,
            "kl_bound": best_of_n_kl_bound(n),
            "prompts": len(prompts),
            **{name: curve[n - 1].item() for name, curve in curves.items()},
        }
        for n in (2**k for k in range(int(math.log2(N)) + 1))
    ]


def assert_floors(found: dict) -> None:
    """The floors this experiment has to clear on every seed."""
    sft, ppo, hacked = (
        found["sft"],
        found["runs"]["ppo"]["held_out"],
        found["runs"]["ppo_beta_0"]["held_out"],
    )
    n = {row["n"]: row for row in found["best_of_n"]}
    checks = {
        "SFT gold − base gold ≥ 2.0": sft["gold"] - found["base"]["gold"] >= 2.0,
        "reward accuracy ≥ .65": found["reward_accuracy"] >= 0.65,
        "PPO gold − SFT gold ≥ .9": ppo["gold"] - sft["gold"] >= 0.9,
        "PPO KL 2 to 6": 2.0 <= ppo["kl"] <= 6.0,
        "β = 0: gold ≤ SFT − 3.5": hacked["gold"] <= sft["gold"] - 3.5,
        "β = 0: reward ≥ PPO's + .15": hacked["reward"] >= ppo["reward"] + 0.15,
        "β = 0: KL ≥ 20": hacked["kl"] >= 20.0,
        "best of 16 to 256: reward ≥ + .07": n[256]["reward"] - n[16]["reward"] >= 0.07,
        "best of 16 to 256: gold ≤ + .1": n[256]["gold"] - n[16]["gold"] <= 0.1,
    }
    failed = [name for name, held in checks.items() if not held]
    assert not failed, f"seed {found['seed']}: " + "; ".join(failed)


def main() -> None:
    options = command_line(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    if not options.check:
        record(RESULTS, ("seed",), [(seed,) for seed in options.seeds], run_seed)
    check(RESULTS, assert_floors, "seeds")


if __name__ == "__main__":
    main()
