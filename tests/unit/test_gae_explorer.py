"""The GAE explorer in Python: its numbers, what it refuses, what it saves for the browser.

How it behaves in a page is tested in tests/site.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from rlhf_lib.seeing.widgets import GAEExplorer

THREE = dict(
    tokens=["a", "b", "c"], log_ratios=[1.0, -2.0, 0.5], values=[0.5, 1.0, 2.0], score=3.0, beta=0.5
)


def test_numbers_worked_out_by_hand():
    shown = GAEExplorer(**THREE, gamma=1.0, lam=0.5).result
    assert shown.rewards.tolist() == [-0.5, 1.0, 2.75]
    assert shown.deltas.tolist() == [0.0, 2.0, 0.75]  # −.5 + 1 − .5, 1 + 2 − 1, 2.75 − 2
    assert shown.advantages.tolist() == [1.1875, 2.375, 0.75]
    assert shown.returns.tolist() == [1.6875, 3.375, 2.75]
    assert shown.score_weight.tolist() == [0.25, 0.5, 1.0]
    assert shown.critic_weight.tolist() == [0.75, 0.5, 0.0]


def test_lumped_blames_each_token_for_the_charges_before_it():
    plain = GAEExplorer(**THREE, lam=1.0).result
    lumped = GAEExplorer(**THREE, lam=1.0, lumped=True).result
    assert lumped.rewards.tolist() == [0.0, 0.0, 3.25]  # 3 − .5 (1 − 2 + .5)
    paid_before = np.array([0.0, -0.5, 0.5])
    np.testing.assert_allclose(lumped.advantages - plain.advantages, paid_before)
    np.testing.assert_array_equal(lumped.other, plain.advantages)
    np.testing.assert_array_equal(plain.other, lumped.advantages)
    assert lumped.advantages[0] == plain.advantages[0]  # nothing came before the first


def test_the_extremes_of_lambda():
    near, far = (GAEExplorer(**THREE, lam=lam).result for lam in (0.0, 1.0))
    np.testing.assert_array_equal(near.advantages, near.deltas)
    np.testing.assert_array_equal(far.critic_weight, 0)
    np.testing.assert_allclose(far.returns, np.cumsum(far.rewards[::-1])[::-1])


@pytest.mark.parametrize(
    "gamma, lam", [(1.0, 0.95), (0.9, 0.5), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
)
def test_weights_are_what_moves_the_advantages(gamma, lam):
    def advantages(t: int, score=2.0, error=0.0) -> float:
        values = [0.3 * k + error * (k > t) for k in range(5)]
        demo = GAEExplorer(list("abcde"), [0.1] * 5, values, score, gamma=gamma, lam=lam)
        return demo.result.advantages[t]

    shown = GAEExplorer(list("abcde"), gamma=gamma, lam=lam).result
    for t in range(5):
        assert advantages(t, 3.0) - advantages(t) == pytest.approx(shown.score_weight[t])
        assert advantages(t, error=1.0) - advantages(t) == pytest.approx(shown.critic_weight[t])
    if gamma == 1:
        np.testing.assert_allclose(shown.score_weight + shown.critic_weight, 1)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"tokens": ["a"]}, "tokens has 1 entries; expected 2 to 10"),
        ({"tokens": ["a"] * 11}, "tokens has 11 entries; expected 2 to 10"),
        ({"tokens": ["a", "b"], "values": [1.0]}, "values has 1 entries; expected 2"),
        ({"log_ratios": [1.0]}, "log_ratios has 1 entries; expected 7"),
        ({"log_ratios": [math.nan] * 7}, r"log_ratios\[0\] is nan; expected a number from -4 to 4"),
        ({"values": [0.0] * 6 + [math.inf]}, r"values\[6\] is inf"),
        ({"score": math.nan}, "score is nan; expected a number from -5 to 5"),
        ({"lam": math.nan}, "lam is nan"),
        ({"gamma": math.inf}, "gamma is inf"),
        ({"beta": math.nan}, "beta is nan"),
        ({"presets": {"short": ([1.0], [1.0] * 7, 1.0)}}, "log_ratios of preset 'short' has 1"),
    ],
)
def test_constructor_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        GAEExplorer(**settings)


def test_settings_are_clamped_as_in_the_browser():
    demo = GAEExplorer(score=99, beta=-1, gamma=2, lam=9, values=[-99.0] * 7, log_ratios=[9.0] * 7)
    assert (demo.score, demo.beta, demo.gamma, demo.lam) == (5, 0, 1, 1)
    assert demo.values == [-6.0] * 7 and demo.log_ratios == [4.0] * 7


def test_a_bad_value_is_refused_and_the_old_one_stays():
    demo = GAEExplorer()
    before = demo.values
    with pytest.raises(ValueError, match=r"values\[0\] is nan"):
        demo.values = [math.nan] * 7
    assert demo.values == before
    demo.values = [1.0]
    with pytest.raises(ValueError, match="values has 1 entries; expected 7"):
        _ = demo.result
    assert "not valid" in repr(demo)


def test_saved_state_is_plain_json():
    state = {k: v for k, v in GAEExplorer().get_state().items() if k != "layout"}
    assert len(json.dumps(state, allow_nan=False)) < 45_000
    assert "function slider" in state["_esm"] and ".rlhf-demo" in state["_css"]


def test_repr_is_stable():
    assert repr(GAEExplorer(["a", "b"], [0.5, 0.0], [0.25, 0.75], 1.0, lam=0.0, lumped=True)) == (
        "GAEExplorer(2 tokens, score=1, beta=0.1, gamma=1, lam=0, lumped: advantages 0.500, 0.200)"
    )
