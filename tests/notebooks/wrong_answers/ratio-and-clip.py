"""Plausible wrong answers to the exercises of ratio-and-clip; the checks must refuse each one."""

from __future__ import annotations

import torch

# --- clip_gradient --------------------------------------------------------------------------------


def _gradient(logprobs, old_logprobs, advantages, raised, lowered, factor=None):
    ratio = (logprobs - old_logprobs).exp()
    slope = -advantages * (ratio if factor is None else factor)
    return torch.where(raised(ratio, advantages) | lowered(ratio, advantages), 0.0, slope)


def flat_on_both_sides(logprobs, old_logprobs, advantages, epsilon=0.2):
    return _gradient(
        logprobs,
        old_logprobs,
        advantages,
        lambda ratio, A: ratio > 1 + epsilon,
        lambda ratio, A: ratio < 1 - epsilon,
    )


def mirrored(logprobs, old_logprobs, advantages, epsilon=0.2):
    return _gradient(
        logprobs,
        old_logprobs,
        advantages,
        lambda ratio, A: (A > 0) & (ratio > 1 + epsilon),
        lambda ratio, A: (A < 0) & (ratio > 1 + epsilon),
    )


def in_the_ratio(logprobs, old_logprobs, advantages, epsilon=0.2):
    return _gradient(
        logprobs,
        old_logprobs,
        advantages,
        lambda ratio, A: (A > 0) & (ratio > 1 + epsilon),
        lambda ratio, A: (A < 0) & (ratio < 1 - epsilon),
        factor=1.0,
    )


def of_the_gain(logprobs, old_logprobs, advantages, epsilon=0.2):
    return -_gradient(
        logprobs,
        old_logprobs,
        advantages,
        lambda ratio, A: (A > 0) & (ratio > 1 + epsilon),
        lambda ratio, A: (A < 0) & (ratio < 1 - epsilon),
    )


def epsilon_forgotten(logprobs, old_logprobs, advantages, epsilon=0.2):
    return _gradient(
        logprobs,
        old_logprobs,
        advantages,
        lambda ratio, A: (A > 0) & (ratio > 1.2),
        lambda ratio, A: (A < 0) & (ratio < 0.8),
    )


# --- kl_from_sampler ------------------------------------------------------------------------------


def plain_log_ratio(logprobs, old_logprobs, mask):
    return ((old_logprobs - logprobs) * mask).sum(1).mean()


def for_samples_of_the_new_policy(logprobs, old_logprobs, mask):
    log_rho = logprobs - old_logprobs
    return (((-log_rho).exp() - 1 + log_rho) * mask).sum(1).mean()


def mean_over_tokens(logprobs, old_logprobs, mask):
    log_rho = logprobs - old_logprobs
    return ((log_rho.exp() - 1 - log_rho) * mask).sum() / mask.sum()


def padding_counts(logprobs, old_logprobs, mask):
    log_rho = logprobs - old_logprobs
    return (log_rho.exp() - 1 - log_rho).sum(1).mean()


def of_the_whole_reply(logprobs, old_logprobs, mask):
    log_rho = ((logprobs - old_logprobs) * mask).sum(1)
    return (log_rho.exp() - 1 - log_rho).mean()


# --- replies_left ---------------------------------------------------------------------------------


def _size(log_weights):
    weights = (log_weights - log_weights.max()).exp()
    return weights.sum() ** 2 / (weights**2).sum()


def overflows(logprobs, old_logprobs, mask):
    weights = ((logprobs - old_logprobs) * mask).sum(1).exp()
    return weights.sum() ** 2 / (weights**2).sum()


def reads_padding(logprobs, old_logprobs, mask):
    return _size((logprobs - old_logprobs).sum(1))


def mean_over_the_reply(logprobs, old_logprobs, mask):
    return _size(((logprobs - old_logprobs) * mask).sum(1) / mask.sum(1))


def counts_tokens(logprobs, old_logprobs, mask):
    return _size((logprobs - old_logprobs)[mask.bool()])


def the_wrong_way_round(logprobs, old_logprobs, mask):
    return _size(((old_logprobs - logprobs) * mask).sum(1))


WRONG = {
    "clip_gradient": [flat_on_both_sides, mirrored, in_the_ratio, of_the_gain, epsilon_forgotten],
    "kl_from_sampler": [
        plain_log_ratio,
        for_samples_of_the_new_policy,
        mean_over_tokens,
        padding_counts,
        of_the_whole_reply,
    ],
    "replies_left": [
        overflows,
        reads_padding,
        mean_over_the_reply,
        counts_tokens,
        the_wrong_way_round,
    ],
}
