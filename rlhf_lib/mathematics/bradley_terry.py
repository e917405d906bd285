"""Comparisons on a finite set: the Bradley–Terry fit, Borda counts, and agreement of annotators.

`wins[i, j]` counts how often item i was preferred to item j. The fit comes in two forms, a free
score for each item (`fit_scores`) and a score that is linear in features (`fit_weights`), both by
Newton's method; `fit_by_gradient` is the slow way that a network has to take.

Axes: N items, M comparisons, D features. Scores are log-odds. Chapter: preferences.
"""

from __future__ import annotations

import math

import numpy as np

from .checks import win_counts

Vector = np.ndarray


def win_probabilities(scores: Vector) -> Vector:
    """P(i is preferred to j) = σ(s_i − s_j), shape (N, N).

    Source: Zermelo 1929, doi:10.1007/BF01180541; Bradley and Terry 1952, doi:10.2307/2334029.
    Chapter: preferences.

    Parameters
    ----------
    scores : array of shape (N,)
        In units of log-odds.

    Examples
    --------
    >>> win_probabilities(np.array([np.log(3), 0.])).round(2)
    array([[0.5 , 0.75],
           [0.25, 0.5 ]])
    """
    gaps = np.asarray(scores, dtype=float)[:, None] - np.asarray(scores, dtype=float)
    return np.exp(-np.logaddexp(0, -gaps))  # never overflows, however large the gap


def loss(scores: Vector, wins: Vector, ridge: float = 0.0) -> float:
    """Σ wins_ij · −log σ(s_i − s_j) + ridge/2 · Σ s_i², in nats, summed over comparisons.

    Source: the likelihood of Bradley and Terry 1952. Chapter: preferences.

    Parameters
    ----------
    scores : array of shape (N,)
    wins : array of shape (N, N)
    ridge : float
        Strength of a Gaussian prior on the scores, of variance 1/ridge.

    Examples
    --------
    >>> round(loss(np.zeros(2), np.array([[0, 3], [1, 0]])), 4)  # 4 log 2
    2.7726
    """
    wins = win_counts(wins)
    gaps = np.asarray(scores, dtype=float)[:, None] - np.asarray(scores, dtype=float)
    return float((wins * np.logaddexp(0, -gaps)).sum() + ridge / 2 * np.square(scores).sum())


def surplus(scores: Vector, wins: Vector) -> Vector:
    """Wins that each item has, less the wins that the scores lead one to expect, shape (N,).

    It is the gradient of the log-likelihood: at the fit, every item wins as often as it should.

    Definition: wins_i − Σ_j games_ij σ(s_i − s_j). Chapter: preferences.

    Parameters
    ----------
    scores : array of shape (N,)
    wins : array of shape (N, N)

    Examples
    --------
    >>> surplus(np.zeros(2), np.array([[0, 3], [1, 0]]))
    array([ 1., -1.])
    """
    games = wins + np.transpose(wins)
    return np.sum(wins, axis=1) - (games * win_probabilities(scores)).sum(axis=1)


def fit_scores(wins: Vector, ridge: float = 0.0) -> Vector:
    """The scores of the smallest `loss`, with mean 0, by Newton's method.

    Source: existence, Ford 1957, doi:10.2307/2308513. Chapter: preferences.

    Parameters
    ----------
    wins : array of shape (N, N)
    ridge : float

    Returns
    -------
    array of shape (N,)

    Raises
    ------
    ValueError
        If wins is no table of counts, or the best scores are not finite: without a ridge, some
        items have to have lost to the others at least once, whichever way they are divided.

    Examples
    --------
    >>> fit_scores(np.array([[0, 3], [1, 0]])) * 2 / np.log(3)
    array([ 1., -1.])
    """
    wins = win_counts(wins)
    if not ridge >= 0:
        raise ValueError(f"ridge is {ridge}; expected at least 0")
    groups = beaten_groups(wins)
    if ridge == 0 and len(groups) > 1:
        raise ValueError(
            f"wins has no finite fit: nothing in {groups[0]} ever lost to another "
            f"item, of {len(groups)} such groups; expected one group, or a ridge "
            "above 0"
        )
    games, scores = wins + wins.T, np.zeros(len(wins))

    def newton(scores):
        p = win_probabilities(scores)
        weights = games * p * (1 - p)  # information of the comparisons of each pair
        hessian = np.diag(weights.sum(axis=1) + ridge) - weights
        return surplus(scores, wins) - ridge * scores, hessian + 1 / len(wins)

    return _descend(newton, lambda scores: loss(scores, wins, ridge), scores, math.inf)


def fit_by_gradient(
    wins: Vector, steps: int, rate: float, ridge: float = 0.0, scores: Vector | None = None
) -> Vector:
    """`steps` steps of plain gradient ascent on the log-likelihood, from `scores` or from 0.

    Definition: s ← s + rate/M · (surplus − ridge · s), for M comparisons. Chapter: preferences.

    Parameters
    ----------
    wins : array of shape (N, N)
    steps : int
    rate : float
        Step size per comparison. Without a ridge, no step below 4 lowers the likelihood.
    ridge : float
    scores : array of shape (N,), optional

    Returns
    -------
    array of shape (N,)
    """
    wins = win_counts(wins)
    s: Vector = np.zeros(len(wins)) if scores is None else np.array(scores, dtype=float)
    for _ in range(steps):
        s += rate / wins.sum() * (surplus(s, wins) - ridge * s)
    return s


def fit_weights(differences: Vector, ridge: float = 0.0) -> Vector:
    """Weights w of a linear score: chosen over rejected with probability σ(w · difference).

    Logistic regression without an intercept, as a comparison has no side of its own. Features may
    be in any unit: each is fitted in one in which the curvature at 0 is 1.

    Definition: the smallest Σ −log σ(w · difference) + ridge/2 · Σ w². Chapter: preferences.

    Parameters
    ----------
    differences : array of shape (M, D)
        Features of the chosen item less those of the rejected one.
    ridge : float
        Strength of a Gaussian prior on the weights, of variance 1/ridge.

    Returns
    -------
    array of shape (D,)

    Raises
    ------
    ValueError
        If differences is not a table of finite numbers, or the best weights are not finite.

    Examples
    --------
    Three choices with the feature and one against it:

    >>> w = fit_weights(np.array([[1.], [1.], [1.], [-1.]]))
    >>> round(float(w[0]), 4)  # log 3
    1.0986
    """
    differences = np.asarray(differences, dtype=float)
    if differences.ndim != 2 or not np.isfinite(differences).all():
        raise ValueError(f"differences has shape {differences.shape}; expected (M, D), all finite")
    if not ridge >= 0:
        raise ValueError(f"ridge is {ridge}; expected at least 0")

    size = np.sqrt(np.square(differences).sum(axis=0) / 4 + ridge)
    size[size == 0] = 1.0
    features, prior = differences / size, ridge / size**2

    def newton(weights):
        p = np.exp(-np.logaddexp(0, -(features @ weights)))
        gradient = features.T @ (1 - p) - prior * weights
        return gradient, (features.T * (p * (1 - p))) @ features + np.diag(prior)

    def objective(weights):
        return np.logaddexp(0, -(features @ weights)).sum() + prior @ weights**2 / 2

    limit = math.inf if ridge else 15 * math.sqrt(len(differences))  # odds of 10 to the 13
    return _descend(newton, objective, np.zeros(len(size)), limit) / size


def _descend(newton, objective, x: Vector, limit: float) -> Vector:
    """Newton's method, a step halved until it helps; for a smooth convex objective.

    Past the limit nothing holds it back.
    """
    for _ in range(100):
        gradient, hessian = newton(x)
        step = np.linalg.lstsq(hessian, gradient, rcond=1e-12)[0]
        if gradient @ step < 1e-18 * max(1.0, objective(x)):
            return x + step
        while objective(x + step) > objective(x):
            step = step / 2
            if np.abs(step).max() < 1e-12:
                return x
        x = x + step
        if np.abs(x).max() > limit:
            break
    raise ValueError(
        "the fit runs off to infinity: some direction is never contradicted; "
        "expected a ridge above 0"
    )


def beaten_groups(wins: Vector) -> list[list[int]]:
    """The items in groups, within which each lost to each directly or through others.

    A group stands before those that it beat and never lost to. With one group the fit is
    finite; with several it is not, unless a ridge makes it so.

    Source: Ford 1957, doi:10.2307/2308513. Chapter: preferences.

    Parameters
    ----------
    wins : array of shape (N, N)

    Returns
    -------
    list of lists of int

    Examples
    --------
    >>> beaten_groups(np.array([[0, 2, 1], [0, 0, 1], [0, 1, 0]]))
    [[0], [1, 2]]
    """
    wins = win_counts(wins)
    reach = (wins > 0) | np.eye(len(wins), dtype=bool)
    for k in range(len(wins)):  # Warshall: through items up to k
        reach |= reach[:, [k]] & reach[[k]]
    groups = {tuple(np.flatnonzero(reach[i] & reach[:, i]).tolist()) for i in range(len(wins))}
    return [list(g) for g in sorted(groups, key=lambda g: (-int(reach[g[0]].sum()), g))]


def borda(wins: Vector) -> Vector:
    """How often each item wins against an opponent drawn evenly from the others, shape (N,).

    Source: for what pooled comparisons learn, Siththaranjan et al. 2023, arXiv:2312.08358,
    section 3. Chapter: preferences.

    Parameters
    ----------
    wins : array of shape (N, N)
        Every two items have been compared.

    Examples
    --------
    >>> borda(np.array([[0, 3, 4], [1, 0, 2], [0, 2, 0]]))
    array([0.875, 0.375, 0.25 ])
    """
    wins = win_counts(wins)
    games = wins + wins.T
    if (games + np.eye(len(wins)) == 0).any():
        i, j = np.argwhere(games + np.eye(len(wins)) == 0)[0]
        raise ValueError(f"items {i} and {j} were never compared; expected every pair to be")
    return (wins / np.maximum(games, 1e-300)).sum(axis=1) / (len(wins) - 1)


def fleiss_kappa(counts: Vector) -> float:
    """Agreement beyond chance of several annotators: 1 if all agree, 0 if no more than by chance.

    Source: Fleiss 1971, doi:10.1037/h0031619. Chapter: preferences.

    Parameters
    ----------
    counts : array of shape (M, C)
        How many annotators put case m into category c; the same number, at least 2, in each case.

    Raises
    ------
    ValueError
        If rows have different sums, or only one category is ever used, where chance alone gives
        full agreement.

    Examples
    --------
    >>> round(fleiss_kappa(np.array([[2, 0], [0, 2], [1, 1]])), 4)
    0.3333
    """
    counts = np.asarray(counts, dtype=float)
    raters = counts.sum(axis=1) if counts.ndim == 2 and counts.size else np.zeros(1)
    if not (raters == raters[0]).all() or raters[0] < 2 or (counts < 0).any():
        raise ValueError(
            f"counts has rows that sum to {sorted(set(raters.tolist()))[:4]}; "
            "expected the same number of annotators, at least 2, in each"
        )
    m = raters[0]
    agreement = ((counts**2).sum(axis=1) - m).mean() / (m * (m - 1))
    chance = (counts.mean(axis=0) / m) @ (counts.mean(axis=0) / m)
    if math.isclose(chance, 1.0):
        raise ValueError(
            "counts uses one category only; expected at least two, else agreement "
            "beyond chance is undefined"
        )
    return float((agreement - chance) / (1 - chance))
