"""Plausible wrong answers to the exercises of reward-model; the checks must refuse each of them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

# --- ceiling_from_votes ---------------------------------------------------------------------------


def majority_with_itself(votes):
    """Lets each vote take part in the majority that foresees it."""
    lead = np.sign(votes.mean(axis=1, keepdims=True) - 0.5)
    return np.mean(0.5 + 0.5 * lead * (2 * votes - 1))


def ties_count_as_right(votes):
    others = votes.sum(axis=1, keepdims=True) - votes
    lead = np.sign(others - (votes.shape[1] - 1) / 2)
    return np.mean(lead * (2 * votes - 1) >= 0)


def agreement_of_two(votes):
    """How often two people agree, which is less than a majority foresees."""
    K, ones = votes.shape[1], votes.sum(axis=1)
    return np.mean((ones * (ones - 1) + (K - ones) * (K - ones - 1)) / (K * (K - 1)))


# --- last_scores ----------------------------------------------------------------------------------


def last_column(values, mask):
    return values[:, -1]


def one_after(values, mask):
    last = (mask * torch.arange(mask.shape[1])).argmax(dim=1)
    return values.gather(1, (last + 1).clamp(max=mask.shape[1] - 1)[:, None]).squeeze(1)


def first_after_left_padding(values, mask):
    """Right only where real tokens stand in one block that starts at the first of them."""
    last = mask.argmax(dim=1) + mask.sum(dim=1) - 1
    return values.gather(1, last[:, None]).squeeze(1)


# --- ranking_loss ---------------------------------------------------------------------------------


def neighbours_only(scores):
    return F.softplus(scores[:, 1:] - scores[:, :-1]).mean()


def worst_first(scores):
    better, worse = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1)
    return F.softplus(scores[:, better] - scores[:, worse]).mean()


def with_itself(scores):
    gaps = scores[:, :, None] - scores[:, None, :]
    return torch.triu(F.softplus(-gaps)).sum() / (scores.shape[0] * scores.shape[1] ** 2 / 2)


def summed(scores):
    better, worse = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1)
    return F.softplus(scores[:, worse] - scores[:, better]).sum(dim=1).mean()


def overflows(scores):
    better, worse = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1)
    return -torch.log(torch.sigmoid(scores[:, better] - scores[:, worse])).mean()


# --- pair_ece -------------------------------------------------------------------------------------


def _ece(p, y, bins):
    index = np.minimum((p * bins).astype(int), bins - 1)
    return sum(abs(p[index == k].sum() - y[index == k].sum()) for k in range(bins)) / len(p)


def the_colleague(chosen, rejected, bins=10):
    p = 1 / (1 + np.exp(rejected - chosen))
    return _ece(p, np.ones(len(p)), bins)


def ties_are_wrong(chosen, rejected, bins=10):
    d = chosen - rejected
    return _ece(1 / (1 + np.exp(-np.abs(d))), (d > 0).astype(float), bins)


def bins_not_weighted(chosen, rejected, bins=10):
    d = chosen - rejected
    p, y = 1 / (1 + np.exp(-np.abs(d))), (d > 0) + 0.5 * (d == 0)
    index = np.minimum((p * bins).astype(int), bins - 1)
    return np.mean([abs(p[index == k].mean() - y[index == k].mean()) for k in np.unique(index)])


WRONG = {
    "ceiling_from_votes": [majority_with_itself, ties_count_as_right, agreement_of_two],
    "last_scores": [last_column, one_after, first_after_left_padding],
    "ranking_loss": [neighbours_only, worst_first, with_itself, summed, overflows],
    "pair_ece": [the_colleague, ties_are_wrong, bins_not_weighted],
}
