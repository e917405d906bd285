"""What a page learns: its GRPO on sums over seeds, beside the library's.

    python -m benchmarks.page_sums          # about a minute a seed on one core
    python -m benchmarks.page_sums --check  # assert the floors on what is recorded

A run is that of the figure in `rlvr`: 60 steps of 64 completions from the shipped base model, by
the page's own worker, run by Node.js in place of a browser. The library takes as many steps with
the same settings and draws of its own; which of the two goes first changes from seed to seed.
Recorded are the share of held-out sums solved on the way and the seconds of each step. The page's
engine has one thread, and so has the library here. One line a seed goes to
`results/page_sums.jsonl`, with settings, hardware and versions; a seed that is there is not run
again. Chapter: rlvr.
"""

from __future__ import annotations

import copy
import statistics
from pathlib import Path

import torch

from benchmarks.in_page import heard, of_kind
from benchmarks.provenance import provenance
from benchmarks.recording import check, command_line, record
from rlhf_lib.algorithms import GRPO, GRPOConfig
from rlhf_lib.models.rollout import sample
from rlhf_lib.running import artifacts
from rlhf_lib.seeing.widgets import sums_training
from rlhf_lib.worlds import sums

RESULTS = Path(__file__).parent / "results" / "page_sums.jsonl"
STEPS, EVERY, HELD_OUT = 60, 10, 128
SAMPLES, RATE = 8, 3e-4
CONFIG = GRPOConfig(
    max_steps=STEPS,
    batch_size=64,
    mini_batch_size=64,
    num_generations=SAMPLES,
    num_iterations=1,
    max_new_tokens=sums.MAX_NEW_TOKENS,
    beta=0.0,
    aggregate_over="tokens",
    missing_eos_penalty=0.0,
    learning_rate=RATE,
)


def start(seed: int) -> dict:
    """What a page would tell its worker first."""
    return {
        "world": "sums",
        "settings": {**sums_training.BATCH, "numGenerations": SAMPLES, "learningRate": RATE},
        "seed": seed,
        "total": STEPS,
        "every": EVERY,
        "asked": [],
    }


def run_page(seed: int) -> tuple[list[dict], list[float]]:
    """Shares solved on the way, and the seconds of each step."""
    said = heard(sums_training.MODELS, start(seed))
    return (
        [
            {"step": one["step"], "solved": round(one["worth"], 4)}
            for one in of_kind(said, "measured")
        ],
        [round(one["seconds"], 4) for one in of_kind(said, "step")],
    )


def run_library(seed: int) -> tuple[list[dict], list[float]]:
    """The same by PyTorch."""
    base, tokenizer = artifacts.load("sums", "base")
    policy = copy.deepcopy(base)
    held = list(sums.prompts(HELD_OUT, seed=seed + 9, held_out=True)["prompt"])

    def solved() -> float:
        draws = torch.Generator().manual_seed(seed)
        written = sample(policy, tokenizer, held, sums.MAX_NEW_TOKENS, generator=draws).completions
        return round(statistics.mean(sums.strict_verifier(held, written)), 4)

    asked = sums.prompts(8_000, seed=seed + 100)
    curve, seconds = [{"step": 0, "solved": solved()}], []
    for line in GRPO(policy, None, tokenizer, sums.strict_verifier, asked, CONFIG):
        seconds.append(round(line["seconds"], 4))
        if line["step"] % EVERY == 0:
            curve.append({"step": line["step"], "solved": solved()})
    return curve, seconds


def run(seed: int) -> dict:
    """Both runs of a seed."""
    both = (("page", run_page), ("library", run_library))
    found = {name: make(seed) for name, make in (both if seed % 2 else both[::-1])}
    median = {name: statistics.median(seconds) for name, (_, seconds) in found.items()}
    return {
        "seed": seed,
        **{name: {"curve": curve, "seconds": seconds} for name, (curve, seconds) in found.items()},
        "ratio": round(median["page"] / median["library"], 3),
        "provenance": provenance(),
    }


def assert_floors(line: dict) -> None:
    """What the chapter says of the page: few sums are solved at first, and most at the end."""
    solved = [row["solved"] for row in line["page"]["curve"]]
    where = f"seed {line['seed']}: {solved[0]} at first, {solved[-1]} at the end"
    assert solved[0] <= 0.35 and solved[-1] >= 0.75, where


def main() -> None:
    options = command_line(__doc__, threads=1).parse_args()
    torch.set_num_threads(options.threads)
    if not options.check:
        record(RESULTS, ("seed",), ((seed,) for seed in options.seeds), run)
    check(RESULTS, assert_floors)


if __name__ == "__main__":
    main()
