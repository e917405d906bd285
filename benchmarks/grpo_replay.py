"""A GRPO run on sums to look back on: accuracy, length, and the same sums worked as it goes on.

    python -m benchmarks.grpo_replay                # about 40 seconds on one core
    python -m benchmarks.grpo_replay --check        # assert what is recorded, and run nothing

The run starts from the shipped base model and has the settings of `sums_seeds.py`, with a lower
learning rate. In between, the policy answers the same 200 held-out sums, greedily and by sampling;
its greedy replies to eight of them are kept in full. The eight are the first of each size, whatever
a model makes of them. One line a seed goes to `results/grpo_replay.jsonl`; a seed that is there is
not run again. Chapter: rlvr.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path

import torch

from benchmarks.provenance import provenance
from benchmarks.recording import check, command_line, record
from benchmarks.sums_seeds import STRICT, mean
from rlhf_lib.algorithms.grpo import GRPO
from rlhf_lib.models.rollout import sample
from rlhf_lib.running import artifacts
from rlhf_lib.worlds import sums

RESULTS = Path(__file__).parent / "results" / "grpo_replay.jsonl"
AT = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40)  # steps after which it is measured
CONFIG = dataclasses.replace(STRICT, max_steps=AT[-1], learning_rate=1.5e-4)
PROMPTS = 200
SHOWN = {2: 2, 3: 3, 4: 3}  # columns of a sum -> how many of its size are kept


def shown(prompts: list[str]) -> list[int]:
    """Where the first sums of each size stand, small ones first."""
    sizes = [len(sums.columns(*sums.parse(prompt))) for prompt in prompts]
    return [
        i
        for size, count in SHOWN.items()
        for i in [i for i, found in enumerate(sizes) if found == size][:count]
    ]


def run(seed: int) -> dict:
    """Train one run, and keep its accuracies and what it wrote."""
    start = time.perf_counter()
    base, tokenizer = artifacts.load("sums", "base")
    held_out = list(sums.prompts(PROMPTS, seed=9, held_out=True)["prompt"])
    kept = shown(held_out)
    config = dataclasses.replace(CONFIG, seed=seed)
    loop = GRPO(
        copy.deepcopy(base),
        base,
        tokenizer,
        sums.strict_verifier,
        sums.prompts(8_000, seed + 100),
        config,
    )
    measured, tokens = [], 0

    def measure() -> None:
        greedy = sample(loop.policy, tokenizer, held_out, sums.MAX_NEW_TOKENS, greedy=True)
        sampled = sample(
            loop.policy,
            tokenizer,
            held_out,
            sums.MAX_NEW_TOKENS,
            generator=torch.Generator().manual_seed(seed),
        )
        right = {
            name: mean(sums.strict_verifier(held_out, rollout.completions))
            for name, rollout in (("greedy", greedy), ("sampled", sampled))
        }
        measured.append(
            {
                "step": loop.step_number,
                "tokens": tokens,
                **right,
                "length": sampled.lengths.float().mean().item(),  # the end token included
                "working": mean(text.startswith("<") for text in sampled.completions),
                "replies": [greedy.completions[i] for i in kept],
            }
        )
        print(
            f"seed {seed}, step {loop.step_number}: greedy {right['greedy']:.3f}, sampled "
            f"{right['sampled']:.3f}, length {measured[-1]['length']:.1f}",
            flush=True,
        )

    measure()
    for _ in loop:
        tokens += int(loop.rollout.lengths.sum())
        if loop.step_number in AT:
            measure()
    return {
        "seed": seed,
        "settings": dataclasses.asdict(config),
        "prompts": [held_out[i] for i in kept],
        "measured": measured,
        "seconds": time.perf_counter() - start,
        "provenance": provenance(),
    }


def assert_floors(found: dict) -> None:
    """What the chapter says of this run."""
    at = {row["step"]: row for row in found["measured"]}
    assert tuple(at) == AT, tuple(at)
    checks = {
        "base sampled .12 to .30": 0.12 <= at[0]["sampled"] <= 0.30,
        "base greedy ≤ .15": at[0]["greedy"] <= 0.15,
        "step 10 greedy ≥ .85, length ≥ 25": at[10]["greedy"] >= 0.85 and at[10]["length"] >= 25,
        "step 20 greedy ≥ .95": at[20]["greedy"] >= 0.95,
        "last sampled ≥ .83": at[AT[-1]]["sampled"] >= 0.83,
        "length at least doubles": at[AT[-1]]["length"] >= 2 * at[0]["length"],
    }
    failed = [name for name, held in checks.items() if not held]
    assert not failed, f"seed {found['seed']}: " + "; ".join(failed)


def main() -> None:
    options = command_line(__doc__, seeds=(0,), threads=1).parse_args()
    torch.set_num_threads(options.threads)
    if not options.check:
        record(RESULTS, ("seed",), [(seed,) for seed in options.seeds], run)
    check(RESULTS, assert_floors)


if __name__ == "__main__":
    main()
