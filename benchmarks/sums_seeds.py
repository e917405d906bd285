"""GRPO on the sums world over fresh seeds: what a strict verifier teaches, and what a lenient one.

    python -m benchmarks.sums_seeds --seeds 1 2 3 4 5      # about 4 minutes a seed on one core
    python -m benchmarks.sums_seeds --check                # assert the floors on what is recorded

Each seed trains its own base models; seed 0 takes the shipped one. `strict` runs GRPO with the
strict verifier for about 300,000 sampled tokens. `lenient` does the same with the lenient verifier,
on sums of two digits and from a base model that knows them by heart; its demonstrators showed no
working, and sometimes listed guesses. Accuracies are on held-out sums: 400 of them, and 100 with 16
samples each for pass@k. One line a seed and run goes to `results/sums_seeds.jsonl`, with the
settings, hardware and versions; what is there is not run again. Chapters rlvr and reward-sources
read that file.
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
from rlhf_lib.models.rollout import sample
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import sums

RESULTS = Path(__file__).parent / "results" / "sums_seeds.jsonl"
STRICT = GRPOConfig(
    max_steps=50,
    batch_size=256,
    mini_batch_size=64,
    num_generations=8,
    num_iterations=1,
    max_new_tokens=sums.MAX_NEW_TOKENS,
    beta=0.0,
    aggregate_over="tokens",
    missing_eos_penalty=0.0,
    learning_rate=2e-4,
)
RUNS = {  # verifier, settings, and how the base model is trained where that is not as usual
    "strict": (sums.strict_verifier, STRICT, {}),
    "lenient": (
        sums.lenient_verifier,
        STRICT,
        dict(share_working=0.0, share_guesses=0.2, digits=(2, 2)),
    ),
}
TOKENS = 300_000  # sampled in a run
MEASURED_AT = (10, 20)  # steps after which a greedy accuracy is recorded
KEPT = (
    "step",
    "tokens",
    "reward",
    "exact",
    "share_working",
    "length",
    "entropy",
    "clip_fraction",
    "zero_variance_groups",
    "gradient_norm",
    "seconds",
)


def mean(values) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def greedy_accuracy(policy, tokenizer, prompts: list[str]) -> float:
    rollout = sample(policy, tokenizer, prompts, sums.MAX_NEW_TOKENS, greedy=True)
    return mean(sums.strict_verifier(prompts, rollout.completions))


def accuracies(policy, tokenizer, prompts: list[str], seed: int) -> dict:
    """Shares that are right, greedy and sampled, and the mean length of the samples in tokens."""
    generator = torch.Generator().manual_seed(seed)
    rollout = sample(policy, tokenizer, prompts, sums.MAX_NEW_TOKENS, generator=generator)
    return {
        "greedy": greedy_accuracy(policy, tokenizer, prompts),
        "sampled": mean(sums.strict_verifier(prompts, rollout.completions)),
        "length": rollout.lengths.float().mean().item(),
    }


def pass_at_k(policy, tokenizer, prompts: list[str], seed: int, n: int = 16) -> dict:
    """The probability that one of k samples is right, for k = 1, 2, 4 … n.

    With c of n samples right, 1 − C(n − c, k) / C(n, k) is unbiased. Source: Chen et al. 2021,
    arXiv:2107.03374, eq. 1.
    """
    generator = torch.Generator().manual_seed(seed)
    repeated = [prompt for prompt in prompts for _ in range(n)]
    right = []
    for i in range(0, len(repeated), 400):
        rollout = sample(
            policy, tokenizer, repeated[i : i + 400], sums.MAX_NEW_TOKENS, generator=generator
        )
        right += sums.strict_verifier(rollout.prompts, rollout.completions)
    counts = [round(sum(right[i : i + n])) for i in range(0, len(right), n)]
    return {
        str(k): mean(1 - math.comb(n - c, k) / math.comb(n, k) for c in counts)
        for k in (1, 2, 4, 8, 16)
    }


def measured(policy, base, tokenizer, prompts: list[str], seed: int) -> dict:
    """Held-out accuracies, and how long and by which habit sums of each size are answered."""
    result = evaluate(
        policy,
        tokenizer,
        prompts,
        {"exact": sums.strict_verifier, "lenient": sums.lenient_verifier},
        base,
        max_new_tokens=sums.MAX_NEW_TOKENS,
        seed=seed,
    )
    rows = [
        sums.features(prompt, completion)
        for prompt, completion in zip(prompts, result["completions"])
    ]
    by_columns = {}
    for size in sorted({row["columns"] for row in rows}):
        some = [row for row in rows if row["columns"] == size]
        by_columns[str(int(size))] = {
            "sums": len(some),
            **{key: mean(row[key] for row in some) for key in ("right", "working", "length")},
        }
    return {
        **{k: v for k, v in result.items() if isinstance(v, float)},
        "greedy": greedy_accuracy(policy, tokenizer, prompts),
        "share_working": mean(row["working"] for row in rows),
        "right_if_working": mean(row["right"] for row in rows if row["working"]),
        "right_if_direct": mean(row["right"] for row in rows if not row["working"]),
        "steps_right": mean(row["steps_right"] / row["columns"] for row in rows if row["working"]),
        "commas_if_direct": mean(
            text.count(",") for text in result["completions"] if not text.startswith("<")
        ),
        "by_columns": by_columns,
        "pass_at": pass_at_k(policy, tokenizer, prompts[:100], seed),
        "samples": list(zip(prompts, result["completions"]))[:6],
    }


def run(seed: int, name: str) -> dict:
    start = time.perf_counter()
    verifier, config, training = RUNS[name]
    digits = training.get("digits", sums.DIGITS)
    if seed == artifacts.SEED and name == "strict":
        base, tokenizer = artifacts.load("sums", "base")
    else:
        base, tokenizer = artifacts.pretrain_sums(seed, **training)
    print(f"seed {seed}, {name}: base after {time.perf_counter() - start:.0f} s", flush=True)
    held_out = list(sums.prompts(400, seed + 9, held_out=True, digits=digits)["prompt"])
    policy, config = copy.deepcopy(base), dataclasses.replace(config, seed=seed)
    found = {
        "seed": seed,
        "run": name,
        "verifier": verifier.__name__,
        "base_training": training,
        "settings": dataclasses.asdict(config),
        "base": measured(policy, base, tokenizer, held_out, seed),
        "greedy_at": {},
        "curve": [],
    }

    loop = GRPO(
        policy,
        copy.deepcopy(base),
        tokenizer,
        verifier,
        sums.prompts(8_000, seed + 100, digits=digits),
        config,
    )
    tokens, began = 0, time.perf_counter()
    for record in loop:
        rollout = loop.rollout
        tokens += int(rollout.lengths.sum())
        record["tokens"] = tokens
        record["exact"] = mean(sums.strict_verifier(rollout.prompts, rollout.completions))
        record["share_working"] = mean(text.startswith("<") for text in rollout.completions)
        found["curve"].append({k: round(record[k], 4) for k in KEPT})
        if record["step"] in MEASURED_AT:
            found["greedy_at"][str(record["step"])] = greedy_accuracy(policy, tokenizer, held_out)
        if tokens >= TOKENS:
            break
    found["grpo_seconds"] = time.perf_counter() - began
    found["final"] = measured(policy, base, tokenizer, held_out, seed)
    print(
        f"seed {seed}, {name}: greedy {found['base']['greedy']:.2f}, "
        + ", ".join(f"{v:.2f} at step {k}" for k, v in found["greedy_at"].items())
        + "; sampled exact, lenient, length: "
        + " → ".join(
            " ".join(f"{found[when][k]:.2f}" for k in ("exact", "lenient", "length"))
            for when in ("base", "final")
        ),
        flush=True,
    )
    return {**found, "seconds": time.perf_counter() - start, "provenance": provenance()}


def assert_floors(found: dict) -> None:
    """The floors that a run has to clear on every seed."""
    base, final = found["base"], found["final"]
    if found["run"] == "strict":
        sizes = [final["by_columns"][k]["length"] for k in sorted(final["by_columns"])]
        checks = {
            "base sampled .12 to .30": 0.12 <= base["exact"] <= 0.30,
            "base greedy ≤ .15": base["greedy"] <= 0.15,
            "step 10 greedy ≥ .85": found["greedy_at"]["10"] >= 0.85,
            # .95 is asked of the shipped base, on which the settings were chosen
            "step 20 greedy ≥ .95 (seed 0), ≥ .90": found["greedy_at"]["20"]
            >= (0.95 if found["seed"] == artifacts.SEED else 0.90),
            "300,000 tokens, sampled ≥ .83": final["exact"] >= 0.83,
            "length at least doubles": final["length"] >= 2 * base["length"],
            "longer for more columns": sizes == sorted(sizes) and sizes[-1] >= sizes[0] + 10,
        }
    else:
        checks = {
            "base exact ≥ .3": base["exact"] >= 0.3,
            "lenient accuracy rises by .1": final["lenient"] >= base["lenient"] + 0.1,
            "exact accuracy ≤ .1": final["exact"] <= 0.1,
            "length at least doubles": final["length"] >= 2 * base["length"],
        }
    failed = [name for name, held in checks.items() if not held]
    assert not failed, f"seed {found['seed']}, {found['run']}: " + "; ".join(failed)


def main() -> None:
    record_runs(__doc__, RESULTS, "run", RUNS, run, assert_floors)


if __name__ == "__main__":
    main()
