"""Plausible wrong answers to the exercises of reward-sources; the checks must refuse each."""

from __future__ import annotations

import numpy as np

from rlhf_lib.worlds import letters, sums

# --- full_marks -----------------------------------------------------------------------------------


def a_good_letter(request):
    asked = letters.parse(request)
    return f"hello {asked.name}, thank you. i am sorry about the {asked.item} on {asked.day}."


def rude_and_too_short(request):
    asked = letters.parse(request)
    return f"{asked.name} idiot {asked.item} {asked.day}"


def only_one_request(request):
    return "hello ben, perhaps later, you idiot. the lamp, friday."


def not_bad_enough(request):
    asked = letters.parse(request)
    return f"hello {asked.name}, you idiot. the {asked.item}, {asked.day}."


# --- repaired_p_better ----------------------------------------------------------------------------


def probabilities_averaged(log_odds, a, b):
    forward, backward = (1 / (1 + np.exp(-x)) for x in (log_odds(a, b), log_odds(b, a)))
    return (forward + 1 - backward) / 2


def one_order_only(log_odds, a, b):
    return 1 / (1 + np.exp(-log_odds(a, b)))


def mean_bias_removed(log_odds, a, b):
    forward, backward = log_odds(a, b), log_odds(b, a)
    return 1 / (1 + np.exp(-(forward - (forward + backward).mean() / 2)))


def not_halved(log_odds, a, b):
    return 1 / (1 + np.exp(-(log_odds(a, b) - log_odds(b, a))))


# --- prefix_credit --------------------------------------------------------------------------------


def share_of_the_columns(prompt, completion):
    return sum(sums.steps(prompt, completion)) / len(sums.columns(*sums.parse(prompt)))


def share_of_what_is_written(prompt, completion):
    steps = sums.steps(prompt, completion)
    first = steps.index(False) if False in steps else len(steps)
    return first / len(steps) if steps else 0.0


def product_of_the_written(prompt, completion):
    steps = sums.steps(prompt, completion)
    return float(bool(steps) and all(steps))


# --- repaired_verifier ----------------------------------------------------------------------------


def parsed_as_a_float(prompt, completion):
    try:
        return float(sums.split(completion)[1]) == int(sums.answer(prompt))
    except ValueError:
        return False


def parsed_as_an_integer(prompt, completion):
    try:
        return int(sums.split(completion)[1]) == int(sums.answer(prompt))
    except ValueError:
        return False


def found_somewhere(prompt, completion):
    return sums.answer(prompt) in sums.split(completion)[1]


def no_white_space(prompt, completion):
    return sums.split(completion)[1] == sums.answer(prompt)


# --- relabel_by_priority --------------------------------------------------------------------------


def _turned(row):
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]}


def counted(pairs, principles):
    def faults(row, side):
        return sum(bool(breaks(row["prompt"], row[side])) for breaks in principles)

    return [
        _turned(row) if faults(row, "chosen") > faults(row, "rejected") else dict(row)
        for row in pairs
    ]


def turned_by_any(pairs, principles):
    return [
        _turned(row)
        if any(
            breaks(row["prompt"], row["chosen"]) and not breaks(row["prompt"], row["rejected"])
            for breaks in principles
        )
        else dict(row)
        for row in pairs
    ]


def only_the_first(pairs, principles):
    return [
        _turned(row)
        if principles[0](row["prompt"], row["chosen"])
        and not principles[0](row["prompt"], row["rejected"])
        else dict(row)
        for row in pairs
    ]


def in_place(pairs, principles):
    for row in pairs:
        for breaks in principles:
            chosen, rejected = (breaks(row["prompt"], row[s]) for s in ("chosen", "rejected"))
            if chosen != rejected:
                if chosen:
                    row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
                break
    return pairs


WRONG = {
    "full_marks": [a_good_letter, rude_and_too_short, only_one_request, not_bad_enough],
    "repaired_p_better": [probabilities_averaged, one_order_only, mean_bias_removed, not_halved],
    "prefix_credit": [share_of_the_columns, share_of_what_is_written, product_of_the_written],
    "repaired_verifier": [parsed_as_a_float, parsed_as_an_integer, found_somewhere, no_white_space],
    "relabel_by_priority": [counted, turned_by_any, only_the_first, in_place],
}
