"""The group explorer: the rewards and lengths of a group, and how hard each token is pulled.

The browser side is group_explorer.js. Both sides compute the same numbers; `GroupExplorer.result`
has Python's, by the functions that `rlhf_lib.algorithms.grpo.GRPO` trains with.

Chapter: grpo-variants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import traitlets

from .base import Demo, browser_code, styles

SIZES = (2, 12)  # completions of a group; more would not fit on a phone
REWARDS = (-2.0, 2.0)
SETTINGS = ("baseline", "scale_rewards", "advantage", "aggregate_over", "loss", "dynamic_sampling")

#: Groups that a button each puts in place: their rewards and lengths.
PRESETS = {
    "one right of eight": ([1, 0, 0, 0, 0, 0, 0, 0], [24, 6, 5, 26, 5, 6, 6, 5]),
    "half right": ([1, 1, 1, 1, 0, 0, 0, 0], [24, 26, 22, 25, 6, 5, 6, 24]),
    "nearly all right": ([1, 1, 1, 1, 1, 1, 1, 0], [24, 26, 22, 25, 24, 23, 26, 6]),
    "one long wrong": ([1, 1, 1, 1, 0, 0, 0, 0], [10, 10, 10, 10, 10, 10, 10, 32]),
    "all equal": ([0, 0, 0, 0, 0, 0, 0, 0], [6, 5, 6, 24, 6, 5, 6, 6]),
}


class GroupNumbers(NamedTuple):
    """What the group explorer shows; arrays of shape (G,).

    Attributes
    ----------
    advantages : array
    token_weights : array
        −∂loss/∂log π of each token of a completion, at ratio 1 and on this group alone.
    pulls : array
        token_weights times lengths: the pull of all tokens of a completion.
    spread : float
        Unbiased standard deviation of the rewards.
    up, down : float
        Sums of the positive and of the negative pulls.
    teaches : bool
        Whether the rewards differ.
    """

    advantages: np.ndarray
    token_weights: np.ndarray
    pulls: np.ndarray
    spread: float
    up: float
    down: float
    teaches: bool


class GroupExplorer(Demo):
    """Completions as blocks, as wide as they are long and as high as each of their tokens weighs.

    Parameters
    ----------
    rewards : sequence of G floats, optional
        2 to 12 of them, each from −2 to 2. One right of eight if left out.
    lengths : sequence of G ints, optional
        Tokens of each completion, from 1 to `budget`.
    method : str
        A key of `rlhf_lib.algorithms.grpo.VARIANTS`.
    budget : int
        The most tokens that a completion could have; Dr. GRPO divides by it.

    Raises
    ------
    ValueError
        If the group is too small or too large, the numbers of rewards and lengths differ, one of
        them is out of range, or the method is unknown.

    Chapter
    -------
    grpo-variants

    Examples
    --------
    >>> GroupExplorer([1, 0], [2, 8], method="dr_grpo", budget=10)
    GroupExplorer(dr_grpo, 2 completions: weights 0.025, -0.025 a token)
    """

    _esm = browser_code("group_explorer")
    _css = styles("group_explorer")

    rewards = traitlets.List(traitlets.Float()).tag(sync=True)
    lengths = traitlets.List(traitlets.Int()).tag(sync=True)
    method = traitlets.Unicode("grpo").tag(sync=True)
    budget = traitlets.Int(32).tag(sync=True)
    completion = traitlets.Int(0).tag(sync=True)  # the one that the sliders move
    methods = traitlets.Dict().tag(sync=True)  # name -> its `SETTINGS`
    presets = traitlets.List().tag(sync=True)  # [name, rewards, lengths] each

    def __init__(
        self,
        rewards: Sequence[float] | None = None,
        lengths: Sequence[int] | None = None,
        method: str = "grpo",
        budget: int = 32,
    ) -> None:
        from ...algorithms import VARIANTS, GRPOConfig

        first = PRESETS["one right of eight"]
        rewards = first[0] if rewards is None else rewards
        if lengths is None:  # those of the first preset, again and again
            lengths = [min(first[1][i % 8], budget) for i in range(len(rewards))]
        for i, length in enumerate(lengths):
            if length != int(length):
                raise ValueError(f"lengths[{i}] is {length}; expected a whole number of tokens")
        configs = {name: GRPOConfig(**changes) for name, changes in VARIANTS.items()}
        super().__init__(
            methods={
                name: {setting: getattr(config, setting) for setting in SETTINGS}
                for name, config in configs.items()
            },
            presets=[
                [name, list(map(float, some)), [min(length, budget) for length in long]]
                for name, (some, long) in PRESETS.items()
            ],
            budget=budget,
            method=method,
            rewards=[float(reward) for reward in rewards],
            lengths=[int(length) for length in lengths],
        )
        self._check_group()

    @traitlets.validate("method")
    def _check_method(self, proposal) -> str:
        from ...algorithms import VARIANTS

        if proposal["value"] not in VARIANTS:
            raise ValueError(
                f"method is {proposal['value']!r}; expected one of {', '.join(VARIANTS)}"
            )
        return proposal["value"]

    @traitlets.validate("rewards")
    def _check_rewards(self, proposal) -> list[float]:
        rewards, (fewest, most), (low, high) = proposal["value"], SIZES, REWARDS
        if not fewest <= len(rewards) <= most:
            raise ValueError(
                f"rewards has {len(rewards)} entries; expected {fewest} to {most}, as "
                "a completion is compared with others of its group"
            )
        for i, reward in enumerate(rewards):
            if not (math.isfinite(reward) and low <= reward <= high):
                raise ValueError(
                    f"rewards[{i}] is {reward:g}; expected a number from {low:g} to {high:g}"
                )
        return rewards

    @traitlets.validate("lengths")
    def _check_lengths(self, proposal) -> list[int]:
        for i, length in enumerate(proposal["value"]):
            if length < 1:
                raise ValueError(f"lengths[{i}] is {length}; expected at least 1 token")
        return proposal["value"]

    def _check_group(self) -> None:
        """What cannot be said of one list alone, as the browser changes one after the other."""
        if len(self.lengths) != len(self.rewards):
            raise ValueError(
                f"lengths has {len(self.lengths)} entries; expected "
                f"{len(self.rewards)}, one for each reward"
            )
        if max(self.lengths) > self.budget:
            raise ValueError(
                f"budget is {self.budget}; expected at least the longest completion, "
                f"{max(self.lengths)} tokens"
            )

    @property
    def result(self) -> GroupNumbers:
        """The numbers on display, computed by the library from the present state.

        Raises
        ------
        ValueError
            If the lists were set to different lengths, or a length beyond the budget.
        """
        import torch

        from ...algorithms import VARIANTS, GRPOConfig
        from ...algorithms.grpo import advantages_of
        from ...mathematics.advantages import all_equal
        from ...mathematics.losses import aggregate, surrogate_loss

        self._check_group()
        G, lengths = len(self.rewards), torch.tensor(self.lengths)
        mask = (torch.arange(max(self.lengths)) < lengths[:, None]).double()
        rewards, start = torch.tensor(self.rewards, dtype=torch.float64), torch.zeros_like(mask)
        # a batch that is this group, before the policy has moved: every ratio is 1
        c = GRPOConfig(
            **{**VARIANTS[self.method], "num_generations": G}, batch_size=G, mini_batch_size=G
        )
        A = advantages_of(c, rewards, start, mask, beta=0.0)
        logprobs = start.clone().requires_grad_()
        loss = surrogate_loss(c.loss, logprobs, start, A, mask, c.epsilon, c.epsilon_high)
        loss = aggregate(loss, mask, c.aggregate_over, self.budget)
        weights = -torch.autograd.grad(loss, logprobs)[0][:, 0]  # those of one completion agree
        pulls = weights * lengths
        return GroupNumbers(
            A[:, 0].numpy(),
            weights.numpy(),
            pulls.numpy(),
            rewards.std().item(),
            pulls.clamp(min=0).sum().item(),
            pulls.clamp(max=0).sum().item(),
            not all_equal(rewards[None]).item(),
        )

    def summary(self) -> str:
        """The state in a few words."""
        try:
            numbers = self.result
        except ValueError as error:
            return f"not valid: {error}"
        shown = ", ".join(f"{weight + 0:.3f}" for weight in numbers.token_weights)
        return f"{self.method}, {len(self.rewards)} completions: weights {shown} a token"
