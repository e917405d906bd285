"""The exact optimum of the KL-regularised objective on finite sets of completions.

For one prompt, a finite list of completions, a reference distribution and a reward for each,

    J(pi) = E_pi[r] - beta * KL(pi || pi_ref)

has one maximiser, pi*(y) = pi_ref(y) exp(r(y) / beta) / Z. This module computes it, its geometry
(the frontier of KL and expected reward), the law of best-of-n beside it, and its form token by
token (the soft Bellman recursion).

Everything is NumPy in float64 and exact up to rounding: no sampling, no model, no gradient.
Logarithms are natural, so KL is in nats. Nothing here runs inside a training loop; it is what a
training loop is compared with.

Legend of axes: N completions, V vocabulary, T tokens.

Chapter: kl-tilt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .checks import check_same_length, distribution, finite_array, finite_vector, positive

# -------------------------------------------------------------------------------------- the optimum


def softmax(logits) -> np.ndarray:
    """exp(logits), normalised over the last axis, without overflow.

    Definition: exp(z_i) / Σ_j exp(z_j). Chapter: kl-tilt.

    Parameters
    ----------
    logits : array of shape (..., N)

    Returns
    -------
    array of shape (..., N)
        Probabilities; each row sums to 1.

    Raises
    ------
    ValueError
        If `logits` is empty or holds NaN or an infinity.

    Examples
    --------
    >>> softmax([0.0, 0.0])
    array([0.5, 0.5])
    >>> softmax([1000.0, 0.0])
    array([1., 0.])
    """
    logits = finite_array("logits", logits)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def tilt(reference, rewards, beta: float) -> np.ndarray:
    """The optimal policy pi*(y) = reference(y) exp(rewards(y) / beta) / Z.

    Computed in log space, so that a small beta neither overflows nor loses the best completion. A
    completion with reference probability 0 keeps probability 0, whatever its reward.

    Source: Rafailov et al. 2023, equation 4, arXiv:2305.18290. Chapter: kl-tilt.

    Parameters
    ----------
    reference : array of shape (N,)
        pi_ref, probabilities that sum to 1; zeros are allowed.
    rewards : array of shape (N,)
        r(y), finite. A constant added to all of them changes nothing.
    beta : float
        The price of one nat of KL, in units of reward; positive.

    Returns
    -------
    array of shape (N,)
        pi*, probabilities that sum to 1.

    Raises
    ------
    ValueError
        If beta is not positive, the reference is no distribution, a reward (or its ratio to beta)
        is not finite, or the lengths differ.

    Examples
    --------
    Equal references: the odds are exp of the difference of rewards, over beta.

    >>> tilt([0.5, 0.5], [np.log(3.0), 0.0], beta=1.0)
    array([0.75, 0.25])
    >>> tilt([0.5, 0.5, 0.0], [0.0, 0.0, 99.0], beta=0.01)
    array([0.5, 0.5, 0. ])
    >>> tilt([0.5, 0.5], [1.0, 0.0], beta=-1)
    Traceback (most recent call last):
        ...
    ValueError: beta is -1; expected a positive number
    """
    reference, rewards, beta = _problem(reference, rewards, beta)
    logits = _log(reference) + rewards / beta
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def log_partition(reference, rewards, beta: float) -> float:
    """log Z = log sum_y reference(y) exp(rewards(y) / beta), in nats.

    beta * log Z is the best value that the objective can reach: J(pi*) = beta log Z.

    Definition: log Σ_y π_ref(y) exp(r(y) / β). Chapter: kl-tilt.

    Parameters
    ----------
    reference, rewards, beta
        As for `tilt`.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        As `tilt` does.

    Examples
    --------
    >>> round(log_partition([0.5, 0.5], [np.log(3.0), 0.0], beta=1.0), 6)  # log 2
    0.693147
    """
    reference, rewards, beta = _problem(reference, rewards, beta)
    return float(_logsumexp(_log(reference) + rewards / beta))


def _problem(
    reference, rewards, beta: float, *, ndim: int | None = 1
) -> tuple[np.ndarray, np.ndarray, float]:
    reference = distribution("reference", reference, ndim=ndim)
    rewards = finite_vector("rewards", rewards) if ndim == 1 else finite_array("rewards", rewards)
    check_same_length("reference", reference, "rewards", rewards)
    beta = positive("beta", beta)
    largest = float(np.abs(rewards).max())
    if not math.isfinite(largest / beta):  # inf - inf would be a silent NaN
        raise ValueError(
            f"a reward of size {largest:g} over beta={beta:g} overflows; expected a finite ratio"
        )
    return reference, rewards, beta


# ------------------------------------------------------------------------------- measuring a policy


def kl_divergence(p, q) -> float:
    """KL(p || q) = sum_y p(y) log(p(y) / q(y)), in nats.

    With p the policy and q the reference this is the *reverse* KL of the objective. Terms with
    p(y) = 0 are 0; where p(y) > 0 and q(y) = 0 the divergence is infinite, and infinity is
    returned.

    Source: Kullback & Leibler 1951, https://doi.org/10.1214/aoms/1177729694. Chapter: kl-tilt.

    Parameters
    ----------
    p, q : arrays of shape (N,)
        Two distributions over the same completions.

    Returns
    -------
    float
        At least 0 (up to rounding), possibly infinity.

    Raises
    ------
    ValueError
        If one is no distribution, or the lengths differ.

    Examples
    --------
    >>> round(kl_divergence([1.0, 0.0], [0.5, 0.5]), 6)  # log 2
    0.693147
    >>> kl_divergence([0.5, 0.5], [1.0, 0.0])
    inf
    """
    p, q = distribution("p", p), distribution("q", q)
    check_same_length("p", p, "q", q)
    inside = p > 0
    return float((p[inside] * (np.log(p[inside]) - _log(q[inside]))).sum())


def expected_reward(policy, rewards) -> float:
    """E_policy[r] = sum_y policy(y) rewards(y).

    Definition: Σ_y π(y) r(y). Chapter: kl-tilt.

    Parameters
    ----------
    policy : array of shape (N,)
        A distribution.
    rewards : array of shape (N,)

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the policy is no distribution, a reward is not finite, or the lengths differ.

    Examples
    --------
    >>> expected_reward([0.25, 0.75], [4.0, 0.0])
    1.0
    """
    policy, rewards = distribution("policy", policy), finite_vector("rewards", rewards)
    check_same_length("policy", policy, "rewards", rewards)
    return float(policy @ rewards)


def objective(policy, reference, rewards, beta: float) -> float:
    """J(policy) = E_policy[r] - beta * KL(policy || reference).

    Source: Ziegler et al. 2019, equation 2, arXiv:1909.08593. Chapter: kl-tilt.

    Parameters
    ----------
    policy : array of shape (N,)
        A distribution. Mass outside the reference's support makes J minus infinity.
    reference, rewards, beta
        As for `tilt`.

    Returns
    -------
    float
        In units of reward.

    Raises
    ------
    ValueError
        As `tilt` and `kl_divergence` do.

    Examples
    --------
    At the optimum it equals beta log Z; anywhere else it is lower by beta KL(policy || pi*).

    >>> reference, rewards = np.array([0.5, 0.5]), np.array([1.0, 0.0])
    >>> best = objective(tilt(reference, rewards, 2.0), reference, rewards, 2.0)
    >>> abs(best - 2.0 * log_partition(reference, rewards, 2.0)) < 1e-12
    True
    >>> objective(reference, reference, rewards, 2.0)
    0.5
    """
    reference, rewards, beta = _problem(reference, rewards, beta)
    return expected_reward(policy, rewards) - beta * kl_divergence(policy, reference)


def frontier(reference, rewards, betas: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """KL and expected reward of pi* for each beta: the most reward that each KL can buy.

    The curve is concave, and its slope at the point of beta is beta: dE[r] / dKL = beta.

    Definition: (KL(π*_β‖π_ref), E_π*_β[r]) for each β. Chapter: kl-tilt.

    Parameters
    ----------
    reference, rewards
        As for `tilt`.
    betas : array of shape (M,)
        Positive numbers, in any order.

    Returns
    -------
    kl : array of shape (M,)
        KL(pi* || pi_ref) in nats.
    expected : array of shape (M,)
        E_pi*[r].

    Raises
    ------
    ValueError
        As `tilt` does.

    Examples
    --------
    >>> kl, expected = frontier([0.5, 0.5], [1.0, 0.0], [1e-3, 1e3])
    >>> kl.round(3), expected.round(3)
    (array([0.693, 0.   ]), array([1. , 0.5]))
    """
    policies = [tilt(reference, rewards, beta) for beta in np.atleast_1d(betas)]
    kl = np.array([kl_divergence(policy, reference) for policy in policies])
    return kl, np.array([expected_reward(policy, rewards) for policy in policies])


# ---------------------------------------------------------------------------------------- best-of-n


def best_of_n(reference, rewards, n: int) -> np.ndarray:
    """The exact law of best-of-n: draw n times from the reference, keep one of highest reward.

    With F(s) the reference's probability of a reward of at most s, the best reward is s with
    probability F(s)^n - F(s-)^n. Completions that share a reward share that probability in
    proportion to the reference, which is what keeping the first of the best gives.

    Source: Beirami et al. 2024, arXiv:2401.01879, section 2, there without ties. Chapter: kl-tilt.

    Parameters
    ----------
    reference, rewards
        As for `tilt`.
    n : int
        How many completions are drawn; at least 1.

    Returns
    -------
    array of shape (N,)
        Probabilities that sum to 1.

    Raises
    ------
    ValueError
        If n is not an integer of at least 1; else as `tilt` does.

    Examples
    --------
    >>> best_of_n([0.5, 0.5], [1.0, 0.0], n=2)
    array([0.75, 0.25])
    >>> best_of_n([0.25, 0.25, 0.5], [1.0, 1.0, 0.0], n=2)
    array([0.375, 0.375, 0.25 ])
    """
    reference, rewards, _ = _problem(reference, rewards, 1.0)
    n = _count(n)
    _, level = np.unique(rewards, return_inverse=True)  # level of each one, lowest reward first
    mass = np.bincount(level, weights=reference)  # reference probability of each level
    below = np.concatenate([[0.0], np.cumsum(mass)])
    below[-1] = 1.0
    best = below[1:] ** n - below[:-1] ** n  # probability that the best of n lies on the level
    share = np.divide(best, mass, out=np.zeros_like(best), where=mass > 0)
    return reference * share[level]


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n - 1) / n: an upper bound on KL(best-of-n || reference), in nats.

    It is the value for a reference without atoms and without ties; on a finite set of completions
    the KL is smaller.

    Source: Beirami et al. 2024, arXiv:2401.01879, section 3. Chapters: kl-tilt, over-optimization.

    Parameters
    ----------
    n : int
        At least 1.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If n is not an integer of at least 1.

    Examples
    --------
    >>> best_of_n_kl_bound(1)
    0.0
    >>> round(best_of_n_kl_bound(4), 3)
    0.636
    """
    n = _count(n)
    return math.log(n) - (n - 1) / n


def _count(n: int) -> int:
    try:
        whole = int(n) == n and n >= 1
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(f"n is {n}; expected an integer of at least 1")
    return int(n)


# ----------------------------------------------------------------------------------- token by token


class SoftBellman(NamedTuple):
    """The optimum token by token; entry t of each list belongs to prefixes of t tokens.

    Source: Levine 2018, arXiv:1805.00909, section 2. Chapter: kl-tilt.

    Attributes
    ----------
    policies : list of T arrays
        `policies[t]` has shape (V,) * (t + 1): pi*(token | prefix of t tokens), over the last
        axis.
    values : list of T + 1 arrays
        `values[t]` has shape (V,) * t: the soft value V*(prefix). `values[0]` is beta log Z,
        `values[T]` the rewards.
    q_values : list of T arrays
        `q_values[t]` has shape (V,) * (t + 1): Q*(prefix, token), which is V* of the longer
        prefix.
    """

    policies: list[np.ndarray]
    values: list[np.ndarray]
    q_values: list[np.ndarray]


def soft_bellman(reference, rewards, beta: float) -> SoftBellman:
    """The optimum on an enumerable language, token by token, by the soft Bellman recursion.

    From the last token backwards,

        Q*(prefix, a)  = V*(prefix + a),   with V*(y) = r(y) of a whole completion y
        V*(prefix)     = beta log sum_a pi_ref(a | prefix) exp(Q*(prefix, a) / beta)
        pi*(a | prefix) = pi_ref(a | prefix) exp((Q*(prefix, a) - V*(prefix)) / beta).

    The product of the conditionals is the tilt of the joint distribution. A token's own reward does
    not appear.

    Source: Levine 2018, arXiv:1805.00909, section 2, there with a uniform reference.
    Chapter: kl-tilt.

    Parameters
    ----------
    reference : array of shape (V,) * T
        Joint reference probability of each completion of T tokens.
    rewards : array of the same shape
        Reward of each whole completion.
    beta : float
        Positive.

    Returns
    -------
    SoftBellman
        Conditionals, soft values and Q-values. A prefix that the reference never produces has value
        -inf and a row of zeros as its conditional.

    Raises
    ------
    ValueError
        As `tilt` does.

    Examples
    --------
    Two binary tokens, uniform reference, reward 1 for "11" only:

    >>> optimum = soft_bellman(np.full((2, 2), 0.25), [[0.0, 0.0], [0.0, 1.0]], beta=0.5)
    >>> optimum.policies[0].round(3)
    array([0.193, 0.807])
    """
    reference, rewards, beta = _problem(reference, rewards, beta, ndim=None)
    if reference.ndim == 0:
        raise ValueError("reference is a single number; expected an array with one axis per token")
    length = reference.ndim
    # marginals[t]: reference probability of each prefix of t tokens, (V,) * t
    marginals = [reference.sum(axis=tuple(range(t, length))) for t in range(length + 1)]
    values = [np.where(reference > 0, rewards, -np.inf)]
    policies, q_values = [], []
    for t in reversed(range(length)):
        seen = marginals[t][..., None]
        conditional = np.divide(
            marginals[t + 1], seen, out=np.zeros_like(marginals[t + 1]), where=seen > 0
        )  # pi_ref(a | prefix), (V,) * (t + 1)
        q = values[0]
        logits = _log(conditional) + q / beta
        log_normaliser = _logsumexp(logits)
        known = np.where(np.isfinite(log_normaliser), log_normaliser, 0.0)
        policies.insert(0, np.exp(logits - known[..., None]))
        q_values.insert(0, q)
        values.insert(0, beta * log_normaliser)
    return SoftBellman(policies, values, q_values)


# ------------------------------------------------------------------------------------ logarithms


def _log(p: np.ndarray) -> np.ndarray:
    """log p with log 0 = -inf and no warning: what has no mass stays without."""
    with np.errstate(divide="ignore"):
        return np.log(p)


def _logsumexp(logits: np.ndarray) -> np.ndarray:
    """log sum exp over the last axis; -inf where every entry is."""
    top = logits.max(axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0]
