"""Plausible wrong answers to the exercises of preferences; the checks must refuse each of them."""

from __future__ import annotations

import numpy as np

# --- ranking_to_pairs -----------------------------------------------------------------------------


def neighbours_only(replies, ranks):
    order = sorted(zip(ranks, replies))
    return [(a, b) for (r, a), (s, b) in zip(order, order[1:]) if r < s and a != b]


def ties_decided(replies, ranks):
    return [
        (a, b)
        for i, (r, a) in enumerate(zip(ranks, replies))
        for j, (s, b) in enumerate(zip(ranks, replies))
        if i != j and r <= s and a != b
    ]


def largest_rank_is_best(replies, ranks):
    return [
        (a, b) for r, a in zip(ranks, replies) for s, b in zip(ranks, replies) if r > s and a != b
    ]


def equal_replies_kept(replies, ranks):
    return [(a, b) for r, a in zip(ranks, replies) for s, b in zip(ranks, replies) if r < s]


# --- has_finite_fit -------------------------------------------------------------------------------


def everybody_won_and_lost_once(wins):
    return bool((wins.sum(axis=0) > 0).all() and (wins.sum(axis=1) > 0).all())


def connected_without_direction(wins):
    linked = (wins + wins.T > 0) | np.eye(len(wins), dtype=bool)
    return bool(np.linalg.matrix_power(linked.astype(float), len(wins)).all())


def every_pair_both_ways(wins):
    return bool(((wins > 0) | np.eye(len(wins), dtype=bool)).all())


# --- repaired_pair_loss ---------------------------------------------------------------------------


def only_a_smaller_epsilon(chosen, rejected):
    return -np.log(1 / (1 + np.exp(rejected - chosen)) + 1e-300).mean()


def clipped_gaps(chosen, rejected):
    return np.log1p(np.exp(-np.clip(chosen - rejected, -500, 500))).mean()


def wrong_way_round(chosen, rejected):
    return np.logaddexp(0, chosen - rejected).mean()


def summed(chosen, rejected):
    return np.logaddexp(0, rejected - chosen).sum()


# --- profile_without_winner -----------------------------------------------------------------------


def a_cycle():
    return {"ABCD": 1, "BCAD": 1, "CABD": 1}


def all_agree():
    return {"ABCD": 15}


def too_many_people():
    return {"ABCD": 51, "BCDA": 49}


# --- personal_weights -----------------------------------------------------------------------------


def _fit(differences, ridge):
    from rlhf_lib.mathematics.bradley_terry import fit_weights

    return fit_weights(differences, ridge)


def each_alone(differences, who, column, people, ridge):
    return np.array([_fit(differences[who == k], ridge)[column] for k in range(people)])


def the_pooled_weight(differences, who, column, people, ridge):
    return np.full(people, _fit(differences, ridge)[column])


def column_kept_as_well(differences, who, column, people, ridge):
    own = np.where(who[:, None] == np.arange(people), differences[:, [column]], 0.0)
    return _fit(np.hstack([own, differences]), ridge)[:people]


WRONG = {
    "ranking_to_pairs": [neighbours_only, ties_decided, largest_rank_is_best, equal_replies_kept],
    "has_finite_fit": [
        everybody_won_and_lost_once,
        connected_without_direction,
        every_pair_both_ways,
    ],
    "repaired_pair_loss": [only_a_smaller_epsilon, clipped_gaps, wrong_way_round, summed],
    "profile_without_winner": [a_cycle, all_agree, too_many_people],
    "personal_weights": [each_alone, the_pooled_weight, column_kept_as_well],
}
