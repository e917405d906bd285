"""The group explorer in Python: its numbers, what it refuses, what it saves for the browser.

How it behaves in a page is tested in tests/site.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from rlhf_lib.algorithms.variants import VARIANTS
from rlhf_lib.seeing.widgets import GroupExplorer
from rlhf_lib.seeing.widgets.group_explorer import PRESETS

TWO = dict(rewards=[1.0, 0.0], lengths=[2, 6], budget=10)
STD = math.sqrt(0.5) + 1e-4  # of 1 and 0


@pytest.mark.parametrize(
    "method, advantages, weights",
    [
        (
            "grpo",
            [0.5 / STD, -0.5 / STD],
            [0.5 / STD / 4, -0.5 / STD / 12],
        ),  # over its length, over 2
        ("gspo", [0.5 / STD, -0.5 / STD], [0.5 / STD / 4, -0.5 / STD / 12]),
        ("dapo", [0.5 / STD, -0.5 / STD], [0.5 / STD / 8, -0.5 / STD / 8]),  # over all 8 tokens
        ("cispo", [0.5 / STD, -0.5 / STD], [0.5 / STD / 8, -0.5 / STD / 8]),
        ("dr_grpo", [0.5, -0.5], [0.025, -0.025]),  # over 2 · 10
        ("rloo", [1, -1], [0.5, -0.5]),  # the whole advantage, over 2
        # the mean over tokens is 1/4, the biased variance 3/16
        (
            "reinforce++",
            [0.75 / math.sqrt(3 / 16), -0.25 / math.sqrt(3 / 16)],
            [0.75 / math.sqrt(3 / 16) / 8, -0.25 / math.sqrt(3 / 16) / 8],
        ),
    ],
)
def test_numbers_worked_out_by_hand(method, advantages, weights):
    shown = GroupExplorer(**TWO, method=method).result
    assert shown.advantages == pytest.approx(advantages, rel=1e-6)
    assert shown.token_weights == pytest.approx(weights, rel=1e-6)
    assert shown.pulls == pytest.approx(np.array(weights) * [2, 6], rel=1e-6)
    assert shown.spread == pytest.approx(math.sqrt(0.5))
    assert (shown.up, shown.down) == pytest.approx((shown.pulls[0], shown.pulls[1]))
    assert shown.teaches


@pytest.mark.parametrize("method", VARIANTS)
def test_a_group_of_equal_rewards_teaches_nothing(method):
    rewards, lengths = PRESETS["all equal"]
    for reward in (0.0, 1.0, 0.3):
        shown = GroupExplorer([reward] * len(rewards), lengths, method).result
        assert not shown.teaches and shown.spread == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(shown.pulls, 0, atol=1e-9)


def test_who_divides_by_length_and_who_by_the_spread():
    long_wrong = {
        method: GroupExplorer(*PRESETS["one long wrong"], method).result.token_weights
        for method in VARIANTS
    }
    for method, weights in long_wrong.items():
        expected = 10 / 32 if method in ("grpo", "gspo", "gmpo", "sapo") else 1
        assert weights[7] / weights[6] == pytest.approx(expected), method
    for method in VARIANTS:  # equal lengths, so that only the rewards speak
        rare, half = (
            GroupExplorer([1.0] * right + [0.0] * (8 - right), [5] * 8, method).result.up
            for right in (1, 4)
        )
        divided = math.sqrt(1 / 8 * 7 / 8) / 0.5  # what is left when the spread is divided out
        expected = divided if method not in ("dr_grpo", "rloo") else divided**2
        assert rare / half == pytest.approx(expected, rel=1e-3), method


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"rewards": [1.0]},
            "rewards has 1 entries; expected 2 to 12, as a completion is compared",
        ),
        ({"rewards": []}, "rewards has 0 entries; expected 2 to 12"),
        ({"rewards": [0.0] * 13}, "rewards has 13 entries"),
        ({"rewards": [1.0, math.nan]}, r"rewards\[1\] is nan; expected a number from -2 to 2"),
        ({"rewards": [9.0, 0.0]}, r"rewards\[0\] is 9; expected"),
        (
            {"rewards": [1, 0], "lengths": [3]},
            "lengths has 1 entries; expected 2, one for each reward",
        ),
        ({"rewards": [1, 0], "lengths": []}, "lengths has 0 entries; expected 2"),
        ({"rewards": [1, 0], "lengths": [3, 0]}, r"lengths\[1\] is 0; expected at least 1 token"),
        ({"rewards": [1, 0], "lengths": [3, 2.5]}, r"lengths\[1\] is 2.5; expected a whole number"),
        (
            {"rewards": [1, 0], "lengths": [3, 40]},
            "budget is 32; expected at least the longest completion, 40 tokens",
        ),
        ({"budget": 0}, r"lengths\[0\] is 0; expected at least 1 token"),
        ({"method": "ppo"}, "method is 'ppo'; expected one of grpo, dr_grpo, dapo"),
    ],
)
def test_constructor_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        GroupExplorer(**settings)


def test_lengths_are_made_to_fit_when_left_out():
    demo = GroupExplorer([1, 0, 0], budget=5)
    assert demo.lengths == [5, 5, 5]
    assert all(max(lengths) <= 5 for _, _, lengths in demo.presets)
    assert len(GroupExplorer([0.0] * 12).lengths) == 12


def test_a_bad_value_is_refused_and_the_old_one_stays():
    demo = GroupExplorer()
    with pytest.raises(ValueError, match="rewards has 1 entries"):
        demo.rewards = [1.0]
    with pytest.raises(ValueError, match="method is 'best'"):
        demo.method = "best"
    assert len(demo.rewards) == 8 and demo.method == "grpo"
    demo.rewards = [1.0, 0.0]  # the browser sets one list after the other
    assert "not valid: lengths has 8 entries" in repr(demo)
    demo.lengths = [3, 3]
    assert demo.result.teaches


def test_saved_state_is_plain_json():
    state = {k: v for k, v in GroupExplorer().get_state().items() if k != "layout"}
    assert len(json.dumps(state, allow_nan=False)) < 46_000
    assert set(state["methods"]) == set(VARIANTS)
    assert "function slider" in state["_esm"] and ".rlhf-demo" in state["_css"]
