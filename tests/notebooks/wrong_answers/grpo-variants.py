"""Plausible wrong answers to the exercises of grpo-variants; the checks must refuse each."""

from __future__ import annotations

import math

import torch

from rlhf_lib.mathematics.intervals import mean_interval
from rlhf_lib.mathematics.losses import gspo_loss, sequence_logprobs

# --- draws_for_one --------------------------------------------------------------------------------


def mean_of_the_reciprocals(p, G):
    shares = [1 - x**G - (1 - x) ** G for x in p]
    return sum(1 / s if s > 0 else math.inf for s in shares) / len(p)


def of_the_mean_prompt(p, G):
    x = sum(p) / len(p)
    teaches = 1 - x**G - (1 - x) ** G
    return 1 / teaches if teaches > 0 else math.inf


def only_all_wrong_is_silent(p, G):
    teaches = sum(1 - (1 - x) ** G for x in p) / len(p)
    return 1 / teaches if teaches > 0 else math.inf


def no_end(p, G):
    return 1 / (sum(1 - x**G - (1 - x) ** G for x in p) / len(p))


# --- silenced -------------------------------------------------------------------------------------


def clips_of(method):
    return {
        "grpo": (0.2, 0.2),
        "clip_higher": (0.2, 0.28),
        "gspo": (3e-4, 4e-4),
        "rloo": (0.2, 0.2),
        "cispo": (math.inf, math.inf),
    }[method]


def ratio_of(log_ratio, mask, method):
    if method in ("gspo", "rloo"):
        total = (log_ratio * mask).sum(dim=1, keepdim=True)
        log_ratio = total / (mask.sum(dim=1, keepdim=True) if method == "gspo" else 1)
    return log_ratio.exp().expand_as(mask)


def whatever_the_sign(log_ratio, advantages, mask, method):
    (low, high), ratio = clips_of(method), ratio_of(log_ratio, mask, method)
    return ((ratio > 1 + high) | (ratio < 1 - low)) & mask.bool()


def sides_exchanged(log_ratio, advantages, mask, method):
    (low, high), ratio = clips_of(method), ratio_of(log_ratio, mask, method)
    return (
        ((ratio > 1 + high) & (advantages < 0)) | ((ratio < 1 - low) & (advantages > 0))
    ) & mask.bool()


def tokens_in_all_methods(log_ratio, advantages, mask, method):
    (low, high), ratio = clips_of(method), log_ratio.exp()
    return (
        ((ratio > 1 + high) & (advantages > 0)) | ((ratio < 1 - low) & (advantages < 0))
    ) & mask.bool()


def padding_silenced_too(log_ratio, advantages, mask, method):
    (low, high), ratio = clips_of(method), ratio_of(log_ratio, mask, method)
    return ((ratio > 1 + high) & (advantages > 0)) | ((ratio < 1 - low) & (advantages < 0))


def cispo_capped_is_silent(log_ratio, advantages, mask, method):
    if method == "cispo":
        return (log_ratio.exp() > 1.2) & (advantages > 0) & mask.bool()
    (low, high), ratio = clips_of(method), ratio_of(log_ratio, mask, method)
    return (
        ((ratio > 1 + high) & (advantages > 0)) | ((ratio < 1 - low) & (advantages < 0))
    ) & mask.bool()


def gspo_clip_alike_on_both_sides(log_ratio, advantages, mask, method):
    ratio = ratio_of(log_ratio, mask, method)
    low, high = (3e-4, 3e-4) if method == "gspo" else clips_of(method)
    return (
        ((ratio > 1 + high) & (advantages > 0)) | ((ratio < 1 - low) & (advantages < 0))
    ) & mask.bool()


# --- repaired_ratio -------------------------------------------------------------------------------


def arithmetic_still(logprobs, old_logprobs, mask):
    return ((logprobs - old_logprobs).exp() * mask).sum(dim=1) / mask.sum(dim=1)


def padded_length_still(logprobs, old_logprobs, mask):
    return ((logprobs - old_logprobs) * mask).mean(dim=1).exp()


def whole_completion(logprobs, old_logprobs, mask):
    return ((logprobs - old_logprobs) * mask).sum(dim=1).exp()


# --- verdict --------------------------------------------------------------------------------------


def by_the_mean(ours, theirs):
    difference = sum(ours) / len(ours) - sum(theirs) / len(theirs)
    return "better" if difference > 0 else "worse" if difference < 0 else "cannot tell"


def not_paired(ours, theirs):
    if len(ours) < 2:
        return "cannot tell"
    (a, half_a), (b, half_b) = mean_interval(ours), mean_interval(theirs)
    return (
        "better"
        if a - half_a > b + half_b
        else "worse"
        if a + half_a < b - half_b
        else "cannot tell"
    )


def two_standard_errors(ours, theirs):
    d = torch.tensor([a - b for a, b in zip(ours, theirs)])
    if len(d) < 2 or abs(d.mean()) <= 1.96 * d.std() / len(d) ** 0.5:
        return "cannot tell"
    return "better" if d.mean() > 0 else "worse"


def divided_by_all_seeds(ours, theirs):
    d = torch.tensor([a - b for a, b in zip(ours, theirs)], dtype=torch.float64)
    if len(d) < 2:
        return "cannot tell"
    half = mean_interval(d.tolist())[1] * ((len(d) - 1) / len(d)) ** 0.5
    return "cannot tell" if abs(d.mean()) <= half else "better" if d.mean() > 0 else "worse"


def equal_is_worse(ours, theirs):
    if len(ours) < 2:
        return "cannot tell"
    mean, half = mean_interval([a - b for a, b in zip(ours, theirs)])
    return "better" if mean > half else "worse" if mean <= -half else "cannot tell"


# --- repaired_draw --------------------------------------------------------------------------------


def stacked(kept, wanted):
    return torch.stack(kept[:wanted]) if kept else torch.empty(0)


def mean_strictly_between(draw, wanted, max_draws):
    kept, drawn = [], 0
    for _ in range(max_draws):
        groups = draw()
        drawn += len(groups)
        kept += [group for group in groups if 0 < group.mean() < 1]
        if len(kept) >= wanted:
            break
    return stacked(kept, wanted), drawn


def some_right_some_wrong(draw, wanted, max_draws):
    kept, drawn = [], 0
    for _ in range(max_draws):
        groups = draw()
        drawn += len(groups)
        kept += [group for group in groups if group.max() > 0 and group.min() < 1]
        if len(kept) >= wanted:
            break
    return stacked(kept, wanted), drawn


def counts_the_kept(draw, wanted, max_draws):
    kept = []
    for _ in range(max_draws):
        kept += [group for group in draw() if not (group == group[0]).all()]
        if len(kept) >= wanted:
            break
    return stacked(kept, wanted), len(kept)


def never_stops(draw, wanted, max_draws):
    kept, drawn = [], 0
    while len(kept) < wanted:
        groups = draw()
        drawn += len(groups)
        kept += [group for group in groups if not (group == group[0]).all()]
    return stacked(kept, wanted), drawn


def more_than_wanted(draw, wanted, max_draws):
    kept, drawn = [], 0
    for _ in range(max_draws):
        groups = draw()
        drawn += len(groups)
        kept += [group for group in groups if not (group == group[0]).all()]
        if len(kept) >= wanted:
            break
    return stacked(kept, len(kept)), drawn


# --- gspo_token_loss ------------------------------------------------------------------------------


def clipped(ratio, advantages):
    return -torch.min(ratio * advantages, ratio.clamp(1 - 3e-4, 1 + 4e-4) * advantages)


def not_detached(logprobs, old_logprobs, advantages, mask):
    log_s = sequence_logprobs(logprobs - old_logprobs, mask, mean=True)[:, None]
    return clipped((log_s + logprobs - logprobs.detach()).exp(), advantages)


def ratio_of_the_token(logprobs, old_logprobs, advantages, mask):
    return clipped((logprobs - old_logprobs).exp(), advantages)


def no_gradient_of_its_own(logprobs, old_logprobs, advantages, mask):
    log_s = sequence_logprobs(logprobs - old_logprobs, mask, mean=True)[:, None]
    return clipped(log_s.exp().expand_as(mask), advantages)


def one_advantage(logprobs, old_logprobs, advantages, mask):
    return gspo_loss(logprobs, old_logprobs, advantages[:, :1], mask)


def whole_sequence(logprobs, old_logprobs, advantages, mask):
    log_s = sequence_logprobs(logprobs - old_logprobs, mask)[:, None].detach()
    return clipped((log_s + logprobs - logprobs.detach()).exp(), advantages)


WRONG = {
    "draws_for_one": [
        mean_of_the_reciprocals,
        of_the_mean_prompt,
        only_all_wrong_is_silent,
        no_end,
    ],
    "silenced": [
        whatever_the_sign,
        sides_exchanged,
        tokens_in_all_methods,
        padding_silenced_too,
        cispo_capped_is_silent,
        gspo_clip_alike_on_both_sides,
    ],
    "repaired_ratio": [arithmetic_still, padded_length_still, whole_completion],
    "verdict": [by_the_mean, not_paired, two_standard_errors, divided_by_all_seeds, equal_is_worse],
    "repaired_draw": [
        mean_strictly_between,
        some_right_some_wrong,
        counts_the_kept,
        never_stops,
        more_than_wanted,
    ],
    "gspo_token_loss": [
        not_detached,
        ratio_of_the_token,
        no_gradient_of_its_own,
        one_advantage,
        whole_sequence,
    ],
}
