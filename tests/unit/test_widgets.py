"""The demos in Python: their numbers, what they refuse, and what they save for the browser.

How they behave in a page is tested in tests/site.
"""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from rlhf_lib.mathematics import tilt
from rlhf_lib.seeing.widgets import TiltExplorer
from rlhf_lib.seeing.widgets.base import browser_code, styles


def test_numbers_are_the_librarys():
    demo = TiltExplorer(beta=2.0, reward_shift=1.5, proxy_gap=0.5)
    true = np.array(demo.rewards) + 1.5
    proxy = true + 0.5 * np.array(demo.bias)
    policy = tilt.tilt(demo.reference, proxy, 2.0)
    np.testing.assert_array_equal(demo.result.policy, policy)
    assert demo.result.expected_reward == policy @ proxy
    assert demo.result.expected_true_reward == policy @ true
    assert demo.result.overstatement == pytest.approx(0.5 * (policy @ np.array(demo.bias)))
    assert demo.result.kl == tilt.kl_divergence(policy, demo.reference)
    assert demo.result.objective == pytest.approx(policy @ proxy - 2.0 * demo.result.kl)


def test_a_shift_changes_rewards_only():
    plain, shifted = TiltExplorer().result, TiltExplorer(reward_shift=3.0).result
    np.testing.assert_allclose(shifted.policy, plain.policy, atol=1e-15)
    assert shifted.kl == pytest.approx(plain.kl)
    assert shifted.expected_reward == pytest.approx(plain.expected_reward + 3)
    assert shifted.objective == pytest.approx(plain.objective + 3)


def test_with_a_gap_the_proxy_rises_and_the_truth_falls():
    ends = [TiltExplorer(beta=beta, proxy_gap=1.0).result for beta in (5.0, 0.1)]
    assert ends[1].expected_reward > ends[0].expected_reward
    assert ends[1].expected_true_reward < ends[0].expected_true_reward - 5


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"beta": 0}, "beta is 0; expected a positive number"),
        ({"beta": math.nan}, "beta is nan; expected a positive number"),
        ({"reference": [0.5, 0.6], "rewards": [1, 2]}, "reference sums to 1.1"),
        ({"reference": [1.5, -0.5], "rewards": [1, 2]}, r"reference\[1\] is -0.5"),
        ({"reference": [0.5, 0.5], "rewards": [1, math.nan]}, r"rewards\[1\] is nan"),
        ({"reference": [0.5, 0.5], "rewards": [1]}, "rewards has 1 entries; expected 2"),
        ({"reference": [0.5, 0.5]}, "rewards is missing"),
        ({"labels": ["a"]}, "labels has 1 entries; expected 8"),
        ({"bias": [1.0]}, "bias has 1 entries; expected 8"),
        (
            {"reference": [0.0, 0.0], "rewards": [1, 2]},
            "reference sums to 0; expected probabilities",
        ),
        ({"reference": [0.5, 0.5], "rewards": [1e308, 0]}, "size 1e.308 over beta=0.05 overflows"),
        ({"beta_range": (2, 1)}, "beta_range is .*; expected two positive numbers"),
        ({"reward_shift": math.nan}, "reward_shift is nan"),
        ({"proxy_gap": math.inf}, "proxy_gap is inf"),
    ],
)
def test_constructor_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        TiltExplorer(**settings)


@pytest.mark.parametrize(
    "trait, value",
    [
        ("beta", -1.0),
        ("beta", math.nan),
        ("rewards", [math.nan] * 8),
        ("reference", [1.0, 1.0]),
        ("bias", [math.inf] * 8),
        ("reward_shift", math.nan),
        ("beta_range", [0.0, 1.0]),
    ],
)
def test_a_bad_value_is_refused_and_the_old_one_stays(trait, value):
    demo = TiltExplorer()
    before = getattr(demo, trait)
    with pytest.raises(ValueError, match=trait):
        setattr(demo, trait, value)
    assert getattr(demo, trait) == before


def test_settings_are_clamped_as_in_the_browser():
    demo = TiltExplorer(beta=1000, reward_shift=-50, proxy_gap=9)
    assert (demo.beta, demo.reward_shift, demo.proxy_gap) == (20.0, -10.0, 1.5)
    demo.beta = 1e-9
    assert demo.beta == 0.05


def test_lists_of_different_lengths_are_named():
    demo = TiltExplorer()
    demo.rewards = [1.0, 2.0]
    with pytest.raises(ValueError, match="rewards has 2 entries; expected 8"):
        _ = demo.result
    assert "not valid" in repr(demo)


def test_repr_is_stable():
    assert repr(TiltExplorer()) == "TiltExplorer(8 replies, beta=1, E[r]=7.610, KL=1.111)"


def test_saved_state_is_complete_and_plain_json():
    state = TiltExplorer().get_state()
    text = json.dumps(
        {key: value for key, value in state.items() if key != "layout"}, allow_nan=False
    )
    assert len(text) < 60_000
    assert "function slider" in state["_esm"] and "export default" in state["_esm"]
    assert ".rlhf-demo" in state["_css"]


def test_browser_code_needs_no_other_file():
    code = browser_code("tilt_explorer")
    assert not re.search(r"^\s*import\b|\bimport\(|https?://(?!www\.w3\.org)", code, re.MULTILINE)


def test_every_style_is_ours():
    """A class without the prefix would change the theme, or be changed by it."""
    rules = re.sub(r"/\*.*?\*/", "", styles(), flags=re.DOTALL)
    known = {"vscode-dark"}  # set by VS Code on the body
    selectors = " ".join(re.findall(r"([^{}]*)\{", rules))
    assert {
        name
        for name in re.findall(r"\.([a-zA-Z][\w-]*)", selectors)
        if not name.startswith("rlhf-")
    } <= known
