"""Plausible wrong answers to the exercises of real-model; the checks must refuse each."""

from __future__ import annotations

import math

import torch

from rlhf_lib.worlds import calculator

# --- tool_mask ------------------------------------------------------------------------------------


def everything_is_the_policys(text):
    return [1] * len(text)


def from_the_call_to_the_end(text):
    called = text.find(">") + 1
    return [int(i < called or not called) for i in range(len(text))]


def any_result_behind_a_call(text):
    """Masked up to the next bracket, whether or not the calculator wrote that."""
    mask = [1] * len(text)
    for found in calculator.CALL.finditer(text):
        for i in range(found.end(), text.find(">", found.end()) + 1):
            mask[i] = 0
    return mask


def the_first_call_alone(text):
    mask = [1] * len(text)
    found = calculator.CALL.search(text)
    written = calculator.result(found[0]) if found else ""
    if found and text.startswith(written, found.end()):
        mask[found.end() : found.end() + len(written)] = [0] * len(written)
    return mask


def without_the_last_bracket(text):
    mask = [1] * len(text)
    for found in calculator.CALL.finditer(text):
        written = calculator.result(found[0])
        if text.startswith(written, found.end()):
            mask[found.end() : found.end() + len(written) - 1] = [0] * (len(written) - 1)
    return mask


def the_call_too(text):
    mask = [1] * len(text)
    for found in calculator.CALL.finditer(text):
        written = calculator.result(found[0])
        if text.startswith(written, found.end()):
            mask[found.start() : found.end() + len(written)] = [0] * len(found[0] + written)
    return mask


# --- completion_mask ------------------------------------------------------------------------------


def by_the_id(ids, end):
    return (ids != end).long()


def without_the_end(ids, end):
    return ((ids == end).long().cumsum(dim=1) == 0).long()


def one_more_always(ids, end):
    """By lengths: a completion that was cut off gets a token it does not have."""
    lengths = (ids != end).sum(dim=1) + 1
    return (torch.arange(ids.shape[1] + 1) < lengths[:, None]).long()


def the_usual_id(ids, end):
    is_end = (ids == 2).long()
    return (is_end.cumsum(dim=1) - is_end == 0).long()


# --- by_luck --------------------------------------------------------------------------------------


def exactly_so_many(right, pairs):
    return math.comb(pairs, right) / 2**pairs


def more_than_that(right, pairs):
    return sum(math.comb(pairs, k) for k in range(right + 1, pairs + 1)) / 2**pairs


def on_either_side(right, pairs):
    return min(1.0, 2 * sum(math.comb(pairs, k) for k in range(right, pairs + 1)) / 2**pairs)


def by_the_normal_curve(right, pairs):
    return 0.5 * math.erfc((right - pairs / 2) / math.sqrt(pairs / 4) / math.sqrt(2))


WRONG = {
    "tool_mask": [
        everything_is_the_policys,
        from_the_call_to_the_end,
        any_result_behind_a_call,
        the_first_call_alone,
        without_the_last_bracket,
        the_call_too,
    ],
    "completion_mask": [by_the_id, without_the_end, one_more_always, the_usual_id],
    "by_luck": [exactly_so_many, more_than_that, on_either_side, by_the_normal_curve],
}
