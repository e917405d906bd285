"""The clip explorer in Python: its numbers, what it refuses, what it saves for the browser.

How it behaves in a page is tested in tests/site.
"""

from __future__ import annotations

import json
import math

import pytest

from rlhf_lib.seeing.widgets import ClipExplorer


@pytest.mark.parametrize(
    "ratio, advantage, objective, gradient, zone",
    [
        (1.0, 2.0, 2.0, 2.0, "inside"),
        (1.1, -2.0, -2.2, -2.2, "inside"),
        (1.5, 2.0, 2.4, 0.0, "above"),  # good and risen: enough
        (0.6, 2.0, 1.2, 1.2, "below"),  # good and fallen: pushed up
        (0.6, -2.0, -1.6, 0.0, "below"),  # bad and fallen: enough
        (1.3, -3.0, -3.9, -3.9, "above"),  # bad and risen: pushed down
        (1.3, 0.0, 0.0, 0.0, "above"),
    ],
)
def test_the_four_cases_by_hand(ratio, advantage, objective, gradient, zone):
    numbers = ClipExplorer(ratio, 0.2, advantage).result
    assert numbers.objective == pytest.approx(objective)
    assert numbers.gradient == pytest.approx(gradient, abs=1e-12)
    assert (numbers.zone, numbers.active) == (zone, gradient != 0)
    assert numbers.plain == pytest.approx(ratio * advantage)
    assert numbers.objective == pytest.approx(min(numbers.plain, numbers.clipped))


def test_the_dual_clip_acts_on_bad_tokens_alone():
    bad, good = (ClipExplorer(3.5, 0.2, a, dual_clip=3.0).result for a in (-1.0, 1.0))
    assert (bad.objective, bad.gradient, bad.zone) == (-3.0, 0.0, "beyond")
    assert (good.objective, good.gradient, good.zone) == (1.2, 0.0, "above")
    plain = ClipExplorer(3.5, 0.2, -1.0).result
    assert (plain.objective, plain.zone) == (pytest.approx(-3.5), "above")
    assert plain.gradient == pytest.approx(-3.5)


@pytest.mark.parametrize(
    "ratio, advantage, dual",
    [(1.2, 1.0, None), (0.8, -1.0, None), (1.2, -1.0, None), (0.8, 1.0, None), (3.0, -1.0, 3.0)],
)
def test_an_edge_counts_as_inside(ratio, advantage, dual):
    numbers = ClipExplorer(ratio, 0.2, advantage, dual).result
    assert numbers.gradient == pytest.approx(ratio * advantage)
    assert numbers.zone == ("inside" if dual is None else "above")


def test_gradient_is_the_slope_of_the_objective():
    for ratio in (0.5, 0.9, 1.1, 1.7, 3.4):
        for advantage in (-2.0, 1.5):
            for dual in (None, 3.0):
                h = 1e-6
                up, down = (
                    ClipExplorer(ratio * math.exp(s * h), 0.2, advantage, dual).result
                    for s in (1, -1)
                )
                slope = (up.objective - down.objective) / (2 * h)
                assert ClipExplorer(ratio, 0.2, advantage, dual).result.gradient == pytest.approx(
                    slope, abs=1e-6
                )


@pytest.mark.parametrize("name", ["ratio", "epsilon", "advantage", "dual_clip"])
def test_a_number_that_is_none_is_refused_and_others_are_clamped(name):
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"{name} is {bad}; expected a number from"):
            ClipExplorer(**{name: bad})
    demo = ClipExplorer()
    before = getattr(demo, name)
    with pytest.raises(ValueError, match=name):
        setattr(demo, name, math.nan)
    assert getattr(demo, name) == before
    ends = {
        "ratio": (0.05, 4),
        "epsilon": (0.01, 0.5),
        "advantage": (-3, 3),
        "dual_clip": (1.6, 4),
    }[name]
    assert [getattr(ClipExplorer(**{name: v}), name) for v in (-99, 99)] == list(ends)


def test_saved_state_is_plain_json():
    state = {k: v for k, v in ClipExplorer().get_state().items() if k != "layout"}
    assert len(json.dumps(state, allow_nan=False)) < 40_000
    assert "export default" in state["_esm"] and ".rlhf-demo" in state["_css"]


def test_repr_is_stable():
    assert repr(ClipExplorer(1.3, 0.2, -3.0, 3.0)) == (
        "ClipExplorer(ratio=1.3, epsilon=0.2, A=-3, dual clip 3: objective -3.900, gradient -3.900)"
    )
