"""Plausible wrong answers to the exercises of rlvr; the checks must refuse each of them."""

from __future__ import annotations

import math

# --- first_crossing -------------------------------------------------------------------------------


def mean_inside_the_power(base, trained, most):
    q_base, q_trained = (sum(chances) / len(chances) for chances in (base, trained))
    for k in range(1, most + 1):
        if 1 - (1 - q_base) ** k > 1 - (1 - q_trained) ** k:
            return k
    return None


def ties_count(base, trained, most):
    for k in range(1, most + 1):
        if sum((1 - q) ** k for q in base) / len(base) <= sum((1 - q) ** k for q in trained) / len(
            trained
        ):
            return k
    return None


def most_left_out(base, trained, most):
    for k in range(2, most):
        if sum((1 - q) ** k for q in base) < sum((1 - q) ** k for q in trained) - 1e-12:
            return k
    return None


def most_not_reached(base, trained, most):
    for k in range(1, most):
        if sum((1 - q) ** k for q in base) < sum((1 - q) ** k for q in trained) - 1e-12:
            return k
    return None


# --- length_parts ---------------------------------------------------------------------------------


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


def weights_of_before(before, after):
    problems = habit_part = text = 0.0
    for size in {row[0] for row in before}:
        one, two = ([row for row in side if row[0] == size] for side in (before, after))
        share = len(one) / len(before), len(two) / len(after)
        problems += (share[1] - share[0]) * _mean(row[2] for row in one)
        for habit in {row[1] for row in one}:
            own = [[row for row in rows if row[1] == habit] for rows in (one, two)]
            p = len(own[0]) / len(one), len(own[1]) / len(two)
            n = [_mean(row[2] for row in rows) for rows in own]
            habit_part += share[0] * (p[1] - p[0]) * n[0]
            text += share[0] * p[0] * (n[1] - n[0])
    return problems, habit_part, text


def columns_not_told_apart(before, after):
    habit_part = text = 0.0
    for habit in {row[1] for row in before}:
        own = [[row for row in side if row[1] == habit] for side in (before, after)]
        p = len(own[0]) / len(before), len(own[1]) / len(after)
        n = [_mean(row[2] for row in rows) for rows in own]
        habit_part += (p[1] - p[0]) * _mean(n)
        text += _mean(p) * (n[1] - n[0])
    return 0.0, habit_part, text


def habits_over_all_columns(before, after):
    problems = habit_part = text = 0.0
    for size in {row[0] for row in before}:
        rows = [[row for row in side if row[0] == size] for side in (before, after)]
        share = [len(some) / len(side) for some, side in zip(rows, (before, after))]
        problems += (share[1] - share[0]) * _mean(_mean(row[2] for row in some) for some in rows)
        for habit in {row[1] for row in before}:
            p = [_mean(row[1] == habit for row in side) for side in (before, after)]
            n = [_mean(row[2] for row in some if row[1] == habit) for some in rows]
            habit_part += _mean(share) * (p[1] - p[0]) * _mean(n)
            text += _mean(share) * _mean(p) * (n[1] - n[0])
    return problems, habit_part, text


def all_of_it_is_text(before, after):
    return 0.0, 0.0, _mean(row[2] for row in after) - _mean(row[2] for row in before)


# --- repaired_rewards -----------------------------------------------------------------------------


def neighbours_verdict_stands(verifier, prompts, completions):
    rewards, last, failures = [], 0.0, 0
    for prompt, completion in zip(prompts, completions):
        try:
            value = float(verifier(prompt, completion))
            if not math.isfinite(value):
                raise ValueError(value)
            last = value
        except Exception:
            failures += 1
        rewards.append(last)
    return rewards, failures


def failures_dropped(verifier, prompts, completions):
    rewards, failures = [], 0
    for prompt, completion in zip(prompts, completions):
        try:
            rewards.append(float(verifier(prompt, completion)))
        except Exception:
            failures += 1
    return rewards, failures


def nan_goes_through(verifier, prompts, completions):
    rewards, failures = [], 0
    for prompt, completion in zip(prompts, completions):
        try:
            rewards.append(float(verifier(prompt, completion)))
        except Exception:
            rewards.append(0.0)
            failures += 1
    return rewards, failures


def two_kinds_of_error(verifier, prompts, completions):
    rewards, failures = [], 0
    for prompt, completion in zip(prompts, completions):
        try:
            value = float(verifier(prompt, completion))
        except (ValueError, TypeError):
            value = math.nan
        failures += not math.isfinite(value)
        rewards.append(value if math.isfinite(value) else 0.0)
    return rewards, failures


def only_nan_refused(verifier, prompts, completions):
    rewards, failures = [], 0
    for prompt, completion in zip(prompts, completions):
        try:
            value = float(verifier(prompt, completion))
        except Exception:
            value = math.nan
        failures += math.isnan(value)
        rewards.append(0.0 if math.isnan(value) else value)
    return rewards, failures


def failures_are_paid(verifier, prompts, completions):
    rewards, failures = [], 0
    for prompt, completion in zip(prompts, completions):
        try:
            value = float(verifier(prompt, completion))
        except Exception:
            value = math.nan
        failures += not math.isfinite(value)
        rewards.append(value if math.isfinite(value) else 1.0)
    return rewards, failures


# --- habit_gradient -------------------------------------------------------------------------------


def without_the_division(p, a_w, a_d, G):
    return p * (1 - p) * (a_w - a_d) * (G - 1) / G


def large_groups(p, a_w, a_d, G):
    E = p * a_w + (1 - p) * a_d
    return p * (1 - p) * (a_w - a_d) / math.sqrt(E * (1 - E))


def biased_deviation(p, a_w, a_d, G):
    E = p * a_w + (1 - p) * a_d
    push = (p * a_w / E - p) - (p * (1 - a_w) / (1 - E) - p)
    return sum(
        math.comb(G, k) * E**k * (1 - E) ** (G - k) * push * math.sqrt(k / G * (1 - k / G))
        for k in range(1, G)
    )


# --- compute_for ----------------------------------------------------------------------------------


def share_of_the_ceiling(target, R_0, A, B, C_mid):
    if target <= R_0:
        return 0.0
    return C_mid * (target / (A - target)) ** (1 / B) if target < A else math.inf


def exponent_not_inverted(target, R_0, A, B, C_mid):
    if target <= R_0:
        return 0.0
    return C_mid * ((target - R_0) / (A - target)) ** B if target < A else math.inf


def ceiling_is_reached(target, R_0, A, B, C_mid):
    if target <= R_0:
        return 0.0
    g = min((target - R_0) / (A - R_0), 1 - 1e-12)
    return C_mid * (g / (1 - g)) ** (1 / B)


def below_the_start(target, R_0, A, B, C_mid):
    if target >= A:
        return math.inf
    g = max((target - R_0) / (A - R_0), 1e-12)
    return C_mid * (g / (1 - g)) ** (1 / B)


WRONG = {
    "first_crossing": [mean_inside_the_power, ties_count, most_left_out, most_not_reached],
    "length_parts": [
        weights_of_before,
        columns_not_told_apart,
        habits_over_all_columns,
        all_of_it_is_text,
    ],
    "repaired_rewards": [
        neighbours_verdict_stands,
        failures_dropped,
        nan_goes_through,
        two_kinds_of_error,
        only_nan_refused,
        failures_are_paid,
    ],
    "habit_gradient": [without_the_division, large_groups, biased_deviation],
    "compute_for": [
        share_of_the_ceiling,
        exponent_not_inverted,
        ceiling_is_reached,
        below_the_start,
    ],
}
