"""How far a policy has moved: KL divergence, exact and estimated, and how hard to hold it.

Everywhere the direction is KL(π‖π_ref), the reverse, mode-seeking one, in nats. The log-ratio is
`log π(y) − log π_ref(y)` at samples y from π. Axes: B batch, T completion tokens, V vocabulary.
Chapters: kl-estimators, ppo-live.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import positive


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL between next-token distributions, summed over the vocabulary.

    Definition: Σ_v π(v) (log π(v) − log π_ref(v)). Chapter: kl-estimators.

    Parameters
    ----------
    logits, ref_logits : Tensor, shape (..., V)

    Returns
    -------
    Tensor, shape (...), in nats

    Examples
    --------
    >>> exact_kl(torch.tensor([0., 0.]), torch.tensor([1., 3.]).log())
    tensor(0.1438)
    """
    logprobs, ref_logprobs = (  # 16 bits are too few for a sum over a vocabulary
        torch.log_softmax(x if x.dtype == torch.float64 else x.float(), dim=-1)
        for x in (logits, ref_logits)
    )
    return (logprobs.exp() * (logprobs - ref_logprobs)).sum(dim=-1)


def k1(log_ratio: Tensor) -> Tensor:
    """log π − log π_ref: unbiased for the KL, often negative on a sample.

    Source: Schulman 2020, http://joschu.net/blog/kl-approx.html, which names k1, k2 and k3.
    Chapter: kl-estimators.
    """
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """Half the square of the log-ratio: never negative, biased.

    Source: as k1. Chapter: kl-estimators.
    """
    return log_ratio**2 / 2


def k3(log_ratio: Tensor) -> Tensor:
    """exp(−log_ratio) − 1 + log_ratio: unbiased for the KL, never negative.

    The sign in the exponent matters: with samples from π, exp(+log_ratio) − 1 − log_ratio
    estimates χ²(π‖π_ref) − KL, which is another quantity.

    Source: as k1. Chapters: kl-estimators, grpo.

    Examples
    --------
    >>> k3(torch.tensor([0., 1.]))
    tensor([0.0000, 0.3679])
    """
    return torch.expm1(-log_ratio) + log_ratio


class AdaptiveKL:
    """Moves β so that the measured KL stays near a target.

    e = clip(KL/target − 1, ±0.2), then β ← β (1 + e · n / horizon).

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2 (there n/horizon is the 0.1 of
    each batch). Chapter: ppo-live.

    Parameters
    ----------
    target : float
        KL to hold, nats per completion.
    horizon : int
        Completions over which β can change by about e.

    Examples
    --------
    >>> AdaptiveKL(target=6., horizon=640)(beta=.1, kl=12., completions=64)
    0.10200000000000001
    """

    def __init__(self, target: float, horizon: int):
        for name, x in (("target", target), ("horizon", horizon)):
            positive(name, x)
        self.target, self.horizon = target, horizon

    def __call__(self, beta: float, kl: float, completions: int) -> float:
        error = max(-0.2, min(0.2, kl / self.target - 1))
        return beta * (1 + error * completions / self.horizon)
