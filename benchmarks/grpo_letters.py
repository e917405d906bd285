"""GRPO and its relatives on the letters world: the learned reward, with a KL anchor, five seeds.

    python -m benchmarks.grpo_letters            # about 45 s a run on one core
    python -m benchmarks.grpo_letters --check    # assert the floors on what is recorded

The loops are those that the sums are trained with; only the reward and the anchor differ. Every
run starts from the shipped SFT model, is paid by the shipped reward model, and takes `STEPS` steps
of 64 completions with the KL charged in the reward at one β. Where a method is published with
another anchor or with none, that part of it is exchanged, so that the methods differ in how they
compare and weigh completions and in nothing else. A seed draws the same prompts for every method,
and measures on the same 200 held-out prompts, with the gold reward that no run was paid by. One
line a run goes to `results/grpo_letters.jsonl`, with settings, hardware and versions; what is there
is not run again. Chapter grpo-variants reads that file.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from pathlib import Path

import torch

from benchmarks.provenance import provenance
from benchmarks.recording import record_runs
from rlhf_lib.algorithms.grpo import GRPO, GRPOConfig
from rlhf_lib.algorithms.variants import VARIANTS
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import letters

RESULTS = Path(__file__).parent / "results" / "grpo_letters.jsonl"
STEPS, BETA, PROMPTS = 45, 0.1, 200
KEPT = (
    "step",
    "reward",
    "kl",
    "entropy",
    "length",
    "clip_fraction",
    "gradient_norm",
    "drawn",
    "zero_variance_groups",
    "seconds",
)
MEASURED = ("gold", "gold_se", "reward", "reward_se", "kl", "kl_se", "length")


def settings(method: str, seed: int) -> GRPOConfig:
    """A method's own settings, and the same anchor for all."""
    anchored = {**VARIANTS[method], "kl_in": "reward", "beta": BETA}
    return GRPOConfig(**anchored, max_steps=STEPS, seed=seed)


def run(seed: int, method: str) -> dict:
    """Train one run, and measure where it ends."""
    config = settings(method, seed)
    _, sft, tokenizer = artifacts.letters_models("tiny", "cpu")
    reward = LearnedReward(artifacts.load("letters", "reward")[0], tokenizer, batch_size=64)
    held_out = list(letters.prompts(PROMPTS, seed=9, held_out=True)["prompt"])

    def measured(policy) -> dict:
        found = evaluate(
            policy,
            tokenizer,
            held_out,
            {"gold": letters.gold_reward, "reward": reward},
            sft,
            seed=seed,
            batch_size=50,
        )
        return {name: found[name] for name in MEASURED if name in found}

    loop = GRPO(
        copy.deepcopy(sft), sft, tokenizer, reward, letters.prompts(2_000, seed + 100), config
    )
    before, start, curve = measured(sft), time.perf_counter(), []
    for step in loop:
        curve.append({name: step[name] for name in KEPT})
    return {
        "method": method,
        "seed": seed,
        "before": before,
        "after": measured(loop.policy),
        "curve": curve,
        "loop_seconds": time.perf_counter() - start,
        "settings": dataclasses.asdict(config),
        "threads": torch.get_num_threads(),
        "provenance": provenance(),
    }


def assert_floors(line: dict) -> None:
    """Every loop learns what it is paid for, and the anchor holds."""
    before, after = line["before"], line["after"]
    assert len(line["curve"]) == STEPS
    assert after["reward"] - before["reward"] > 4 * math.hypot(
        before["reward_se"], after["reward_se"]
    ), line["method"]
    assert 0 < after["kl"] < 20, line["method"]


def main() -> None:
    record_runs(__doc__, RESULTS, "method", VARIANTS, run, assert_floors, threads=1)


if __name__ == "__main__":
    main()
