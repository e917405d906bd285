"""Intervals: hand-computed ends, the equation that they solve, and how often they cover."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlhf_lib.mathematics.intervals import mean_interval, wilson


def test_wilson_by_hand():
    # one of four at z = 2: the centre is (1/4 + 4/8)/(1 + 4/4) = 3/8, and the reach
    # 2 √(3/16 / 4 + 4/64)/(1 + 4/4) = √(7/64)
    assert wilson(1, 4, z=2) == pytest.approx((3 / 8 - math.sqrt(7) / 8, 3 / 8 + math.sqrt(7) / 8))
    assert wilson(0, 5, z=2) == pytest.approx((0, 4 / 9))  # z²/(n + z²)
    assert wilson(5, 5, z=2) == pytest.approx((5 / 9, 1))


@pytest.mark.parametrize("count, n", [(0, 10), (3, 10), (10, 10), (150, 300)])
def test_wilson_ends_solve_its_quadratic(count, n):
    """At an end p of the interval, |share - p| is exactly z standard errors computed with p."""
    for p in wilson(count, n):
        assert (count / n - p) ** 2 == pytest.approx(1.96**2 * p * (1 - p) / n, abs=1e-15)


def test_wilson_covers():
    """At a share of 5 % of 100, the interval contains it in about 95 % of all data sets."""
    n, p = 100, 0.05
    covered = sum(
        math.comb(n, k) * p**k * (1 - p) ** (n - k)
        for k in range(n + 1)
        if wilson(k, n)[0] <= p <= wilson(k, n)[1]
    )
    assert 0.93 < covered < 0.98


def test_the_interval_of_a_mean_by_hand():
    mean, half = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean, half) == pytest.approx((3.0, 2.776 * math.sqrt(2.5 / 5)))


def test_the_interval_of_a_mean_covers_as_it_says():
    draws = np.random.default_rng(1).normal(size=(4_000, 3))
    covered = [abs(mean) <= half for mean, half in map(mean_interval, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def test_the_fewest_and_the_most_that_each_takes():
    values = [float(i) for i in range(11)]  # their squared deviations sum to 110
    assert mean_interval(values) == pytest.approx((5.0, 2.228 * math.sqrt(11 / 11)))
    assert mean_interval([0.0, 2.0]) == pytest.approx((1.0, 12.706))
    assert wilson(1, 1, z=1) == pytest.approx((0.5, 1.0))  # n/(n + z²)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: wilson(1, 0), "n is 0; expected at least 1"),
        (lambda: wilson(5, 4), "count is 5; expected a number from 0 to n=4"),
        (lambda: wilson(-1, 4), "count is -1"),
        (lambda: wilson(math.nan, 4), "count is nan"),
        (lambda: mean_interval([1.0]), "values has 1 entries; expected 2 to 11"),
        (lambda: mean_interval([1.0] * 12), "values has 12 entries; expected 2 to 11"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
