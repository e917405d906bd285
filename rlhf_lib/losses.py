"""Losses: pure functions of tensors and a mask, without a model in sight.

Axes: B batch, T completion tokens. A policy loss comes in two steps: a per-token loss of shape
(B, T), then `aggregate`, which says what is averaged over what. Gradients flow into `logprobs`
and `values`; everything from the sampler (`old_logprobs`, `advantages`, `old_values`, `returns`)
is data. Chapters: ppo-live, grpo.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .advantages import masked_mean


# ---------------------------------------------------------------------------------- supervised

def sft_loss(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Mean negative log-likelihood of the completion tokens, in nats per token.

    Parameters
    ----------
    logprobs : Tensor, shape (B, T)
        log π(y_t | x, y_<t) of the demonstrations.
    mask : Tensor, shape (B, T)
        1 on completion tokens, the end token included. The prompt is masked by not being here.

    Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.1. Chapter: ppo-live.
    """
    return -masked_mean(logprobs, mask)


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.,
                       centering: float = 0.) -> Tensor:
    """−log σ(r_chosen − r_rejected − margin), averaged over pairs, in nats.

    Parameters
    ----------
    chosen, rejected : Tensor, shape (B,)
        Scores of the two completions of each pair.
    margin : Tensor of shape (B,) or float
        How much better the chosen one should be.
    centering : float
        Weight of (r_chosen + r_rejected)², averaged: it pins the shift that comparisons leave
        free at zero.

    Source: Bradley and Terry 1952; Ouyang et al. 2022, eq. 1; margin from Touvron et al. 2023,
    arXiv:2307.09288, section 3.2.2; centering from Eisenstein et al. 2023, arXiv:2312.09244.
    Chapter: ppo-live.

    Examples
    --------
    A tie costs log 2:

    >>> bradley_terry_loss(torch.tensor([1.]), torch.tensor([1.]))
    tensor(0.6931)
    """
    loss = F.softplus(-(chosen - rejected - margin)).mean()
    return loss + centering * ((chosen + rejected) ** 2).mean() if centering else loss


# ---------------------------------------------------------------------------------- policy

def clipped_policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor,
                        epsilon: float = .2, epsilon_high: float | None = None) -> Tensor:
    """PPO's clipped surrogate, per token: −min(ρA, clip(ρ, 1 − ε, 1 + ε_high)A).

    ρ = exp(logprobs − old_logprobs) compares the policy with the one that sampled, not with the
    reference. The minimum is taken for either sign of the advantage: it removes the gradient on
    the side where the ratio has already gone far enough, and confines nothing.

    Parameters
    ----------
    logprobs, old_logprobs : Tensor, shape (B, T)
    advantages : Tensor, shape (B, T) or (B, 1)
        (B, 1) gives every token of a completion the same advantage.
    epsilon : float
        Lower clip, and the upper one where `epsilon_high` is None.
    epsilon_high : float, optional

    Returns
    -------
    Tensor, shape (B, T)

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; the second ε from DAPO, Yu et al. 2025,
    arXiv:2503.14476. Chapters: ppo-live, grpo.

    Examples
    --------
    At a ratio of 1.3 a bad token is still pushed down; a good one is no longer pushed up:

    >>> ratio = torch.tensor([[1.3, 1.3]]).log()
    >>> clipped_policy_loss(ratio, torch.zeros(1, 2), torch.tensor([[-3., 3.]]))
    tensor([[ 3.9000, -3.6000]])
    """
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - epsilon, 1 + high)
    return -torch.min(ratio * advantages, clipped * advantages)


def clip_fraction(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor,
                  epsilon: float = .2) -> float:
    """Share of tokens whose gradient the clip removes: ρ > 1 + ε with A > 0, ρ < 1 − ε with A < 0.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    inactive = ((ratio > 1 + epsilon) & (advantages > 0)) | \
        ((ratio < 1 - epsilon) & (advantages < 0))
    return masked_mean(inactive.float(), mask).item()


def aggregate(per_token_loss: Tensor, mask: Tensor, over: str = "tokens") -> Tensor:
    """Turn a per-token loss into a scalar, and say what is averaged.

    Parameters
    ----------
    per_token_loss, mask : Tensor, shape (B, T)
    over : {"tokens", "sequences"}
        "tokens": every token of the batch weighs the same (PPO, DAPO). "sequences": the mean over
        tokens within each completion, then over completions, so that a token of a long
        completion weighs less (GRPO as published).

    Examples
    --------
    >>> loss = torch.tensor([[1., 1., 1., 1.], [5., 0., 0., 0.]])
    >>> mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    >>> aggregate(loss, mask, "tokens"), aggregate(loss, mask, "sequences")
    (tensor(1.8000), tensor(3.))
    """
    if over == "tokens":
        return masked_mean(per_token_loss, mask)
    if over == "sequences":
        lengths = mask.sum(dim=1)
        if not lengths.all():
            raise ValueError("mask has a row of zeros; expected a token in every completion")
        return (torch.where(mask.bool(), per_token_loss, 0.).sum(dim=1) / lengths).mean()
    raise ValueError(f"over is {over!r}; expected 'tokens' or 'sequences'")


# ---------------------------------------------------------------------------------- value

def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor,
                       epsilon: float | None = .2) -> Tensor:
    """Half the squared error of the critic, per token, the worse of clipped and not.

    Parameters
    ----------
    values, old_values, returns : Tensor, shape (B, T)
        The critic now, the critic that made the advantages, and its target.
    epsilon : float or None
        How far `values` may move from `old_values` before it earns no more; None for no clip.

    Returns
    -------
    Tensor, shape (B, T)

    Source: the clip is from OpenAI's PPO code, described in Huang et al. 2022, "The 37
    implementation details of PPO", detail 9. Chapter: ppo-live.
    """
    error = (values - returns) ** 2
    if epsilon is not None:
        clipped = old_values + (values - old_values).clamp(-epsilon, epsilon)
        error = torch.max(error, (clipped - returns) ** 2)
    return error / 2
