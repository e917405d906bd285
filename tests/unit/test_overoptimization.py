"""Gao's forms: hand-computed values, fits that find known coefficients, peaks, and equal KL.
The curve of best-of-n against every subset."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from rlhf_lib.mathematics import overoptimization as o


def test_the_forms_by_hand():
    # best-of-n, 2 · (3 − .5 · 2); RL at e, e · (3 − .5 · 1), and at 1, where log d is 0
    assert o.gain("best_of_n", [0, 2], 3, 0.5) == pytest.approx([0, 4])
    assert o.gain("rl", [0, 1, math.e], 3, 0.5) == pytest.approx([0, 3, 2.5 * math.e])


@pytest.mark.parametrize(
    "form, alpha, beta",
    [("best_of_n", 2.0, 0.5), ("best_of_n", 1.0, -0.2), ("rl", 1.5, 1.0), ("rl", -0.3, 0.4)],
)
def test_a_fit_finds_the_coefficients_it_was_made_with(form, alpha, beta):
    d = np.array([0, 0.3, 0.9, 1.4, 2.2, 4.0])
    found = o.fit(form, d, o.gain(form, d, alpha, beta))
    assert (found.alpha, found.beta) == pytest.approx((alpha, beta))
    assert found.r2 == pytest.approx(1)
    assert (found.alpha_se, found.beta_se) == pytest.approx((0, 0), abs=1e-9)


def test_a_fit_by_hand():
    """d = 1, 2, 3 and gains 1, 2, 2. With terms (d, −d²) the normal equations are
    14α − 36β = 11 and 36α − 98β = 27, so α = 106/76 and β = 18/76."""
    found = o.fit("best_of_n", [1, 2, 3], [1, 2, 2])
    assert (found.alpha, found.beta) == pytest.approx((106 / 76, 18 / 76))
    # fitted 88/76, 140/76, 156/76; squared misses (144 + 144 + 16)/76² = .05263, one degree of
    # freedom left; the inverse of [[14, −36], [−36, 98]] has 98/76 and 14/76 on its diagonal
    squared = 304 / 76**2
    assert found.alpha_se == pytest.approx(math.sqrt(squared * 98 / 76))
    assert found.beta_se == pytest.approx(math.sqrt(squared * 14 / 76))
    assert found.r2 == pytest.approx(1 - squared / (2 / 3))


def test_the_standard_error_is_that_of_repeated_measurements():
    rng, d = np.random.default_rng(0), np.linspace(0.3, 4, 12)
    clean = o.gain("rl", d, 1.0, 0.8)
    fits = [o.fit("rl", d, clean + rng.normal(0, 0.3, d.size)) for _ in range(2_000)]
    alphas, betas = np.array([f.alpha for f in fits]), np.array([f.beta for f in fits])
    assert (alphas.mean(), betas.mean()) == pytest.approx((1.0, 0.8), abs=0.02)
    assert np.sqrt(np.mean([f.alpha_se**2 for f in fits])) == pytest.approx(alphas.std(), rel=0.06)
    assert np.sqrt(np.mean([f.beta_se**2 for f in fits])) == pytest.approx(betas.std(), rel=0.06)


def test_a_measurement_counts_by_one_over_its_squared_error():
    d, gains = [1.0, 2.0, 3.0], [1.0, 2.0, 2.0]
    twice = o.fit("best_of_n", [1.0, 2.0, 2.0, 2.0, 2.0, 3.0], [1.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    weighted = o.fit("best_of_n", d, gains, se=[1.0, 0.5, 1.0])  # (1/.5)² = 4 times
    assert (weighted.alpha, weighted.beta) == pytest.approx((twice.alpha, twice.beta))
    assert weighted.r2 == pytest.approx(twice.r2)
    plain = o.fit("best_of_n", d, gains)
    assert o.fit("best_of_n", d, gains, se=[0.1, 0.1, 0.1]) == pytest.approx(plain)
    with_origin = o.fit("best_of_n", [0.0, *d], [0.0, *gains], se=[0.0, 0.1, 0.1, 0.1])
    assert with_origin == pytest.approx(plain)  # a point at 0 says nothing, whatever its error


@pytest.mark.parametrize(
    "form, alpha, beta", [("best_of_n", 2.0, 0.5), ("rl", 0.8, 0.5), ("rl", -0.4, 1.0)]
)
def test_nothing_near_the_peak_is_higher(form, alpha, beta):
    d, top = o.peak(form, alpha, beta)
    grid = np.linspace(0, 4 * d, 100_001)
    values = o.gain(form, grid, alpha, beta)
    assert top == pytest.approx(values.max(), abs=1e-6)
    assert d == pytest.approx(grid[values.argmax()], abs=1e-3)


def test_peaks_by_hand():
    assert o.peak("best_of_n", 2.0, 0.5) == pytest.approx((2.0, 2.0))  # α/2β, α²/4β
    assert o.peak("rl", 2.0, 1.0) == pytest.approx((math.e, math.e))  # e^(α/β − 1), β times it
    assert o.peak("best_of_n", -1.0, 0.5) == (0.0, 0.0)  # worse from the start
    assert o.peak("rl", 1.0, 0.0) == o.peak("best_of_n", 1.0, -0.1) == (math.inf, math.inf)
    assert o.peak("rl", -1.0, -0.1) == (math.inf, math.inf)  # it falls at first, and then rises
    for form in o.FORMS:  # a line that does not rise
        assert o.peak(form, -1.0, 0.0) == o.peak(form, 0.0, 0.0) == (0.0, 0.0)


def test_equal_kl_by_hand():
    kl, values = [0.0, 1.0, 4.0, 16.0], [0.0, 2.0, 3.0, 1.0]
    assert [o.at_kl(kl, values, k) for k in (0, 1, 2.25, 9)] == pytest.approx([0, 2, 2.5, 2])
    assert o.at_kl(kl, values, 16.1) is None
    assert o.at_kl([1.0, 4.0], [5.0, 7.0], 0.5) == 5.0  # it was there from the start
    assert o.at_kl([0.0, -0.1, 4.0], [0.0, 1.0, 3.0], 1.0) == pytest.approx(2)  # −.1 is noise
    # the first time only: this run comes back below 4 nats and passes them again
    assert o.at_kl([0.0, 9.0, 1.0, 9.0], [0.0, 3.0, 7.0, 7.0], 4.0) == pytest.approx(2)


def test_the_curve_by_hand():
    """Proxies 3, 2, 1 of gold 1, 5, 0. Of two the best is first in two pairs of three, else second;
    of one it is anyone, of three the first."""
    scores, gold = torch.tensor([[2.0, 1.0, 3.0]]), torch.tensor([[5.0, 0.0, 1.0]])
    assert o.best_of_n_curve(scores, gold)[0].tolist() == pytest.approx([2, 7 / 3, 1])


def test_the_curve_is_the_mean_over_all_subsets():
    """Every subset of 7 samples, one by one; in the second row three proxies are tied."""
    scores = torch.tensor(
        [[3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0], [1.0, 1.0, 0.0, 1.0, -1.0, -2.0, -3.0]]
    )
    gold = torch.tensor([[1.0, 2.0, 3.0, 4.0, -5.0, 6.0, 0.0], [7.0, 0.0, 1.0, 5.0, 2.0, 2.0, 9.0]])
    curve, proxy_curve = o.best_of_n_curve(scores, gold), o.best_of_n_curve(scores)
    for p, k in itertools.product(range(2), range(1, 8)):
        subsets = list(itertools.combinations(range(7), k))
        best = [max(subset, key=lambda i: scores[p, i].item()) for subset in subsets]
        assert curve[p, k - 1].item() == pytest.approx(gold[p, best].mean().item(), abs=1e-6)
        expected = scores[p, best].mean().item()
        assert proxy_curve[p, k - 1].item() == pytest.approx(expected, abs=1e-6)


def test_of_equal_gains_there_is_nothing_to_explain():
    assert math.isnan(o.fit("best_of_n", [1.0, 2.0, 3.0], [2.0, 2.0, 2.0]).r2)


def test_of_tied_samples_the_first_is_the_best():
    curve = o.best_of_n_curve(torch.ones(1, 300), torch.arange(300.0)[None])[0]
    assert curve[-1].item() == 0.0 and curve[0].item() == pytest.approx(149.5)


def test_the_curve_is_right_for_many_samples():
    """Uniform scores at their quantiles: the best of k averages k / (k + 1), nearly."""
    n = 1_000
    curve = o.best_of_n_curve(((torch.arange(n) + 0.5) / n)[None])[0]
    k = torch.arange(1, n + 1)
    assert torch.allclose(curve, k.double() / (k + 1), atol=1e-3)
    assert (o.best_of_n_curve(torch.ones(1, n)) - 1).abs().max() < 1e-9  # the weights sum to 1


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: o.gain("ppo", [1.0], 1.0, 1.0),
            "form is 'ppo'; expected one of 'best_of_n', 'rl'",
        ),
        (lambda: o.gain("rl", [1.0, -2.0], 1.0, 1.0), "d has the entry -2.0"),
        (lambda: o.fit("rl", [1.0, math.nan, 2.0], [1.0, 1.0, 1.0]), "d has the entry nan"),
        (lambda: o.fit("rl", [1.0, 2.0, 3.0], [1.0, 2.0]), r"gains has shape \(2,\)"),
        (
            lambda: o.fit("rl", [0.0, 1.0, 2.0, 2.0], [0.0, 1.0, 2.0, 2.0]),
            "2 different distances above 0",
        ),
        (
            lambda: o.fit("rl", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], se=[1.0, 0.0, 1.0]),
            "se has an entry",
        ),
        (
            lambda: o.best_of_n_curve(torch.zeros(2, 3), torch.zeros(3, 2)),
            r"scores has shape \(2, 3\) and values \(3, 2\)",
        ),
        (lambda: o.best_of_n_curve(torch.zeros(3)), r"scores has shape \(3,\)"),
        (lambda: o.at_kl([0.0, 1.0], [0.0], 1.0), "values has 1 entries; expected 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
