"""Plausible wrong answers to the exercises of kl-tilt; the checks must refuse each of them."""

from __future__ import annotations

import numpy as np


def _tilt(reference, rewards, beta):
    scores = np.log(reference) + rewards / beta
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def _kl(p, q):
    inside = p > 0
    return (p[inside] * np.log(p[inside] / q[inside])).sum()


# --- implied_rewards ------------------------------------------------------------------------------


def not_centred(policy, reference, beta):
    return beta * np.log(policy / reference)


def centred_under_the_policy(policy, reference, beta):
    raw = beta * np.log(policy / reference)
    return raw - policy @ raw


def without_beta(policy, reference, beta):
    raw = np.log(policy / reference)
    return raw - reference @ raw


def turned_round(policy, reference, beta):
    raw = beta * np.log(reference / policy)
    return raw - reference @ raw


# --- repaired_tilt --------------------------------------------------------------------------------


def constant_gone_only(reference, rewards, beta):
    rewards = rewards - rewards.max()
    weights = reference * np.exp(rewards / beta)
    return weights / weights.sum()


def maximum_mended_only(reference, rewards, beta):
    scores = np.log(reference + 1e-12) + rewards / beta
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def smaller_constant(reference, rewards, beta):
    scores = np.log(reference + 1e-300) + rewards / beta
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def nothing_subtracted(reference, rewards, beta):
    weights = np.where(reference > 0, reference * np.exp(rewards / beta), 0)
    return weights / weights.sum()


# --- beta_for_kl ----------------------------------------------------------------------------------


def wrong_direction(reference, rewards, target):
    low, high = 1e-6, 1e6
    for _ in range(200):
        middle = np.sqrt(low * high)
        if _kl(_tilt(reference, rewards, middle), reference) > target:
            high = middle
        else:
            low = middle
    return middle


def range_too_small(reference, rewards, target):
    low, high = 0.01, 10.0
    for _ in range(200):
        middle = (low + high) / 2
        if _kl(_tilt(reference, rewards, middle), reference) > target:
            low = middle
        else:
            high = middle
    return middle


def the_square_root_law(reference, rewards, target):
    sigma = np.sqrt(reference @ (rewards - reference @ rewards) ** 2)
    return sigma / np.sqrt(2 * target)


def coarse_grid(reference, rewards, target):
    grid = np.geomspace(1e-2, 1e3, 200)
    return grid[
        np.argmin([abs(_kl(_tilt(reference, rewards, b), reference) - target) for b in grid])
    ]


# --- tilt_two_anchors -----------------------------------------------------------------------------


def arithmetic_mixture(first, second, rewards, first_beta, second_beta):
    total = first_beta + second_beta
    return _tilt((first_beta * first + second_beta * second) / total, rewards, total)


def plain_product(first, second, rewards, first_beta, second_beta):
    product = first * second
    return _tilt(product / product.sum(), rewards, first_beta + second_beta)


def average_beta(first, second, rewards, first_beta, second_beta):
    total = first_beta + second_beta
    mixture = first ** (first_beta / total) * second ** (second_beta / total)
    return _tilt(mixture / mixture.sum(), rewards, total / 2)


def one_after_the_other(first, second, rewards, first_beta, second_beta):
    return _tilt(second, first_beta * np.log(_tilt(first, rewards, first_beta)), second_beta)


# --- landing --------------------------------------------------------------------------------------


def only_beta_doubled(reference, rewards, beta):
    return _tilt(reference, rewards, 2 * beta)


def only_the_reference_flattened(reference, rewards, beta):
    root = np.sqrt(reference)
    return _tilt(root / root.sum(), rewards, beta)


def as_if_detached(reference, rewards, beta):
    return _tilt(reference, rewards, beta)


def beta_halved(reference, rewards, beta):
    return _tilt(reference, rewards, beta / 2)


def no_reference(reference, rewards, beta):
    return _tilt(np.full(len(reference), 1 / len(reference)), rewards, beta)


WRONG = {
    "implied_rewards": [not_centred, centred_under_the_policy, without_beta, turned_round],
    "repaired_tilt": [
        constant_gone_only,
        maximum_mended_only,
        smaller_constant,
        nothing_subtracted,
    ],
    "beta_for_kl": [wrong_direction, range_too_small, the_square_root_law, coarse_grid],
    "tilt_two_anchors": [arithmetic_mixture, plain_product, average_beta, one_after_the_other],
    "landing": [
        only_beta_doubled,
        only_the_reference_flattened,
        as_if_detached,
        beta_halved,
        no_reference,
    ],
}
