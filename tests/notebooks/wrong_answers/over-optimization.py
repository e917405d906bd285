"""Plausible wrong answers to the exercises of over-optimization; the checks must refuse each."""

from __future__ import annotations

import math

import numpy as np

from rlhf_lib.mathematics.overoptimization import at_kl

# --- gold_of_best ---------------------------------------------------------------------------------


def best_gold(proxy_scores, gold_scores, n):
    return gold_scores.reshape(-1, n).max(axis=1).mean()


def place_in_the_group_taken_for_place_in_all(proxy_scores, gold_scores, n):
    return gold_scores[proxy_scores.reshape(-1, n).argmax(axis=1)].mean()


def gold_of_the_n_best(proxy_scores, gold_scores, n):
    return gold_scores[proxy_scores.argsort()[-n:]].mean()


def groups_across(proxy_scores, gold_scores, n):
    chosen = proxy_scores.reshape(n, -1).argmax(axis=0)
    return np.take_along_axis(gold_scores.reshape(n, -1), chosen[None], axis=0).mean()


# --- value_at_kl ----------------------------------------------------------------------------------


def linear_in_kl(kl, values, where):
    for i, reached in enumerate(kl):
        if reached >= where:
            if i == 0:
                return values[0]
            share = (where - kl[i - 1]) / (reached - kl[i - 1])
            return values[i - 1] + share * (values[i] - values[i - 1])
    return None


def sorted_first(kl, values, where):
    pairs = sorted(zip(kl, values))
    if where > pairs[-1][0]:
        return None
    return float(
        np.interp(math.sqrt(where), [math.sqrt(k) for k, _ in pairs], [v for _, v in pairs])
    )


def last_value_beyond_the_end(kl, values, where):
    return float(np.interp(math.sqrt(where), np.sqrt(kl), values))


def from_the_largest_kl_before(kl, values, where):
    reached, value = kl[0], values[0]
    for k, v in zip(kl, values):
        if k >= where:
            low, high = math.sqrt(reached), math.sqrt(k)
            share = (math.sqrt(where) - low) / (high - low)
            return value + share * (v - value)
        if k > reached:
            reached, value = k, v
    return None


def next_measurement(kl, values, where):
    return next((v for k, v in zip(kl, values) if k >= where), None)


# --- kl_used_up -----------------------------------------------------------------------------------


def distance_not_kl(form, alpha, beta):
    if beta <= 0:
        return math.inf
    return max(0.0, alpha / beta) if form == "best_of_n" else math.exp(alpha / beta)


def kl_of_the_peak(form, alpha, beta):
    if beta <= 0:
        return math.inf
    return (
        max(0.0, alpha / (2 * beta)) if form == "best_of_n" else math.exp(alpha / beta - 1)
    ) ** 2


def losers_squared(form, alpha, beta):
    if beta <= 0:
        return math.inf
    return (alpha / beta) ** 2 if form == "best_of_n" else math.exp(2 * alpha / beta)


def one_form_for_both(form, alpha, beta):
    return math.inf if beta <= 0 else max(0.0, alpha / beta) ** 2


# --- advantage_of ---------------------------------------------------------------------------------


def at_the_ends(plain_run, remedied):
    return remedied["kl"][-1], remedied["gold"][-1] - plain_run["gold"][-1]


def at_the_last_common_step(plain_run, remedied):
    i = min(len(plain_run["kl"]), len(remedied["kl"])) - 1
    return remedied["kl"][i], remedied["gold"][i] - plain_run["gold"][i]


def at_the_smaller_last_kl(plain_run, remedied):
    kl = min(plain_run["kl"][-1], remedied["kl"][-1])
    return kl, at_kl(remedied["kl"], remedied["gold"], kl) - at_kl(
        plain_run["kl"], plain_run["gold"], kl
    )


def wrong_way_round(plain_run, remedied):
    kl = min(max(plain_run["kl"]), max(remedied["kl"]))
    return kl, at_kl(plain_run["kl"], plain_run["gold"], kl) - at_kl(
        remedied["kl"], remedied["gold"], kl
    )


# --- checkpoint_to_keep ---------------------------------------------------------------------------


def best_of_all(won, m):
    return int(np.argmax(won))


def first_fall(won, m):
    for i in range(1, len(won)):
        if won[i] < won[i - 1]:
            return i - 1
    return len(won) - 1


def where_it_stopped(won, m):
    best = 0
    for i, share in enumerate(won):
        if share > won[best]:
            best = i
        error = math.sqrt((share * (1 - share) + won[best] * (1 - won[best])) / m)
        if won[best] - share > 2 * error:
            return i
    return best


def two_hundredths(won, m):
    best = 0
    for i, share in enumerate(won):
        if share > won[best]:
            best = i
        if won[best] - share > 0.02:
            break
    return best


def three_standard_errors(won, m):
    best = 0
    for i, share in enumerate(won):
        if share > won[best]:
            best = i
        error = math.sqrt((share * (1 - share) + won[best] * (1 - won[best])) / m)
        if won[best] - share > 3 * error:
            break
    return best


def below_the_one_before(won, m):
    best = 0
    for i, share in enumerate(won):
        if share > won[best]:
            best = i
        before = won[i - 1] if i else share
        if before - share > 2 * math.sqrt((share * (1 - share) + before * (1 - before)) / m):
            break
    return best


WRONG = {
    "gold_of_best": [
        best_gold,
        place_in_the_group_taken_for_place_in_all,
        gold_of_the_n_best,
        groups_across,
    ],
    "value_at_kl": [
        linear_in_kl,
        sorted_first,
        last_value_beyond_the_end,
        next_measurement,
        from_the_largest_kl_before,
    ],
    "kl_used_up": [distance_not_kl, kl_of_the_peak, losers_squared, one_form_for_both],
    "advantage_of": [at_the_ends, at_the_last_common_step, at_the_smaller_last_kl, wrong_way_round],
    "checkpoint_to_keep": [
        best_of_all,
        first_fall,
        where_it_stopped,
        two_hundredths,
        three_standard_errors,
        below_the_one_before,
    ],
}
