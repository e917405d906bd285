"""Rewards: one kind of callable for all of them.

A reward function takes `prompts`, `completions` and any further columns as keywords, and returns
a number for each completion, or None where it does not apply. It may be `async`. What it gets are
lists of its own, which it may change.

That is TRL's signature: those here work there, and those from there work here, but for this. Loops,
`best_of_n` and `evaluate` give `completion_ids` too, the tokens with the end token and without
padding, to a function that names it or takes `**columns`; `score_all` and `word_scores` have texts
alone. TRL alone gives `trainer_state`, `log_extra`, `log_metric` and, where it has some,
`environments`. Prompts and completions are text here; of a conversation TRL gives lists of
messages. A column `completion` of the dataset reaches a function here, and there it does not. NaN
counts as None there, and is an error here. A list of functions is their sum; a model or the name of
one has to be made a `LearnedReward`::

    learned       LearnedReward             a reward model
    several       ensemble, weighted_sum    mean, minimum, disagreement; a combination

Verifiers, rules and judges stand in `worlds.reward_sources`.

Chapters: reward-model, reward-sources, rlvr.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..families.support import check_one_output
from ..machinery.calling import as_list, call, outcomes
from .reward_model import reward_scores
from .tokens import encode

Rewards = Sequence[float | None]
RewardFunction = Callable[..., Any]  # gives Rewards, at once or when awaited

LARGEST = torch.finfo(torch.float32).max

# ---------------------------------------------------------------------------------- learned


class LearnedReward:
    """A reward model as a reward function.

    Chapter: reward-model.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        From `new_reward_model` or `load_reward_model`.
    tokenizer : PreTrainedTokenizerBase
    batch_size : int
        Completions scored at once.
    """

    def __init__(self, model, tokenizer, batch_size: int = 64):
        check_one_output("model", model)
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.__name__ = "learned_reward"  # TRL logs rewards under this name

    @torch.no_grad()
    def __call__(self, /, prompts: list[str], completions: list[str], **columns) -> list[float]:
        scores = []
        for i in range(0, len(prompts), self.batch_size):
            rows = slice(i, i + self.batch_size)
            batch = encode(self.tokenizer, prompts[rows], completions[rows], self.model.device)
            scores += reward_scores(self.model, batch).tolist()
        return scores


# ---------------------------------------------------------------------------------- several


class CombinedReward:
    """Several reward functions as one; made by `ensemble`, `weighted_sum` and `rule_reward`.

    Chapter: reward-sources.

    Attributes
    ----------
    table : Tensor, shape (R, B), or None
        What each of the R parts gave each completion of the last call; NaN where a part does not
        apply. `combine` makes (B,) of it, and leaves out the NaN. A completion that no part
        applies to gets None.
    parts : dict of str to float
        The mean of each part over what it applied to in the last call, by its name, for logging.
    disagreement : float
        Standard deviation across the parts (unbiased), averaged over the completions of the last
        call that two or more apply to.
    """

    def __init__(self, rewards: Sequence[RewardFunction], combine: Callable, name: str):
        self.rewards, self.combine, self.__name__ = list(map(as_reward, rewards)), combine, name
        if not self.rewards:
            raise ValueError("rewards is empty; expected at least one reward function")
        names = [name_of(reward) for reward in self.rewards]
        self.names = [f"{x}_{i + 1}" if names.count(x) > 1 else x for i, x in enumerate(names)]
        self.table: Tensor | None = None

    def __call__(self, /, prompts: list[str], completions: list[str], **columns) -> Rewards:
        self.table = reward_table(self.rewards, prompts, completions, columns).double()
        left_out = self.table.isnan().all(dim=0).tolist()
        values = self.combine(self.table).tolist()
        return [None if out else value for value, out in zip(values, left_out, strict=True)]

    @property
    def parts(self) -> dict[str, float]:
        return {} if self.table is None else dict(zip(self.names, self.table.nanmean(1).tolist()))

    @property
    def disagreement(self) -> float:
        return math.nan if self.table is None else _spread(self.table).nanmean().item()


def _spread(table: Tensor) -> Tensor:
    """The unbiased standard deviation of each column without its NaN; NaN for less than two."""
    squares = (table - table.nanmean(dim=0)).square()
    n = (~table.isnan()).sum(dim=0)
    return (squares.nansum(dim=0) / (n - 1).where(n > 1, math.nan)).sqrt()


def as_reward(reward: Any) -> RewardFunction:
    """A reward as loops call it: a function as it is, and several in a list as their sum.

    With a list, `loop.reward.parts` has the mean of each after a step (of several processes, over
    the completions of this one). `weighted_sum` gives them weights and has the same. Chapter:
    reward-sources.

    Raises
    ------
    ValueError
        If it is something else, such as the model or the name of one that TRL would take.

    Examples
    --------
    >>> words = lambda completions, **columns: [float(len(c.split())) for c in completions]
    >>> reward = as_reward([words, lambda completions, **columns: [-1.]])
    >>> reward(prompts=["say hello"], completions=["hello ben"])
    [1.0]
    """
    if isinstance(reward, (list, tuple)):
        return weighted_sum(reward, [1.0] * len(reward))
    model = isinstance(reward, torch.nn.Module) and hasattr(reward, "config")
    if model or not callable(reward):
        raise ValueError(
            f"reward is a {type(reward).__name__}; expected a function, or several in a list "
            "(of a reward model, LearnedReward(model, tokenizer) makes one)"
        )
    return reward


def ensemble(
    rewards: Sequence[RewardFunction], combine: str = "mean", k: float = 1.0
) -> CombinedReward:
    """Several rewards for the same thing, such as reward models from different seeds, as one.

    Source: Coste et al. 2023, arXiv:2310.02743, section 3, who call the three mean, worst-case
    and uncertainty-weighted optimisation; their third subtracts the variance. The standard
    deviation, used here, is in units of reward, so that `k` keeps its meaning when rewards are
    rescaled. Chapter: reward-model.

    Parameters
    ----------
    rewards : list of callables
        They must be on one scale (`standardise` sets it): the minimum of two scales is the
        reward of one of them.
    combine : {"mean", "min", "mean_minus_std"}
        "min" believes the most pessimistic member. "mean_minus_std" takes `k` times the
        disagreement, the unbiased standard deviation across members, off their mean (0 times
        where only one applies).
    k : float

    Examples
    --------
    >>> short = lambda prompts, completions, **columns: [-float(len(c)) for c in completions]
    >>> vowels = lambda prompts, completions, **columns: [float(c.count("a")) for c in completions]
    >>> ensemble([short, vowels], "min")(["x", "x"], ["a", "banana"])
    [-1.0, -6.0]
    """
    combinations = {
        "mean": lambda table: table.nanmean(dim=0),
        "min": lambda table: table.nan_to_num(math.inf).amin(dim=0),
        "mean_minus_std": lambda table: table.nanmean(dim=0) - k * _spread(table).nan_to_num(),
    }
    if combine not in combinations:
        known = ", ".join(map(repr, combinations))
        raise ValueError(f"combine is {combine!r}; expected one of {known}")
    if combine == "mean_minus_std" and len(rewards) == 1:
        raise ValueError("rewards has 1 entry; expected at least 2, as one member cannot disagree")
    return CombinedReward(rewards, combinations[combine], f"ensemble_{combine}")


def weighted_sum(
    rewards: Sequence[RewardFunction], weights: Sequence[float], name: str = "weighted_sum"
) -> CombinedReward:
    """Rewards for different things, added up with weights; `parts` has the unweighted means.

    Those that do not apply to a completion are left out of its sum, as in TRL, whose
    `reward_weights` the weights are. Async ones are awaited together. Chapter: reward-sources.

    Examples
    --------
    >>> def right(completions, **columns): return [float("4" in c) for c in completions]
    >>> def words(completions, **columns): return [float(len(c.split())) for c in completions]
    >>> reward = weighted_sum([right, words], [1., -.1])
    >>> reward(["2+2=", "2+2="], ["it is 4", "5"])
    [0.7, -0.1]
    >>> reward.parts
    {'right': 0.5, 'words': 2.0}
    """
    if len(weights) != len(rewards) or not all(map(math.isfinite, weights)):
        raise ValueError(
            f"weights is {weights}; expected {len(rewards)} finite numbers, as rewards"
        )
    column = torch.tensor(weights, dtype=torch.float64)[:, None]
    return CombinedReward(rewards, lambda table: (column * table).nansum(dim=0), name)


# ---------------------------------------------------------------------------------- calling


def call_reward(
    reward: RewardFunction, /, prompts: list[str], completions: list[str], **columns
) -> Tensor:
    """Call a reward function and check what comes back: shape (B,), in fp32; NaN for None.

    A list of functions is their sum. `completion_ids`, if given among the columns, go to a function
    that takes them; there is no tokenizer here to make them.

    Chapter: reward-sources.

    Raises
    ------
    RuntimeError
        If the function raises; the message names it, and the cause is attached.
    ValueError
        If it is no function, or returns another number of rewards, or one that is neither a
        finite number nor None.

    Examples
    --------
    >>> call_reward(lambda prompts, completions: [float(len(c)) for c in completions],
    ...             ["a", "a"], ["four", "seven.."])
    tensor([4., 7.])
    """
    return reward_table([as_reward(reward)], prompts, completions, columns)[0]


def reward_table(
    rewards: Sequence[RewardFunction], prompts: list[str], completions: list[str], columns: dict
) -> Tensor:
    """What each of R functions gives each of B completions, shape (R, B), as `call_reward` has it.

    Chapter: reward-sources.
    """
    given = {**columns, "prompts": prompts, "completions": completions}
    found = outcomes(partial(call, reward, ["completion_ids"], **given) for reward in rewards)
    rows = zip(rewards, found, strict=True)
    return torch.tensor([_checked(reward, values, completions) for reward, values in rows])


def _checked(reward: RewardFunction, found, completions: list[str]) -> list[float]:
    who, n = f"reward function {name_of(reward)!r}", len(completions)
    try:
        if isinstance(found, Exception):
            raise found
        values = as_list(found)  # a generator begins here
    except Exception as error:
        raise RuntimeError(f"{who} raised {type(error).__name__}: {error}") from error
    if values is None or len(values) != n:
        came = f"{type(found).__name__}, no list of" if values is None else len(values)
        raise ValueError(f"{who} returned {came} rewards; expected {n}, one for each completion")
    for i, value in enumerate(values):
        if value is not None and not (isinstance(value, (int, float)) and abs(value) <= LARGEST):
            raise ValueError(
                f"{who} returned {value!r} for completion {i} ({completions[i]!r}); expected a "
                "finite number, or None where it does not apply"
            )
    return [math.nan if value is None else float(value) for value in values]


def name_of(reward: Callable) -> str:
    """What a reward is called in logs and errors.

    Chapter: reward-sources.
    """
    while isinstance(reward, partial):
        reward = reward.func
    return getattr(reward, "__name__", type(reward).__name__)
