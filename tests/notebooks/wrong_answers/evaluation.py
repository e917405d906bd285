"""Plausible wrong answers to the exercises of evaluation; the checks must refuse each."""

from __future__ import annotations

import math

import numpy as np

# --- bootstrap_interval ---------------------------------------------------------------------------


def _means(outcomes, requests):
    _, groups = np.unique(requests, return_inverse=True)
    return np.bincount(groups, outcomes) / np.bincount(groups)


def verdicts_drawn_one_by_one(outcomes, requests, draws, rng):
    rates = rng.choice(outcomes, (draws, len(outcomes))).mean(axis=1)
    return np.quantile(rates, [0.025, 0.975])


def rows_taken_for_blocks(outcomes, requests, draws, rng):
    """As if the verdicts of a request stood side by side."""
    means = outcomes.reshape(len(set(requests.tolist())), -1).mean(axis=1)
    rates = rng.choice(means, (draws, len(means))).mean(axis=1)
    return np.quantile(rates, [0.025, 0.975])


def of_ninety_percent(outcomes, requests, draws, rng):
    means = _means(outcomes, requests)
    return np.quantile(rng.choice(means, (draws, len(means))).mean(axis=1), [0.05, 0.95])


def of_ninety_two_percent(outcomes, requests, draws, rng):
    means = _means(outcomes, requests)
    return np.quantile(rng.choice(means, (draws, len(means))).mean(axis=1), [0.04, 0.96])


def two_stage(outcomes, requests, draws, rng):
    """Draws the verdicts of each request anew as well."""
    order = np.argsort(requests, kind="stable")
    rows = outcomes[order].reshape(len(set(requests.tolist())), -1)
    n, each = rows.shape
    chosen = rng.integers(n, size=(draws, n, 1))
    rates = rows[chosen, rng.integers(each, size=(draws, n, each))].mean(axis=(1, 2))
    return np.quantile(rates, [0.025, 0.975])


def without_replacement(outcomes, requests, draws, rng):
    means = _means(outcomes, requests)
    rates = [rng.permutation(means).mean() for _ in range(draws)]
    return np.quantile(rates, [0.025, 0.975])


def half_of_the_requests(outcomes, requests, draws, rng):
    means = _means(outcomes, requests)
    rates = rng.choice(means, (draws, len(means) // 2)).mean(axis=1)
    return np.quantile(rates, [0.025, 0.975])


def as_many_as_verdicts(outcomes, requests, draws, rng):
    means = _means(outcomes, requests)
    rates = rng.choice(means, (draws, len(outcomes))).mean(axis=1)
    return np.quantile(rates, [0.025, 0.975])


def of_single_requests(outcomes, requests, draws, rng):
    return np.quantile(rng.choice(_means(outcomes, requests), draws), [0.025, 0.975])


def ties_are_losses(outcomes, requests, draws, rng):
    means = _means((outcomes == 1).astype(float), requests)
    return np.quantile(rng.choice(means, (draws, len(means))).mean(axis=1), [0.025, 0.975])


# --- read_verdicts --------------------------------------------------------------------------------

NAMES = ("wins", "ties", "losses", "unanswered")


def _counted(forward, backward, result):
    counts = dict.fromkeys(NAMES, 0)
    for one, two in zip(forward, backward):
        read = [text.strip(" .").lower() for text in (one, two)]
        counts[result(*read)] += 1
    return counts


def _clearly(one, two):
    """The right result of two texts from which everything has been taken off."""
    if not _known(one, two):
        return "unanswered"
    return "ties" if one == two else "wins" if one == "first" else "losses"


def _known(one, two):
    return {one, two} <= {"first", "second"}


def agreeing_words_win(forward, backward):
    """Takes the same word twice for agreement, when it is the place that was preferred."""

    def result(one, two):
        if not _known(one, two):
            return "unanswered"
        return "ties" if one != two else "wins" if one == "first" else "losses"

    return _counted(forward, backward, result)


def the_first_order_alone(forward, backward):
    def result(one, two):
        return {"first": "wins", "second": "losses"}.get(one, "unanswered")

    return _counted(forward, backward, result)


def no_answer_is_a_tie(forward, backward):
    def result(one, two):
        if not _known(one, two) or one == two:
            return "ties"
        return "wins" if one == "first" else "losses"

    return _counted(forward, backward, result)


def anything_else_is_second(forward, backward):
    def result(one, two):
        one, two = one == "first", two == "first"
        return "ties" if one == two else "wins" if one else "losses"

    return _counted(forward, backward, result)


def as_it_was_written(forward, backward):
    """Without taking spaces, full stops and capitals off."""
    counts = dict.fromkeys(NAMES, 0)
    for one, two in zip(forward, backward):
        if not _known(one, two):
            counts["unanswered"] += 1
        else:
            counts["ties" if one == two else "wins" if one == "first" else "losses"] += 1
    return counts


def spaces_and_then_full_stops(forward, backward):
    """Leaves the space before a full stop."""
    pairs = zip(forward, backward)
    found = [_clearly(*(x.strip().strip(".").lower() for x in pair)) for pair in pairs]
    return {name: found.count(name) for name in NAMES}


def full_stops_and_then_spaces(forward, backward):
    """Leaves the full stop before a space."""
    pairs = zip(forward, backward)
    found = [_clearly(*(x.strip(".").strip().lower() for x in pair)) for pair in pairs]
    return {name: found.count(name) for name in NAMES}


def spaces_full_stops_and_spaces(forward, backward):
    """Leaves a full stop behind another one and a space."""
    pairs = zip(forward, backward)
    found = [_clearly(*(x.strip().strip(".").strip().lower() for x in pair)) for pair in pairs]
    return {name: found.count(name) for name in NAMES}


def at_the_right_end_alone(forward, backward):
    pairs = zip(forward, backward)
    found = [_clearly(*(x.rstrip(" .").lower() for x in pair)) for pair in pairs]
    return {name: found.count(name) for name in NAMES}


def the_word_anywhere(forward, backward):
    def word(text):
        return "first" if "first" in text else "second" if "second" in text else None

    def result(one, two):
        one, two = word(one), word(two)
        if None in (one, two):
            return "unanswered"
        return "ties" if one == two else "wins" if one == "first" else "losses"

    return _counted(forward, backward, result)


def one_answer_is_enough(forward, backward):
    def result(one, two):
        known = [x for x in (one == "first", two == "second") if x is not None]
        if one not in ("first", "second") and two not in ("first", "second"):
            return "unanswered"
        return "wins" if all(known) else "losses" if not any(known) else "ties"

    return _counted(forward, backward, result)


# --- with_people ----------------------------------------------------------------------------------


def _error(*samples):
    return math.sqrt(sum(x.var(ddof=1) / len(x) for x in samples))


def people_alone(judged, judge_there, people_there):
    return people_there.mean(), _error(people_there)


def the_judge_alone(judged, judge_there, people_there):
    return judged.mean(), _error(judged)


def the_other_way_round(judged, judge_there, people_there):
    gap = judge_there - people_there
    return judged.mean() + gap.mean(), _error(judged, gap)


def all_in_one_mean(judged, judge_there, people_there):
    both = np.concatenate([judged, people_there])
    return both.mean(), _error(both)


def as_if_unpaired(judged, judge_there, people_there):
    rate = judged.mean() + people_there.mean() - judge_there.mean()
    return rate, _error(judged, people_there, judge_there)


def errors_added(judged, judge_there, people_there):
    gap = people_there - judge_there
    return judged.mean() + gap.mean(), _error(judged) + _error(gap)


def without_the_gaps_error(judged, judge_there, people_there):
    return judged.mean() + (people_there - judge_there).mean(), _error(judged)


def half_the_interval(judged, judge_there, people_there):
    gap = people_there - judge_there
    return judged.mean() + gap.mean(), 1.96 * _error(judged, gap)


WRONG = {
    "bootstrap_interval": [
        verdicts_drawn_one_by_one,
        rows_taken_for_blocks,
        of_ninety_percent,
        of_ninety_two_percent,
        two_stage,
        without_replacement,
        half_of_the_requests,
        as_many_as_verdicts,
        of_single_requests,
        ties_are_losses,
    ],
    "read_verdicts": [
        agreeing_words_win,
        the_first_order_alone,
        no_answer_is_a_tie,
        anything_else_is_second,
        as_it_was_written,
        spaces_and_then_full_stops,
        full_stops_and_then_spaces,
        spaces_full_stops_and_spaces,
        at_the_right_end_alone,
        the_word_anywhere,
        one_answer_is_enough,
    ],
    "with_people": [
        people_alone,
        the_judge_alone,
        the_other_way_round,
        all_in_one_mean,
        as_if_unpaired,
        errors_added,
        without_the_gaps_error,
        half_the_interval,
    ],
}
