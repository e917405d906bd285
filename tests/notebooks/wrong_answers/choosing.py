"""Plausible wrong answers to the exercises of choosing; the checks must refuse each."""

from __future__ import annotations

import statistics

from rlhf_lib.mathematics.intervals import mean_interval

# --- passes ---------------------------------------------------------------------------------------


def learning_counts_two(method, B, P, T, epochs):
    scorers, learners = {"grpo": (2, 1), "ppo": (3, 2)}[method]
    return B * ((P + T - 1) + (scorers + 2 * epochs * learners) * (P + T))


def the_sampler_reads_all(method, B, P, T, epochs):
    scorers, learners = {"grpo": (2, 1), "ppo": (3, 2)}[method]
    return B * ((P + T) + (scorers + 3 * epochs * learners) * (P + T))


def the_policy_scores_itself(method, B, P, T, epochs):
    scorers, learners = {"grpo": (3, 1), "ppo": (4, 2)}[method]
    return B * ((P + T - 1) + (scorers + 3 * epochs * learners) * (P + T))


def the_prompt_is_read_for_each_token(method, B, P, T, epochs):
    scorers, learners = {"grpo": (2, 1), "ppo": (3, 2)}[method]
    return B * (sum(P + t for t in range(T)) + (scorers + 3 * epochs * learners) * (P + T))


def a_critic_that_only_learns(method, B, P, T, epochs):
    learners = {"grpo": 1, "ppo": 2}[method]
    return B * ((P + T - 1) + (2 + 3 * epochs * learners) * (P + T))


def one_epoch(method, B, P, T, epochs):
    scorers, learners = {"grpo": (2, 1), "ppo": (3, 2)}[method]
    return B * ((P + T - 1) + (scorers + 3 * learners) * (P + T))


# --- verdict --------------------------------------------------------------------------------------


def the_higher_mean(a, b):
    if len(a) < 2 or statistics.mean(a) == statistics.mean(b):
        return "neither"
    return "a" if statistics.mean(a) > statistics.mean(b) else "b"


def unpaired(a, b):
    """Whether two intervals overlap."""
    if len(a) < 2:
        return "neither"
    (x, wide), (y, other) = mean_interval(a), mean_interval(b)
    if x - wide > y + other:
        return "a"
    return "b" if y - other > x + wide else "neither"


def normal_in_place_of_student(a, b):
    if len(a) < 2:
        return "neither"
    differences = [x - y for x, y in zip(a, b)]
    half = 1.96 * statistics.stdev(differences) / len(a) ** 0.5
    mean = statistics.mean(differences)
    return "neither" if abs(mean) <= half else "a" if mean > 0 else "b"


def with_half_width(of):
    """A verdict whose interval is wrong: `of(n, deviation from the mean of the population)`."""

    def verdict(a, b):
        if len(a) < 2:
            return "neither"
        differences = [x - y for x, y in zip(a, b)]
        half = of(len(a), statistics.pstdev(differences))
        mean = statistics.mean(differences)
        return "neither" if abs(mean) <= half else "a" if mean > 0 else "b"

    return verdict


def divided_by_n(n, deviation):
    return {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}[n] * deviation / n**0.5


def ninety_percent(n, deviation):
    return {2: 6.314, 3: 2.920, 4: 2.353, 5: 2.132}[n] * deviation / (n - 1) ** 0.5


def one_seed_is_enough(a, b):
    if not a:
        return "neither"
    if len(a) == 1:
        return "a" if a[0] > b[0] else "b"
    mean, half = mean_interval([x - y for x, y in zip(a, b)])
    return "neither" if abs(mean) <= half else "a" if mean > 0 else "b"


def the_other_way_round(a, b):
    if len(a) < 2:
        return "neither"
    mean, half = mean_interval([x - y for x, y in zip(a, b)])
    return "neither" if abs(mean) <= half else "b" if mean > 0 else "a"


def equal_is_a(a, b):
    if len(a) < 2:
        return "neither"
    mean, half = mean_interval([x - y for x, y in zip(a, b)])
    return "neither" if abs(mean) < half else "a" if mean >= 0 else "b"


# --- break_even -----------------------------------------------------------------------------------


def rounded_up(trained, n, sampled, scored):
    """Where it comes out even, training has cost the same, not less."""
    return -(-trained // (n * (sampled + scored) - sampled))


def rounded_down(trained, n, sampled, scored):
    return trained // (n * (sampled + scored) - sampled)


def a_trained_policy_is_free(trained, n, sampled, scored):
    return trained // (n * (sampled + scored)) + 1


def a_trained_policy_is_scored(trained, n, sampled, scored):
    return trained // max(1, (n - 1) * (sampled + scored)) + 1


def scored_once(trained, n, sampled, scored):
    return trained // (n * sampled + scored - sampled) + 1


def in_floating_point(trained, n, sampled, scored):
    return int(trained / (n * (sampled + scored) - sampled)) + 1


WRONG = {
    "passes": [
        learning_counts_two,
        the_sampler_reads_all,
        the_policy_scores_itself,
        the_prompt_is_read_for_each_token,
        a_critic_that_only_learns,
        one_epoch,
    ],
    "verdict": [
        the_higher_mean,
        unpaired,
        normal_in_place_of_student,
        with_half_width(divided_by_n),
        with_half_width(ninety_percent),
        one_seed_is_enough,
        the_other_way_round,
        equal_is_a,
    ],
    "break_even": [
        rounded_up,
        rounded_down,
        a_trained_policy_is_free,
        a_trained_policy_is_scored,
        scored_once,
        in_floating_point,
    ],
}
