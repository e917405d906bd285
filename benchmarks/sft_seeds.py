"""What supervised fine-tuning does to the letters base model, over seeds.

    python -m benchmarks.sft_seeds --seeds 1 2 3 4 5      # about 2 minutes a seed on one core
    python -m benchmarks.sft_seeds --check                # assert the floors on what is recorded

Every seed starts from the shipped base model and has its own demonstrations, order of the data,
held-out prompts and samples. The runs: SFT as usual; the loss on the whole text, prompt included;
both again from a base model that has met prompts before; the mean over sequences in place of the
mean over tokens; more steps on more data; 64 demonstrations over and over. Each is measured on 400
held-out prompts and on 600 fresh demonstrations. One line a seed goes to `results/sft_seeds.jsonl`,
with the settings, hardware and versions; a seed that is there is not run again. (Base models of
other seeds are in `letters_seeds.py`.) Chapter sft reads the file.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor

from benchmarks.provenance import provenance
from benchmarks.recording import check, command_line, record
from rlhf_lib.algorithms.best_of_n import best_of_n
from rlhf_lib.algorithms.sft import SFT, SFTConfig
from rlhf_lib.mathematics.overoptimization import best_of_n_curve
from rlhf_lib.models.tokens import TokenBatch, encode, token_logprobs
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import letters

RESULTS = Path(__file__).parent / "results" / "sft_seeds.jsonl"
USUAL = SFTConfig()
MORE = SFTConfig(max_steps=100)
MEETING = SFTConfig(max_steps=60, batch_size=32, learning_rate=2e-3)  # how prompts become known
FEW = SFTConfig(max_steps=80, batch_size=32)
MEASURED_AT = (5, 20, 80)  # steps of FEW


class SequenceMeanSFT(SFT):
    """SFT whose loss is the mean over each completion's tokens, then over completions."""

    def parts(self, batch: TokenBatch, losses: list[float]) -> Iterator[Tensor]:
        mask = batch.completion_mask
        loss = -(token_logprobs(self.model, batch).sum(dim=1) / mask.sum(dim=1)).mean()
        losses.append(loss.item())
        yield loss


def whole_text(data: Dataset) -> Dataset:
    """The same texts with the border after the first word: the loss counts the prompt too."""
    texts = [f"{p} {c}".split(" ", 1) for p, c in zip(data["prompt"], data["completion"])]
    return Dataset.from_dict(dict(zip(("prompt", "completion"), map(list, zip(*texts)))))


@torch.no_grad()
def nats_per_token(model, tokenizer, prompts: list[str], completions: list[str]) -> float:
    """Mean negative log-likelihood of the completion tokens."""
    total = tokens = 0
    for i in range(0, len(prompts), 100):
        batch = encode(tokenizer, prompts[i : i + 100], completions[i : i + 100])
        total -= token_logprobs(model, batch).sum().item()
        tokens += batch.completion_mask.sum().item()
    return total / tokens


def run_seed(seed: int) -> dict:
    start = time.perf_counter()
    base, tokenizer = artifacts.load("letters", "base")
    demos = letters.demonstrations(seed=seed)
    fresh = letters.demonstrations(600, seed=1_000 + seed)
    held_out = list(letters.prompts(400, seed=seed + 9, held_out=True)["prompt"])
    nats = lambda model, data: nats_per_token(
        model, tokenizer, list(data["prompt"]), list(data["completion"])
    )

    def trained(model, data, config: SFTConfig, loop=SFT):
        model = copy.deepcopy(model)
        for _ in loop(model, tokenizer, data, dataclasses.replace(config, seed=seed)):
            pass
        return model

    def measured(name: str, model) -> dict:
        found = evaluate(model, tokenizer, held_out, {"gold": letters.gold_reward}, seed=seed)
        texts = held_out, found["completions"]
        result = {
            **{k: found[k] for k in ("gold", "gold_se", "length")},
            "wrong_slot": sum(letters.features(p, y)["wrong_slot"] for p, y in zip(*texts)) / 400,
            "lazy": sum(style == "lazy" for style in map(letters.classify, *texts)) / 400,
            "fresh_nats": nats(model, fresh),
            "own_nats": nats_per_token(model, tokenizer, *texts),
        }
        print(
            f"seed {seed}, {time.perf_counter() - start:4.0f} s: {name}: "
            + ", ".join(f"{k} {v:.3f}" for k, v in result.items()),
            flush=True,
        )
        return result

    sft = trained(base, demos, USUAL)
    prompts_known = trained(base, whole_text(letters.corpus(1_920, seed=seed)), MEETING)
    runs = {
        name: measured(name, model)
        for name, model in (
            ("base", base),
            ("sft", sft),
            ("whole_text", trained(base, whole_text(demos), USUAL)),
            ("known_sft", trained(prompts_known, demos, USUAL)),
            ("known_whole_text", trained(prompts_known, whole_text(demos), USUAL)),
            ("sequence_mean", trained(base, demos, USUAL, SequenceMeanSFT)),
            ("more", trained(base, letters.demonstrations(6_400, seed=100 + seed), MORE)),
        )
    }

    few, recite = demos.select(range(64)), copy.deepcopy(base)
    curve = []
    for step in SFT(recite, tokenizer, few, dataclasses.replace(FEW, seed=seed)):
        if step["step"] in MEASURED_AT:
            curve.append(
                {
                    "step": step["step"],
                    "seen_nats": nats(recite, few),
                    **measured(f"64 demonstrations, step {step['step']}", recite),
                }
            )

    chosen = best_of_n(
        sft,
        tokenizer,
        held_out[:100],
        letters.gold_reward,
        n=16,
        batch_size=160,
        generator=torch.Generator().manual_seed(seed),
    )
    best = best_of_n_curve(chosen.score_all(letters.gold_reward))  # (prompts, k)
    return {
        "seed": seed,
        "runs": runs,
        "few": curve,
        "best_of_n": [
            {
                "n": n,
                "gold": best[:, n - 1].mean().item(),
                "gold_se": best[:, n - 1].std().item() / len(best) ** 0.5,
            }
            for n in (1, 2, 4, 16)
        ],
        "demonstrations_gold": sum(
            letters.gold_reward(list(demos["prompt"]), list(demos["completion"]))
        )
        / len(demos),
        "settings": {
            "usual": dataclasses.asdict(USUAL),
            "more": dataclasses.asdict(MORE),
            "meeting_prompts": dataclasses.asdict(MEETING),
            "few": dataclasses.asdict(FEW),
        },
        "seconds": time.perf_counter() - start,
        "provenance": provenance(),
    }


def assert_floors(found: dict) -> None:
    """What the chapter says of every seed."""
    runs, ceiling = found["runs"], found["demonstrations_gold"]
    gold = {name: run["gold"] for name, run in runs.items()}
    early, _, late = found["few"]
    checks = {
        "SFT − base ≥ 2": gold["sft"] - gold["base"] >= 2.0,
        "SFT below the demonstrators": gold["sft"] < ceiling,
        "SFT − whole text ≥ .3": gold["sft"] - gold["whole_text"] >= 0.3,
        "fewer wrong slots than with whole text": runs["sft"]["wrong_slot"]
        < runs["whole_text"]["wrong_slot"],
        "SFT − sequence mean ≥ .7": gold["sft"] - gold["sequence_mean"] >= 0.7,
        "sequence mean: lazy ≥ SFT's + .1": runs["sequence_mean"]["lazy"]
        >= runs["sft"]["lazy"] + 0.1,
        "more training: lower loss": runs["more"]["fresh_nats"] < runs["sft"]["fresh_nats"],
        "64 demonstrations: the loss on fresh ones rises": late["fresh_nats"]
        > early["fresh_nats"] + 0.05,
        "64 demonstrations: gold rises": late["gold"] > early["gold"],
        "best of two passes the demonstrators": found["best_of_n"][1]["gold"] > ceiling,
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
