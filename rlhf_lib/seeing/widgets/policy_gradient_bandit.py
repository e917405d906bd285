"""The policy-gradient bandit: three arms, a softmax policy, and one batch after the other.

The policy is a point in a triangle whose corners are the arms. At each step a batch of arms is
drawn from it, each draw pulls the policy some way, and the step follows the mean of the pulls. What
the mean is over all batches, and how far it scatters, is computed exactly, by adding up every
batch.

The browser side is policy_gradient_bandit.js. Both sides draw the same arms from the same seed and
compute the same numbers; `PolicyGradientBandit.result` has Python's. A setting that is changed
replays the run from its start: same draws, other setting.

Chapter: policy-gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import traitlets

from ...mathematics import tilt
from .base import Demo, browser_code, clamp, styles
from .estimator_explorer import SEEDS, uniforms

ARMS = 3
BASELINES = ("none", "mean", "leave_one_out", "value", "optimal")
BATCHES = [2**i for i in range(1, 6)]  # batch sizes: 2 to 32
LARGEST_BATCH = BATCHES[-1]  # draws a step; a smaller batch takes the first of them
MOST_STEPS = 200
SHIFTS = (-5.0, 10.0)
RATES = (0.01, 20.0)
LARGEST_REWARD = 100.0  # of a reward or a logit, either way: a softmax takes no more
HAIR = 1e-12  # a gradient shorter than this has no direction


class BanditNumbers(NamedTuple):
    """What the demo shows after `steps` steps.

    Attributes
    ----------
    path : array of shape (steps + 1, 3)
        The policy at the start and after each step.
    counts : array of shape (3,), int
        How often the next batch has drawn each arm.
    advantages : array of shape (3,)
        Reward less baseline, of a draw of each arm in that batch.
    estimate, exact : array of shape (3,)
        The gradient in the logits: of that batch, and of the expected reward.
    next_policy : array of shape (3,)
        Where the batch takes the policy.
    expected_reward : float
        Under the policy, without the shift.
    entropy : float
        Of the policy, nats.
    variance : float
        Of the estimate over all batches, summed over the three logits.
    noise : float
        Its root, over the length of the exact gradient; infinite where that is 0.
    kept : float
        The estimate's mean over all batches as a multiple of the exact gradient; 1 where that is 0.
    cosine : float
        Of the angle between estimate and exact gradient; 0 where one of them is 0.
    """

    path: np.ndarray
    counts: np.ndarray
    advantages: np.ndarray
    estimate: np.ndarray
    exact: np.ndarray
    next_policy: np.ndarray
    expected_reward: float
    entropy: float
    variance: float
    noise: float
    kept: float
    cosine: float


def advantages_of(
    policy: np.ndarray, rewards: np.ndarray, counts: np.ndarray, baseline: str
) -> np.ndarray:
    """Reward less baseline of a draw of each arm, in batches given by their counts.

    Parameters
    ----------
    policy, rewards : arrays of shape (3,)
    counts : array of shape (..., 3)
        How often each arm was drawn; every batch has the same size, at least 2.
    baseline : {"none", "mean", "leave_one_out", "value", "optimal"}

    Returns
    -------
    array of shape (..., 3)

    Examples
    --------
    >>> third = np.ones(3) / 3
    >>> advantages_of(third, np.array([1., 0., 2.]), np.array([1, 1, 0]), "leave_one_out")
    array([ 1., -1.,  3.])
    """
    n = counts.sum(axis=-1, keepdims=True)
    if baseline in ("mean", "leave_one_out"):
        level = (counts * rewards).sum(axis=-1, keepdims=True) / n
        return (rewards - level) * (n / (n - 1) if baseline == "leave_one_out" else 1.0)
    weights = policy * {"none": 0.0, "value": 1.0, "optimal": squared_norms(policy)}[baseline]
    level = (weights * rewards).sum() / weights.sum() if baseline != "none" else 0.0
    return rewards - level + 0.0 * counts


def squared_norms(policy: np.ndarray) -> np.ndarray:
    """The squared norm of ∇ log π(a) in the logits, of each arm: e_a − π has 1 − 2π_a + Σπ²."""
    return 1 - 2 * policy + (policy**2).sum()


def gradient(policy: np.ndarray, advantages: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean over a batch of advantage times (e_a − π), of shape (..., 3)."""
    pull = counts * advantages / counts.sum(axis=-1, keepdims=True)
    return pull - policy * pull.sum(axis=-1, keepdims=True)


def every_batch(policy: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """All counts of n draws, (M, 3), and the probability of each, (M,)."""
    counts = np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)])
    log_factorial = np.array([math.lgamma(k + 1) for k in range(n + 1)])
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(counts > 0, counts * np.log(policy), 0.0)
    return counts, np.exp(log_factorial[n] - log_factorial[counts].sum(axis=1) + terms.sum(axis=1))


class PolicyGradientBandit(Demo):
    """REINFORCE on three arms, step by step, on the triangle of policies.

    Parameters
    ----------
    rewards : sequence of 3 floats
        What each arm pays, the same at every draw.
    logits : sequence of 3 floats
        Of the policy at the start.
    labels : sequence of 3 str
    baseline : {"none", "mean", "leave_one_out", "value", "optimal"}
        What is taken off each reward: nothing, the mean of the batch, the mean of the others in it,
        the expected reward, or the constant of least variance.
    reward_shift : float
        Added to every reward; kept within −5 and 10.
    learning_rate : float
        Kept within 0.01 and 20.
    batch_size : int
        Draws a step: a power of two from 2 to 32.
    seed : int
        Seeds the draws, from 0.
    steps : int
        Steps taken, 0 to 200.

    Raises
    ------
    ValueError
        If a setting is out of place.

    Chapter
    -------
    policy-gradients

    Examples
    --------
    >>> PolicyGradientBandit(steps=20)
    PolicyGradientBandit(baseline none, shift 0, step 20, E[r]=0.689)
    """

    _esm = browser_code("policy_gradient_bandit")
    _css = styles() + Path(__file__).with_suffix(".css").read_text(encoding="utf-8")

    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    rewards = traitlets.List(traitlets.Float()).tag(sync=True)
    logits = traitlets.List(traitlets.Float()).tag(sync=True)
    baseline = traitlets.Unicode("none").tag(sync=True)
    reward_shift = traitlets.Float(0.0).tag(sync=True)
    learning_rate = traitlets.Float(1.0).tag(sync=True)
    batch_size = traitlets.Int(8).tag(sync=True)
    seed = traitlets.Int(0).tag(sync=True)
    steps = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        rewards: Sequence[float] = (1.0, 0.7, 0.0),
        logits: Sequence[float] = (-1.0, 0.5, 0.0),
        labels: Sequence[str] = ("A", "B", "C"),
        *,
        baseline: str = "none",
        reward_shift: float = 0.0,
        learning_rate: float = 1.0,
        batch_size: int = 8,
        seed: int = 0,
        steps: int = 0,
    ) -> None:
        super().__init__(
            rewards=[float(r) for r in rewards],
            logits=[float(z) for z in logits],
            labels=[str(label) for label in labels],
            baseline=baseline,
            reward_shift=float(reward_shift),
            learning_rate=float(learning_rate),
            batch_size=batch_size,
            seed=seed,
            steps=steps,
        )

    @traitlets.validate("rewards", "logits", "labels")
    def _check_three(self, proposal) -> list:
        name, values = proposal["trait"].name, proposal["value"]
        if len(values) != ARMS:
            raise ValueError(f"{name} has {len(values)} entries; expected {ARMS}, one for each arm")
        if name != "labels":
            for i, value in enumerate(values):
                if not abs(value) <= LARGEST_REWARD:
                    raise ValueError(
                        f"{name}[{i}] is {value}; expected a number from "
                        f"−{LARGEST_REWARD:g} to {LARGEST_REWARD:g}"
                    )
        return values

    @traitlets.validate("baseline")
    def _check_baseline(self, proposal) -> str:
        if proposal["value"] not in BASELINES:
            raise ValueError(
                f"baseline is {proposal['value']!r}; expected one of "
                f"{', '.join(map(repr, BASELINES))}"
            )
        return proposal["value"]

    @traitlets.validate("reward_shift", "learning_rate")
    def _check_number(self, proposal) -> float:
        name = proposal["trait"].name
        return clamp(name, proposal["value"], SHIFTS if name == "reward_shift" else RATES)

    @traitlets.validate("batch_size")
    def _check_batch_size(self, proposal) -> int:
        if proposal["value"] not in BATCHES:
            raise ValueError(
                f"batch_size is {proposal['value']}; expected a power of two from "
                f"{BATCHES[0]} to {LARGEST_BATCH}"
            )
        return proposal["value"]

    @traitlets.validate("seed")
    def _check_seed(self, proposal) -> int:
        if not 0 <= proposal["value"] < SEEDS:
            raise ValueError(f"seed is {proposal['value']}; expected 0 to {SEEDS - 1}")
        return proposal["value"]

    @traitlets.validate("steps")
    def _check_steps(self, proposal) -> int:
        if not 0 <= proposal["value"] <= MOST_STEPS:
            raise ValueError(f"steps is {proposal['value']}; expected 0 to {MOST_STEPS}")
        return proposal["value"]

    @property
    def result(self) -> BanditNumbers:
        """The numbers on display, from the present state."""
        rewards = np.array(self.rewards) + self.reward_shift
        logits, n = np.array(self.logits), self.batch_size
        draws = uniforms(self.seed, (self.steps + 1) * LARGEST_BATCH).reshape(-1, LARGEST_BATCH)
        path = []
        for step in range(self.steps + 1):
            policy = tilt.softmax(logits)
            path.append(policy)
            cumulative = np.cumsum(policy)
            arms = np.searchsorted(cumulative, draws[step, :n] * cumulative[-1], side="right")
            counts = np.bincount(arms.clip(max=ARMS - 1), minlength=ARMS)
            advantages = advantages_of(policy, rewards, counts, self.baseline)
            estimate = gradient(policy, advantages, counts)
            logits = logits + self.learning_rate * estimate
        exact = policy * (rewards - policy @ rewards)
        batches, chances = every_batch(policy, n)
        every = gradient(policy, advantages_of(policy, rewards, batches, self.baseline), batches)
        mean = chances @ every
        variance = float(chances @ ((every - mean) ** 2).sum(axis=1))
        length, size = np.linalg.norm(exact), np.linalg.norm(estimate)
        flat = length < HAIR
        with np.errstate(divide="ignore"):
            log_policy = np.where(policy > 0, np.log(policy), 0.0)
        return BanditNumbers(
            path=np.array(path),
            counts=counts,
            advantages=advantages,
            estimate=estimate,
            exact=exact,
            next_policy=tilt.softmax(logits),
            expected_reward=float(policy @ np.array(self.rewards)),
            entropy=float(-(policy @ log_policy)),
            variance=variance,
            noise=math.inf if flat else math.sqrt(variance) / float(length),
            kept=1.0 if flat else float(mean @ exact / length**2),
            cosine=0.0 if flat or size < HAIR else float(estimate @ exact / (length * size)),
        )

    def summary(self) -> str:
        """The state in a few words."""
        return (
            f"baseline {self.baseline}, shift {self.reward_shift:g}, step {self.steps}, "
            f"E[r]={self.result.expected_reward:.3f}"
        )
