"""Gold reward against distance: the two forms of Gao et al., fitted; runs at equal KL; best-of-n.

Distance is d = √KL, in square roots of nats. A gain is gold reward less that of the policy which
training started from, so that it is 0 at d = 0. Both forms are linear in their coefficients:

    best-of-n                 gain = d (α − β d)
    reinforcement learning    gain = d (α − β log d)

It leaves out how α and β depend on the size of the reward model and of its data.
Axes: M measurements, P prompts, n samples of each. Chapter: over-optimization.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # a demo that fits these forms needs no PyTorch
    from torch import Tensor

FORMS = ("best_of_n", "rl")


class Fit(NamedTuple):
    """Coefficients of a form, and how well the measurements fix them.

    Definition: least squares; the standard errors take measurements to be independent, which
    those of one training run are not. Chapter: over-optimization.
    """

    alpha: float
    beta: float
    alpha_se: float
    beta_se: float
    r2: float  # share of the gains' squared deviations from their mean that the form explains


def _terms(form: str, d) -> np.ndarray:
    """The form's two functions of d, shape (M, 2): what α and β are multiplied by."""
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; expected one of {', '.join(map(repr, FORMS))}")
    d = np.asarray(d, dtype=float)
    if not (np.isfinite(d) & (d >= 0)).all():
        raise ValueError(
            f"d has the entry {d[~(np.isfinite(d) & (d >= 0))][0]}; expected finite "
            "distances √KL of 0 or more"
        )
    if form == "best_of_n":
        return np.stack([d, -d * d], axis=-1)
    return np.stack([d, -d * np.log(np.where(d > 0, d, 1.0))], axis=-1)  # d log d is 0 at 0


def gain(form: str, d, alpha: float, beta: float) -> np.ndarray:
    """The gold gain that a form gives at distances d.

    Source: Gao et al. 2022, arXiv:2210.10760, section 1. Chapter: over-optimization.

    Parameters
    ----------
    form : {"best_of_n", "rl"}
    d : array
        √KL from the initial policy, KL in nats.
    alpha, beta : float

    Examples
    --------
    >>> gain("best_of_n", [0., 1., 2.], alpha=2., beta=.5)
    array([0. , 1.5, 2. ])
    """
    return _terms(form, d) @ np.array([alpha, beta], dtype=float)


def fit(form: str, d, gains, se=None) -> Fit:
    """Fit α and β by linear least squares.

    Source: Gao et al. 2022, arXiv:2210.10760, section 1, for the forms. Chapter:
    over-optimization.

    Parameters
    ----------
    form : {"best_of_n", "rl"}
    d : array of shape (M,)
        √KL of each measurement; a measurement at 0 says nothing, as both forms are 0 there.
    gains : array of shape (M,)
        Gold reward, less that at d = 0.
    se : array of shape (M,), optional
        Standard error of each gain where d > 0: a measurement counts by 1/se². All alike if None.

    Raises
    ------
    ValueError
        If fewer than three measurements have d > 0 (two would be met exactly), or the arrays do
        not fit together.

    Examples
    --------
    >>> d = np.array([.5, 1., 2., 3.])
    >>> round(fit("rl", d, gain("rl", d, alpha=1.5, beta=1.)).alpha, 6)
    1.5
    """
    terms, gains = _terms(form, d), np.asarray(gains, dtype=float)
    if terms.ndim != 2 or gains.shape != terms.shape[:1]:
        raise ValueError(
            f"gains has shape {gains.shape}; expected that of d, {np.shape(d)}, in one dimension"
        )
    kept = np.asarray(d, dtype=float) > 0
    if len(set(np.asarray(d, dtype=float)[kept])) < 3:
        raise ValueError(
            f"d has {len(set(np.asarray(d)[kept]))} different distances above 0; "
            "expected at least 3, to fit two coefficients and see an error"
        )
    terms, gains = terms[kept], gains[kept]
    se = np.ones(len(gains)) if se is None else np.asarray(se, dtype=float)[kept]
    if not (np.isfinite(se) & (se > 0)).all():
        raise ValueError("se has an entry that is 0 or not finite; expected positive numbers")
    weight = 1 / se
    a = terms * weight[:, None]
    coefficients, *_ = np.linalg.lstsq(a, gains * weight, rcond=None)
    misses = gains - terms @ coefficients
    scale = np.square(misses * weight).sum() / (len(gains) - 2)
    alpha_se, beta_se = np.sqrt(scale * np.diag(np.linalg.inv(a.T @ a)))
    spread = np.square((gains - np.average(gains, weights=weight**2)) * weight).sum()
    r2 = 1 - np.square(misses * weight).sum() / spread if spread > 0 else float("nan")
    return Fit(*map(float, (*coefficients, alpha_se, beta_se, r2)))


def peak(form: str, alpha: float, beta: float) -> tuple[float, float]:
    """Where a form is highest, (d, gain): the distance at which to stop.

    Definition: the zero of the derivative, α/(2β) for best-of-n and exp(α/β − 1) for
    reinforcement learning. Where β is not positive the form ends by rising, and both are infinite;
    or, with a β of 0 and an α that is not positive, by falling, and both are 0. Chapter:
    over-optimization.

    Examples
    --------
    >>> peak("best_of_n", alpha=2., beta=.5)
    (2.0, 2.0)
    >>> peak("rl", alpha=1., beta=1.)
    (1.0, 1.0)
    """
    _terms(form, 0.0)
    if beta <= 0:
        return (math.inf, math.inf) if beta < 0 or alpha > 0 else (0.0, 0.0)
    d = max(0.0, alpha / (2 * beta)) if form == "best_of_n" else math.exp(alpha / beta - 1)
    return d, float(gain(form, d, alpha, beta))


def at_kl(kl: Sequence[float], values: Sequence[float], where: float) -> float | None:
    """The value of a run where it first reaches a KL, read off linearly in √KL.

    Definition: linear interpolation between the last measurement before and the first at or past
    `where` nats; √KL, since gains are close to linear in it at the start. Chapter:
    over-optimization.

    Returns
    -------
    float or None
        None if the run never gets that far.

    Examples
    --------
    >>> at_kl([0., 1., 9.], [0., 1., 3.], 4.)
    2.0
    """
    if len(kl) != len(values):
        raise ValueError(f"values has {len(values)} entries; expected {len(kl)}, one for each KL")
    for i, reached in enumerate(kl):
        if reached >= where:
            if i == 0:
                return float(values[0])
            low, high = math.sqrt(max(0.0, kl[i - 1])), math.sqrt(reached)
            share = (math.sqrt(where) - low) / (high - low)
            return float(values[i - 1] + share * (values[i] - values[i - 1]))
    return None


def best_of_n_curve(scores: Tensor, values: Tensor | None = None) -> Tensor:
    """Expected value of the best of k samples for every k from 1 to n, without bias.

    Averaging over all subsets of k of the n samples uses each sample of each k, where splitting
    them into n/k groups would throw most subsets away. The sample of rank j (0 is the best) is
    the best of a subset in C(n−1−j, k−1) of the C(n, k) subsets.

    Source: Nakano et al. 2021, arXiv:2112.09332, appendix I; used by Gao et al. 2022,
    arXiv:2210.10760. Chapters: over-optimization, sft.

    Parameters
    ----------
    scores : Tensor, shape (P, n)
        What the best is chosen by: the proxy.
    values : Tensor, shape (P, n), optional
        What is averaged over the chosen ones, such as gold; `scores` themselves if None.

    Returns
    -------
    Tensor, shape (P, n), float64
        Entry [p, k − 1] is for the best of k of prompt p. Average over prompts for the curve, and
        take its standard error from them.

    Examples
    --------
    Three samples; the mean, the mean over three pairs, and the best:

    >>> import torch
    >>> best_of_n_curve(torch.tensor([[1., 2., 6.]]))
    tensor([[3.0000, 4.6667, 6.0000]], dtype=torch.float64)
    """
    import torch

    values = scores if values is None else values
    if scores.dim() != 2 or scores.shape != values.shape:
        raise ValueError(
            f"scores has shape {tuple(scores.shape)} and values "
            f"{tuple(values.shape)}; expected (prompts, samples) twice"
        )
    n = scores.shape[1]
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranked = values.double().gather(1, order)  # (P, n), the best first
    k = torch.arange(1, n + 1, dtype=torch.float64)[:, None]
    j = torch.arange(1, n, dtype=torch.float64)
    # C(n−1−j, k−1) / C(n, k): k/n at j = 0, then by the ratio of neighbours; (k, j)
    weights = torch.cat([k / n, k / n * ((n - j - k + 1).clamp(min=0) / (n - j)).cumprod(1)], 1)
    return ranked @ weights.T
