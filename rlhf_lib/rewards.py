"""Rewards: one kind of callable for all of them.

A reward function takes `prompts`, `completions` and any further columns as keywords, and returns
a float for each completion. That is TRL's signature, so a reward moves between the two unchanged.
Chapters: ppo-live, grpo.
"""
from __future__ import annotations

import math
from typing import Callable

import torch
from torch import Tensor

from .policy import encode
from .reward_model import reward_scores

RewardFunction = Callable[..., list[float]]


class LearnedReward:
    """A reward model as a reward function.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        From `new_reward_model` or `load_reward_model`.
    tokenizer : PreTrainedTokenizerBase
    batch_size : int
        Completions scored at once.

    Chapter: ppo-live.
    """

    def __init__(self, model, tokenizer, batch_size: int = 64):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.__name__ = "learned_reward"  # TRL logs rewards under this name

    @torch.no_grad()
    def __call__(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        scores = []
        for i in range(0, len(prompts), self.batch_size):
            rows = slice(i, i + self.batch_size)
            batch = encode(self.tokenizer, prompts[rows], completions[rows], self.model.device)
            scores += reward_scores(self.model, batch).tolist()
        return scores


def call_reward(reward: RewardFunction, prompts: list[str], completions: list[str],
                **columns) -> Tensor:
    """Call a reward function and check what comes back: a tensor of shape (B,), in fp32.

    Raises
    ------
    RuntimeError
        If the function raises; the message names it, and the cause is attached.
    ValueError
        If it returns another number of rewards, or one that is not finite.

    Examples
    --------
    >>> call_reward(lambda prompts, completions: [float(len(c)) for c in completions],
    ...             ["a", "a"], ["four", "seven.."])
    tensor([4., 7.])
    """
    name = getattr(reward, "__name__", type(reward).__name__)
    try:
        values = reward(prompts=prompts, completions=completions, **columns)
    except Exception as error:
        raise RuntimeError(f"reward function {name!r} raised {type(error).__name__}: {error}"
                           ) from error
    try:
        rewards = torch.as_tensor(values, dtype=torch.float32).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"reward function {name!r} returned {type(values).__name__} that is no "
                         f"list of floats ({error}); expected one float per completion") from error
    if rewards.shape != (len(completions),):
        raise ValueError(f"reward function {name!r} returned {_size(rewards)}; expected "
                         f"{len(completions)}, one for each completion")
    for i, value in enumerate(rewards.tolist()):
        if not math.isfinite(value):
            raise ValueError(f"reward function {name!r} returned {value} for completion {i} "
                             f"({completions[i]!r}); expected a finite number")
    return rewards


def _size(rewards: Tensor) -> str:
    return f"{len(rewards)} rewards" if rewards.dim() == 1 else \
        f"an array of shape {tuple(rewards.shape)}"
