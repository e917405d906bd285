"""The exact optimum on finite sets: worked numbers, limits, identities, and bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rlhf_lib.mathematics import tilt as t

REFERENCE = t.softmax([1.2, 0.5, 1.0, 0.3, 1.5, 1.1, 0.8, 0.9])
REWARDS = np.array([8.0, -6.0, 7.0, -3.0, 1.0, 6.0, -2.0, -5.0])


def problems(count: int = 40) -> list:
    """Random problems with zeros in the reference and ties among the rewards."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        size = int(rng.integers(2, 10))
        reference = rng.dirichlet(np.ones(size)) * (rng.random(size) < 0.7)
        reference[rng.integers(size)] += 0.1
        rewards = rng.integers(-3, 4, size).astype(float)
        found.append((reference / reference.sum(), rewards, rng.uniform(0.2, 5)))
    return found


# --- the eight replies, against figures worked out apart from this code ---------------------------


@pytest.mark.parametrize(
    "beta, expected, kl, top",
    [
        (0.1, 8.000, 1.854, 0.99996),
        (1.0, 7.610, 1.111, 0.7018),
        (5.0, 5.614, 0.337, None),
        (10.0, 4.058, 0.110, None),
        (20.0, 2.982, 0.030, None),
    ],
)
def test_eight_replies(beta, expected, kl, top):
    policy = t.tilt(REFERENCE, REWARDS, beta)
    assert t.expected_reward(policy, REWARDS) == pytest.approx(expected, abs=6e-4)
    assert t.kl_divergence(policy, REFERENCE) == pytest.approx(kl, abs=6e-4)
    if top:
        assert policy[0] == pytest.approx(top, abs=6e-5)


def test_eight_replies_reference_and_small_shares():
    assert t.expected_reward(REFERENCE, REWARDS) == pytest.approx(1.764, abs=5e-4)
    policy = t.tilt(REFERENCE, REWARDS, 1.0)
    assert policy[[2, 5]] == pytest.approx([0.2114, 0.0859], abs=6e-5)
    assert policy[4] == pytest.approx(8.64e-4, abs=6e-7)
    variation = abs(t.tilt(REFERENCE, REWARDS, 10.0) - REFERENCE).sum() / 2
    assert variation == pytest.approx(0.217, abs=5e-4)


# --- identities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reference, rewards, beta", problems())
def test_value_gap_shift_and_support(reference, rewards, beta):
    star = t.tilt(reference, rewards, beta)
    value = beta * t.log_partition(reference, rewards, beta)
    assert star.sum() == pytest.approx(1)
    assert (star[reference == 0] == 0).all()
    assert t.objective(star, reference, rewards, beta) == pytest.approx(value)
    other = t.softmax(np.arange(len(reference)) % 3) * (reference > 0)
    other /= other.sum()
    gap = value - t.objective(other, reference, rewards, beta)
    assert gap == pytest.approx(beta * t.kl_divergence(other, star))
    np.testing.assert_allclose(t.tilt(reference, rewards + 50, beta), star, atol=1e-12)
    np.testing.assert_allclose(t.tilt(reference, 7 * rewards, 7 * beta), star, atol=1e-12)


@pytest.mark.parametrize("reference, rewards, beta", problems(10))
def test_limits_of_beta(reference, rewards, beta):
    np.testing.assert_allclose(t.tilt(reference, rewards, 1e9), reference, atol=1e-7)
    best = reference * (rewards == rewards[reference > 0].max())
    np.testing.assert_allclose(t.tilt(reference, rewards, 1e-3), best / best.sum(), atol=1e-12)


def test_frontier_has_slope_beta_and_is_concave():
    betas = np.geomspace(0.2, 20, 60)
    kl, expected = t.frontier(REFERENCE, REWARDS, betas)
    assert (np.diff(kl) < 0).all() and (np.diff(expected) < 0).all()
    for beta in (0.5, 1.0, 5.0):
        k, e = t.frontier(REFERENCE, REWARDS, [beta * 0.9999, beta * 1.0001])
        assert (e[1] - e[0]) / (k[1] - k[0]) == pytest.approx(beta, rel=1e-5)
    assert (np.diff(np.diff(expected) / np.diff(kl)) > 0).all()  # slopes grow with beta


def test_small_kl_law_and_ceiling():
    sigma = math.sqrt(REFERENCE @ (REWARDS - REFERENCE @ REWARDS) ** 2)
    kl, expected = t.frontier(REFERENCE, REWARDS, [1e3])
    gain = expected[0] - REFERENCE @ REWARDS
    assert gain == pytest.approx(sigma * math.sqrt(2 * kl[0]), rel=1e-3)
    kl, _ = t.frontier(REFERENCE, REWARDS, [1e-3])
    assert kl[0] == pytest.approx(-math.log(REFERENCE[0]))


def test_stable_where_exp_overflows():
    np.testing.assert_allclose(t.tilt([0.5, 0.5], [1e5, 0.0], 1e-3), [1, 0])
    assert t.log_partition([0.5, 0.5], [1e5, 0.0], 1.0) == pytest.approx(1e5 + math.log(0.5))
    # the best reply has no mass: the others must not underflow together
    np.testing.assert_allclose(t.tilt([0.0, 0.5, 0.5], [1e5, 1.0, 1.0], 1.0), [0, 0.5, 0.5])


def test_kl_by_hand_and_at_the_edge_of_the_support():
    assert t.kl_divergence([0.75, 0.25], [0.5, 0.5]) == pytest.approx(
        0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    )
    assert t.kl_divergence([0.5, 0.5, 0], [0.5, 0.5, 0]) == 0
    assert t.kl_divergence([0.5, 0.5], [1, 0]) == math.inf
    assert t.objective([0.5, 0.5], [1, 0], [0, 9], 0.1) == -math.inf


# --- best-of-n ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference, rewards, _", problems(15))
@pytest.mark.parametrize("n", [1, 2, 3])
def test_best_of_n_against_enumeration(reference, rewards, _, n):
    """Every draw of n replies with its probability; of equal rewards the first drawn is kept."""
    law = np.zeros(len(reference))
    for draw in itertools.product(range(len(reference)), repeat=n):
        kept = max(draw, key=lambda i: rewards[i])  # the first of the best
        law[kept] += math.prod(reference[i] for i in draw)
    np.testing.assert_allclose(t.best_of_n(reference, rewards, n), law, atol=1e-12)


def test_a_softmax_of_any_size():
    np.testing.assert_array_equal(t.softmax([1e4, 0.0]), [1.0, 0.0])
    np.testing.assert_allclose(t.softmax([-1e4, -1e4]), [0.5, 0.5])


def test_best_of_n_sums_to_1_where_the_reference_nearly_does():
    """Rounding of 9e-7 is allowed in a distribution, and does not grow with n."""
    law = t.best_of_n([0.5, 0.5 - 9e-7], [0.0, 1.0], 64)
    assert law.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    "n, kl, bound", [(4, 0.618, 0.636), (16, 1.607, 1.835), (64, 1.854, 3.175)]
)
def test_best_of_n_kl_and_its_bound(n, kl, bound):
    law = t.best_of_n(REFERENCE, REWARDS, n)
    assert t.kl_divergence(law, REFERENCE) == pytest.approx(kl, abs=6e-4)
    assert t.best_of_n_kl_bound(n) == pytest.approx(bound, abs=6e-4)


def test_bound_is_reached_without_atoms():
    size, n = 4000, 8
    law = t.best_of_n(np.full(size, 1 / size), np.arange(size), n)
    kl = t.kl_divergence(law, np.full(size, 1 / size))
    assert kl == pytest.approx(t.best_of_n_kl_bound(n), abs=1e-2)


# --- token by token -------------------------------------------------------------------------------


def test_soft_bellman_on_two_binary_tokens():
    optimum = t.soft_bellman(np.full((2, 2), 0.25), [[0, 0], [0, 1]], 0.5)
    weights = np.array([1, (1 + math.e**2) / 2])  # of a first 0 and a first 1
    np.testing.assert_allclose(optimum.policies[0], weights / weights.sum())
    assert optimum.policies[0][1] == pytest.approx(0.807, abs=5e-4)
    np.testing.assert_allclose(optimum.policies[1][0], [0.5, 0.5])


@pytest.mark.parametrize("shape", [(3,), (2, 2), (3, 3, 3), (2, 2, 2, 2)])
@pytest.mark.parametrize("with_zeros", [False, True])
def test_soft_bellman_multiplies_to_the_tilt(shape, with_zeros):
    rng = np.random.default_rng(1)
    reference, rewards = rng.dirichlet(np.ones(math.prod(shape))), rng.normal(size=shape)
    if with_zeros:
        reference[: shape[0]] = 0  # for longer replies this empties a whole prefix
        reference[-1] += 0.1
    reference = (reference / reference.sum()).reshape(shape)
    optimum = t.soft_bellman(reference, rewards, 0.7)
    joint = np.ones(())
    for policy in optimum.policies:
        joint = joint[..., None] * policy
    np.testing.assert_allclose(
        joint.ravel(), t.tilt(reference.ravel(), rewards.ravel(), 0.7), atol=1e-12
    )
    assert optimum.values[0] == pytest.approx(
        0.7 * t.log_partition(reference.ravel(), rewards.ravel(), 0.7)
    )
    for q, value in zip(optimum.q_values, optimum.values[1:]):
        np.testing.assert_array_equal(q, value)
    assert not any(np.isnan(array).any() for part in optimum for array in part)


# --- bad input ------------------------------------------------------------------------------------


HALF = [0.5, 0.5]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: t.tilt(HALF, [1, 0], 0), "beta is 0; expected a positive number"),
        (lambda: t.tilt(HALF, [1, 0], -2.0), "beta is -2.0; expected a positive number"),
        (lambda: t.tilt(HALF, [1, 0], math.nan), "beta is nan; expected a positive number"),
        (lambda: t.tilt(HALF, [1, 0], math.inf), "beta is inf; expected a positive number"),
        (lambda: t.tilt(HALF, [1, 0], None), "beta is None; expected a positive number"),
        (lambda: t.frontier(HALF, [1, 0], [1, -1]), "beta is -1; expected a positive number"),
        (lambda: t.tilt([0.5, 0.6], [1, 0], 1), "reference sums to 1.1; expected probabilities"),
        (lambda: t.tilt([1.5, -0.5], [1, 0], 1), r"reference\[1\] is -0.5; expected probabilities"),
        (
            lambda: t.tilt([0.5, math.nan], [1, 0], 1),
            r"reference\[1\] is nan; expected finite numbers",
        ),
        (lambda: t.tilt(HALF, [1, math.nan], 1), r"rewards\[1\] is nan; expected finite numbers"),
        (lambda: t.tilt(HALF, [1, 0, 2], 1), "rewards has 3 entries; expected 2, as reference has"),
        (lambda: t.tilt(HALF, [1e300, 0], 1e-9), r"size 1e\+300 over beta=1e-09 overflows"),
        (
            lambda: t.tilt([0.0, 0.0], [1, 0], 1),
            "reference sums to 0; expected probabilities that sum",
        ),
        (lambda: t.soft_bellman([HALF], [[1e300, 0]], 1e-9), "expected a finite ratio"),
        (lambda: t.tilt(HALF, "ab", 1), "rewards is not an array of numbers"),
        (lambda: t.tilt([], [], 1), "reference is empty"),
        (
            lambda: t.tilt([HALF], [1, 0], 1),
            r"reference has shape \(1, 2\); expected one dimension",
        ),
        (lambda: t.softmax([0.0, math.inf]), r"logits\[1\] is inf; expected finite numbers"),
        (lambda: t.kl_divergence([0.5, 0.4], HALF), "p sums to 0.9; expected"),
        (lambda: t.kl_divergence(HALF, [1.0]), "q has 1 entries; expected 2, as p has"),
        (lambda: t.expected_reward([0.9, 0.9], [1, 0]), "policy sums to 1.8; expected"),
        (lambda: t.best_of_n(HALF, [1, 0], 0), "n is 0; expected an integer of at least 1"),
        (lambda: t.best_of_n_kl_bound(2.5), "n is 2.5; expected an integer of at least 1"),
        (lambda: t.soft_bellman([HALF], [[1, 0, 2]], 1), r"rewards has shape \(1, 3\); expected"),
        (lambda: t.soft_bellman(1.0, 1.0, 1), "reference is a single number; expected an array"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_inputs_are_left_alone():
    reference, rewards = REFERENCE.copy(), REWARDS.copy()
    t.tilt(reference, rewards, 0.5), t.best_of_n(reference, rewards, 3)
    np.testing.assert_array_equal(reference, REFERENCE)
    np.testing.assert_array_equal(rewards, REWARDS)
