"""Learning from the same comparisons with and without a loop: DPO, its relatives, and PPO.

    python -m benchmarks.dpo_letters --seeds 1 2 3 4 5     # about 20 minutes a seed on one core
    python -m benchmarks.dpo_letters --check               # assert the floors on what is recorded

Every run starts from the shipped SFT model of the letters world. A seed stands for its own pool of
annotators, its own 3,500 comparisons of SFT replies, its reward model (which PPO and online DPO
need), its held-out prompts and its order of the data. A run is measured every few steps on the same
400 held-out prompts: the gold utility that no method sees, the KL to SFT, and what has become of
the log-probabilities of both replies in 400 pairs that were not trained on. In the runs whose name
ends in "flipped", one label in five of the training pairs is the wrong way round. One line a run
goes to `results/dpo_letters.jsonl`, with settings, hardware and versions; a run that is there is
not made again. Chapter: dpo.
"""

from __future__ import annotations

import copy
import dataclasses
import random
import tempfile
import time
from collections import Counter
from functools import lru_cache
from pathlib import Path

import torch

from benchmarks.provenance import provenance
from benchmarks.recording import record_runs, trained_once
from rlhf_lib.algorithms import DPO, PPO, DPOConfig, PPOConfig
from rlhf_lib.algorithms.reward_training import pair_accuracy
from rlhf_lib.mathematics.losses import sequence_logprobs
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import encode, token_logprobs
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import letters
from rlhf_lib.worlds.tables import rows_of_step

RESULTS = Path(__file__).parent / "results" / "dpo_letters.jsonl"
CACHE = Path(tempfile.gettempdir()) / "rlhf-dpo-letters"  # reward models, between calls
PROMPTS, PAIRS = 400, 400  # held out
FLIPPED = 0.2  # of the labels, where a run's name says so
MEASURED_AT = {DPOConfig: (25, 50, 75, 100), PPOConfig: (3, 6, 10, 20, 32, 45)}  # steps
RUNS = {
    "dpo": DPOConfig(),
    "dpo, fast": DPOConfig(learning_rate=3e-4),
    "ipo": DPOConfig(loss_type="ipo"),
    "kto": DPOConfig(loss_type="kto", batch_size=64),  # completions: as many as in 32 pairs
    "simpo": DPOConfig(loss_type="simpo"),
    "online dpo": DPOConfig(),
    "ppo": PPOConfig(),
    "dpo, flipped": DPOConfig(),
    "smoothed, flipped": DPOConfig(label_smoothing=FLIPPED),
}


class OnlineDPO(DPO):
    """DPO on pairs of the policy's own replies, each compared by a reward model when it is drawn.

    `asked` are the prompts, and `reward` says which of two replies is better.
    """

    def __init__(self, *args, asked: list[str], reward, **kwargs):
        super().__init__(*args, **kwargs)
        self.asked, self.reward = asked, reward

    def collect(self) -> tuple:
        rows = rows_of_step(
            len(self.asked), self.config.batch_size, self.step_number, self.config.seed
        )
        prompts = [self.asked[row] for row in rows]
        how = dict(max_new_tokens=letters.MAX_NEW_TOKENS, generator=self.sampler)
        both = [sample(self.policy, self.tokenizer, prompts, **how) for _ in range(2)]
        scores = [self.reward(prompts, x.completions) for x in both]
        replies = zip(*scores, both[0].completions, both[1].completions)
        pairs = [(a, b) if first >= second else (b, a) for first, second, a, b in replies]
        self.prompts, self.cached = prompts * 2, None
        self.completions = [chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs]
        return super().collect()


class Material:
    """What the runs of a seed share."""

    def __init__(self, seed: int):
        self.seed = seed
        self.sft, self.tokenizer = artifacts.load("letters", "sft")
        annotators = letters.Annotators(seed=seed)
        how = self.sft, self.tokenizer
        self.pairs = artifacts.compare(*how, artifacts.PAIRS, seed, annotators)
        self.left_out = artifacts.compare(*how, PAIRS, seed + 1_000, annotators)
        self.reward_model = self.trained_reward()
        self.accuracy = pair_accuracy(self.reward_model, self.tokenizer, self.left_out)
        self.reward = LearnedReward(self.reward_model, self.tokenizer)
        self.held_out = list(letters.prompts(PROMPTS, seed=seed + 9, held_out=True)["prompt"])
        self.asked = letters.prompts(4_000, seed=seed + 100)
        self.at_first = self.logprobs(self.sft)
        self.at_start = self.measured(self.sft)

    def trained_reward(self):
        """The reward model of this seed, trained once and kept in CACHE."""
        how = (self.sft, self.tokenizer, self.pairs, self.seed)
        return trained_once(CACHE / f"seed-{self.seed}", lambda: artifacts.train_reward(*how))

    def flipped(self):
        """The pairs, some of them with chosen and rejected exchanged."""
        rng = random.Random(self.seed)

        def exchange(row: dict) -> dict:
            if rng.random() < FLIPPED:
                return {"chosen": row["rejected"], "rejected": row["chosen"]}
            return {}

        return self.pairs.map(exchange, load_from_cache_file=False)

    def loop(self, name: str, config):
        """The loop of a run, on a fresh copy of the SFT model."""
        policy = copy.deepcopy(self.sft)
        if isinstance(config, PPOConfig):
            critic = copy.deepcopy(self.reward_model)
            how = (self.tokenizer, self.reward, self.asked, config)
            return PPO(policy, self.sft, critic, *how)
        reference = None if config.loss_type == "simpo" else self.sft
        data = self.flipped() if name.endswith("flipped") else self.pairs
        how = (policy, reference, self.tokenizer, data, config)
        if name.startswith("online"):
            return OnlineDPO(*how, asked=list(self.asked["prompt"]), reward=self.reward)
        return DPO(*how)

    @torch.no_grad()
    def logprobs(self, model) -> torch.Tensor:
        """log π of the left-out chosen and rejected replies, (2, PAIRS), in nats."""
        found = []
        for side in ("chosen", "rejected"):
            batch = encode(self.tokenizer, list(self.left_out["prompt"]), list(self.left_out[side]))
            found.append(sequence_logprobs(token_logprobs(model, batch), batch.completion_mask))
        return torch.stack(found)

    def written(self, policy) -> dict:
        """Gold, learned reward, KL and length of fresh replies to held-out prompts; their kinds."""
        rewards = {"gold": letters.gold_reward, "reward": self.reward}
        found = evaluate(policy, self.tokenizer, self.held_out, rewards, self.sft, seed=self.seed)
        mix = Counter(map(letters.classify, self.held_out, found["completions"]))
        return {
            **{name: round(x, 4) for name, x in found.items() if isinstance(x, float)},
            "mix": {style: mix[style] / PROMPTS for style in letters.OUTCOMES},
            "shown": found["completions"][:4],
        }

    def measured(self, policy) -> dict:
        """What the policy writes, and its log-ratios on left-out pairs."""
        chosen, rejected = self.logprobs(policy) - self.at_first
        return {
            **self.written(policy),
            "chosen": chosen.mean().item(),
            "rejected": rejected.mean().item(),
            "accuracy": (chosen > rejected).float().mean().item(),
        }


@lru_cache(maxsize=1)
def material(seed: int) -> Material:
    return Material(seed)


def run(seed: int, name: str) -> dict:
    """One run, measured at its start and on its way."""
    given = material(seed)
    config = dataclasses.replace(RUNS[name], seed=seed)
    loop, begun, learning = given.loop(name, config), time.perf_counter(), 0.0
    curve = [{"step": 0, **given.at_start}]
    for line in loop:
        learning += line["seconds"]
        if line["step"] in MEASURED_AT[type(config)]:
            curve.append({"step": line["step"], **given.measured(loop.policy)})
    return {
        "seed": seed,
        "run": name,
        "settings": dataclasses.asdict(config),
        "reward_accuracy": given.accuracy,
        "curve": curve,
        "learning_seconds": learning,
        "seconds": time.perf_counter() - begun,
        "threads": torch.get_num_threads(),
        "provenance": provenance(),
    }


FLOORS = {"dpo": 0.8, "ipo": 0.8, "kto": 0.8, "ppo": 0.8, "dpo, flipped": 0.5}  # gains in gold


def assert_floors(line: dict) -> None:
    """What the chapter says of every run."""
    name, (start, *_, end) = line["run"], line["curve"]
    where, gain = f"{name}, seed {line['seed']}", end["gold"] - start["gold"]
    assert gain >= FLOORS.get(name, 0), f"{where}: gold gains {gain:.2f}"
    both = f"{where}: chosen {end['chosen']:.2f}, rejected {end['rejected']:.2f} nats"
    assert max(end["chosen"], end["rejected"]) < 0, both
    if name == "dpo, fast":  # worse letters while pairs are ranked better, far from SFT
        early, late = (at for at in line["curve"] if at["step"] in (25, 50))
        assert late["gold"] < early["gold"] and late["accuracy"] > early["accuracy"], where
        assert late["kl"] > 4, f"{where}: a KL of {late['kl']:.2f}"
    elif name not in ("ppo", "online dpo"):
        assert end["rejected"] < end["chosen"], both
        assert end["kl"] < 5, f"{where}: a KL of {end['kl']:.2f}"


def main() -> None:
    record_runs(__doc__, RESULTS, "run", RUNS, run, assert_floors)


if __name__ == "__main__":
    main()
