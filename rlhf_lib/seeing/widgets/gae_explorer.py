"""The GAE explorer: the rewards, values and advantages of one completion, token by token.

The browser side is gae_explorer.js. Both sides compute the same numbers; `GAEExplorer.result` has
Python's, by `rlhf_lib.mathematics.advantages`.

Chapter: credit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import traitlets

from .base import Demo, browser_code, clamp, styles

RANGES = {"score": (-5.0, 5.0), "beta": (0.0, 1.0), "gamma": (0.0, 1.0), "lam": (0.0, 1.0)}
CELL_RANGES = {"log_ratios": (-4.0, 4.0), "values": (-6.0, 6.0)}
MOST_TOKENS = 10  # more would not fit on a phone

#: A completion of seven tokens and four states to put it in: log-ratios, values, score.
TOKENS = ["hello", "ben", ",", "your", "lamp", "!", "<eos>"]
PRESETS = {
    "good critic": ([0.3, 0.1, 0.0, 0.4, 0.2, 0.9, 0.1], [1.6, 1.7, 1.7, 1.8, 1.9, 2.0, 1.9], 2.0),
    "critic at zero": ([0.3, 0.1, 0.0, 0.4, 0.2, 0.9, 0.1], [0.0] * 7, 2.0),
    "late surprise": (
        [0.3, 0.1, 0.0, 0.4, 0.2, 0.9, 0.1],
        [1.6, 1.7, 1.7, 1.8, 1.9, 2.0, 1.9],
        -2.0,
    ),
    "a costly token": ([0.1, 0.1, 3.5, 0.1, 0.1, 0.1, 0.1], [1.5] * 7, 2.0),
}


class GAENumbers(NamedTuple):
    """What the GAE explorer shows; arrays of shape (T,), in units of reward.

    Attributes
    ----------
    rewards : array
        −β log-ratio of each token, and the score on the last. Lumped: everything on the last.
    deltas : array
        δ_t = r_t + γ V_{t+1} − V_t.
    advantages : array
        Σ_k (γλ)^k δ_{t+k}.
    returns : array
        advantages + values: what the critic is trained towards.
    other : array
        The advantages of the other way to place the reward: lumped if the display is not.
    score_weight : array
        How far A_t moves when the score moves by 1.
    critic_weight : array
        How far A_t moves when all values after t are wrong by 1.
    """

    rewards: np.ndarray
    deltas: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray
    other: np.ndarray
    score_weight: np.ndarray
    critic_weight: np.ndarray


class GAEExplorer(Demo):
    """Bars of δ_t and A_t above the values and returns of a completion; all can be edited.

    Parameters
    ----------
    tokens : sequence of T strings, optional
        2 to 10 of them. The completion of the presets if left out.
    log_ratios : array of shape (T,), optional
        log π − log π_ref of each token, in nats; kept within −4 and 4.
    values : array of shape (T,), optional
        V of the state before each token; kept within −6 and 6.
    score : float, optional
        Of the whole completion, on its last token; kept within −5 and 5.
    beta : float
        Reward per nat; kept within 0 and 1.
    gamma, lam : float
        Discount and λ; kept within 0 and 1.
    lumped : bool
        Put the charges of all tokens on the last one, with the score.
    presets : dict of str to (log_ratios, values, score), optional
        States that a button each puts in place.

    Raises
    ------
    ValueError
        If lengths differ, there are not 2 to 10 tokens, or a number is not finite.

    Chapter
    -------
    credit

    Examples
    --------
    >>> GAEExplorer(["yes", "<eos>"], [0.5, 0.0], [0.25, 0.75], 1.0, lam=1.0)
    GAEExplorer(2 tokens, score=1, beta=0.1, gamma=1, lam=1: advantages 0.700, 0.250)
    """

    _esm = browser_code("gae_explorer")
    _css = styles("gae_explorer")

    tokens = traitlets.List(traitlets.Unicode()).tag(sync=True)
    log_ratios = traitlets.List(traitlets.Float()).tag(sync=True)
    values = traitlets.List(traitlets.Float()).tag(sync=True)
    score = traitlets.Float(2.0).tag(sync=True)
    beta = traitlets.Float(0.1).tag(sync=True)
    gamma = traitlets.Float(1.0).tag(sync=True)
    lam = traitlets.Float(0.95).tag(sync=True)
    lumped = traitlets.Bool(False).tag(sync=True)
    token = traitlets.Int(0).tag(sync=True)  # the one that the text tells of
    presets = traitlets.List().tag(sync=True)  # [name, log_ratios, values, score] each

    def __init__(
        self,
        tokens: Sequence[str] | None = None,
        log_ratios=None,
        values=None,
        score: float | None = None,
        *,
        beta: float = 0.1,
        gamma: float = 1.0,
        lam: float = 0.95,
        lumped: bool = False,
        presets: dict | None = None,
    ) -> None:
        if tokens is None:
            tokens, presets = TOKENS, PRESETS if presets is None else presets
            first = PRESETS["good critic"]
            log_ratios = first[0] if log_ratios is None else log_ratios
            values = first[1] if values is None else values
            score = first[2] if score is None else score
        count = len(tokens)
        if not 2 <= count <= MOST_TOKENS:
            raise ValueError(f"tokens has {count} entries; expected 2 to {MOST_TOKENS}")
        zeros = [0.0] * count
        super().__init__(
            tokens=[str(token) for token in tokens],
            log_ratios=_floats(zeros if log_ratios is None else log_ratios),
            values=_floats(zeros if values is None else values),
            score=2.0 if score is None else float(score),
            beta=float(beta),
            gamma=float(gamma),
            lam=float(lam),
            lumped=bool(lumped),
            presets=[
                [name, _floats(ratios), _floats(state), float(worth)]
                for name, (ratios, state, worth) in (presets or {}).items()
            ],
        )
        lists = [("log_ratios", self.log_ratios), ("values", self.values)]
        for name, ratios, state, _ in self.presets:
            lists += [(f"log_ratios of preset {name!r}", ratios), (f"values of {name!r}", state)]
        for name, numbers in lists:
            if len(numbers) != count:
                raise ValueError(
                    f"{name} has {len(numbers)} entries; expected {count}, one for each token"
                )

    @traitlets.validate(*RANGES)
    def _check_setting(self, proposal) -> float:
        name = proposal["trait"].name
        return clamp(name, proposal["value"], RANGES[name])

    @traitlets.validate(*CELL_RANGES)
    def _check_cells(self, proposal) -> list[float]:
        name = proposal["trait"].name
        return [
            clamp(f"{name}[{i}]", value, CELL_RANGES[name])
            for i, value in enumerate(proposal["value"])
        ]

    @property
    def result(self) -> GAENumbers:
        """The numbers on display, computed by the library from the present state.

        Raises
        ------
        ValueError
            If the lists were set to different lengths.
        """
        import torch

        from ...mathematics.advantages import gae, token_rewards

        T = len(self.tokens)
        for name in CELL_RANGES:
            if len(getattr(self, name)) != T:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries; expected {T}, "
                    "one for each token"
                )
        ratios, values = (
            torch.tensor([x], dtype=torch.float64) for x in (self.log_ratios, self.values)
        )
        mask, score = torch.ones_like(values), torch.tensor([self.score], dtype=torch.float64)
        charge = self.beta * ratios.sum(dim=1)
        spread = token_rewards(score, ratios, mask, self.beta)
        lumped = token_rewards(score - charge, torch.zeros_like(ratios), mask, self.beta)
        rewards, others = (lumped, spread) if self.lumped else (spread, lumped)
        advantages, returns = gae(rewards, values, mask, self.gamma, self.lam)
        after = torch.arange(T - 1, -1, -1, dtype=torch.float64)  # tokens after t
        weight = (self.gamma * self.lam) ** after
        later = [sum((self.gamma * self.lam) ** k for k in range(int(n))) for n in after]
        shown = (
            rewards,
            gae(rewards, values, mask, self.gamma, 0.0)[0],
            advantages,
            returns,
            gae(others, values, mask, self.gamma, self.lam)[0],
        )
        return GAENumbers(
            *(x[0].numpy() for x in shown),
            score_weight=weight.numpy(),
            critic_weight=self.gamma * (1 - self.lam) * np.array(later, dtype=float),
        )

    def summary(self) -> str:
        """The state in a few words."""
        try:
            numbers = self.result
        except ValueError as error:
            return f"not valid: {error}"
        shown = ", ".join(f"{advantage:.3f}" for advantage in numbers.advantages)
        lumped = ", lumped" if self.lumped else ""
        return (
            f"{len(self.tokens)} tokens, score={self.score:g}, beta={self.beta:g}, "
            f"gamma={self.gamma:g}, lam={self.lam:g}{lumped}: advantages {shown}"
        )


def _floats(values) -> list[float]:
    return [float(value) for value in values]
