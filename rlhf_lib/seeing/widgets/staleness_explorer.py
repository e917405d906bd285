"""The staleness explorer: a policy gradient from samples that are some updates old.

The language is small enough to enumerate: three tokens, replies of four. So what an estimate from
N replies gives on average, and how far it scatters, are sums over all 81 replies, and nothing is
sampled. The browser side is staleness_explorer.js. Both sides compute the same numbers;
`StalenessExplorer.result` has Python's, by `estimate`.

Four of the five treatments are the `vllm_importance_sampling_mode` of TRL's `GRPOConfig`, under the
names that it gives them; the bound is its `vllm_importance_sampling_clip_max`.

Chapter: stale-samples.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import traitlets

from .base import Demo, browser_code, clamp, styles

TOKENS, LENGTH = "abc", 4
# All replies as rows of tokens, in alphabetical order, and the reward of each: 1 for every b right
# after an a. Shapes (81, 4) and (81,).
REPLIES = np.array(list(itertools.product(range(len(TOKENS)), repeat=LENGTH)))
REWARDS = ((REPLIES[:, :-1] == 0) & (REPLIES[:, 1:] == 1)).sum(1).astype(float)
# A policy is a table of logits, (40, 3): a row for each prefix, the shorter ones first. Here are
# the rows from which the tokens of each reply are drawn, (81, 4).
_PREFIXES = np.stack(
    [(3**t - 1) // 2 + np.arange(3**LENGTH) // 3 ** (LENGTH - t) for t in range(LENGTH)], axis=1
)
# The sampler's logits, (40, 3).
SAMPLER = np.random.default_rng(0).normal(0, 0.5, (40, len(TOKENS))).round(3)

TREATMENTS = ("ignored", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
UPDATES = (0, 40)  # how old the samples can be
STEP = 0.5  # of gradient ascent: after the last update, KL(π‖μ) is 1.73 nats a reply
BOUNDS = (1.1, 10.0)
SIZES = (16, 1024)
STEEPEST = 4.0  # largest size of a logit: with more, a gradient of the learner could vanish


class Estimate(NamedTuple):
    """An estimate of the learner's policy gradient from replies of the sampler.

    Attributes
    ----------
    ratios : array of shape (81, 4)
        π/μ for each token of each reply: of that token, or of the whole reply.
    weights : array of shape (81, 4)
        What is made of them: each token's gradient of log π counts so many times.
    truth : array of shape (40, 3)
        The gradient of the learner's expected reward with respect to its logits, points.
    mean : array of shape (40, 3)
        What the estimate is on average over samples.
    variance : float
        Trace of the covariance of what one reply contributes; of N replies, an N-th of it.
    """

    ratios: np.ndarray
    weights: np.ndarray
    truth: np.ndarray
    mean: np.ndarray
    variance: float


class StalenessNumbers(NamedTuple):
    """What the staleness explorer shows of one treatment.

    Attributes
    ----------
    bias : float
        ‖E[ĝ] − g‖ / ‖g‖, where g is the learner's policy gradient and ĝ its estimate.
    noise : float
        √(tr Cov ĝ) / ‖g‖: root mean squared distance of ĝ from its own mean.
    error : float
        √(bias² + noise²): root mean squared distance of ĝ from g. No update at all has error 1.
    cosine : float
        Of the angle between E[ĝ] and g.
    effective : float
        Effective sample size as a share: (E[w])² / E[w²], over the tokens of the sampler's replies.
    kl : float
        KL(π‖μ), nats a reply.
    largest_ratio : float
        Of all tokens, or of all replies, before the bound.
    largest_weight : float
        The same after it.
    over_bound : float
        Share of the sampler's tokens, or replies, whose ratio is over the bound.
    over_bound_learner : float
        Share of the learner's.
    """

    bias: float
    noise: float
    error: float
    cosine: float
    effective: float
    kl: float
    largest_ratio: float
    largest_weight: float
    over_bound: float
    over_bound_learner: float


def token_logprobs(table: np.ndarray) -> np.ndarray:
    """log π of each token of each reply after those before it, (81, 4), nats."""
    return (table - np.log(np.exp(table).sum(1, keepdims=True)))[_PREFIXES, REPLIES]


def expected_gradient(table: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Sum over all replies and their tokens of factor times ∇ log π(token | prefix), (40, 3).

    `factors` has shape (81, 4) or (81, 1); the gradient is with respect to the table's logits.
    """
    probabilities = np.exp(table) / np.exp(table).sum(1, keepdims=True)
    parts = np.eye(len(TOKENS))[REPLIES] - probabilities[_PREFIXES]  # (81, 4, 3): ∇ log π
    total = np.zeros_like(table)
    np.add.at(total, _PREFIXES, factors[..., None] * parts)
    return total


def policy_gradient(table: np.ndarray) -> np.ndarray:
    """∇ E[r] of the policy with these logits, (40, 3), exactly."""
    chances = np.exp(token_logprobs(table).sum(1))
    return expected_gradient(table, (chances * (REWARDS - chances @ REWARDS))[:, None])


def learner(sampler: np.ndarray, updates: int) -> np.ndarray:
    """The sampler's logits after so many steps of exact policy-gradient ascent, (40, 3)."""
    table = sampler
    for _ in range(updates):
        table = table + STEP * policy_gradient(table)
    return table


def weighted(ratios: np.ndarray, treatment: str, bound: float | None) -> np.ndarray:
    """The weights that a treatment makes of ratios, which it leaves alone without a bound."""
    if treatment == "ignored":
        return np.ones_like(ratios)
    if bound is None:
        return ratios
    if treatment.endswith("truncate"):
        return np.minimum(ratios, bound)
    return np.where(ratios > bound, 0.0, ratios)


def estimate(
    policy: np.ndarray, sampler: np.ndarray, treatment: str, bound: float | None = None
) -> Estimate:
    """The estimate (1/N) Σ_i Σ_t w_it (r_i − b) ∇ log π(y_it | y_i<t) from N replies of μ.

    The baseline b is the expected reward of μ, the sampler.

    Parameters
    ----------
    policy, sampler : arrays of shape (40, 3)
        Logits of π, whose gradient is estimated, and of μ, which wrote the replies.
    treatment : str
        One of `TREATMENTS`. "ignored" has the ratios of whole replies, and weights of 1.
    bound : float, optional
        C, on the ratios. None: no bound.

    Chapter
    -------
    stale-samples
    """
    written = np.exp(token_logprobs(sampler).sum(1))  # (81,): chances under μ
    ratios = np.exp(token_logprobs(policy) - token_logprobs(sampler))
    if not treatment.startswith("token"):
        ratios = np.repeat(ratios.prod(1, keepdims=True), LENGTH, axis=1)
    weights = weighted(ratios, treatment, bound)
    advantages = REWARDS - written @ REWARDS
    mean = expected_gradient(policy, written[:, None] * weights * advantages[:, None])
    probabilities = np.exp(policy) / np.exp(policy).sum(1, keepdims=True)
    # of ∇ log π of each token; the tokens of a reply have different prefixes, so no products of two
    squares = 1 - 2 * np.exp(token_logprobs(policy)) + (probabilities**2).sum(1)[_PREFIXES]
    second_moment = written @ ((weights * advantages[:, None]) ** 2 * squares).sum(1)
    variance = second_moment - (mean**2).sum()
    return Estimate(ratios, weights, policy_gradient(policy), mean, float(variance))


class StalenessExplorer(Demo):
    """Bias, noise and error of a policy gradient against the age of its samples, and their weights.

    The sampler μ has fixed logits. The learner π is what becomes of μ by exact policy-gradient
    ascent on the expected reward; its gradient is estimated from replies that μ wrote.

    Parameters
    ----------
    updates : int
        k, by which the samples are old; 0 to 40.
    treatment : str
        What a token of a reply counts: "ignored", always 1; "token_truncate" and "token_mask", its
        own ratio π/μ; "sequence_truncate" and "sequence_mask", that of the whole reply. A ratio
        over the bound becomes the bound if it is truncated, and 0 if it is masked.
    bound : float or None
        C; kept within 1.1 and 10. None: no bound.
    replies : int
        N, in one estimate; a power of two from 16 to 1024.

    Raises
    ------
    ValueError
        If a setting is out of range or not finite, or the treatment unknown.

    Chapter
    -------
    stale-samples

    Examples
    --------
    After twenty updates a bound on the ratio of whole replies costs bias and saves noise:

    >>> StalenessExplorer(updates=20, bound=None)
    StalenessExplorer(sequence_truncate, 20 updates, no bound, N=256: bias 0.000, noise 0.470)
    >>> StalenessExplorer(updates=20, bound=3.0)
    StalenessExplorer(sequence_truncate, 20 updates, C=3, N=256: bias 0.343, noise 0.327)
    """

    _esm = browser_code("staleness_explorer")
    _css = styles("staleness_explorer")

    logits = traitlets.List(traitlets.Float()).tag(sync=True)
    updates = traitlets.Int(20).tag(sync=True)
    treatment = traitlets.Unicode("sequence_truncate").tag(sync=True)
    bound = traitlets.Float(3.0, allow_none=True).tag(sync=True)
    replies = traitlets.Int(256).tag(sync=True)

    def __init__(
        self,
        updates: int = 20,
        treatment: str = "sequence_truncate",
        bound: float | None = 3.0,
        replies: int = 256,
    ) -> None:
        super().__init__(updates=updates, treatment=treatment, bound=bound, replies=replies)

    @traitlets.default("logits")
    def _usual_logits(self) -> list[float]:
        return SAMPLER.ravel().tolist()

    @traitlets.validate("logits")
    def _check_logits(self, proposal) -> list[float]:
        values = proposal["value"]
        if len(values) != SAMPLER.size:
            raise ValueError(
                f"logits has {len(values)} entries; expected {SAMPLER.size}, three for each prefix"
            )
        for i, value in enumerate(values):
            if not abs(value) <= STEEPEST:
                raise ValueError(
                    f"logits[{i}] is {value}; expected a number from {-STEEPEST:g} to {STEEPEST:g}"
                )
        return values

    @traitlets.validate("updates")
    def _check_updates(self, proposal) -> int:
        if not UPDATES[0] <= proposal["value"] <= UPDATES[1]:
            raise ValueError(
                f"updates is {proposal['value']}; expected {UPDATES[0]} to {UPDATES[1]}"
            )
        return proposal["value"]

    @traitlets.validate("treatment")
    def _check_treatment(self, proposal) -> str:
        if proposal["value"] not in TREATMENTS:
            raise ValueError(
                f"treatment is {proposal['value']}; expected one of {', '.join(TREATMENTS)}"
            )
        return proposal["value"]

    @traitlets.validate("bound")
    def _check_bound(self, proposal) -> float | None:
        value = proposal["value"]
        if value is None:
            return None
        if not math.isfinite(value):
            raise ValueError(
                f"bound is {value}; expected a number from {BOUNDS[0]:g} to {BOUNDS[1]:g}, "
                "or None for no bound"
            )
        return clamp("bound", value, BOUNDS)

    @traitlets.validate("replies")
    def _check_replies(self, proposal) -> int:
        value = proposal["value"]
        if not SIZES[0] <= value <= SIZES[1] or value & (value - 1):
            raise ValueError(
                f"replies is {value}; expected a power of two from {SIZES[0]} to {SIZES[1]}"
            )
        return value

    @property
    def sampler(self) -> np.ndarray:
        """Logits of μ, (40, 3): a row for each prefix, the shorter ones first."""
        return np.array(self.logits).reshape(SAMPLER.shape)

    @property
    def learner(self) -> np.ndarray:
        """Logits of π, (40, 3)."""
        return learner(self.sampler, self.updates)

    @property
    def estimate(self) -> Estimate:
        """The estimate of the present state, with its weights and its mean."""
        return estimate(self.learner, self.sampler, self.treatment, self.bound)

    @property
    def result(self) -> StalenessNumbers:
        """The numbers on display of the present state."""
        return self._numbers(self.learner, self.treatment)

    @property
    def table(self) -> dict[str, StalenessNumbers]:
        """The same for each treatment."""
        policy = self.learner
        return {treatment: self._numbers(policy, treatment) for treatment in TREATMENTS}

    @property
    def curves(self) -> dict[str, np.ndarray]:
        """Bias, noise and error of each treatment after 0 to 40 updates, (41, 3)."""
        policies = [self.sampler]
        for _ in range(UPDATES[1]):
            policies.append(learner(policies[-1], 1))
        return {
            treatment: np.array([self._numbers(policy, treatment)[:3] for policy in policies])
            for treatment in TREATMENTS
        }

    def _numbers(self, policy: np.ndarray, treatment: str) -> StalenessNumbers:
        found = estimate(policy, self.sampler, treatment, self.bound)
        sampled, wanted = token_logprobs(self.sampler).sum(1), token_logprobs(policy).sum(1)
        written, meant = np.exp(sampled), np.exp(wanted)  # (81,): chances under μ and π
        size = np.linalg.norm(found.truth)
        bias = float(np.linalg.norm(found.mean - found.truth) / size)
        noise = math.sqrt(found.variance / self.replies) / float(size)
        along = (found.mean * found.truth).sum() / np.linalg.norm(found.mean) / size
        ruled = treatment != "ignored" and self.bound is not None
        over = (found.ratios > (self.bound if ruled else math.inf)).mean(1)
        return StalenessNumbers(
            bias=bias,
            noise=noise,
            error=math.hypot(bias, noise),
            cosine=float(along),
            effective=float(
                (written @ found.weights.mean(1)) ** 2 / (written @ (found.weights**2).mean(1))
            ),
            kl=float(meant @ (wanted - sampled)),
            largest_ratio=float(found.ratios.max()),
            largest_weight=float(found.weights.max()),
            over_bound=float(written @ over),
            over_bound_learner=float(meant @ over),
        )

    def summary(self) -> str:
        """The state in a few words."""
        numbers = self.result
        bound = "no bound" if self.bound is None else f"C={self.bound:g}"
        return (
            f"{self.treatment}, {self.updates} updates, {bound}, N={self.replies}: "
            f"bias {numbers.bias:.3f}, noise {numbers.noise:.3f}"
        )
