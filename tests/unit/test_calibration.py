"""Calibration, on cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlhf_lib.mathematics.calibration import (
    brier_score,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    reliability,
)

SAID = [0.05, 0.15, 0.15, 0.85, 0.95, 0.95]
HAPPENED = [0, 0, 1, 1, 1, 0]


def test_brier_by_hand():
    assert brier_score([1.0, 0.0], [1, 0]) == 0
    assert brier_score([0.5] * 3, [1, 0, 1]) == 0.25
    assert brier_score(SAID, HAPPENED) == pytest.approx(
        (0.0025 + 0.0225 + 0.7225 + 0.0225 + 0.0025 + 0.9025) / 6
    )


def test_a_pair_has_no_side():
    """Told the other way round, p becomes 1 − p and y becomes 1 − y: no score moves."""
    p, y = np.array(SAID), np.array(HAPPENED)
    z = np.log(p / (1 - p))
    assert brier_score(1 - p, 1 - y) == pytest.approx(brier_score(p, y))
    assert log_loss(-z, 1 - y) == pytest.approx(log_loss(z, y))
    assert fit_temperature(-z, 1 - y) == pytest.approx(fit_temperature(z, y))


def test_log_loss_by_hand_and_at_any_size():
    assert log_loss([0.0, 0.0], [1, 0]) == pytest.approx(math.log(2))
    assert log_loss([math.log(3)], [1]) == pytest.approx(math.log(4 / 3))
    assert log_loss([1e4, -1e4], [1, 0]) == 0
    assert log_loss([1e4], [0]) == 1e4
    assert log_loss([math.log(3)], [0.75]) == pytest.approx(  # expected over the outcome
        0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    )


def test_reliability_by_hand():
    table = reliability(SAID, HAPPENED, bins=10)
    assert table == pytest.approx(
        np.array([[0.05, 0, 1], [0.15, 0.5, 2], [0.85, 1, 1], [0.95, 0.5, 2]])
    )
    assert expected_calibration_error(SAID, HAPPENED, bins=10) == pytest.approx(
        (0.05 + 2 * 0.35 + 0.15 + 2 * 0.45) / 6
    )


def test_the_number_of_bins_is_the_callers():
    # of two: said (.05 + .15 + .15)/3 against 1/3, and (.85 + .95 + .95)/3 against 2/3
    found = expected_calibration_error(SAID, HAPPENED, bins=2)
    assert found == pytest.approx((abs(0.35 - 1) + abs(2.75 - 2)) / 6)


def test_the_ends_belong_to_a_bin():
    assert reliability([0.0, 0.1, 0.9, 1.0], [0, 0, 1, 1], bins=4) == pytest.approx(
        np.array([[0.05, 0, 2], [0.95, 1, 2]])
    )


def test_true_probabilities_are_calibrated_and_a_sharper_claim_is_not():
    rng = np.random.default_rng(0)
    z = rng.normal(scale=2, size=20_000)
    p = 1 / (1 + np.exp(-z))
    happened = rng.random(len(p)) < p
    assert expected_calibration_error(p, happened) < 0.02
    assert expected_calibration_error(1 / (1 + np.exp(-3 * z)), happened) > 0.08
    assert fit_temperature(z, happened) == pytest.approx(1, abs=0.05)
    assert fit_temperature(3 * z, happened) == pytest.approx(3, abs=0.15)
    assert fit_temperature(z, p) == pytest.approx(1, abs=1e-6)  # in expectation, exactly


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1.0, 1e5, 1e12])
def test_temperature_by_hand_in_any_unit(scale):
    """Odds of 3 are true for |z| = s: T = s / log 3."""
    z = np.array([1.0, 1.0, 1.0, -1.0]) * scale
    assert fit_temperature(z, [1, 1, 1, 1]) == pytest.approx(scale / math.log(3))


def test_the_fitted_temperature_has_the_least_loss():
    rng = np.random.default_rng(1)
    z = rng.normal(size=200)
    y = (rng.random(200) < 1 / (1 + np.exp(-0.4 * z))).astype(float)
    T = fit_temperature(z, y)
    assert all(log_loss(z / T, y) <= log_loss(z / (T * f), y) for f in (0.5, 0.9, 1.1, 2.0))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: brier_score([0.5], [1, 0]), r"probabilities has shape \(1,\) and outcomes \(2,\)"),
        (lambda: brier_score([], []), "not empty"),
        (lambda: brier_score([1.2], [1]), "probabilities runs from 1.2 to 1.2; expected 0 to 1"),
        (lambda: log_loss([1.0], [2]), "outcomes runs from 2 to 2"),
        (lambda: log_loss([math.nan], [1]), "log_odds has entries that are not finite"),
        (lambda: reliability([0.5], [1], bins=0), "bins is 0"),
        (lambda: fit_temperature([1.0, 2.0], [1, 1]), "all on the right side"),
        (lambda: fit_temperature([1.0, -1.0], [0, 1]), "no better than guessing"),
        (lambda: fit_temperature([0.0, 0.0], [0, 1]), "no better than guessing"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
