"""What a reward model learns from a noisy pool, over fresh pools, pairs and reward seeds.

    python -m benchmarks.reward_seeds --seeds 1 2 3 4 5            # 2 minutes a seed on one core
    python -m benchmarks.reward_seeds --part variants --seeds 1 2 3  # 5 more minutes a seed
    python -m benchmarks.reward_seeds --check                      # assert the floors on the record

Each seed has its own annotator pool, 3,500 pairs and reward models; the shipped SFT model writes
the replies and lends its trunk, and the shipped aligned model is the policy that has moved. All is
measured on held-out prompts. Accuracies are exact expectations over the pool's next choice, given
the replies; scores are as trained, not standardised, so that a gap is a log-odds. One line for each
part of a seed goes to `results/reward_seeds.jsonl`; what is there is not run again, and trained
models are taken up from the system's temporary folder. Chapter reward-model reads that file.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch

from benchmarks.provenance import provenance
from benchmarks.recording import check, command_line, record
from rlhf_lib.algorithms.reward_training import RewardConfig, RewardTraining
from rlhf_lib.mathematics import calibration
from rlhf_lib.models.reward_model import load_reward_model, new_reward_model
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.models.rollout import sample
from rlhf_lib.running import artifacts
from rlhf_lib.worlds import letters

RESULTS = Path(__file__).parent / "results" / "reward_seeds.jsonl"
CONFIG = RewardConfig(gradient_accumulation_steps=4)
FEW = 300  # pairs of the run that sees each of them again and again
N = 16  # of best-of-n
MARGIN = 0.17  # by which accuracy may miss the ceiling: the seeds' mean and over 4 deviations


def runs(seed: int) -> dict[str, tuple[int, RewardConfig]]:
    """Head seed and settings of each reward model. The first three are an ensemble."""
    config = dataclasses.replace(CONFIG, seed=seed)
    members = {
        f"member_{k}": (seed + 100 * k, dataclasses.replace(config, seed=seed + 100 * k))
        for k in (1, 2)
    }
    return {
        "reward": (seed, config),
        **members,
        "margin": (seed, config),
        "uncentred": (seed, dataclasses.replace(config, center_rewards_coefficient=0.0)),
        "few_pairs": (
            seed,
            dataclasses.replace(
                config, max_steps=150, batch_size=32, gradient_accumulation_steps=1
            ),
        ),
    }


def graded_margins(pool: letters.Annotators, pairs) -> list[float]:
    """How much better the annotator found the chosen reply, in four grades worth 3, 2, 1 and 0."""
    margins = []
    for who, *texts in zip(pairs["annotator"], pairs["prompt"], pairs["chosen"], pairs["rejected"]):
        sure = pool.prefers_first(pool.members[who], *texts)
        margins.append(float(sum(sure > least for least in (0.7, 0.9, 0.97))))
    return margins


def write(policy, tokenizer, prompts: list[str], seed: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    return [
        reply
        for i in range(0, len(prompts), 250)
        for reply in sample(
            policy, tokenizer, prompts[i : i + 250], letters.MAX_NEW_TOKENS, generator=generator
        ).completions
    ]


def best_of(n: int, policy, tokenizer, prompts: list[str], reward, seed: int) -> list[str]:
    asked = [prompt for prompt in prompts for _ in range(n)]
    replies = write(policy, tokenizer, asked, seed)
    best = np.array(reward(asked, replies)).reshape(-1, n).argmax(axis=1)
    return [replies[n * i + k] for i, k in enumerate(best)]


def expected_accuracy(gaps, chances) -> float:
    """How often the sign of the gap foresees the pool's next choice; a tie counts half."""
    return float(np.mean(0.5 + 0.5 * np.sign(gaps) * (2 * np.asarray(chances) - 1)))


def on_pairs(score, pool, prompts, first, second) -> dict[str, float]:
    """How well the scores foresee the pool's choice between the first and the second replies."""
    chances = np.array(pool.chances(prompts, first, second))
    gap, gold = (
        np.array(f(prompts, first)) - np.array(f(prompts, second))
        for f in (score, letters.gold_reward)
    )
    oriented = np.where(gap > 0, chances, 1 - chances)  # that the pool chooses as the model does
    p = 1 / (1 + np.exp(-np.abs(gap)))
    return {
        "ceiling": float(np.maximum(chances, 1 - chances).mean()),
        "accuracy": expected_accuracy(gap, chances),
        "gold_accuracy": expected_accuracy(gold, chances),
        "log_loss": calibration.log_loss(gap, chances),
        "least_log_loss": float(
            -np.mean(chances * np.log(chances) + (1 - chances) * np.log(1 - chances))
        ),
        "brier": calibration.brier_score(p, oriented) + float((chances - chances**2).mean()),
        "ece": calibration.expected_calibration_error(p, oriented),
        "confidence": float(p.mean()),
        "gap_std": float(gap.std()),
    }


class World:
    """What both parts of a seed measure on: the pool, its pairs, replies to held-out prompts."""

    def __init__(self, seed: int):
        self.seed, self.start = seed, time.perf_counter()
        self.sft, self.tokenizer = artifacts.load("letters", "sft")
        aligned, _ = artifacts.load("letters", "aligned")
        self.pool = letters.Annotators(seed=seed)
        self.pairs = artifacts.compare(self.sft, self.tokenizer, artifacts.PAIRS, seed, self.pool)
        self.prompts = list(letters.prompts(600, seed=seed + 9, held_out=True)["prompt"])
        reward = self.model("reward")
        self.written = {  # two replies to each prompt, or to the first few
            "sft": [write(self.sft, self.tokenizer, self.prompts, seed + k) for k in (2, 3)],
            "aligned": [
                write(aligned, self.tokenizer, self.prompts[:400], seed + k) for k in (2, 3)
            ],
            "best_of_n": [
                best_of(N, self.sft, self.tokenizer, self.prompts[:150], reward, seed + k)
                for k in (4, 5)
            ],
        }

    def model(self, name: str) -> LearnedReward:
        """A reward model, trained, or from the temporary folder if it was trained before."""
        folder = Path(tempfile.gettempdir()) / "rlhf-lib-reward-seeds" / f"{self.seed}-{name}"
        head, config = runs(self.seed)[name]
        if not (folder / "model.safetensors").exists():
            pairs = self.pairs.select(range(FEW)) if name == "few_pairs" else self.pairs
            if name == "margin":
                pairs = pairs.add_column("margin", graded_margins(self.pool, pairs))
            model = new_reward_model(self.sft, head)
            for _ in RewardTraining(model, self.tokenizer, pairs, config):
                pass
            model.eval().save_pretrained(folder)
        print(
            f"seed {self.seed}: {name} after {time.perf_counter() - self.start:.0f} s", flush=True
        )
        return LearnedReward(load_reward_model(folder), self.tokenizer)

    def measured(self, model: LearnedReward) -> dict:
        """How well its scores foresee the pool, on each kind of replies, and their spread."""
        first, second = self.written["sft"]
        scores = np.array(model(self.prompts, first))
        return {
            **{
                where: on_pairs(model, self.pool, self.prompts[: len(replies[0])], *replies)
                for where, replies in self.written.items()
            },
            "mean": float(scores.mean()),
            "std": float(scores.std()),
            "gold_correlation": float(
                np.corrcoef(scores, letters.gold_reward(self.prompts, first))[0, 1]
            ),
            "temperature": calibration.fit_temperature(
                scores - np.array(model(self.prompts, second)),
                self.pool.chances(self.prompts, first, second),
            ),
        }

    def row(self, part: str, found: dict) -> dict:
        return {
            "seed": self.seed,
            "part": part,
            "pairs": len(self.pairs),
            "n": N,
            "settings": dataclasses.asdict(CONFIG),
            **found,
            "seconds": time.perf_counter() - self.start,
            "provenance": provenance(),
        }


def run_reward(seed: int) -> dict:
    """One reward model: accuracy, calibration, biases, and policies that have moved."""
    world = World(seed)
    model = world.model("reward")
    moved = {}
    for where, replies in world.written.items():  # against an SFT reply to the same prompt
        after = replies[where == "sft"]
        asked, before = world.prompts[: len(after)], world.written["sft"][0][: len(after)]
        gain = np.array(model(asked, after)) - np.array(model(asked, before))
        moved[where] = {
            "predicted_win": float((1 / (1 + np.exp(-gain))).mean()),
            "true_win": float(np.mean(world.pool.chances(asked, after, before))),
            "gold": float(np.mean(letters.gold_reward(asked, after))),
        }
    asked, replies = letters.controlled_edits(200, seed + 20)
    clean, edits = np.array(model(asked, replies["clean"])), {}
    for edit, changed in replies.items():
        gain = np.array(model(asked, changed)) - clean
        p = np.array(world.pool.chances(asked, changed, replies["clean"]))
        edits[edit] = {
            "score": float(gain.mean()),
            "se": float(gain.std(ddof=1) / len(gain) ** 0.5),
            "pool": float(np.log(p / (1 - p)).mean()),
            "gold": float(
                np.mean(letters.gold_reward(asked, changed))
                - np.mean(letters.gold_reward(asked, replies["clean"]))
            ),
        }
    return world.row("reward", {"model": world.measured(model), "moved": moved, "edits": edits})


def run_variants(seed: int) -> dict:
    """Margin, no centring, few pairs seen often, and an ensemble of three."""
    world = World(seed)
    models = {name: world.model(name) for name in runs(seed)}
    measured = {name: world.measured(model) for name, model in models.items()}
    members, ensemble = ("reward", "member_1", "member_2"), {}
    for where, (one, other) in world.written.items():
        asked, before = world.prompts[: len(one)], world.written["sft"][0][: len(one)]
        after = other if where == "sft" else one
        scores = {
            text: np.array(
                [np.array(models[m](asked, replies)) / measured[m]["std"] for m in members]
            )
            for text, replies in (
                ("after", after),
                ("before", before),
                ("one", one),
                ("other", other),
            )
        }
        gaps = scores["one"] - scores["other"]
        gain = scores["after"] - scores["before"]  # the same prompt: free of any shift c(x)
        ensemble[where] = {
            "accuracy": expected_accuracy(gaps.mean(axis=0), world.pool.chances(asked, one, other)),
            "disagreement": float(gain.std(axis=0, ddof=1).mean()),
            "gain": float(gain.mean()),
            "split_pairs": float((np.abs(np.sign(gaps).sum(axis=0)) < len(members)).mean()),
        }
    return world.row("variants", {"models": measured, "ensemble": ensemble})


def assert_floors(found: dict) -> None:
    """The floors this experiment has to clear on every seed."""
    on = found["model"] if found["part"] == "reward" else found["models"]["reward"]
    checks = {
        "accuracy ≥ .65": on["sft"]["accuracy"] >= 0.65,
        f"accuracy ≥ ceiling − {MARGIN}": on["sft"]["accuracy"] >= on["sft"]["ceiling"] - MARGIN,
        "accuracy ≤ ceiling": all(
            on[w]["accuracy"] <= on[w]["ceiling"] for w in ("sft", "aligned", "best_of_n")
        ),
    }
    failed = [name for name, held in checks.items() if not held]
    assert not failed, f"seed {found['seed']}: " + "; ".join(failed)


PARTS = {"reward": run_reward, "variants": run_variants}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--part", choices=list(PARTS), default="reward")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.check:
        record(
            RESULTS,
            ("seed", "part"),
            product(options.seeds, [options.part]),
            lambda seed, part: PARTS[part](seed),
        )
    check(RESULTS, assert_floors, "rows")


if __name__ == "__main__":
    main()
