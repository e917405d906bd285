"""How long a GRPO step takes in the page, and by TRL and this library on the same machine.

    python -m benchmarks.page_against_trl          # about 2 minutes a seed; on two idle cores
    python -m benchmarks.page_against_trl --check  # assert the floors on what is recorded

Five ways to make the first steps of the figure in `rlvr`, 64 completions to sums each, from the
same shipped model with the same settings: the page's own worker, run by Node.js in place of a
browser, alone (one thread) and, as in a page, with a second worker that takes half the rows; TRL's
GRPO trainer with one thread and with two; and this library with two. They follow one another within
a seed, and each seed begins with another one. Each draws completions of its own (the page the same
ones both times), which grow longer as it learns, so tokens are counted and what is compared is the
time for a token. The first steps are not counted. One line a seed goes to
`results/page_against_trl.jsonl`, with settings, hardware and versions; a seed that is there is not
run again. Chapter: rlvr.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from benchmarks import page_sums
from benchmarks.in_page import heard, of_kind
from benchmarks.provenance import provenance
from benchmarks.recording import check, command_line, record
from benchmarks.sums_methods import STEPS, train_with_trl
from rlhf_lib.algorithms import GRPO, GRPOConfig
from rlhf_lib.running import artifacts
from rlhf_lib.seeing.widgets import sums_training
from rlhf_lib.worlds import sums

RESULTS = Path(__file__).parent / "results" / "page_against_trl.jsonl"
WARM = 4  # steps that are not counted: code is compiled, and memory is found
Steps = list[tuple[float, int]]  # seconds and tokens of each


def by_page(seed: int, workers: int) -> Steps:
    """Steps of the page's worker; what it measures on the way is not in their time."""
    start = {**page_sums.start(seed), "total": STEPS, "every": STEPS}
    rows = of_kind(heard(sums_training.MODELS, start, workers=workers), "step")
    size = page_sums.CONFIG.batch_size
    return [(row["seconds"], round(row["record"]["length"] * size)) for row in rows]


def config(seed: int) -> GRPOConfig:
    return dataclasses.replace(page_sums.CONFIG, seed=seed, max_steps=STEPS)


def material(seed: int, threads: int) -> tuple:
    """A policy, its tokenizer and sums to ask, for who trains it with so many threads."""
    torch.set_num_threads(threads)
    base, tokenizer = artifacts.load("sums", "base")
    return copy.deepcopy(base), tokenizer, sums.prompts(8_000, seed=seed + 100)


def by_trl(seed: int, threads: int) -> Steps:
    rows = train_with_trl(*material(seed, threads), config(seed), [], dict)
    return [(row["seconds"], row["tokens"]) for row in rows]


def by_library(seed: int, threads: int) -> Steps:
    policy, tokenizer, asked = material(seed, threads)
    loop = GRPO(policy, None, tokenizer, sums.strict_verifier, asked, config(seed))
    return [(row["seconds"], int(loop.rollout.lengths.sum())) for row in loop]


WAYS: dict[str, Callable[[int], Steps]] = {
    "page": lambda seed: by_page(seed, 1),
    "page, 2 workers": lambda seed: by_page(seed, 2),
    "TRL, 1 thread": lambda seed: by_trl(seed, 1),
    "TRL, 2 threads": lambda seed: by_trl(seed, 2),
    "library, 2 threads": lambda seed: by_library(seed, 2),
}
PAGES = ("page", "page, 2 workers")  # each is compared with all other ways


def run(seed: int) -> dict:
    """All ways, in an order that turns with the seed."""
    import trl

    turn = seed % len(WAYS)
    order = [*list(WAYS)[turn:], *list(WAYS)[:turn]]
    made = {name: WAYS[name](seed) for name in order}
    per_token = {name: microseconds_a_token(made[name]) for name in WAYS}
    print(
        f"seed {seed}: " + ", ".join(f"{name} {t:.0f} µs a token" for name, t in per_token.items())
    )
    return {
        "seed": seed,
        "order": order,
        "settings": dataclasses.asdict(config(seed)),
        "steps": {name: [[round(s, 4), n] for s, n in made[name]] for name in WAYS},
        "ratios": {
            page: {name: per_token[page] / per_token[name] for name in WAYS if name != page}
            for page in PAGES
        },
        "trl": trl.__version__,
        "provenance": provenance(),
    }


def microseconds_a_token(steps: Steps) -> float:
    """The median over the steps that count.

    >>> microseconds_a_token([(9.0, 1)] * 4 + [(1.0, 1_000), (2.0, 1_000), (6.0, 2_000)])
    2000.0
    """
    return 1e6 * median(seconds / tokens for seconds, tokens in steps[WARM:])


def assert_floors(line: dict) -> None:
    """On as many cores a step in the page takes about as long as TRL's; half more at the most."""
    where = f"seed {line['seed']}: {line['ratios']}"
    assert line["ratios"]["page"]["TRL, 1 thread"] <= 1.5, where
    assert line["ratios"]["page, 2 workers"]["TRL, 2 threads"] <= 1.5, where


def main() -> None:
    options = command_line(__doc__).parse_args()
    if not options.check:
        record(RESULTS, ("seed",), ((seed,) for seed in options.seeds), run)
    check(RESULTS, assert_floors)


if __name__ == "__main__":
    main()
