"""Checks of arguments: what passes comes back as it is, and what does not is named."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlhf_lib.mathematics import checks as c


def test_numbers_that_pass_come_back_in_float64():
    assert c.positive("beta", "0.5") == 0.5
    assert c.finite_array("rewards", [[1, 2], [3, 4]]).dtype == np.float64
    np.testing.assert_array_equal(c.distribution("p", [0, 0.25, 0.75]), [0, 0.25, 0.75])
    almost = [0.5, 0.5 + 9e-7]
    np.testing.assert_array_equal(c.distribution("p", almost), almost)  # nothing is rescaled
    np.testing.assert_array_equal(
        c.distribution("p", [[0.25] * 2] * 2, ndim=None), [[0.25] * 2] * 2
    )
    np.testing.assert_array_equal(c.win_counts([[0, 2], [1, 0]]), [[0, 2], [1, 0]])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: c.positive("beta", 0), "beta is 0; expected a positive number"),
        (lambda: c.positive("beta", math.inf), "beta is inf; expected a positive number"),
        (lambda: c.positive("target", math.nan), "target is nan; expected a positive number"),
        (lambda: c.positive("target", None), "target is None; expected a positive number"),
        (lambda: c.finite_array("logits", ["a"]), "logits is not an array of numbers"),
        (lambda: c.finite_array("logits", []), "logits is empty; expected at least one number"),
        (lambda: c.finite_array("r", [1, math.inf]), r"r\[1\] is inf; expected finite numbers"),
        (lambda: c.finite_array("r", [[1, 2], [math.nan, 2]]), r"r\[\(1, 0\)\] is nan"),
        (lambda: c.finite_vector("r", [[1.0]]), r"r has shape \(1, 1\); expected one dimension"),
        (lambda: c.distribution("p", [1.5, -0.5]), r"p\[1\] is -0.5; expected probabilities of at"),
        (lambda: c.distribution("p", [0.5, 0.5 + 2e-6]), "p sums to 1; expected probabilities"),
        (lambda: c.distribution("p", [0.5, 0.6]), "p sums to 1.1; expected probabilities that sum"),
        (lambda: c.distribution("p", [[0.5, 0.5]]), r"p has shape \(1, 2\)"),
        (lambda: c.win_counts([[0.0]]), r"wins has shape \(1, 1\); expected \(N, N\) with N of at"),
        (lambda: c.win_counts([[0, 1]]), r"wins has shape \(1, 2\)"),
        (lambda: c.win_counts([[0, -1], [1, 0]]), "wins has an entry that is negative"),
        (lambda: c.win_counts([[0, math.inf], [1, 0]]), "or not finite; expected counts"),
        (lambda: c.win_counts([[0, 1], [1, 2]]), r"wins\[1\] counts an item against itself"),
    ],
)
def test_numbers_that_do_not_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_shapes_that_pass():
    table, mask = torch.zeros(2, 3), torch.tensor([[1, 0, 0], [0, 1, 1]])
    c.check_same_length("labels", ["a", "b"], "rewards", np.ones(2))
    c.check_same_shape(a=table, b=mask, c=table)
    c.check_rows("values", table, mask)
    for width in (1, 3):
        c.check_advantages(torch.zeros(2, width), table)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: c.check_same_length("p", [0.5, 0.5], "labels", ["ab", "c", "d"]),
            "labels has 3 entries; expected 2, as p has",
        ),
        (
            lambda: c.check_same_length("p", np.ones((2, 2)), "r", np.ones((2, 3))),
            r"r has shape \(2, 3\); expected \(2, 2\), as p has",
        ),
        (
            lambda: c.check_same_length("p", [0.5, 0.5], "r", np.ones((3, 2))),
            r"r has shape \(3, 2\); expected \(2,\), as p has",
        ),
        (
            lambda: c.check_same_shape(a=torch.zeros(2), b=torch.zeros(2), c=torch.zeros(2, 1)),
            r"c has shape \(2, 1\); expected \(2,\), the shape of a",
        ),
        (
            lambda: c.check_rows("values", torch.zeros(2, 3), torch.ones(2, 1)),
            r"mask has shape \(2, 1\) beside values of shape \(2, 3\); expected the same \(B, T\)",
        ),
        (
            lambda: c.check_rows("values", torch.zeros(3), torch.ones(3)),
            r"mask has shape \(3,\) beside values",
        ),
        (
            lambda: c.check_rows("values", torch.zeros(2, 2), torch.tensor([[1, 1], [0, 0]])),
            "mask has a row of zeros; expected a token in every completion",
        ),
        (
            lambda: c.check_advantages(torch.zeros(3), torch.zeros(3, 3)),
            r"advantages has shape \(3,\) beside logprobs of shape \(3, 3\); expected \(B, T\), or",
        ),
    ],
)
def test_shapes_that_do_not_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
