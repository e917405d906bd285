"""Over-optimisation in the letters world: gold and proxy against KL, and which remedies help.

    python -m benchmarks.over_optimization                   # about an hour on one core
    python -m benchmarks.over_optimization --seconds 200     # start nothing new after 200 seconds
    python -m benchmarks.over_optimization --check           # assert the floors on what is recorded

Every run starts from the shipped SFT model. A seed stands for its own pool of annotators, its own
comparisons (the smaller sets are the first of the larger), reward models, held-out prompts and
PPO. Best-of-n chooses among 256 samples of each of 40 prompts. PPO has no KL penalty unless the
run's name says so. In "slots checked" a program takes 2 points off the proxy where a slot is wrong.
A run is measured on 200 held-out prompts every few steps, the same prompts each time, so that a
gain over SFT is a mean of paired differences. `other` is a reward model of another seed, which
nothing is optimised against; `won` is what annotators of that other pool would say of the policy's
reply against SFT's to the same prompt. One line a run goes to `results/over_optimization.jsonl`,
with settings, hardware and versions; a run that is there is not made again. Chapter
over-optimization reads that file.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import torch

from benchmarks.provenance import provenance
from benchmarks.recording import command_line, record, recorded, trained_once
from rlhf_lib.algorithms.best_of_n import best_of_n
from rlhf_lib.algorithms.ppo import PPO, PPOConfig
from rlhf_lib.algorithms.reward_training import (
    RewardConfig,
    RewardTraining,
    pair_accuracy,
    standardise,
)
from rlhf_lib.mathematics.overoptimization import best_of_n_curve
from rlhf_lib.models.reward_model import new_reward_model
from rlhf_lib.models.rewards import LearnedReward, ensemble
from rlhf_lib.models.rollout import sample
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import letters

RESULTS = Path(__file__).parent / "results" / "over_optimization.jsonl"
CACHE = Path(tempfile.gettempdir()) / "rlhf-over-optimization"  # reward models, between calls
REWARD_STEPS = {250: 20, 1_000: 45, 3_500: 130}  # of reward training, by pairs; more overfit
BASE = 1_000  # pairs where the remedies are compared
MEMBERS = 4  # of an ensemble
OTHER = {1: 2, 2: 3, 3: 1, 4: 1, 5: 2}  # whose reward model and annotators watch a seed's runs
RL = PPOConfig(beta=0.0, learning_rate=1.5e-4, max_steps=24)
MEASURED_AT = (2, 4, 6, 8, 10, 12, 15, 18, 21, 24)
REFRESHED_AT, REFRESHED_PAIRS = (8, 16), 500  # steps, and new comparisons at each of them
PROMPTS, BEST_OF_N_PROMPTS, N = 200, 40, 256
REMEDIES = {  # what differs from PPO with BASE pairs
    "ppo, beta 0.1": dict(beta=0.1),
    "refreshed": {},
    "ensemble mean - std": {},
    "slots checked": {},
}
PLAN = [
    (run, pairs, seed)
    for seed in (1, 2, 3)
    for run in ("ppo", "best_of_n")
    for pairs in (1_000, 3_500, 250)
]
PLAN += [(run, BASE, seed) for seed in (4, 5) for run in ("ppo", "best_of_n")]
PLAN += [(run, BASE, seed) for run in REMEDIES for seed in (1, 2, 3)]
PLAN += [(run, BASE, seed) for run in ("ppo, beta 0.1", "slots checked") for seed in (4, 5)]


class Material:
    """What the runs of one seed start from; reward models are trained once and kept in CACHE."""

    def __init__(self, sft, tokenizer, seed: int):
        self.sft, self.tokenizer, self.seed = sft, tokenizer, seed
        self.annotators = letters.Annotators(seed=seed)

    def reward(self, pairs: int, member: int = 0) -> LearnedReward:
        """A reward model of this seed; `member` is a random head and an order of the data."""

        def train():
            data = artifacts.compare(self.sft, self.tokenizer, pairs, self.seed, self.annotators)
            return self.train(data, REWARD_STEPS[pairs], self.seed + 1_000 * member)

        folder = CACHE / f"seed-{self.seed}-pairs-{pairs}-member-{member}"
        return LearnedReward(trained_once(folder, train), self.tokenizer)

    def train(self, data, steps: int, seed: int):
        """As `artifacts.train_reward`, with a number of steps that suits the number of pairs."""
        model = new_reward_model(self.sft, seed)
        for _ in RewardTraining(
            model, self.tokenizer, data, RewardConfig(max_steps=steps, seed=seed)
        ):
            pass
        prompts = list(letters.prompts(500, seed=self.seed + 1)["prompt"])
        rollout = sample(
            self.sft,
            self.tokenizer,
            prompts,
            letters.MAX_NEW_TOKENS,
            generator=torch.Generator().manual_seed(self.seed + 1),
        )
        standardise(model, self.tokenizer, prompts, rollout.completions)
        return model.eval()

    def proxy(self, run: str, pairs: int):
        """The reward that a run optimises, and the members that its disagreement is taken over."""
        members = [
            self.reward(pairs, member)
            for member in range(MEMBERS if pairs == BASE and self.seed <= 3 else 1)
        ]
        if run == "ensemble mean - std":
            return ensemble(members, "mean_minus_std"), members
        if run == "slots checked":
            return with_slots(members[0]), members
        return members[0], members

    def accuracy(self, reward) -> float:
        """On 500 fresh pairs of SFT replies, compared by this seed's annotators."""
        test = artifacts.compare(self.sft, self.tokenizer, 500, self.seed + 1_000, self.annotators)
        return pair_accuracy(reward.model, self.tokenizer, test)


def with_slots(proxy):
    """The proxy, less 2 points where a program finds a slot of the prompt wrong or missing."""

    def reward(prompts, completions, **columns) -> list[float]:
        found = [letters.features(*pair) for pair in zip(prompts, completions)]
        right = [f["item"] and f["day"] and not f["wrong_slot"] for f in found]
        scores = proxy(prompts, completions)
        return [score - 2 * (not ok) for score, ok in zip(scores, right)]

    return reward


def rl_run(own: Material, run: str, pairs: int) -> dict:
    """PPO against a proxy, measured on held-out prompts as it goes."""
    reward, members = own.proxy(run, pairs)
    other = Material(own.sft, own.tokenizer, OTHER[own.seed])
    judges = other.annotators
    disagreement = ensemble(members) if len(members) > 1 else None
    rewards = {"gold": letters.gold_reward, "reward": reward, "other": other.reward(3_500)}
    prompts = list(letters.prompts(PROMPTS, seed=own.seed + 9, held_out=True)["prompt"])
    config = dataclasses.replace(RL, seed=own.seed, **REMEDIES.get(run, {}))
    policy = copy.deepcopy(own.sft)
    loop = PPO(
        policy,
        own.sft,
        copy.deepcopy(members[0].model),
        own.tokenizer,
        reward,
        letters.prompts(4_000, seed=own.seed + 100),
        config,
    )
    curve, samples, start = [], [], None

    def measure(record: dict) -> None:
        nonlocal start
        found = evaluate(policy, own.tokenizer, prompts, rewards, own.sft, seed=own.seed)
        start = start or found
        texts = found["completions"]
        row = {
            "step": loop.step_number,
            "kl": found["kl"],
            "kl_se": found["kl_se"],
            "length": found["length"],
            "distinct": len(set(texts)) / len(texts),
        }
        for name in rewards:
            gain = torch.tensor(found["values"][name]) - torch.tensor(start["values"][name])
            row |= {
                name: found[name],
                f"{name}_se": found[f"{name}_se"],
                f"{name}_gain_se": (gain.std() / len(gain) ** 0.5).item(),
            }
        row["won"] = sum(
            judges.prefers_first(judges.members[i % len(judges.members)], p, new, old)
            for i, (p, new, old) in enumerate(zip(prompts, texts, start["completions"]))
        ) / len(texts)
        if disagreement:
            disagreement(prompts, texts)
            row["disagreement"] = disagreement.disagreement
        row |= {name: record[name] for name in ("entropy", "explained_variance") if name in record}
        counted = [letters.features(*pair) for pair in zip(prompts, texts)]
        row["features"] = {
            name: round(sum(f[name] for f in counted) / len(counted), 3) for name in counted[0]
        }
        row["styles"] = dict(Counter(map(letters.classify, prompts, texts)))
        curve.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
        samples.append(
            [
                [text, round(found["values"]["gold"][i], 2), round(found["values"]["reward"][i], 2)]
                for i, text in enumerate(texts[:3])
            ]
        )

    accuracy = own.accuracy(members[0])
    measure({})
    labels = pairs
    data = None
    while loop.step_number < config.max_steps:
        if run == "refreshed" and loop.step_number in REFRESHED_AT:
            from datasets import concatenate_datasets

            data = data or artifacts.compare(
                own.sft, own.tokenizer, pairs, own.seed, own.annotators
            )
            new = artifacts.compare(
                policy,
                own.tokenizer,
                REFRESHED_PAIRS,
                own.seed + 10_000 + loop.step_number,
                own.annotators,
            )
            data = concatenate_datasets([data, new])
            labels += REFRESHED_PAIRS
            loop.reward = rewards["reward"] = LearnedReward(
                own.train(data, REWARD_STEPS[BASE] * labels // pairs, own.seed), own.tokenizer
            )
            accuracy = own.accuracy(loop.reward)
        record = loop.step()
        if loop.step_number in MEASURED_AT:
            measure(record)
    return {
        "settings": dataclasses.asdict(config),
        "reward_accuracy": accuracy,
        "labels": labels,
        "curve": curve,
        "prompts": prompts[:3],
        "samples": samples,
    }


def best_of_n_run(own: Material, run: str, pairs: int) -> dict:
    """Best of 1, 2, 4 … 256 samples of SFT, chosen by the proxy; gold and proxy of each prompt."""
    reward, members = own.proxy(run, pairs)
    prompts = list(letters.prompts(BEST_OF_N_PROMPTS, seed=own.seed + 9, held_out=True)["prompt"])
    chosen = best_of_n(
        own.sft,
        own.tokenizer,
        prompts,
        reward,
        N,
        generator=torch.Generator().manual_seed(own.seed),
    )
    gold = best_of_n_curve(chosen.scores, chosen.score_all(letters.gold_reward))
    proxy = best_of_n_curve(chosen.scores)
    n = [2**k for k in range(N.bit_length())]
    table = {"gold": gold[:, [k - 1 for k in n]], "reward": proxy[:, [k - 1 for k in n]]}
    curve = []
    for column, k in enumerate(n):
        row: dict = {"n": k}
        for name, values in table.items():
            gain = values[:, column] - values[:, 0]
            row |= {
                name: values[:, column].mean().item(),
                f"{name}_se": (values[:, column].std() / len(prompts) ** 0.5).item(),
                f"{name}_gain_se": (gain.std() / len(prompts) ** 0.5).item(),
            }
        curve.append({k: round(v, 4) for k, v in row.items()})
    samples = []  # the best of the first k, to be read; the curve is over all subsets of k
    for k in n:
        best = chosen.scores[:3, :k].argmax(dim=1).tolist()
        texts = [chosen.samples[p][i] for p, i in enumerate(best)]
        samples.append(
            [
                [text, round(g, 2), round(chosen.scores[p, best[p]].item(), 2)]
                for p, (text, g) in enumerate(zip(texts, letters.gold_reward(prompts[:3], texts)))
            ]
        )
    return {
        "settings": {"N": N, "prompts": len(prompts)},
        "labels": pairs,
        "reward_accuracy": own.accuracy(members[0]),
        "curve": curve,
        "prompts": prompts[:3],
        "samples": samples,
    }


def one_run(run: str, pairs: int, seed: int, sft, tokenizer) -> dict:
    """The line of one run of the plan."""
    start, own = time.perf_counter(), Material(sft, tokenizer, seed)
    make = best_of_n_run if run.startswith("best_of_n") else rl_run
    found = {"run": run, "pairs": pairs, "seed": seed, **make(own, run, pairs)}
    return found | {"seconds": round(time.perf_counter() - start, 1), "provenance": provenance()}


def assert_floors(lines: list[dict]) -> None:
    """What the chapter says of these runs, on every seed of the main setting."""
    main_runs = [found for found in lines if found["run"] == "ppo" and found["pairs"] == BASE]
    assert len({found["seed"] for found in main_runs}) >= 5, "expected five seeds of the main run"
    for found in main_runs:
        rows = found["curve"]
        peak = max(row["gold"] for row in rows)
        checks = {
            "gold rises ≥ .4 over SFT": peak - rows[0]["gold"] >= 0.4,
            "gold falls ≥ 1.5 from its peak": peak - rows[-1]["gold"] >= 1.5,
            "the peak is before 6 nats": next(r["kl"] for r in rows if r["gold"] == peak) <= 6,
            "proxy rises to the end": rows[-1]["reward"] - rows[0]["reward"] >= 0.8,
        }
        failed = [name for name, held in checks.items() if not held]
        assert not failed, f"seed {found['seed']}: " + "; ".join(failed)


def main() -> None:
    parser = command_line(__doc__, threads=1)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no run after this time"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.check:
        CACHE.mkdir(parents=True, exist_ok=True)
        sft, tokenizer = artifacts.load("letters", "sft")
        record(
            RESULTS,
            ("run", "pairs", "seed"),
            [p for p in PLAN if p[2] in options.seeds],
            partial(one_run, sft=sft, tokenizer=tokenizer),
            options.seconds,
        )
    lines = recorded(RESULTS)
    assert_floors(lines)
    print(f"{len(lines)} of {len(PLAN)} runs, every floor cleared")


if __name__ == "__main__":
    main()
