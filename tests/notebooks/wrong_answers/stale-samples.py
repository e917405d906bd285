"""Plausible wrong answers to the exercises of stale-samples; the checks must refuse each."""

from __future__ import annotations

import math

import torch

# --- weights --------------------------------------------------------------------------------------


def _weights(log_ratio, mode, bound):
    if mode.startswith("sequence"):
        log_ratio = log_ratio.sum(dim=1, keepdim=True).expand_as(log_ratio)
    ratio = log_ratio.exp()
    if mode.endswith("truncate"):
        return ratio.clamp(max=bound)
    return torch.where(ratio <= bound, ratio, 0.0)


def padding_counts(logprobs, sampler_logprobs, mask, mode, bound):
    return _weights(logprobs - sampler_logprobs, mode, bound)


def padding_times_the_mask(logprobs, sampler_logprobs, mask, mode, bound):
    """Right, but for padding that is not finite."""
    return _weights((logprobs - sampler_logprobs) * mask, mode, bound)


def _log_ratio(logprobs, sampler_logprobs, mask):
    return torch.where(mask == 1, logprobs - sampler_logprobs, 0.0)


def the_other_way_round(logprobs, sampler_logprobs, mask, mode, bound):
    return _weights(-_log_ratio(logprobs, sampler_logprobs, mask), mode, bound)


def geometric_mean(logprobs, sampler_logprobs, mask, mode, bound):
    log_ratio = _log_ratio(logprobs, sampler_logprobs, mask)
    if mode.startswith("sequence"):
        mean = log_ratio.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True)
        return _weights(mean.expand_as(log_ratio), mode.replace("sequence", "token"), bound)
    return _weights(log_ratio, mode, bound)


def truncated_before_the_product(logprobs, sampler_logprobs, mask, mode, bound):
    log_ratio = _log_ratio(logprobs, sampler_logprobs, mask)
    return _weights(log_ratio.clamp(max=math.log(bound)), mode, bound)


def dropped_by_a_product(logprobs, sampler_logprobs, mask, mode, bound):
    """Infinity times 0."""
    log_ratio = _log_ratio(logprobs, sampler_logprobs, mask)
    if mode.startswith("sequence"):
        log_ratio = log_ratio.sum(dim=1, keepdim=True).expand_as(log_ratio)
    ratio = log_ratio.exp()
    if mode.endswith("truncate"):
        return ratio.clamp(max=bound)
    return ratio * (ratio <= bound)


def masks_that_truncate(logprobs, sampler_logprobs, mask, mode, bound):
    return _weights(
        _log_ratio(logprobs, sampler_logprobs, mask), mode.replace("mask", "truncate"), bound
    )


def weights_of_one(logprobs, sampler_logprobs, mask, mode, bound):
    return torch.where(
        _weights(_log_ratio(logprobs, sampler_logprobs, mask), mode, bound) > 0, 1, 0
    )


def one_column(logprobs, sampler_logprobs, mask, mode, bound):
    found = _weights(_log_ratio(logprobs, sampler_logprobs, mask), mode, bound)
    return found[:, :1] if mode.startswith("sequence") else found


# --- truncated_policy -----------------------------------------------------------------------------


def the_smaller_of_both(policy, sampler, bound):
    kept = [min(drawn, own) for own, drawn in zip(policy, sampler)]
    return [x / sum(kept) for x in kept]


def bound_on_the_policy(policy, sampler, bound):
    kept = [min(drawn, bound * own) for own, drawn in zip(policy, sampler)]
    return [x / sum(kept) for x in kept]


def not_normalised(policy, sampler, bound):
    return [min(bound * drawn, own) for own, drawn in zip(policy, sampler)]


def the_policy_itself(policy, sampler, bound):
    return policy


def the_weights(policy, sampler, bound):
    kept = [min(bound, own / drawn) for own, drawn in zip(policy, sampler)]
    return [x / sum(kept) for x in kept]


# --- longest --------------------------------------------------------------------------------------


def without_the_two(per_token, share):
    return math.inf if per_token == 0 else math.floor(-math.log(share) / per_token)


def rounded_up(per_token, share):
    return math.inf if per_token == 0 else math.ceil(-math.log(share) / (2 * per_token))


def not_whole(per_token, share):
    return math.inf if per_token == 0 else -math.log(share) / (2 * per_token)


def by_the_share_lost(per_token, share):
    return math.inf if per_token == 0 else math.floor(-math.log(1 - share) / (2 * per_token))


def zero_is_an_error(per_token, share):
    return math.floor(-math.log(share) / (2 * per_token))


WRONG = {
    "weights": [
        padding_counts,
        padding_times_the_mask,
        the_other_way_round,
        geometric_mean,
        truncated_before_the_product,
        dropped_by_a_product,
        masks_that_truncate,
        weights_of_one,
        one_column,
    ],
    "truncated_policy": [
        the_smaller_of_both,
        bound_on_the_policy,
        not_normalised,
        the_policy_itself,
        the_weights,
    ],
    "longest": [without_the_two, rounded_up, not_whole, by_the_share_lost, zero_is_an_error],
}
