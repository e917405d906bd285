"""Losses: pure functions of tensors and a mask, without a model in sight.

Axes: B batch, T completion tokens. A policy loss comes in two steps: a per-token loss of shape
(B, T), then `aggregate`, which says what is averaged over what. Gradients flow into `logprobs`
and `values`; everything from the sampler (`old_logprobs`, `advantages`, `old_values`, `returns`)
is data. A preference loss takes one number per completion and returns the mean.
Chapters: sft, reward-model, policy-gradients, ratio-and-clip, credit, grpo-variants, stale-samples.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .advantages import masked_mean, masked_sum
from .checks import check_advantages, check_rows, check_same_shape

# ---------------------------------------------------------------------------------- supervised

CISPO_CAP = 5.0  # the largest weight of a token, where none is given
SAPO_TEMPERATURES = (1.0, 1.05)  # τ for advantages above 0, and for others


def sft_loss(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Mean negative log-likelihood of the completion tokens, in nats per token.

    Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.1. Chapters: alignment-problem,
    sft.

    Parameters
    ----------
    logprobs : Tensor, shape (B, T)
        log π(y_t | x, y_<t) of the demonstrations.
    mask : Tensor, shape (B, T)
        1 on completion tokens, the end token included. The prompt is masked by not being here.
    """
    return -masked_mean(logprobs, mask)


def bradley_terry_loss(
    chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, centering: float = 0.0
) -> Tensor:
    """−log σ(r_chosen − r_rejected − margin), averaged over pairs, in nats.

    Source: Bradley and Terry 1952; Ouyang et al. 2022, eq. 1; margin from Touvron et al. 2023,
    arXiv:2307.09288, section 3.2.2; centering from Eisenstein et al. 2023, arXiv:2312.09244.
    Chapter: reward-model.

    Parameters
    ----------
    chosen, rejected : Tensor, shape (B,)
        Scores of the two completions of each pair.
    margin : Tensor of shape (B,) or float
        How much better the chosen one should be.
    centering : float
        Weight of (r_chosen + r_rejected)², averaged: it pins the shift that comparisons leave
        free at zero.

    Examples
    --------
    A tie costs log 2:

    >>> bradley_terry_loss(torch.tensor([1.]), torch.tensor([1.]))
    tensor(0.6931)
    """
    check_same_shape(chosen=chosen, rejected=rejected)
    loss = F.softplus(-(chosen - rejected - margin)).mean()
    return loss + centering * ((chosen + rejected) ** 2).mean() if centering else loss


# ---------------------------------------------------------------------------------- policy


def reinforce_loss(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """−A log π, per token: its gradient is the policy gradient for samples of the policy itself.

    Source: Williams 1992, https://doi.org/10.1007/BF00992696. Chapter: policy-gradients.

    Parameters
    ----------
    logprobs : Tensor, shape (B, T)
    advantages : Tensor, shape (B, T) or (B, 1)
        Data: no gradient flows into them.

    Returns
    -------
    Tensor, shape (B, T)

    Examples
    --------
    >>> reinforce_loss(torch.tensor([[-1., -2.]]), torch.tensor([[3.]]))
    tensor([[3., 6.]])
    """
    check_advantages(advantages, logprobs)
    return -advantages.detach() * logprobs


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    dual_clip: float | None = None,
) -> Tensor:
    """PPO's clipped surrogate, per token: −min(ρA, clip(ρ, 1 − ε, 1 + ε_high)A).

    ρ = exp(logprobs − old_logprobs) compares the policy with the one that sampled, not with the
    reference. The minimum is taken for either sign of the advantage: it removes the gradient on
    the side where the ratio has already gone far enough, and confines nothing.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; the second ε from DAPO, Yu et al. 2025,
    arXiv:2503.14476, section 3.1; the dual clip from Ye et al. 2019, arXiv:1912.09729, eq. 5.
    Chapters: ratio-and-clip, ppo-live, grpo.

    Parameters
    ----------
    logprobs, old_logprobs : Tensor, shape (B, T)
    advantages : Tensor, shape (B, T) or (B, 1)
        (B, 1) gives every token of a completion the same advantage.
    epsilon : float
        Lower clip, and the upper one where `epsilon_high` is None.
    epsilon_high : float, optional
    dual_clip : float, optional
        A bound c > 1 + ε_high on the ratio where the advantage is negative, so that one token
        that became likely against the advice cannot carry the batch; None for no bound.

    Returns
    -------
    Tensor, shape (B, T)

    Examples
    --------
    At a ratio of 1.3 a bad token is still pushed down; a good one is no longer pushed up:

    >>> ratio = torch.tensor([[1.3, 1.3]]).log()
    >>> clipped_policy_loss(ratio, torch.zeros(1, 2), torch.tensor([[-3., 3.]]))
    tensor([[ 3.9000, -3.6000]])
    """
    check_same_shape(logprobs=logprobs, old_logprobs=old_logprobs)
    check_advantages(advantages, logprobs)
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - epsilon, 1 + high)
    objective = torch.min(ratio * advantages, clipped * advantages)
    if dual_clip is not None:
        if not dual_clip > 1 + high:
            raise ValueError(
                f"dual_clip is {dual_clip}; expected more than {1 + high}, the upper clip"
            )
        bounded = torch.max(objective, dual_clip * advantages)
        objective = torch.where(advantages < 0, bounded, objective)
    return -objective


def cispo_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, cap: float = CISPO_CAP
) -> Tensor:
    """−min(ρ, cap) A log π, per token, with the weight held constant: every token keeps a gradient.

    PPO's clip silences a token whose ratio has gone too far; here the token goes on speaking, with
    a bounded voice.

    Source: MiniMax-M1, MiniMax 2025, arXiv:2506.13585, eq. 4 and 5. Chapter: grpo-variants.

    Parameters
    ----------
    logprobs, old_logprobs : Tensor, shape (B, T)
    advantages : Tensor, shape (B, T) or (B, 1)
    cap : float
        The largest ratio itself, not its distance from 1.

    Returns
    -------
    Tensor, shape (B, T)

    Examples
    --------
    >>> cispo_loss(torch.tensor([[-1.]]), torch.tensor([[-3.]]), torch.tensor([[2.]]), cap=4.)
    tensor([[8.]])
    """
    check_same_shape(logprobs=logprobs, old_logprobs=old_logprobs)
    check_advantages(advantages, logprobs)
    weight = torch.exp(logprobs - old_logprobs).clamp(max=cap).detach()
    return -weight * advantages * logprobs


def sapo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    temperatures: tuple[float, float] = SAPO_TEMPERATURES,
) -> Tensor:
    """−(4/τ) σ(τ (ρ − 1)) A, per token: a gate that closes slowly where PPO's clip shuts at once.

    Its gradient is that of −ρA times 4σ(1 − σ), which is 1 at ρ = 1 and falls smoothly on both
    sides of it, whichever way the advantage points.

    Source: SAPO, Gao et al. 2025, arXiv:2511.20347. Chapter: grpo-variants.

    Parameters
    ----------
    logprobs, old_logprobs : Tensor, shape (B, T)
    advantages : Tensor, shape (B, T) or (B, 1)
    temperatures : pair of float
        τ where the advantage is above 0, and elsewhere: the higher, the sooner the gate closes.

    Returns
    -------
    Tensor, shape (B, T)

    Examples
    --------
    At a ratio of 1 the gate is half open, and 4/τ makes that 2/τ:

    >>> sapo_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[3., -3.]]), (1., 2.))
    tensor([[-6.,  3.]])
    """
    check_same_shape(logprobs=logprobs, old_logprobs=old_logprobs)
    check_advantages(advantages, logprobs)
    if not min(temperatures) > 0:
        raise ValueError(f"temperatures is {temperatures}; expected two numbers above 0")
    gate, tau = _gate(torch.exp(logprobs - old_logprobs), advantages, temperatures)
    return -gate * 4 / tau * advantages


def _gate(ratio: Tensor, advantages: Tensor, temperatures=SAPO_TEMPERATURES):
    """How far SAPO's gate is open for each token, σ(τ (ρ − 1)), and the τ of each."""
    tau = torch.where(advantages > 0, *temperatures)
    return torch.sigmoid(tau * (ratio - 1)), tau


def sequence_logprobs(logprobs: Tensor, mask: Tensor, mean: bool = False) -> Tensor:
    """log π(y | x) of whole completions, in nats; with `mean`, per token.

    Definition: Σ_t log π(y_t | x, y_<t). Chapter: grpo-variants.

    Parameters
    ----------
    logprobs, mask : Tensor, shape (B, T)
    mean : bool
        Divide by the completion's length, the end token included.

    Returns
    -------
    Tensor, shape (B,)

    Examples
    --------
    >>> sequence_logprobs(torch.tensor([[-1., -2., 9.]]), torch.tensor([[1, 1, 0]]))
    tensor([-3.])
    """
    check_rows("values", logprobs, mask)
    return (masked_mean if mean else masked_sum)(logprobs, mask, dim=1)


def gspo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    epsilon: float = 3e-4,
    epsilon_high: float | None = 4e-4,
) -> Tensor:
    """The clipped surrogate of one ratio per completion: the geometric mean of its tokens' ratios.

    Such a mean hardly leaves 1, so its clip is hundreds of times narrower than PPO's.

    Source: GSPO, Zheng et al. 2025, arXiv:2507.18071, eq. 5 to 7. Chapter: grpo-variants.

    Parameters
    ----------
    logprobs, old_logprobs, mask : Tensor, shape (B, T)
    advantages : Tensor, shape (B, 1)
    epsilon, epsilon_high : float

    Returns
    -------
    Tensor, shape (B, T)
        Each token carries the loss of its completion. Aggregate over sequences.
    """
    new, old = (sequence_logprobs(x, mask, mean=True)[:, None] for x in (logprobs, old_logprobs))
    return clipped_policy_loss(new, old, advantages, epsilon, epsilon_high).expand_as(logprobs)


def gmpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    epsilon: float = 0.4,
    epsilon_high: float | None = None,
) -> Tensor:
    """The geometric mean of a completion's ratios, each clipped before it is taken, times −A.

    GSPO clips the mean, and so a whole completion; here a token that has gone too far loses its
    gradient alone. The clip is one of log-ratios, from −ε to ε_high nats, and of one side as PPO's.

    Source: GMPO, Zhao et al. 2025, arXiv:2507.20673. Chapter: grpo-variants.

    Parameters
    ----------
    logprobs, old_logprobs, mask : Tensor, shape (B, T)
    advantages : Tensor, shape (B, 1)
    epsilon, epsilon_high : float
        In nats; the upper one is the lower one if not given.

    Returns
    -------
    Tensor, shape (B, T)
        Each token carries the loss of its completion. Aggregate over sequences.

    Examples
    --------
    Log-ratios .1 and .7, of which .4 is left: the mean is .25, and its exponential 1.284.

    >>> zeros, mask = torch.zeros(1, 2), torch.ones(1, 2)
    >>> gmpo_loss(torch.tensor([[.1, .7]]), zeros, torch.tensor([[1.]]), mask)
    tensor([[-1.2840, -1.2840]])
    """
    check_same_shape(logprobs=logprobs, old_logprobs=old_logprobs)
    check_advantages(advantages, logprobs)
    gap = logprobs - old_logprobs
    clipped = gap.clamp(-epsilon, epsilon if epsilon_high is None else epsilon_high)
    kept = torch.where(advantages > 0, torch.min(gap, clipped), torch.max(gap, clipped))
    mean = sequence_logprobs(kept, mask, mean=True)[:, None]
    return (-mean.exp() * advantages).expand_as(logprobs)


def rloo_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, epsilon: float = 0.2
) -> Tensor:
    """The clipped surrogate of the ratio of whole completions, π(y | x)/π_old(y | x).

    RLOO treats a completion as one action. On the first pass over a batch the ratio is 1 and this
    is REINFORCE.

    Source: Ahmadian et al. 2024, arXiv:2402.14740, section 3, for the completion as one action. The
    clip is PPO's; they find that it hardly ever acts. Chapter: grpo-variants.

    Parameters
    ----------
    logprobs, old_logprobs, mask : Tensor, shape (B, T)
    advantages : Tensor, shape (B, 1)
    epsilon : float

    Returns
    -------
    Tensor, shape (B, T)
        Each token carries the loss of its completion. Aggregate over sequences.
    """
    new, old = (sequence_logprobs(x, mask)[:, None] for x in (logprobs, old_logprobs))
    return clipped_policy_loss(new, old, advantages, epsilon).expand_as(logprobs)


OF_COMPLETIONS = ("gspo", "gmpo", "rloo")  # those with one ratio a completion
SURROGATES = ("clip", "cispo", "sapo", *OF_COMPLETIONS)


def policy_ratio(kind: str, logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """ρ of each token, (B, T), as the loss of a kind in `SURROGATES` has it.

    Of the token itself for "clip", "cispo" and "sapo". For "gspo", "gmpo" and "rloo" the tokens of
    a completion share one: the geometric mean of theirs, or their product.

    Definition: π/π_old, from tables of log-probabilities (B, T). Chapter: grpo-variants.

    Examples
    --------
    >>> logprobs, mask = torch.tensor([[2., 3.]]).log(), torch.ones(1, 2)
    >>> policy_ratio("rloo", logprobs, torch.zeros(1, 2), mask)
    tensor([[6., 6.]])
    """
    if kind in OF_COMPLETIONS:
        logprobs, old_logprobs = (
            sequence_logprobs(x, mask, mean=kind != "rloo")[:, None].expand_as(x)
            for x in (logprobs, old_logprobs)
        )
    return torch.exp(logprobs - old_logprobs)


def clip_fraction(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    kind: str = "clip",
) -> float:
    """Share of tokens whose gradient the clip removes.

    Definition: the share of ρ > 1 + ε_high with A > 0, and of ρ < 1 − ε with A < 0, for ρ the
    `policy_ratio` of a kind. Shapes as in `clipped_policy_loss`. Chapter: ratio-and-clip.
    """
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = policy_ratio(kind, logprobs, old_logprobs, mask)
    inactive = ((ratio > 1 + high) & (advantages > 0)) | ((ratio < 1 - epsilon) & (advantages < 0))
    return masked_mean(inactive.float(), mask).item()


def surrogate_loss(
    kind: str,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
) -> Tensor:
    """The loss of each token, (B, T), in one of the forms of `SURROGATES`.

    Definition: `clipped_policy_loss` or the function with the name of the kind; for "cispo"
    `epsilon_high` is the largest ratio, and 5 if not given. "sapo" has no ε. Chapter:
    grpo-variants.
    """
    tables = logprobs, old_logprobs, advantages
    if kind == "cispo":
        return cispo_loss(*tables, epsilon_high or CISPO_CAP)
    if kind == "sapo":
        return sapo_loss(*tables)
    if kind == "rloo":
        return rloo_loss(*tables, mask, epsilon)
    if kind in OF_COMPLETIONS:
        loss = gspo_loss if kind == "gspo" else gmpo_loss
        return loss(*tables, mask, epsilon, epsilon_high)
    return clipped_policy_loss(*tables, epsilon, epsilon_high)


def ratio_record(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    kind: str = "clip",
    dual_clip: float | None = None,
) -> dict[str, float]:
    """What to watch about the ratios of an update, in one of the forms of `surrogate_loss`.

    Definition: `clip_fraction` of the ratio that the form has, of tokens or of completions; for
    "cispo" the share of tokens whose weight the cap holds, for "gmpo" that of tokens whose own
    ratio is clipped, for "sapo" that of tokens whose gate has taken half of their gradient.
    `ratio_gap`: how far the ratio of a token is from 1 at most. With a dual clip c,
    `dual_clip_fraction`: the share of ρ > c with A < 0. Shapes as in `clipped_policy_loss`.
    Chapters: ppo-live, grpo-variants.
    """
    logprobs = logprobs.detach()
    ratio = torch.exp(logprobs - old_logprobs)
    found = {"ratio_gap": (ratio - 1).abs().max().item()}
    if dual_clip is not None:
        bounded = (ratio > dual_clip) & (advantages < 0)
        found["dual_clip_fraction"] = masked_mean(bounded.float(), mask).item()
    if kind == "cispo":
        advantages, epsilon = torch.ones_like(logprobs), 1.0
        epsilon_high = (epsilon_high or CISPO_CAP) - 1
    if kind == "gmpo":
        high = epsilon if epsilon_high is None else epsilon_high
        kind, epsilon, epsilon_high = "clip", -math.expm1(-epsilon), math.expm1(high)
    if kind == "sapo":
        gate, _ = _gate(ratio, advantages)
        half = (4 * gate * (1 - gate) < 0.5).float()
        return {"clip_fraction": masked_mean(half, mask).item(), **found}
    clipped = clip_fraction(logprobs, old_logprobs, advantages, mask, epsilon, epsilon_high, kind)
    return {"clip_fraction": clipped, **found}


IMPORTANCE_SAMPLING = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


def importance_weights(
    logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, mode: str, bounds=(0.0, 3.0)
) -> Tensor:
    """π/μ for completions that another policy μ has drawn: what each token's advantage is worth.

    Of the token itself, or of the whole completion, where it is the product over its tokens and
    the only one that makes an expectation under μ one under π. A bound keeps few samples from
    carrying the batch, and costs a bias: "truncate" moves a weight to the bound, "mask" drops what
    lies beyond it.

    Source: truncated, Espeholt et al. 2018, arXiv:1802.01561, section 4.1; the modes and the
    bound of 3 are those of TRL 1.16. Chapter: stale-samples.

    Parameters
    ----------
    logprobs, sampler_logprobs, mask : Tensor, shape (B, T)
        log π and log μ of each token, in nats.
    mode : str
        One of `IMPORTANCE_SAMPLING`.
    bounds : pair of float
        The lowest and the highest weight; 0 and `math.inf` for none.

    Returns
    -------
    Tensor, shape (B, T), or (B, 1) for a mode of sequences; without a gradient

    Examples
    --------
    Two tokens that π finds twice as likely as μ did:

    >>> gap, mask = torch.tensor([[2., 2.]]).log(), torch.ones(1, 2)
    >>> importance_weights(gap, torch.zeros(1, 2), mask, "sequence_truncate")
    tensor([[3.]])
    >>> importance_weights(gap, torch.zeros(1, 2), mask, "token_mask", (0., 1.5))
    tensor([[0., 0.]])
    """
    check_same_shape(logprobs=logprobs, sampler_logprobs=sampler_logprobs, mask=mask)
    if mode not in IMPORTANCE_SAMPLING:
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(IMPORTANCE_SAMPLING)}")
    log_ratio = (logprobs - sampler_logprobs).detach().where(mask.bool(), 0.0)
    if mode.startswith("sequence"):
        log_ratio = log_ratio.sum(dim=1, keepdim=True)
    weights = log_ratio.exp()
    if mode.endswith("truncate"):
        return weights.clamp(*bounds)
    return weights.where((weights >= bounds[0]) & (weights <= bounds[1]), 0.0)


def aggregate(
    per_token_loss: Tensor, mask: Tensor, over: str = "tokens", budget: int | None = None
) -> Tensor:
    """Turn a per-token loss into a scalar, and say what is averaged.

    Source: Liu et al. 2025, arXiv:2503.20783, section 3.1, for what each choice favours.
    Chapters: grpo, grpo-variants.

    Parameters
    ----------
    per_token_loss, mask : Tensor, shape (B, T)
    over : {"tokens", "sequences", "budget"}
        "tokens": every token of the batch weighs the same (PPO, DAPO). "sequences": the mean over
        tokens within each completion, then over completions, so that a token of a long
        completion weighs less (GRPO as published). "budget": the sum over tokens divided by a
        constant, so that a token weighs the same in every batch too (Dr. GRPO).
    budget : int, optional
        For "budget": the most tokens that a completion could have; the constant is B · budget.

    Examples
    --------
    >>> loss = torch.tensor([[1., 1., 1., 1.], [5., 0., 0., 0.]])
    >>> mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    >>> aggregate(loss, mask, "tokens"), aggregate(loss, mask, "sequences")
    (tensor(1.8000), tensor(3.))
    >>> aggregate(loss, mask, "budget", budget=10)
    tensor(0.4500)
    """
    check_same_shape(per_token_loss=per_token_loss, mask=mask)
    if over == "tokens":
        return masked_mean(per_token_loss, mask)
    if over == "sequences":
        return sequence_logprobs(per_token_loss, mask, mean=True).mean()
    if over == "budget":
        longest = int(mask.bool().sum(dim=1).max())
        if budget is None or budget < longest:
            raise ValueError(
                f"budget is {budget}; expected at least the longest completion, {longest} tokens"
            )
        return masked_sum(per_token_loss, mask, constant=len(mask) * budget)
    raise ValueError(f"over is {over!r}; expected 'tokens', 'sequences' or 'budget'")


# ---------------------------------------------------------------------------------- value


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, epsilon: float | None = 0.2
) -> Tensor:
    """Half the squared error of the critic, per token, the worse of clipped and not.

    Source: the clip is from OpenAI's PPO code, described in Huang et al. 2022, "The 37
    implementation details of PPO", detail 9. Chapter: credit.

    Parameters
    ----------
    values, old_values, returns : Tensor, shape (B, T)
        The critic now, the critic that made the advantages, and its target.
    epsilon : float or None
        How far `values` may move from `old_values` before it earns no more; None for no clip.

    Returns
    -------
    Tensor, shape (B, T)
    """
    check_same_shape(values=values, old_values=old_values, returns=returns)
    error = (values - returns) ** 2
    if epsilon is not None:
        clipped = old_values + (values - old_values).clamp(-epsilon, epsilon)
        error = torch.max(error, (clipped - returns) ** 2)
    return error / 2


# ---------------------------------------------------------------------------------- preferences


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Bradley–Terry on the implicit reward β (log π − log π_ref), averaged over pairs, in nats.

    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7; label smoothing from Mitchell 2023,
    https://ericmitchell.ai/cdpo.pdf. Chapter: dpo.

    Parameters
    ----------
    chosen, rejected, ref_chosen, ref_rejected : Tensor, shape (B,)
        log π(y | x) and log π_ref(y | x) of the two completions of each pair, in nats.
    beta : float
        The β of the KL-regularised objective whose optimum the policy is meant to be.
    label_smoothing : float
        Share of the labels taken to be the wrong way round, in [0, 0.5).

    Examples
    --------
    A policy that is its reference has learned nothing yet:

    >>> same = torch.tensor([-4.])
    >>> dpo_loss(same, same, same, same)
    tensor(0.6931)
    """
    gap = beta * _gap(chosen, rejected, ref_chosen, ref_rejected)
    return ((1 - label_smoothing) * F.softplus(-gap) + label_smoothing * F.softplus(gap)).mean()


def ipo_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float = 0.1
) -> Tensor:
    """Squared distance of the gap of log-ratios from 1/(2β): a gap that is large enough is enough.

    Where DPO's loss always asks for more, this one stops, so pairs that are never contradicted do
    not drive the policy off to infinity.

    Source: Azar et al. 2023, arXiv:2310.12036, eq. 17. Chapter: dpo.

    Parameters
    ----------
    chosen, rejected, ref_chosen, ref_rejected : Tensor, shape (B,)
        As in `dpo_loss`, log π(y | x) of whole completions, as the equation has it; or their means
        over tokens, as TRL takes them. The paper speaks of no mean; its authors told TRL's of it
        (https://huggingface.co/blog/pref-tuning, addendum). These are two losses: where the
        completions of a pair differ in length, no β turns one into the other.
    beta : float
        τ in the paper.

    Examples
    --------
    >>> ipo_loss(torch.tensor([5.]), torch.tensor([0.]), torch.zeros(1), torch.zeros(1), beta=.1)
    tensor(0.)
    """
    gap = _gap(chosen, rejected, ref_chosen, ref_rejected)
    return ((gap - 1 / (2 * beta)) ** 2).mean()


def _gap(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor) -> Tensor:
    """The log-ratio of the chosen completion less that of the rejected one, (B,)."""
    check_same_shape(
        chosen=chosen, rejected=rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected
    )
    return (chosen - ref_chosen) - (rejected - ref_rejected)


def simpo_loss(chosen: Tensor, rejected: Tensor, beta: float = 2.0, margin: float = 1.0) -> Tensor:
    """Bradley–Terry with a margin on log-probabilities per token; there is no reference.

    Source: Meng et al. 2024, arXiv:2405.14734, eq. 6. Chapter: dpo.

    Parameters
    ----------
    chosen, rejected : Tensor, shape (B,)
        Mean log π of the completion's tokens (`sequence_logprobs(..., mean=True)`).
    beta : float
        Reward per nat per token.
    margin : float
        γ: by how much, in units of reward, the chosen one should lead.

    Examples
    --------
    >>> simpo_loss(torch.tensor([-1.]), torch.tensor([-1.5]), beta=2., margin=1.)
    tensor(0.6931)
    """
    return bradley_terry_loss(beta * chosen, beta * rejected, margin)


def kto_loss(
    log_ratio: Tensor,
    desirable: Tensor,
    kl: Tensor | float,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """λ − λ σ(±(β log-ratio − β KL)): single completions, each marked good or bad.

    Source: Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7 and 8. Chapter: dpo.

    Parameters
    ----------
    log_ratio : Tensor, shape (B,)
        log π(y | x) − log π_ref(y | x), in nats.
    desirable : Tensor of bool, shape (B,)
    kl : Tensor of shape () or float
        The point from which a completion counts as a gain: an estimate of KL(π‖π_ref), in nats,
        never negative; no gradient flows into it.
    beta, desirable_weight, undesirable_weight : float

    Examples
    --------
    >>> kto_loss(torch.zeros(2), torch.tensor([True, False]), kl=0.)
    tensor(0.5000)
    """
    check_same_shape(log_ratio=log_ratio, desirable=desirable)
    if desirable.dtype != torch.bool:
        raise ValueError(f"desirable is of {desirable.dtype}; expected torch.bool")
    gain = beta * (log_ratio - (kl.detach() if isinstance(kl, Tensor) else kl))
    loss = 1 - torch.where(desirable, torch.sigmoid(gain), torch.sigmoid(-gain))
    return torch.where(desirable, desirable_weight * loss, undesirable_weight * loss).mean()
