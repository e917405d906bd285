"""The policy-gradient bandit in Python: its draws, its exact moments, and what it refuses.

How it behaves in a page is tested in tests/site.
"""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

from rlhf_lib.mathematics.advantages import group_advantages, optimal_baseline
from rlhf_lib.seeing.widgets import PolicyGradientBandit
from rlhf_lib.seeing.widgets.base import browser_code
from rlhf_lib.seeing.widgets.estimator_explorer import uniforms
from rlhf_lib.seeing.widgets.policy_gradient_bandit import (
    BASELINES,
    LARGEST_BATCH,
    advantages_of,
    every_batch,
    gradient,
    squared_norms,
)

POLICY, REWARDS = np.array([0.2, 0.5, 0.3]), np.array([1.0, 0.7, 0.0])


def log_gradients(policy):
    return np.eye(3) - policy


def test_the_gradient_is_the_mean_of_advantage_times_that_of_log_pi():
    counts, advantages = np.array([2, 1, 1]), np.array([1.0, -2.0, 0.5])
    by_hand = (
        2 * 1.0 * log_gradients(POLICY)[0]
        - 2.0 * log_gradients(POLICY)[1]
        + 0.5 * log_gradients(POLICY)[2]
    ) / 4
    np.testing.assert_allclose(gradient(POLICY, advantages, counts), by_hand)


def test_baselines_by_hand():
    counts = np.array([2, 1, 1])  # rewards 1, 1, .7, 0: their mean is .675
    np.testing.assert_allclose(advantages_of(POLICY, REWARDS, counts, "none"), REWARDS)
    np.testing.assert_allclose(advantages_of(POLICY, REWARDS, counts, "mean"), REWARDS - 0.675)
    others = [1 - 1.7 / 3, 0.7 - 2.0 / 3, 0 - 2.7 / 3]
    np.testing.assert_allclose(advantages_of(POLICY, REWARDS, counts, "leave_one_out"), others)
    np.testing.assert_allclose(advantages_of(POLICY, REWARDS, counts, "value"), REWARDS - 0.55)
    norms = (log_gradients(POLICY) ** 2).sum(axis=1)
    np.testing.assert_allclose(squared_norms(POLICY), norms)
    best = (POLICY * norms * REWARDS).sum() / (POLICY * norms).sum()
    np.testing.assert_allclose(advantages_of(POLICY, REWARDS, counts, "optimal"), REWARDS - best)


def test_baselines_are_the_librarys():
    drawn = [0, 0, 1, 2]
    counts, rewards = np.bincount(drawn), torch.tensor(REWARDS)
    for baseline in ("mean", "leave_one_out"):
        expected = group_advantages(rewards[drawn], len(drawn), baseline, "none")
        found = advantages_of(POLICY, REWARDS, counts, baseline)[drawn]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-15)
    level = optimal_baseline(rewards, torch.tensor(POLICY * squared_norms(POLICY))).item()
    found = advantages_of(POLICY, REWARDS, counts, "optimal")
    np.testing.assert_allclose(found, REWARDS - level, atol=1e-15)


@pytest.mark.parametrize("n", [2, 8])
def test_every_batch_is_counted_once(n):
    counts, chances = every_batch(POLICY, n)
    assert len(counts) == (n + 1) * (n + 2) // 2 and (counts.sum(axis=1) == n).all()
    assert chances.sum() == pytest.approx(1) and chances @ counts == pytest.approx(n * POLICY)
    one_of_each = math.factorial(n) / math.factorial(n - 2) * 0.2 * 0.5 * 0.3 ** (n - 2)
    assert chances[(counts == [1, 1, n - 2]).all(axis=1)][0] == pytest.approx(one_of_each)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("n", [2, 4, 32])
def test_unbiased_but_for_the_batch_mean_which_shrinks(baseline, n):
    numbers = PolicyGradientBandit(baseline=baseline, batch_size=n, reward_shift=2.0).result
    assert numbers.kept == pytest.approx((n - 1) / n if baseline == "mean" else 1, abs=1e-9)


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_variance_is_that_of_many_batches(baseline):
    demo = PolicyGradientBandit(baseline=baseline, batch_size=4, reward_shift=1.0)
    policy = demo.result.path[0]
    counts = np.random.default_rng(0).multinomial(4, policy, size=40_000)
    advantages = advantages_of(policy, REWARDS + 1, counts, baseline)
    seen = gradient(policy, advantages, counts).var(axis=0).sum()
    assert seen == pytest.approx(demo.result.variance, rel=0.03)


def test_the_optimal_constant_has_the_least_variance_of_the_constants():
    variance = {
        b: PolicyGradientBandit(baseline=b, reward_shift=1.0).result.variance
        for b in ("none", "value", "optimal")
    }
    assert variance["optimal"] < variance["value"] < variance["none"]


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_shift_matters_without_a_baseline_alone(baseline):
    plain, shifted = (
        PolicyGradientBandit(baseline=baseline, reward_shift=shift, steps=30).result
        for shift in (0.0, 5.0)
    )
    same = np.allclose(plain.path, shifted.path, atol=1e-9)
    assert same == (baseline != "none")
    np.testing.assert_allclose(
        PolicyGradientBandit(reward_shift=5.0).result.exact,
        PolicyGradientBandit().result.exact,
        atol=1e-12,
    )


def test_the_exact_gradient_is_that_of_the_expected_reward():
    demo, step = PolicyGradientBandit(steps=3), 1e-6
    policy = demo.result.path[-1]
    for a in range(3):
        up, down = (np.exp(np.log(policy) + sign * step * np.eye(3)[a]) for sign in (1, -1))
        slope = ((up / up.sum()) @ REWARDS - (down / down.sum()) @ REWARDS) / (2 * step)
        assert demo.result.exact[a] == pytest.approx(slope, abs=1e-8)


def test_a_step_follows_the_batch_that_was_drawn():
    before, after = (PolicyGradientBandit(steps=k, learning_rate=2.0).result for k in (4, 5))
    np.testing.assert_allclose(before.path, after.path[:-1])
    np.testing.assert_allclose(before.next_policy, after.path[-1])
    ratio = np.log(after.path[-1] / before.path[-1])  # the logits moved, up to a constant
    moved = 2.0 * before.estimate
    np.testing.assert_allclose(ratio - ratio[0], moved - moved[0], atol=1e-9)
    draws = uniforms(0, 5 * LARGEST_BATCH)[4 * LARGEST_BATCH :][:8]
    arms = np.searchsorted(np.cumsum(before.path[-1]), draws, side="right")
    np.testing.assert_array_equal(before.counts, np.bincount(arms, minlength=3))


def test_without_a_baseline_it_settles_on_the_wrong_arm_and_with_one_it_does_not():
    """What the chapter's text and its demo say."""
    none, value = (PolicyGradientBandit(baseline=b, steps=50).result for b in ("none", "value"))
    assert none.path[-1].argmax() == 1 and none.entropy < 0.5
    assert value.path[-1].argmax() == 0 and value.expected_reward > 0.85


def test_rewards_that_are_all_equal_have_no_direction():
    numbers = PolicyGradientBandit(rewards=(1, 1, 1), baseline="mean", steps=2).result
    assert (numbers.noise, numbers.kept, numbers.cosine) == (math.inf, 1.0, 0.0)
    np.testing.assert_allclose(numbers.path[0], numbers.path[-1])


def test_a_corner_is_no_trouble():
    numbers = PolicyGradientBandit(reward_shift=10.0, learning_rate=20.0, steps=200).result
    for value in (numbers.entropy, numbers.variance, numbers.expected_reward, numbers.cosine):
        assert math.isfinite(value)
    assert numbers.path[-1].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rewards": (1, 0)}, "rewards has 2 entries; expected 3"),
        ({"rewards": (1, 0, math.nan)}, r"rewards\[2\] is nan; expected a number from"),
        ({"logits": (0, 0, 1e3)}, r"logits\[2\] is 1000.0; expected a number from"),
        ({"labels": "AB"}, "labels has 2 entries; expected 3"),
        ({"baseline": "median"}, "baseline is 'median'; expected one of 'none', 'mean'"),
        ({"reward_shift": math.inf}, "reward_shift is inf; expected a number from -5 to 10"),
        ({"learning_rate": math.nan}, "learning_rate is nan; expected a number from 0.01 to 20"),
        ({"batch_size": 1}, "batch_size is 1; expected a power of two from 2 to 32"),
        ({"batch_size": 12}, "batch_size is 12; expected a power of two"),
        ({"seed": -1}, "seed is -1; expected 0 to"),
        ({"steps": 201}, "steps is 201; expected 0 to 200"),
    ],
)
def test_constructor_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        PolicyGradientBandit(**settings)


@pytest.mark.parametrize(
    "trait, value",
    [
        ("baseline", "median"),
        ("batch_size", 3),
        ("steps", -1),
        ("rewards", [1.0, 2.0]),
        ("reward_shift", math.nan),
    ],
)
def test_a_bad_value_is_refused_and_the_old_one_stays(trait, value):
    demo = PolicyGradientBandit()
    before = getattr(demo, trait)
    with pytest.raises(ValueError, match=trait):
        setattr(demo, trait, value)
    assert getattr(demo, trait) == before


def test_sliders_are_clamped_as_in_the_browser():
    demo = PolicyGradientBandit(reward_shift=50.0, learning_rate=1e-9)
    assert (demo.reward_shift, demo.learning_rate) == (10.0, 0.01)


def test_saved_state_is_complete_and_plain_json():
    state = PolicyGradientBandit().get_state()
    text = json.dumps(
        {key: value for key, value in state.items() if key != "layout"}, allow_nan=False
    )
    assert len(text) < 60_000
    assert "function slider" in state["_esm"] and ".rlhf-simplex" in state["_css"]
    code = browser_code("policy_gradient_bandit")
    assert not re.search(r"^\s*import\b|\bimport\(|https?://(?!www\.w3\.org)", code, re.MULTILINE)
