"""The DPO explorer without a browser: its numbers, in Python and in its own JavaScript, what it
refuses, what it saves.

How it behaves in a page is tested in tests/site.
"""

from __future__ import annotations

import itertools
import json
import math
from functools import partial

import pytest

from rlhf_lib.algorithms import DPOConfig
from rlhf_lib.seeing.widgets import DPOExplorer
from rlhf_lib.seeing.widgets.dpo_explorer import LOSSES, RANGES
from tests.unit import javascript


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    "loss, pair, beta, value, gradient",
    [
        ("dpo", (0, 0), 0.1, math.log(2), (-0.05, 0.05)),
        ("dpo", (2, -2), 0.1, -math.log(sigmoid(0.4)), (-0.1 * sigmoid(-0.4), 0.1 * sigmoid(-0.4))),
        ("dpo", (-3, 1), 1.0, -math.log(sigmoid(-4)), (-sigmoid(4), sigmoid(4))),
        ("ipo", (0, 0), 0.1, 25.0, (-10.0, 10.0)),  # its target is a gap of 5
        ("ipo", (2, -2), 0.1, 1.0, (-2.0, 2.0)),
        ("ipo", (-1, -6), 0.1, 0.0, (0.0, 0.0)),
        ("ipo", (4, -2), 0.1, 1.0, (2.0, -2.0)),  # beyond the target: back together
        ("kto", (0, 0), 0.1, 0.5, (-0.0125, 0.0125)),
        (
            "kto",
            (-4, -8),
            0.5,
            (2 - sigmoid(-2) - sigmoid(4)) / 2,
            (-0.25 * sigmoid(-2) * sigmoid(2), 0.25 * sigmoid(-4) * sigmoid(4)),
        ),
    ],
)
def test_numbers_worked_out_by_hand(loss, pair, beta, value, gradient):
    numbers = DPOExplorer(*pair, beta, loss).result
    assert numbers.loss == pytest.approx(value, rel=1e-12, abs=1e-15)
    assert numbers.gradient == pytest.approx(gradient, rel=1e-12, abs=1e-15)
    assert numbers.pull == tuple(map(abs, numbers.gradient))
    assert (numbers.chosen_reward, numbers.rejected_reward) == (beta * pair[0], beta * pair[1])
    assert numbers.margin == pytest.approx(beta * (pair[0] - pair[1]))
    assert numbers.probability == pytest.approx(sigmoid(numbers.margin))


@pytest.mark.parametrize("loss", LOSSES)
def test_who_notices_that_both_log_ratios_fall(loss):
    """A diagonal of the plane is one gap: DPO and IPO have one loss and one gradient there."""
    along = [DPOExplorer(2 + shift, -2 + shift, 0.3, loss).result for shift in (-6, -4, 0, 5)]
    losses = [numbers.loss for numbers in along]
    pulls = [numbers.pull for numbers in along]
    if loss == "kto":
        assert min(losses) == losses[2] < max(losses) - 0.05  # best where each reply went its way
        assert len(set(losses)) == 4 and [c == r for c, r in pulls] == [False, False, True, False]
    else:
        assert losses == pytest.approx([losses[0]] * 4, rel=1e-12)
        assert all(pull == pytest.approx(pulls[0], rel=1e-12) for pull in pulls)
        assert all(chosen == rejected for chosen, rejected in pulls)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_the_slope_of_the_loss(loss):
    h = 1e-5
    for chosen, rejected, beta in itertools.product((-3.0, 0.5), (-6.0, 2.0), (0.05, 0.8)):
        moved = [
            DPOExplorer(chosen + sign * h * c, rejected + sign * h * r, beta, loss).result.loss
            for c, r in ((1, 0), (0, 1))
            for sign in (1, -1)
        ]
        slopes = [(moved[0] - moved[1]) / (2 * h), (moved[2] - moved[3]) / (2 * h)]
        found = DPOExplorer(chosen, rejected, beta, loss).result.gradient
        assert found == pytest.approx(slopes, rel=1e-6, abs=1e-9)


def test_losses_are_named_as_the_loop_names_them():
    for loss in LOSSES:
        assert DPOConfig(loss_type=loss).loss_type == loss


# --- the browser's half ---------------------------------------------------------------------------


in_javascript = partial(javascript.in_javascript, DPOExplorer)


LEVELS = (-8.0, -4.0, -0.3, 0.0, 2.5, 8.0)
STATES = [
    {"chosen_log_ratio": chosen, "rejected_log_ratio": rejected, "beta": beta, "loss": loss}
    for chosen, rejected in itertools.product(LEVELS, repeat=2)
    for beta in (0.01, 0.1, 0.37, 1.0)
    for loss in LOSSES
]


def test_javascript_and_autograd_agree():
    shown = in_javascript("compute(s)", STATES)
    for state, numbers in zip(STATES, shown, strict=True):
        for name, value in DPOExplorer(**state).result._asdict().items():
            found = tuple(numbers[name]) if isinstance(value, tuple) else numbers[name]
            assert found == pytest.approx(value, rel=1e-9, abs=1e-13), (name, state)


def test_settings_beyond_their_range_are_clamped_in_javascript_too():
    beyond = {"chosen_log_ratio": -99, "rejected_log_ratio": 99, "beta": 5, "loss": "dpo"}
    (numbers,) = in_javascript("compute(s)", [beyond])
    assert [numbers[name] for name in ("c", "r", "beta")] == [-8, 8, 1]
    assert numbers["loss"] == pytest.approx(DPOExplorer(**beyond).result.loss, rel=1e-9)


def test_a_line_of_equal_loss_goes_through_its_pair_and_has_one_loss():
    """From the left or lower edge of the plane to the upper or right one, within it."""
    value = "LOSSES[s.loss].value"
    lines = in_javascript(
        "compute(s).linesAt(compute(s).loss).map(({ points, higher }) => "
        f"points.map(([c, r]) => [c, r, {value}(c, r, s.beta), "
        f'{value}(c - 0.01, r + 0.01, s.beta) > {value}(c, r, s.beta) === (higher === "above")]))',
        STATES,
    )
    for state, found in zip(STATES, lines, strict=True):
        demo = DPOExplorer(**state)
        value, slope = demo.result.loss, max(demo.result.pull)
        assert len(found) in ((1, 2) if state["loss"] == "ipo" else (1,)), state
        for points in found:
            for chosen, rejected, loss, higher_side in points:
                assert max(abs(chosen), abs(rejected)) <= 10 + 1e-9, state
                # the plane's edge cuts a line that comes near it
                assert loss == pytest.approx(value, rel=1e-6, abs=1e-9 + 1e-6 * slope), state
                assert higher_side or state["loss"] == "ipo", state
            assert max(points[-1][:2]) == pytest.approx(10) == -min(points[0][:2])
        here = [state["chosen_log_ratio"], state["rejected_log_ratio"]]
        apart = [
            abs(point[0] - point[1] - here[0] + here[1]) for points in found for point in points
        ]
        if state["loss"] != "kto":
            assert min(apart) == pytest.approx(0, abs=1e-6), state


# --- what it refuses and saves --------------------------------------------------------------------


@pytest.mark.parametrize("name", RANGES)
def test_a_number_that_is_none_is_refused_and_others_are_clamped(name):
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"{name} is {bad}; expected a number from"):
            DPOExplorer(**{name: bad})
    demo = DPOExplorer()
    before = getattr(demo, name)
    with pytest.raises(ValueError, match=name):
        setattr(demo, name, math.nan)
    assert getattr(demo, name) == before
    ends = {"beta": (0.01, 1)}.get(name, (-8, 8))
    assert tuple(getattr(DPOExplorer(**{name: v}), name) for v in (-99, 99)) == ends


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="loss is simpo; expected one of dpo, ipo, kto"):
        DPOExplorer(loss="simpo")
    demo = DPOExplorer(loss="kto")
    with pytest.raises(ValueError, match="loss is ppo"):
        demo.loss = "ppo"
    assert demo.loss == "kto"


def test_saved_state_is_plain_json():
    state = {k: v for k, v in DPOExplorer().get_state().items() if k != "layout"}
    assert len(json.dumps(state, allow_nan=False)) < 60_000
    assert "export default" in state["_esm"] and ".rlhf-demo" in state["_css"]


def test_repr_is_stable():
    assert repr(DPOExplorer(2.5, -2.5, loss="ipo")) == (
        "DPOExplorer(ipo, chosen=2.5, rejected=-2.5, beta=0.1: loss 0.000, gradient 0.000, 0.000)"
    )
