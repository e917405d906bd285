"""Train a reward model on comparisons, by the Bradley–Terry loss.

What it adds to the bare loss: scores are centred by a small penalty, and `standardise` then sets
their spread to 1 under the policy that will be trained. Both only fix what comparisons leave
free or make arbitrary, so that β means the same from one reward model to the next.
Chapters: reward-model, ppo-live.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..machinery.checkpoints import load_checkpoint, save_checkpoint
from ..machinery.processes import first_only, gather, own_share, same_weights
from ..machinery.training import (
    check_positive,
    column,
    descend,
    rows_of_step,
    set_learning_rate,
    train_without_dropout,
)
from ..mathematics.losses import bradley_terry_loss
from ..models.reward_model import check_one_output, new_reward_model, reward_scores
from ..models.rewards import LearnedReward
from ..models.tokens import encode
from ..worlds.data import pair_lengths


@dataclass(frozen=True)
class RewardConfig:
    """Settings, named as TRL names them.

    Chapter: reward-model.
    """

    max_steps: int = 130  # steps of the whole run
    batch_size: int = 64  # pairs a step
    gradient_accumulation_steps: int = 1  # parts it is computed in: less memory, same gradient
    learning_rate: float = 3e-4  # peak; after the warm-up it falls linearly to 0
    warmup_steps: int = 10  # in which the learning rate rises to its value
    weight_decay: float = 0.01  # of AdamW
    center_rewards_coefficient: float = 0.01  # weight of the penalty that centres the scores
    max_grad_norm: float = 1.0  # longer gradients are clipped to it
    seed: int = 0  # order of the data


class RewardTraining:
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

    def __init__(self, model, tokenizer, dataset, config: RewardConfig = RewardConfig()):
        check_positive(
            config,
            "max_steps",
            "batch_size",
            "gradient_accumulation_steps",
            "learning_rate",
            "max_grad_norm",
        )
        check_one_output("model", model)
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.prompts = column(dataset, "prompt")
        self.chosen, self.rejected = column(dataset, "chosen"), column(dataset, "rejected")
        self.margins = [0.0] * len(self.prompts)
        if "margin" in dataset.column_names:
            self.margins = column(dataset, "margin", (int, float))
        self.lengths = checked_lengths(model, tokenizer, self.prompts, self.chosen, self.rejected)
        train_without_dropout(model)
        same_weights(model)
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.98),
        )
        self.step_number = 0

    def step(self) -> dict:
        """Take one gradient step and return its record."""
        start = time.perf_counter()
        c = self.config
        rows = rows_of_step(len(self.prompts), c.batch_size, self.step_number, c.seed)
        tally: list[tuple[float, int]] = []  # loss, and pairs ranked right, of each part
        rate = (
            c.learning_rate
            * min(1, (self.step_number + 1) / max(1, c.warmup_steps))
            * (1 - self.step_number / c.max_steps)
        )
        set_learning_rate(self.optimizer, rate)
        descend(self.model, self.optimizer, self.parts(rows, tally), c.max_grad_norm)
        tally = [entry for entries in gather(tally) for entry in entries]
        self.step_number += 1
        return {
            "step": self.step_number,
            "loss": sum(loss for loss, _ in tally),
            "accuracy": sum(right for _, right in tally) / len(rows),
            "learning_rate": rate,
            "seconds": time.perf_counter() - start,
        }

    def parts(self, rows: list[int], tally: list[tuple[float, int]]) -> Iterator[Tensor]:
        """The loss of a batch in `gradient_accumulation_steps` parts that add up to it."""
        if self.config.gradient_accumulation_steps > 1:  # pairs of like length have less padding
            rows = sorted(rows, key=self.lengths.__getitem__)
        own = own_share(rows)
        size = max(1, -(-len(own) // self.config.gradient_accumulation_steps))
        for i in range(0, len(own), size):
            part = own[i : i + size]
            prompts = [self.prompts[j] for j in part]
            completions = [self.chosen[j] for j in part] + [self.rejected[j] for j in part]
            batch = encode(self.tokenizer, prompts + prompts, completions, self.model.device)
            chosen, rejected = reward_scores(self.model, batch).chunk(2)
            margins = torch.tensor([self.margins[j] for j in part], device=chosen.device)
            loss = bradley_terry_loss(
                chosen, rejected, margins, centering=self.config.center_rewards_coefficient
            )
            loss = loss * (len(part) / len(rows))
            tally.append((loss.item(), int((chosen > rejected).sum())))
            yield loss

    def __iter__(self) -> Iterator[dict]:
        while self.step_number < self.config.max_steps:
            yield self.step()

    def save(self, folder: str | os.PathLike) -> None:
        """Write a checkpoint: the model as a `save_pretrained` folder, and the loop state."""
        first_only(
            lambda: save_checkpoint(
                folder,
                {"model": self.model, "tokenizer": self.tokenizer},
                {"step_number": self.step_number, "optimizer": self.optimizer.state_dict()},
            )
        )

    def resume(self, folder: str | os.PathLike) -> None:
        """Continue from a checkpoint as if the run had not stopped: the same numbers follow."""
        state = load_checkpoint(folder, {"model": self.model})
        self.step_number = state["step_number"]
        self.optimizer.load_state_dict(state["optimizer"])


def checked_lengths(
    model, tokenizer, prompts: list[str], chosen: list[str], rejected: list[str]
) -> list[int]:
    """Tokens that each pair needs; refuses, before the first step, what would stop a later one.

    Chapter: reward-model.
    """
    if not prompts:
        raise ValueError("the dataset has 0 pairs; expected at least 1")
    lengths = pair_lengths(tokenizer, prompts, chosen, rejected)
    context = getattr(model.config, "max_position_embeddings", None)
    for row, length in enumerate(lengths):
        if context is not None and length > context:
            raise ValueError(
                f"pair {row} takes {length} tokens; expected at most {context}, the "
                f"context of this model (load_preferences(..., max_length={context}) "
                "leaves such pairs out)"
            )
    return lengths


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
    model.score.weight /= std
    return mean, std
