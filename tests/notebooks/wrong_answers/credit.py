"""Plausible wrong answers to the exercises of credit; the checks must refuse each one."""

from __future__ import annotations

import torch

# --- mixture_of_looks -----------------------------------------------------------------------------


def _mixture(rewards, values, lam, last, guess=1.0):
    T, advantages = len(rewards), torch.zeros(len(rewards))
    for t in range(T):
        n = T - t
        for k in range(1, n + 1):
            ahead = values[t + k] * guess if k < n else 0.0
            weight = (1 - lam) * lam ** (k - 1) if k < n else last(lam, n)
            advantages[t] += weight * (rewards[t : t + k].sum() + ahead - values[t])
    return advantages


def weights_that_do_not_sum_to_one(rewards, values, lam):
    return _mixture(rewards, values, lam, lambda lam, n: (1 - lam) * lam ** (n - 1))


def rest_off_by_one(rewards, values, lam):
    return _mixture(rewards, values, lam, lambda lam, n: lam**n)


def nothing_guessed(rewards, values, lam):
    return _mixture(rewards, values, lam, lambda lam, n: lam ** (n - 1), guess=0.0)


def longest_look_only(rewards, values, lam):
    return rewards.flip(0).cumsum(0).flip(0) - values


# --- mended_gae -----------------------------------------------------------------------------------


def _backwards(delta, decay):
    advantages, A = torch.zeros_like(delta), torch.zeros(len(delta))
    for t in reversed(range(delta.shape[1])):
        A = delta[:, t] + decay * A
        advantages[:, t] = A
    return advantages


def _next(values):
    return torch.cat([values[:, 1:], torch.zeros(len(values), 1)], dim=1)


def padding_still_counts(rewards, values, mask, gamma=1.0, lam=0.95):
    return _backwards((rewards + gamma * _next(values) - values) * mask, gamma * lam)


def wraps_round_still(rewards, values, mask, gamma=1.0, lam=0.95):
    following = torch.roll(values * mask, -1, dims=1)
    return _backwards((rewards + gamma * following - values) * mask, gamma * lam)


def rolled_the_other_way(rewards, values, mask, gamma=1.0, lam=0.95):
    before = torch.cat([torch.zeros(len(values), 1), (values * mask)[:, :-1]], dim=1)
    return _backwards((rewards + gamma * values - before) * mask, gamma * lam)


def no_look_ahead(rewards, values, mask, gamma=1.0, lam=0.95):
    return _backwards((rewards - values) * mask, gamma * lam)


# --- mended_whiten --------------------------------------------------------------------------------


def padding_not_zero(values, mask):
    mean = (values * mask).sum() / mask.sum()
    variance = ((values - mean) ** 2 * mask).sum() / mask.sum()
    return (values - mean) / (variance + 1e-8).sqrt()


def only_the_padding_mended(values, mask):
    mean = (values * mask).sum() / mask.sum()
    variance = ((values - mean) ** 2 * mask).mean()
    return (values - mean) / (variance + 1e-8).sqrt() * mask


def row_by_row(values, mask):
    mean = (values * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    variance = ((values - mean) ** 2 * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    return (values - mean) / (variance + 1e-8).sqrt() * mask


def no_mask_at_all(values, mask):
    return (values - values.mean()) / values.std() * mask


# --- mended_value_loss ----------------------------------------------------------------------------


def no_clip(values, old_values, returns, epsilon=0.2):
    return (values - returns) ** 2 / 2


def clipped_only(values, old_values, returns, epsilon=0.2):
    clipped = old_values + (values - old_values).clamp(-epsilon, epsilon)
    return (clipped - returns) ** 2 / 2


def clipped_round_the_return(values, old_values, returns, epsilon=0.2):
    clipped = returns + (values - returns).clamp(-epsilon, epsilon)
    return torch.max((values - returns) ** 2, (clipped - returns) ** 2) / 2


def clipped_as_a_ratio(values, old_values, returns, epsilon=0.2):
    clipped = values.clamp(1 - epsilon, 1 + epsilon)
    return torch.max((values - returns) ** 2, (clipped - returns) ** 2) / 2


WRONG = {
    "mixture_of_looks": [
        weights_that_do_not_sum_to_one,
        rest_off_by_one,
        nothing_guessed,
        longest_look_only,
    ],
    "mended_gae": [padding_still_counts, wraps_round_still, rolled_the_other_way, no_look_ahead],
    "mended_whiten": [padding_not_zero, only_the_padding_mended, row_by_row, no_mask_at_all],
    "mended_value_loss": [no_clip, clipped_only, clipped_round_the_return, clipped_as_a_ratio],
}
