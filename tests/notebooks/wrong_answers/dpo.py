"""Plausible wrong answers to the exercises of dpo; the checks must refuse each."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import logsigmoid

# --- loss_of_pairs --------------------------------------------------------------------------------


def _ratio(logprobs, ref_logprobs, mask):
    return torch.where(mask == 1, logprobs - ref_logprobs, 0.0)


def means_over_tokens(logprobs, ref_logprobs, mask, beta):
    ratio = _ratio(logprobs, ref_logprobs, mask).sum(dim=1) / mask.sum(dim=1)
    chosen, rejected = ratio.chunk(2)
    return -logsigmoid(beta * (chosen - rejected)).mean()


def the_other_way_round(logprobs, ref_logprobs, mask, beta):
    chosen, rejected = _ratio(logprobs, ref_logprobs, mask).sum(dim=1).chunk(2)
    return -logsigmoid(beta * (rejected - chosen)).mean()


def without_the_mask(logprobs, ref_logprobs, mask, beta):
    chosen, rejected = (logprobs - ref_logprobs).sum(dim=1).chunk(2)
    return -logsigmoid(beta * (chosen - rejected)).mean()


def times_the_mask(logprobs, ref_logprobs, mask, beta):
    """Right, but for padding of minus infinity."""
    chosen, rejected = ((logprobs - ref_logprobs) * mask).sum(dim=1).chunk(2)
    return -logsigmoid(beta * (chosen - rejected)).mean()


def neighbours_are_pairs(logprobs, ref_logprobs, mask, beta):
    ratio = _ratio(logprobs, ref_logprobs, mask).sum(dim=1)
    return -logsigmoid(beta * (ratio[::2] - ratio[1::2])).mean()


def without_the_reference(logprobs, ref_logprobs, mask, beta):
    chosen, rejected = torch.where(mask == 1, logprobs, 0.0).sum(dim=1).chunk(2)
    return -logsigmoid(beta * (chosen - rejected)).mean()


def beta_outside(logprobs, ref_logprobs, mask, beta):
    chosen, rejected = _ratio(logprobs, ref_logprobs, mask).sum(dim=1).chunk(2)
    return -beta * logsigmoid(chosen - rejected).mean()


def summed_over_pairs(logprobs, ref_logprobs, mask, beta):
    chosen, rejected = _ratio(logprobs, ref_logprobs, mask).sum(dim=1).chunk(2)
    return -logsigmoid(beta * (chosen - rejected)).sum()


# --- best_and_worst -------------------------------------------------------------------------------


def ties_are_pairs(scores):
    return [(i, int(row.argmax()), int(row.argmin())) for i, row in enumerate(scores)]


def nan_is_the_best(scores):
    return [
        (i, int(row.argmax()), int(row.argmin()))
        for i, row in enumerate(scores)
        if row.max() != row.min()
    ]


def nan_is_zero(scores):
    return nan_is_the_best(scores.nan_to_num())


def groups_with_nan_are_dropped(scores):
    kept = [i for i, row in enumerate(scores) if not row.isnan().any()]
    return [(kept[i], best, worst) for i, best, worst in nan_is_the_best(scores[kept])]


def the_last_of_equal_ones(scores):
    found = []
    for i, row in enumerate(scores.tolist()):
        known = [j for j, score in reversed(list(enumerate(row))) if not math.isnan(score)]
        if len({row[j] for j in known}) > 1:
            found.append((i, max(known, key=row.__getitem__), min(known, key=row.__getitem__)))
    return found


def numbered_anew(scores):
    """The prompts that give no pair are not counted."""
    kept = [row for row in scores if len(set(row[~row.isnan()].tolist())) > 1]
    found = []
    for i, row in enumerate(kept):
        known = [j for j, score in enumerate(row.tolist()) if not math.isnan(score)]
        values = row.tolist()
        best, worst = max(known, key=values.__getitem__), min(known, key=values.__getitem__)
        found.append((i, best, worst))
    return found


# --- gap_asked_for --------------------------------------------------------------------------------


def _logit(p):
    return math.log(p / (1 - p))


def without_beta(smoothing, beta):
    return _logit(1 - smoothing) if smoothing else math.inf


def times_beta(smoothing, beta):
    return beta * _logit(1 - smoothing) if smoothing else math.inf


def turned(smoothing, beta):
    return _logit(smoothing) / beta if smoothing else math.inf


def of_ipo(smoothing, beta):
    return 1 / (2 * beta) if smoothing else math.inf


def zero_is_an_error(smoothing, beta):
    return _logit(1 - smoothing) / beta


def zero_is_zero(smoothing, beta):
    return _logit(1 - smoothing) / beta if smoothing else 0.0


WRONG = {
    "loss_of_pairs": [
        means_over_tokens,
        the_other_way_round,
        without_the_mask,
        times_the_mask,
        neighbours_are_pairs,
        without_the_reference,
        beta_outside,
        summed_over_pairs,
    ],
    "best_and_worst": [
        ties_are_pairs,
        nan_is_the_best,
        nan_is_zero,
        groups_with_nan_are_dropped,
        the_last_of_equal_ones,
        numbered_anew,
    ],
    "gap_asked_for": [without_beta, times_beta, turned, of_ipo, zero_is_an_error, zero_is_zero],
}
