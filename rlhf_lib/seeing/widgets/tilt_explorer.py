"""The tilt explorer: turn beta, and watch the optimum leave the reference for the best completion.

The browser side is tilt_explorer.js. Both sides compute the same numbers; `TiltExplorer.result` has
Python's.

Chapter: kl-tilt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import traitlets

from ...mathematics import tilt
from ...mathematics.checks import check_same_length, distribution, finite_vector, positive
from .base import Demo, browser_code, clamp, styles

_LOGITS = (1.2, 0.5, 1.0, 0.3, 1.5, 1.1, 0.8, 0.9)

#: The eight completions of the worked example: a style, its reference probability, its reward, and
#: what a flawed reward model adds to that reward for sounding good.
EIGHT_COMPLETIONS = {
    "labels": [
        "polite-detailed",
        "rude-refusal",
        "polite-concise",
        "evasive",
        "off-topic",
        "polite-formal",
        "lazy",
        "dishonest",
    ],
    "reference": [math.exp(logit) / sum(map(math.exp, _LOGITS)) for logit in _LOGITS],
    "rewards": [8.0, -6.0, 7.0, -3.0, 1.0, 6.0, -2.0, -5.0],
    "bias": [1.0, -1.0, -1.0, 1.0, 0.0, 2.0, -1.0, 15.0],
}

SHIFT_RANGE = (-10.0, 10.0)  # reward_shift stays in here, in Python and in the browser
GAP_RANGE = (0.0, 1.5)  # proxy_gap likewise


class TiltNumbers(NamedTuple):
    """What the tilt explorer shows, computed by `rlhf_lib.mathematics.tilt`.

    Attributes
    ----------
    policy : array of shape (N,)
        pi*, the optimum for the reward that is optimised.
    expected_reward : float
        E_pi*[r] of the reward that is optimised: rewards + shift + gap * bias.
    expected_true_reward : float
        E_pi*[rewards + shift]: what is gained in truth.
    overstatement : float
        The proxy less the truth, E_pi*[gap * bias]: how much of the reward is not there.
    kl : float
        KL(pi* || pi_ref), nats.
    objective : float
        J(pi*) = beta log Z.
    """

    policy: np.ndarray
    expected_reward: float
    expected_true_reward: float
    overstatement: float
    kl: float
    objective: float


def _numbers(name: str, values) -> list[float]:
    return [float(value) for value in finite_vector(name, values)]


class TiltExplorer(Demo):
    """Bars of pi_ref and pi*, their numbers, and the frontier of KL and reward.

    Parameters
    ----------
    reference : array of shape (N,), optional
        pi_ref, probabilities that sum to 1. The eight completions of the worked example where left
        out.
    rewards : array of shape (N,), optional
        The true reward of each completion.
    labels : list of N strings, optional
        Names of the completions.
    bias : array of shape (N,), optional
        What a flawed reward model adds: the proxy is rewards + proxy_gap * bias. Zeros where left
        out for completions of your own.
    beta : float
        Price of one nat of KL; kept within `beta_range`.
    beta_range : pair of floats
        Ends of the slider.
    reward_shift : float
        A constant added to every reward; kept within -10 and 10.
    proxy_gap : float
        How far the optimised reward is from the true one; kept within 0 and 1.5.
    compact : bool
        Fold the shift and the gap away under a heading.

    Raises
    ------
    ValueError
        If beta is not positive, the reference is no distribution, a reward is not finite, or
        lengths differ.

    Chapter
    -------
    kl-tilt

    Examples
    --------
    >>> TiltExplorer(beta=1.0)
    TiltExplorer(8 replies, beta=1, E[r]=7.610, KL=1.111)
    >>> round(TiltExplorer([0.5, 0.5], [np.log(3.0), 0.0]).result.policy[0], 6)
    np.float64(0.75)
    """

    _esm = browser_code("tilt_explorer")
    _css = styles()

    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    reference = traitlets.List(traitlets.Float()).tag(sync=True)
    rewards = traitlets.List(traitlets.Float()).tag(sync=True)
    bias = traitlets.List(traitlets.Float()).tag(sync=True)
    beta = traitlets.Float(1.0).tag(sync=True)
    beta_range = traitlets.List(traitlets.Float(), default_value=[0.05, 20.0]).tag(sync=True)
    reward_shift = traitlets.Float(0.0).tag(sync=True)
    shift_range = traitlets.List(traitlets.Float(), default_value=list(SHIFT_RANGE)).tag(sync=True)
    proxy_gap = traitlets.Float(0.0).tag(sync=True)
    gap_range = traitlets.List(traitlets.Float(), default_value=list(GAP_RANGE)).tag(sync=True)
    compact = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        reference=None,
        rewards=None,
        labels: Sequence[str] | None = None,
        *,
        bias=None,
        beta: float = 1.0,
        beta_range: Sequence[float] = (0.05, 20.0),
        reward_shift: float = 0.0,
        proxy_gap: float = 0.0,
        compact: bool = False,
    ) -> None:
        if (reference is None) != (rewards is None):
            missing = "reference" if reference is None else "rewards"
            raise ValueError(f"{missing} is missing; expected reference and rewards, or neither")
        if reference is None:
            reference, rewards = EIGHT_COMPLETIONS["reference"], EIGHT_COMPLETIONS["rewards"]
            labels = EIGHT_COMPLETIONS["labels"] if labels is None else labels
            bias = EIGHT_COMPLETIONS["bias"] if bias is None else bias
        reference, rewards = _numbers("reference", reference), _numbers("rewards", rewards)
        count = len(reference)
        labels = [f"reply {i + 1}" for i in range(count)] if labels is None else list(labels)
        bias = [0.0] * count if bias is None else _numbers("bias", bias)
        for name, values in (("rewards", rewards), ("labels", labels), ("bias", bias)):
            check_same_length("reference", reference, name, values)
        super().__init__(
            labels=[str(label) for label in labels],
            reference=reference,
            rewards=rewards,
            bias=bias,
            beta_range=[float(end) for end in beta_range],
            beta=positive("beta", beta),
            reward_shift=float(reward_shift),
            proxy_gap=float(proxy_gap),
            compact=bool(compact),
        )
        largest, low = max(map(abs, [*rewards, *bias])), self.beta_range[0]
        if not math.isfinite(10 * largest / low):  # as the browser's `problem` has it
            raise ValueError(
                f"a reward or bias of size {largest:g} over beta={low:g} overflows; "
                "expected a finite ratio"
            )

    @traitlets.validate("reference")
    def _check_reference(self, proposal) -> list[float]:
        return distribution("reference", proposal["value"]).tolist()

    @traitlets.validate("rewards", "bias")
    def _check_finite(self, proposal) -> list[float]:
        return _numbers(proposal["trait"].name, proposal["value"])

    @traitlets.validate("beta_range")
    def _check_beta_range(self, proposal) -> list[float]:
        ends = proposal["value"]
        if len(ends) != 2 or not 0 < ends[0] < ends[1] < math.inf:
            raise ValueError(
                f"beta_range is {ends}; expected two positive numbers, the smaller first"
            )
        return ends

    @traitlets.validate("beta")
    def _check_beta(self, proposal) -> float:
        return clamp("beta", positive("beta", proposal["value"]), self.beta_range)

    @traitlets.validate("reward_shift")
    def _check_shift(self, proposal) -> float:
        return clamp("reward_shift", proposal["value"], SHIFT_RANGE)

    @traitlets.validate("proxy_gap")
    def _check_gap(self, proposal) -> float:
        return clamp("proxy_gap", proposal["value"], GAP_RANGE)

    @property
    def result(self) -> TiltNumbers:
        """The numbers on display, computed by the library from the present state.

        Raises
        ------
        ValueError
            If the lists were set to different lengths.
        """
        for name in ("rewards", "bias", "labels"):
            check_same_length("reference", self.reference, name, getattr(self, name))
        true = np.array(self.rewards) + self.reward_shift
        optimised = true + self.proxy_gap * np.array(self.bias)
        policy = tilt.tilt(self.reference, optimised, self.beta)
        earned = tilt.expected_reward(policy, optimised)
        expected_true = tilt.expected_reward(policy, true)
        return TiltNumbers(
            policy=policy,
            expected_reward=earned,
            expected_true_reward=expected_true,
            overstatement=earned - expected_true,
            kl=tilt.kl_divergence(policy, self.reference),
            objective=self.beta * tilt.log_partition(self.reference, optimised, self.beta),
        )

    def summary(self) -> str:
        """The state in a few words."""
        try:
            numbers = self.result
        except ValueError as error:
            return f"not valid: {error}"
        return (
            f"{len(self.reference)} replies, beta={self.beta:g}, "
            f"E[r]={numbers.expected_reward:.3f}, KL={numbers.kl:.3f}"
        )
