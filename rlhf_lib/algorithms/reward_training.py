"""Train a reward model on comparisons, by the Bradley–Terry loss.

What it adds to the bare loss: scores are centred by a small penalty, and `standardise` then sets
their spread to 1 under the policy that will be trained. Both only fix what comparisons leave
free or make arbitrary, so that β means the same from one reward model to the next.
Chapters: reward-model, ppo-live.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..families.support import check_one_output
from ..mathematics.losses import bradley_terry_loss
from ..models.reward_model import new_reward_model, reward_scores
from ..models.rewards import LearnedReward
from ..models.tokens import PairBatch, encode_pairs
from ..worlds.lengths import check_lengths, row_lengths
from ..worlds.tables import column, rows_of_step
from .loop import SupervisedConfig, SupervisedLoop


@dataclass(frozen=True)
class RewardConfig(SupervisedConfig):
    """Settings beside those of every loop, or with other defaults, named as TRL names them.

    Chapter: reward-model.
    """

    max_steps: int = 130  # steps of the whole run
    batch_size: int = 64  # pairs a step
    learning_rate: float = 3e-4  # times the warm-up, and a line that falls to 0
    warmup_steps: int = 9  # steps at less than the learning rate, which rises to it
    center_rewards_coefficient: float = 0.01  # weight of the penalty that centres the scores


@dataclass
class Comparisons(PairBatch):
    """Pairs to learn from. Chapter: reward-model."""

    margins: Tensor  # (B,) by how much the chosen score should be the higher one


class RewardTraining(SupervisedLoop):
    """Step through reward-model training; `for record in RewardTraining(...)` trains to the end.

    Chapter: reward-model.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A sequence classifier with one label, trained in place.
    tokenizer : PreTrainedTokenizerBase
    dataset : datasets.Dataset
        Columns `prompt`, `chosen` and `rejected`. A column `margin`, if there is one, says by
        how much the chosen score should be the higher one (Touvron et al. 2023,
        arXiv:2307.09288, eq. 2).
    config : RewardConfig

    Raises
    ------
    ValueError
        If a setting is out of range, a column is missing or of the wrong kind, there is no pair
        or one that is longer than the model's context, or the model has more than one output.
    FloatingPointError
        If a loss or gradient is not finite. The weights are those before the update.
    """

    config: RewardConfig

    def __init__(self, model, tokenizer, dataset, config: RewardConfig = RewardConfig()):
        check_one_output("model", model)
        self.model = model
        self.prompts = column(dataset, "prompt")
        self.chosen, self.rejected = column(dataset, "chosen"), column(dataset, "rejected")
        self.margins = [0.0] * len(self.prompts)
        if "margin" in dataset.column_names:
            self.margins = column(dataset, "margin", (int, float))
        texts = self.prompts, self.chosen, self.rejected
        check_lengths({"model": model}, tokenizer, texts)
        parts = config.gradient_accumulation_steps
        self.lengths = row_lengths(tokenizer, *texts) if parts > 1 else []
        super().__init__(config, tokenizer, {"model": model}, {})

    def decay(self) -> float:
        return 1 - self.step_number / self.config.max_steps

    def collect(self) -> tuple[Comparisons]:
        """The next pairs; if they are taken in parts, pairs of like length stand together."""
        c = self.config
        rows = rows_of_step(len(self.prompts), c.batch_size, self.step_number, c.seed)
        if c.gradient_accumulation_steps > 1:
            rows = sorted(rows, key=self.lengths.__getitem__)
        prompts, chosen, rejected = (
            [x[i] for i in rows] for x in (self.prompts, self.chosen, self.rejected)
        )
        pairs = encode_pairs(self.tokenizer, prompts, chosen, rejected, self.model.device)
        margins = torch.tensor([self.margins[i] for i in rows], device=self.model.device)
        return (Comparisons(*pairs.tokens, margins),)

    def learn(self, batch: Comparisons) -> dict:
        """One gradient step on a batch of pairs; the record of the step."""
        losses, over = {"loss": (self.loss, batch)}, ("sequences", "sequences")
        record = self.machine.descend(self.model, self.optimizers["model"], losses, *over)
        return {
            "loss": record["loss"],
            "accuracy": record["accuracy"],
            "learning_rate": self.learning_rate,
        }

    def loss(self, batch: Comparisons) -> tuple[Tensor, dict]:
        """The Bradley–Terry loss of a batch of pairs, and the share that is ranked right."""
        chosen, rejected = reward_scores(self.model, batch.rows).chunk(2)
        centering = self.config.center_rewards_coefficient
        right = int((chosen > rejected).sum()) / len(batch)
        return bradley_terry_loss(chosen, rejected, batch.margins, centering=centering), {
            "accuracy": right
        }


def reward_ensemble(
    policy, tokenizer, dataset, seeds: Sequence[int], config: RewardConfig = RewardConfig()
) -> list[RewardTraining]:
    """One training loop for each seed: the same pairs, another random head, another order of data.

    Each is stepped, saved and resumed like any other, and its `model` is the member. Members
    agree where the data decide and differ where they do not, which is what makes the spread of
    their scores a measure of ignorance. They share the pretrained trunk, and its blind spots.

    Source: Coste et al. 2023, arXiv:2310.02743; on the shared trunk, Eisenstein et al. 2023,
    arXiv:2312.09244. Chapter: reward-model.

    Parameters
    ----------
    policy : transformers causal language model
        Its trunk is where each member starts; usually the SFT policy.
    tokenizer, dataset
        As for `RewardTraining`.
    seeds : sequence of int
        One for each member, all different.
    config : RewardConfig
        Its `seed` is replaced.
    """
    if len(set(seeds)) < len(seeds) or not seeds:
        raise ValueError(f"seeds is {list(seeds)}; expected different ones, at least one")
    return [
        RewardTraining(
            new_reward_model(policy, seed), tokenizer, dataset, replace(config, seed=seed)
        )
        for seed in seeds
    ]


def pair_accuracy(model, tokenizer, dataset) -> float:
    """Share of pairs in which the chosen completion scores higher; a tie counts half.

    Chapter: reward-model.
    """
    if not len(dataset):
        raise ValueError("the dataset has 0 pairs; expected at least 1")
    reward = LearnedReward(model, tokenizer)
    chosen = torch.tensor(reward(list(dataset["prompt"]), list(dataset["chosen"])))
    rejected = torch.tensor(reward(list(dataset["prompt"]), list(dataset["rejected"])))
    return ((chosen > rejected).float() + 0.5 * (chosen == rejected)).mean().item()


@torch.no_grad()
def standardise(
    model, tokenizer, prompts: list[str], completions: list[str]
) -> tuple[float, float]:
    """Scale the head so that scores have standard deviation 1 on the given completions.

    Use completions of the policy that PPO will start from. Returns the mean and the standard
    deviation of the scores before; after, the mean is their quotient, near 0 by the centring.

    Chapter: reward-model.
    """
    scores = torch.tensor(LearnedReward(model, tokenizer)(prompts, completions))
    mean, std = scores.mean().item(), scores.std().item()
    if not std > 0:
        raise ValueError(
            "the scores are all equal; expected a reward model that tells some of "
            "the given completions apart"
        )
    for part in (model.score.weight, getattr(model.score, "bias", None)):
        if part is not None:
            part.div_(std)
    return mean, std
