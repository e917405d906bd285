"""The estimator explorer in Python: its draws, its numbers, and what it refuses.

How it behaves in a page is tested in tests/site.
"""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from rlhf_lib.mathematics import tilt
from rlhf_lib.seeing.widgets import EstimatorExplorer
from rlhf_lib.seeing.widgets.base import browser_code
from rlhf_lib.seeing.widgets.estimator_explorer import BINS, RUNS, bell_curves, uniforms


def mulberry32(seed: int, count: int) -> list[float]:
    """The generator in whole numbers, one draw after the other."""
    wrap, draws = 2**32 - 1, []
    for _ in range(count):
        seed = (seed + 0x6D2B79F5) & wrap
        t = ((seed ^ seed >> 15) * (seed | 1)) & wrap
        t ^= (t + (t ^ t >> 7) * (t | 61)) & wrap
        draws.append((t ^ t >> 14) / 2**32)
    return draws


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_draws_are_mulberry32(seed):
    np.testing.assert_array_equal(uniforms(seed, 1_000), mulberry32(seed, 1_000))


def test_draws_are_uniform_and_independent_enough():
    draws = uniforms(3, 200_000)
    assert 0 <= draws.min() and draws.max() < 1
    np.testing.assert_allclose(np.histogram(draws, 20, (0, 1))[0] / 10_000, 1, atol=0.04)
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.01


@pytest.mark.parametrize("shift", [0.1, 1.0, 2.0])
def test_bell_curves_follow_the_formulas_of_the_chapter(shift):
    numbers = EstimatorExplorer(distance=shift).result
    kl = shift**2 / 2
    assert numbers.kl == pytest.approx(kl, rel=1e-9)
    assert numbers.k2.expected == pytest.approx(kl + kl**2 / 2, rel=1e-9)
    assert numbers.k3.expected == pytest.approx(kl, rel=1e-9)
    assert numbers.k1.std == pytest.approx(math.sqrt(2 * kl), rel=1e-9)
    assert numbers.k2.std == pytest.approx(kl * math.sqrt(2 + 2 * kl), rel=1e-9)
    assert numbers.k3.std == pytest.approx(math.sqrt(math.expm1(2 * kl) - 2 * kl), rel=1e-6)


def test_distance_one_is_the_policy_and_the_path_is_a_tilt():
    rng = np.random.default_rng(0)
    reference, policy = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
    assert EstimatorExplorer(reference, policy).result.kl == pytest.approx(
        tilt.kl_divergence(policy, reference)
    )
    halfway = tilt.tilt(reference, np.log(policy / reference), 2.0)
    assert EstimatorExplorer(reference, policy, distance=0.5).result.kl == pytest.approx(
        tilt.kl_divergence(halfway, reference)
    )


@pytest.mark.parametrize("samples", [1, 16, 256])
def test_the_runs_agree_with_what_is_exact(samples):
    numbers = EstimatorExplorer(distance=0.8, samples=samples, seed=7).result
    for estimator in (numbers.k1, numbers.k2, numbers.k3):
        error = estimator.std / math.sqrt(samples)
        assert abs(estimator.mean - estimator.expected) < 5 * error / math.sqrt(RUNS)
        assert estimator.spread == pytest.approx(error, rel=0.25)
        assert estimator.counts.sum() + estimator.beyond == RUNS
        assert len(estimator.counts) == BINS
    assert numbers.k2.below_zero == numbers.k3.below_zero == 0
    assert numbers.k1.beyond == 0


def test_one_sample_of_k1_is_negative_as_often_as_it_should_be():
    numbers = EstimatorExplorer(distance=1.0, samples=1).result
    expected = 0.5 * (1 + math.erf(-0.5 / math.sqrt(2)))  # a normal with mean .5 and variance 1
    assert numbers.k1.below_zero == pytest.approx(expected, abs=0.06)


def test_a_seed_gives_its_samples():
    first, again, other = (EstimatorExplorer(seed=seed).result for seed in (1, 1, 2))
    assert first.k1.mean == again.k1.mean != other.k1.mean


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"reference": [0.5, 0.5]}, "policy is missing"),
        ({"reference": [0.5, 0.5], "policy": [1.0, 0.0]}, r"policy\[1\] is 0; expected positive"),
        ({"reference": [0.5, 0.6], "policy": [0.5, 0.5]}, "reference sums to 1.1"),
        ({"reference": [0.5, 0.5], "policy": [0.5, 0.3, 0.2]}, "policy has 3 entries; expected 2"),
        ({"distance": math.nan}, "distance is nan"),
        ({"distance_range": (2, 1)}, "distance_range is .*; expected two positive numbers"),
        ({"samples": 3}, "samples is 3; expected a power of two from 1 to 256"),
        ({"samples": 512}, "samples is 512; expected a power of two"),
        ({"seed": -1}, "seed is -1; expected 0 to"),
    ],
)
def test_constructor_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        EstimatorExplorer(**settings)


@pytest.mark.parametrize(
    "trait, value",
    [
        ("distance", math.inf),
        ("samples", 0),
        ("seed", 2**31),
        ("policy", [1.0, 1.0]),
        ("distance_range", [0.0, 1.0]),
    ],
)
def test_a_bad_value_is_refused_and_the_old_one_stays(trait, value):
    demo = EstimatorExplorer()
    before = getattr(demo, trait)
    with pytest.raises(ValueError, match=trait):
        setattr(demo, trait, value)
    assert getattr(demo, trait) == before


def test_distance_is_clamped_as_in_the_browser():
    demo = EstimatorExplorer(distance=50.0)
    assert demo.distance == 3.0
    demo.distance = 1e-6
    assert demo.distance == 0.05


def test_what_cannot_be_computed_is_said():
    demo = EstimatorExplorer()
    demo.policy = [0.5, 0.5]
    with pytest.raises(ValueError, match="policy has 2 entries; expected 191"):
        _ = demo.result
    assert "not valid" in repr(demo)
    far = EstimatorExplorer([0.5, 0.5], [1 - 1e-300, 1e-300], distance=1.2)
    with pytest.raises(ValueError, match="the spread of k3 is beyond the largest float"):
        _ = far.result


def test_saved_state_is_complete_and_plain_json():
    state = EstimatorExplorer().get_state()
    text = json.dumps(
        {key: value for key, value in state.items() if key != "layout"}, allow_nan=False
    )
    assert len(text) < 60_000
    assert "function slider" in state["_esm"] and ".rlhf-hist" in state["_css"]
    code = browser_code("estimator_explorer")
    assert not re.search(r"^\s*import\b|\bimport\(|https?://(?!www\.w3\.org)", code, re.MULTILINE)


def test_the_bell_curves_end_where_nothing_is_left():
    for curve in bell_curves(shift=3.0):
        assert curve[0] < 1e-13 and curve[-1] < 1e-13 and sum(curve) == pytest.approx(1)
