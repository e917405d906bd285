"""Calibration: whether a probability of .8 comes true in 80 % of cases.

A reward model predicts: σ(r_a − r_b) is the probability that a is preferred to b. Accuracy asks
only on which side of ½ that is; the functions here ask whether the number can be believed.
A pair has no first and second side, so orient it by the model's own choice before binning: by
the annotators' choice every outcome would be 1.

Axes: M predictions. Chapter: reward-model.
"""

from __future__ import annotations

import numpy as np

Vector = np.ndarray


def brier_score(probabilities: Vector, outcomes: Vector) -> float:
    """Mean of (p − y)²: 0 if all is foreseen, ¼ for always saying ½.

    Source: Brier 1950, Monthly Weather Review 78, for two classes in
    the half of his score that is usual today. Chapter: reward-model.

    Parameters
    ----------
    probabilities : array of shape (M,)
        That the event happens.
    outcomes : array of shape (M,)
        1 where it did, 0 where it did not; a true probability gives the expected score but for
        the noise p(1 − p) of the outcome itself.

    Examples
    --------
    >>> round(brier_score([.9, .6], [1, 0]), 3)  # (.01 + .36) / 2
    0.185
    """
    p, y = _check(probabilities, outcomes)
    return float(np.mean((p - y) ** 2))


def log_loss(log_odds: Vector, outcomes: Vector) -> float:
    """Mean of −log of the probability given to what happened, in nats per prediction.

    It takes log-odds z, p = σ(z), as gaps of rewards are: a probability of 1 has lost the number.

    Definition: mean of y softplus(−z) + (1 − y) softplus(z), both of shape (M,).
    Chapter: reward-model.

    Examples
    --------
    >>> round(log_loss([0., 800.], [1, 1]), 4)  # (log 2 + 0) / 2
    0.3466
    """
    z, y = _check(log_odds, outcomes, "log_odds")
    return float(np.mean(y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z)))


def reliability(probabilities: Vector, outcomes: Vector, bins: int = 10) -> np.ndarray:
    """The reliability diagram: what was said and what happened, bin by bin.

    Source: DeGroot and Fienberg 1983, doi:10.2307/2987588. Chapter: reward-model.

    Parameters
    ----------
    probabilities, outcomes : array of shape (M,)
    bins : int
        Of equal width over [0, 1]; 1 belongs to the last.

    Returns
    -------
    array of shape (K, 3)
        For each bin that is not empty: mean probability, mean outcome, number of predictions.

    Examples
    --------
    >>> reliability([.9, .7, .2], [1, 0, 0], bins=2)
    array([[0.2, 0. , 1. ],
           [0.8, 0.5, 2. ]])
    """
    p, y = _check(probabilities, outcomes)
    if bins < 1:
        raise ValueError(f"bins is {bins}; expected at least 1")
    index = np.minimum((p * bins).astype(int), bins - 1)
    return np.array(
        [[p[index == k].mean(), y[index == k].mean(), (index == k).sum()] for k in np.unique(index)]
    )


def expected_calibration_error(probabilities: Vector, outcomes: Vector, bins: int = 10) -> float:
    """Mean distance of what was said from what happened, bins weighted by their predictions.

    With M predictions even the true probabilities get more than 0: each bin's mean outcome is
    off by chance. Compare with what they would get.

    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3. Chapter: reward-model.

    Examples
    --------
    >>> round(expected_calibration_error([.9, .7, .2], [1, 0, 0], bins=2), 4)  # (.2 + 2 · .3) / 3
    0.2667
    """
    said, happened, count = reliability(probabilities, outcomes, bins).T
    return float((count * np.abs(said - happened)).sum() / count.sum())


def fit_temperature(log_odds: Vector, outcomes: Vector) -> float:
    """The temperature T for which σ(z / T) has the least `log_loss`: over 1, z was too confident.

    The loss is convex in 1/T, so its slope is followed to 0 by halving an interval. Dividing by
    T changes no order of completions, and so no accuracy.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2. Chapter: reward-model.

    Parameters
    ----------
    log_odds, outcomes : array of shape (M,)
        Predictions that the model was not trained on, with what happened.

    Raises
    ------
    ValueError
        If there is no best T: every prediction is on the right side, or they are no better than
        guessing.

    Examples
    --------
    Odds of e² were claimed, and came true three times in four, odds of 3:

    >>> round(fit_temperature([2., 2., 2., 2.], [1, 1, 1, 0]), 4)  # 2 / log 3
    1.8205
    """
    z, y = _check(log_odds, outcomes, "log_odds")

    def slope(log_scale: float) -> float:  # of the loss in 1/T; it rises with 1/T
        p = 0.5 + 0.5 * np.tanh(np.exp(log_scale) * z / 2)  # σ, without overflow
        return float(np.mean((p - y) * z))

    low, high = -12.0, 12.0  # of log 1/T, in units of the typical |z|
    unit = -np.log(np.abs(z).mean()) if z.any() else 0.0
    if not slope(low + unit) < 0 < slope(high + unit):
        raise ValueError(
            "log_odds are all on the right side of 0, or no better than guessing; "
            "expected predictions of which some fail, and most do not"
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle + unit) < 0 else (low, middle)
    return float(np.exp(-(low + unit)))


def _check(predictions: Vector, outcomes: Vector, name: str = "probabilities"):
    p, y = np.asarray(predictions, dtype=float), np.asarray(outcomes, dtype=float)
    if p.ndim != 1 or p.shape != y.shape or not p.size:
        raise ValueError(
            f"{name} has shape {p.shape} and outcomes {y.shape}; expected one shape (M,), not empty"
        )
    for label, values in ((name, p), ("outcomes", y)):
        if not np.isfinite(values).all():
            raise ValueError(f"{label} has entries that are not finite")
        if not (label == "log_odds" or ((values >= 0) & (values <= 1)).all()):
            raise ValueError(
                f"{label} runs from {values.min():g} to {values.max():g}; expected 0 to 1"
            )
    return p, y
