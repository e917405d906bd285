"""Advantages: masked statistics, generalised advantage estimation, group baselines.

Axes: B batch, T completion tokens, G samples of one prompt. A mask is 1 on tokens that count and
0 on padding, of the same shape as what it masks. Everything here is in units of reward.
Chapters: policy-gradients, credit, grpo, grpo-variants.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_rows, check_same_shape


def masked_sum(
    values: Tensor, mask: Tensor, dim: int | None = None, constant: float = 1.0
) -> Tensor:
    """Sum of the values where the mask is 1, over a constant: of all, or along one dimension.

    Definition: Σ m x / constant; 0 where nothing counts. Chapter: grpo-variants.

    Parameters
    ----------
    values, mask : Tensor, of one shape
        Nothing is broadcast. What stands where the mask is 0 may be anything, NaN included.
    dim : int, optional
        The dimension that is summed away; None for all of them, which gives a scalar.
    constant : float
        What the sum is divided by, such as the most tokens that a completion could have.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> values, mask = torch.tensor([[1., 2.], [3., 9.]]), torch.tensor([[1, 1], [1, 0]])
    >>> masked_sum(values, mask, dim=1, constant=4.)
    tensor([0.7500, 0.7500])
    """
    check_same_shape(values=values, mask=mask)
    return torch.where(mask.bool(), values, 0.0).sum(dim) / constant


def masked_mean(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of the values where the mask is 1: of all, or along one dimension.

    Definition: Σ m x / Σ m. Chapters: alignment-problem, credit.

    Parameters
    ----------
    values, mask, dim
        As in `masked_sum`. Along a dimension, a mean of nothing is NaN, as in `torch.masked`.

    Raises
    ------
    ValueError
        If the shapes differ, or of all values none counts.

    Examples
    --------
    >>> masked_mean(torch.tensor([1., 2., 100.]), torch.tensor([1, 1, 0]))
    tensor(1.5000)
    >>> masked_mean(torch.tensor([[1., 2.], [3., 9.]]), torch.tensor([[1, 1], [0, 0]]), dim=1)
    tensor([1.5000,    nan])
    """
    total = masked_sum(values, mask, dim)
    if dim is None and not mask.any():
        raise ValueError("mask is 0 everywhere; expected at least one token that counts")
    return total / mask.bool().sum(dim)


def masked_variance(values: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Biased variance (divided by the count) where the mask is 1: of all, or along one dimension.

    Definition: Σ m (x − mean)² / Σ m. Chapter: credit.

    Parameters
    ----------
    values, mask, dim
        As in `masked_mean`.
    """
    mean = masked_mean(values, mask, dim)
    mean = mean if dim is None else mean.unsqueeze(dim)
    return masked_mean((values - mean) ** 2, mask, dim)


def masked_whiten(
    values: Tensor, mask: Tensor, shift_mean: bool = True, eps: float = 1e-8
) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over all tokens that count; 0 elsewhere.

    The variance is the biased one. Padding takes no part: over padded zeros the statistics would
    depend on how long the longest completion is.

    Source: Huang et al. 2022, "The 37 implementation details of PPO", detail 7, over real tokens
    here. Chapter: credit.

    Parameters
    ----------
    values, mask : Tensor, shape (B, T)
    shift_mean : bool
        False puts the mean back after scaling, as one does with rewards, whose sign means
        something.
    eps : float
        Keeps values that are all equal from being divided by 0.

    Examples
    --------
    >>> masked_whiten(torch.tensor([1., 3., 50.]), torch.tensor([1, 1, 0]))
    tensor([-1.,  1.,  0.])
    """
    mean, variance = masked_mean(values, mask), masked_variance(values, mask)
    whitened = (values - mean) * torch.rsqrt(variance + eps)
    return torch.where(mask.bool(), whitened if shift_mean else whitened + mean, 0.0)


def returns_to_go(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """What is still to come from each token on: Σ_{s ≥ t} γ^(s−t) r_s.

    Source: REINFORCE++, Hu et al. 2025, arXiv:2501.03262, uses it whitened over the batch.
    Chapters: policy-gradients, grpo-variants.

    Parameters
    ----------
    rewards, mask : Tensor, shape (B, T)
    gamma : float
        Discount, in [0, 1].

    Returns
    -------
    Tensor, shape (B, T)
        0 on padding.

    Examples
    --------
    >>> returns_to_go(torch.tensor([[-1., -1., 5.]]), torch.ones(1, 3))
    tensor([[3., 4., 5.]])
    """
    return gae(rewards, torch.zeros_like(rewards), mask, gamma, lam=1.0)[0]


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over the tokens of each completion.

    A_t = δ_t + γλ A_{t+1} with δ_t = r_t + γ V_{t+1} − V_t; after the last token both V and A
    are 0.

    Source: Schulman et al. 2015, arXiv:1506.02438, eq. 16. Chapter: credit.

    Parameters
    ----------
    rewards : Tensor, shape (B, T)
        Reward of each token.
    values : Tensor, shape (B, T)
        V of the state *before* token t is written.
    mask : Tensor, shape (B, T)
        1 up to and including the last token, padding on the right.
    gamma, lam : float
        Discount and the bias-variance trade-off λ, both in [0, 1].

    Returns
    -------
    advantages, returns : Tensor, shape (B, T)
        `returns = advantages + values`, the critic's target. 0 on padding.

    Examples
    --------
    With λ = γ = 1 the advantage is what is still to come, less what was expected:

    >>> advantages, _ = gae(torch.tensor([[0., 0., 1.]]), torch.tensor([[.5, .25, .75]]),
    ...                     torch.ones(1, 3), gamma=1., lam=1.)
    >>> advantages
    tensor([[0.5000, 0.7500, 0.2500]])
    """
    check_same_shape(rewards=rewards, values=values, mask=mask)
    for name, x in (("gamma", gamma), ("lam", lam)):
        if not 0 <= x <= 1:
            raise ValueError(f"{name} is {x}; expected a number in [0, 1]")
    rewards, values = (torch.where(mask.bool(), x, 0.0) for x in (rewards, values))
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])  # A_{t+1}
    next_value = torch.zeros_like(values[:, 0])  # V_{t+1}
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * mask[:, t]
        advantages[:, t] = following
        next_value = values[:, t]
    return advantages, advantages + values


def group_advantages(
    rewards: Tensor, group_size: int, baseline: str = "mean", scale: str = "std", eps: float = 1e-4
) -> Tensor:
    """Compare each reward with the other samples of its prompt.

    Source: GRPO, Shao et al. 2024, arXiv:2402.03300, section 4.1.2 ("mean", "std"); RLOO,
    Ahmadian et al. 2024, arXiv:2402.14740 ("leave_one_out", "none"); Dr. GRPO, Liu et al. 2025,
    arXiv:2503.20783 ("mean", "none"). Chapters: grpo, grpo-variants.

    Parameters
    ----------
    rewards : Tensor, shape (B,)
        One per completion; the samples of a prompt stand next to each other.
    group_size : int
        G, at least 2; B is a multiple of it.
    baseline : {"mean", "leave_one_out", "none"}
        The mean of the whole group, or of the G − 1 others, or nothing. The first is the second
        shrunk by (G − 1)/G.
    scale : {"std", "batch", "none"}
        Divide by the unbiased standard deviation, plus `eps`, of the group's rewards, or of all
        rewards in the batch, or do not divide.

    Returns
    -------
    Tensor, shape (B,)
        A group whose rewards are all equal gets zeros: it teaches nothing. (Without a baseline
        there is nothing to compare, and it gets what `scale` makes of its rewards.)

    Examples
    --------
    >>> group_advantages(torch.tensor([1., 0., 0., 3.]), 2, "mean", "none")
    tensor([ 0.5000, -0.5000, -1.5000,  1.5000])
    >>> group_advantages(torch.tensor([1., 0., 0., 3.]), 2, "leave_one_out", "none")
    tensor([ 1., -1., -3.,  3.])
    """
    if group_size < 2:
        raise ValueError(f"group_size is {group_size}; expected at least 2")
    if rewards.dim() != 1 or len(rewards) % group_size:
        raise ValueError(
            f"rewards has shape {tuple(rewards.shape)}; expected one entry per "
            f"completion, a multiple of group_size={group_size}"
        )
    if baseline not in ("mean", "leave_one_out", "none"):
        raise ValueError(f"baseline is {baseline!r}; expected 'mean', 'leave_one_out' or 'none'")
    if scale not in ("std", "batch", "none"):
        raise ValueError(f"scale is {scale!r}; expected 'std', 'batch' or 'none'")
    if not torch.isfinite(rewards).all():
        raise ValueError("rewards has an entry that is not finite; expected numbers")
    if not rewards.is_floating_point():  # verdicts: 0 and 1, False and True
        rewards = rewards.float()
    groups = rewards.view(-1, group_size)
    advantages = groups if baseline == "none" else groups - groups.mean(dim=1, keepdim=True)
    if baseline == "leave_one_out":
        advantages = advantages * group_size / (group_size - 1)
    if scale != "none":
        std = groups.std(dim=1, keepdim=True) if scale == "std" else rewards.std()
        advantages = advantages / (std + eps)
    if baseline != "none":  # a rounded mean, over a spread near 0, would pass for an advantage
        advantages = advantages.masked_fill(all_equal(groups)[:, None], 0.0)
    return advantages.flatten()


def all_equal(groups: Tensor) -> Tensor:
    """Whether a group's rewards are all the same, (N, G) to (N,): such a group teaches nothing.

    Definition: every reward is the first one. Chapter: grpo-variants.
    """
    return (groups == groups[:, :1]).all(dim=1)


def optimal_baseline(rewards: Tensor, squared_norms: Tensor) -> Tensor:
    """The constant that leaves the policy gradient with the least variance: E[r s²] / E[s²].

    s is the gradient of a completion's log-probability. A reward counts by how far its completion
    would move the policy, so this is the mean reward only where all move it equally far.

    Source: Greensmith et al. 2004, https://jmlr.org/papers/v5/greensmith04a.html.
    Chapter: policy-gradients.

    Parameters
    ----------
    rewards : Tensor, shape (B,)
    squared_norms : Tensor, shape (B,)
        Squared norm s² of the gradient of log π of each completion, at least 0 and somewhere more.

    Returns
    -------
    Tensor, shape ()

    Examples
    --------
    >>> optimal_baseline(torch.tensor([1., 0.]), torch.tensor([1., 3.]))
    tensor(0.2500)
    """
    check_same_shape(rewards=rewards, squared_norms=squared_norms)
    if not (squared_norms >= 0).all() or not squared_norms.any():
        raise ValueError(
            "squared_norms is 0 everywhere, or somewhere negative or not a number; "
            "expected numbers of at least 0, and one above it"
        )
    return (rewards * squared_norms).sum() / squared_norms.sum()


def token_rewards(scores: Tensor, log_ratio: Tensor, mask: Tensor, beta: float) -> Tensor:
    """The reward of each token: the KL penalty everywhere, the score on the last real token.

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2, eq. 2. Chapters: credit,
    ppo-live.

    Parameters
    ----------
    scores : Tensor, shape (B,)
    log_ratio : Tensor, shape (B, T)
        log π − log π_ref of the sampled tokens; detached, as it is part of the reward.
    mask : Tensor, shape (B, T)
        1 up to and including the last token, padding on the right.
    beta : float
        Reward per nat.

    Returns
    -------
    Tensor, shape (B, T)
        0 on padding; of the wider type of `scores` and `log_ratio`.

    Examples
    --------
    >>> token_rewards(torch.tensor([2.]), torch.tensor([[1., -1., 7.]]),
    ...               torch.tensor([[1, 1, 0]]), beta=.5)
    tensor([[-0.5000,  2.5000,  0.0000]])
    """
    check_rows("log_ratio", log_ratio, mask)
    if scores.shape != (len(mask),):
        raise ValueError(
            f"scores has shape {tuple(scores.shape)}; expected ({len(mask)},), one "
            "for each row of mask"
        )
    if (mask.int().diff(dim=1) > 0).any():  # where a tool wrote: nothing is handed on across it
        raise ValueError("mask has a gap in a row; expected one run of tokens, then padding")
    rewards = torch.where(mask.bool(), -beta * log_ratio.detach(), 0.0)
    rewards = rewards.to(torch.promote_types(rewards.dtype, scores.dtype))
    last = mask.bool().sum(dim=1, keepdim=True) - 1
    rewards = rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))
    return rewards + 0.0  # turns -0. into 0.


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """How much of the returns the critic foresaw: 1 is a perfect critic, 0 a constant.

    Definition: 1 − Var(returns − values)/Var(returns) over real tokens, shapes (B, T). Not finite
    where the returns are all equal: there is nothing to foresee. Chapter: credit.
    """
    return 1 - (masked_variance(returns - values, mask) / masked_variance(returns, mask)).item()
