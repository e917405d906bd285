"""Checks of arguments that several modules make: an error names the argument and what is expected.

A check of numbers returns them, in float64; a check of shapes returns nothing. Everything is
refused with a ValueError. Axes: B batch, T completion tokens, N items.
Chapters: kl-tilt, preferences, ratio-and-clip, credit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # what is exact on finite sets needs no PyTorch
    from torch import Tensor

SUM_TOLERANCE = 1e-6  # how far the sum of a distribution may be from 1


# ---------------------------------------------------------------------------------- numbers


def positive(name: str, value: float) -> float:
    """A number above 0, such as a price or a temperature.

    Definition: 0 < value < ∞. Chapter: kl-tilt.

    Examples
    --------
    >>> positive("beta", -1)
    Traceback (most recent call last):
        ...
    ValueError: beta is -1; expected a positive number
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{name} is {value}; expected a positive number")
    return number


def finite_array(name: str, values) -> np.ndarray:
    """An array of finite numbers, not empty.

    Definition: no entry is NaN or infinite. Chapter: kl-tilt.

    Examples
    --------
    >>> finite_array("rewards", [1, math.nan])
    Traceback (most recent call last):
        ...
    ValueError: rewards[1] is nan; expected finite numbers
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is not an array of numbers; expected one number per completion"
        ) from error
    if array.size == 0:
        raise ValueError(f"{name} is empty; expected at least one number")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise ValueError(f"{_entry(name, array, bad[0])}; expected finite numbers")
    return array


def finite_vector(name: str, values) -> np.ndarray:
    """A `finite_array` of one dimension.

    Definition: shape (N,). Chapter: kl-tilt.
    """
    array = finite_array(name, values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; expected one dimension")
    return array


def distribution(name: str, values, ndim: int | None = 1) -> np.ndarray:
    """Probabilities; zeros are allowed, and nothing is rescaled.

    Definition: p_i ≥ 0, Σ p_i = 1. Chapter: kl-tilt.

    Parameters
    ----------
    name : str
    values : array
    ndim : 1 or None
        None allows any number of dimensions, for a joint distribution.

    Examples
    --------
    >>> distribution("reference", [0.5, 0.6])
    Traceback (most recent call last):
        ...
    ValueError: reference sums to 1.1; expected probabilities that sum to 1
    """
    array = finite_vector(name, values) if ndim == 1 else finite_array(name, values)
    bad = np.argwhere(array < 0)
    if len(bad):
        raise ValueError(f"{_entry(name, array, bad[0])}; expected probabilities of at least 0")
    total = float(array.sum())
    if abs(total - 1.0) > SUM_TOLERANCE:
        raise ValueError(f"{name} sums to {total:.6g}; expected probabilities that sum to 1")
    return array


def _entry(name: str, array: np.ndarray, where: np.ndarray) -> str:
    place = tuple(int(i) for i in where)
    return f"{name}[{place[0] if len(place) == 1 else place}] is {array[place]}"


def win_counts(wins) -> np.ndarray:
    """A table of comparisons: `wins[i, j]` counts how often item i was preferred to item j.

    Definition: shape (N, N), counts, zeros on the diagonal. Chapter: preferences.

    Examples
    --------
    >>> win_counts([[0, 3], [1, 1]])
    Traceback (most recent call last):
        ...
    ValueError: wins[1] counts an item against itself; expected zeros on the diagonal
    """
    wins = np.asarray(wins, dtype=float)
    if wins.ndim != 2 or wins.shape[0] != wins.shape[1] or len(wins) < 2:
        raise ValueError(f"wins has shape {wins.shape}; expected (N, N) with N of at least 2")
    if not np.isfinite(wins).all() or (wins < 0).any():
        raise ValueError("wins has an entry that is negative or not finite; expected counts")
    if np.diag(wins).any():
        raise ValueError(
            f"wins[{int(np.diag(wins).argmax())}] counts an item against itself; "
            "expected zeros on the diagonal"
        )
    return wins


# ---------------------------------------------------------------------------------- shapes


def check_same_length(first_name: str, first, name: str, other) -> None:
    """Refuse two arrays or lists of different shapes.

    Definition: one entry for each entry of the first. Chapter: kl-tilt.

    Examples
    --------
    >>> check_same_length("reference", [0.5, 0.5], "rewards", [1.0])
    Traceback (most recent call last):
        ...
    ValueError: rewards has 1 entries; expected 2, as reference has
    """
    expected, found = np.shape(first), np.shape(other)
    if expected != found:
        if len(expected) == len(found) == 1:
            raise ValueError(
                f"{name} has {found[0]} entries; expected {expected[0]}, as {first_name} has"
            )
        raise ValueError(f"{name} has shape {found}; expected {expected}, as {first_name} has")


def check_same_shape(**tensors: Tensor) -> None:
    """Refuse tensors that are not all of the first one's shape: they would be broadcast.

    Definition: equal shapes, by the names of the arguments. Chapter: ratio-and-clip.
    """
    (first, reference), *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != reference.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; expected "
                f"{tuple(reference.shape)}, the shape of {first}"
            )


def check_rows(name: str, values: Tensor, mask: Tensor) -> None:
    """Refuse values whose mask is of another shape than (B, T), or leaves a completion no token.

    Definition: equal shapes (B, T), Σ_t m ≥ 1 in each row. Chapter: credit.
    """
    if values.shape != mask.shape or values.dim() != 2:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)} beside {name} of shape "
            f"{tuple(values.shape)}; expected the same (B, T)"
        )
    if not mask.any(dim=1).all():
        raise ValueError("mask has a row of zeros; expected a token in every completion")


def check_advantages(advantages: Tensor, logprobs: Tensor) -> None:
    """Refuse advantages of shape (B,): they would be read along the tokens.

    Definition: shape (B, T), or (B, 1) for one a completion. Chapter: ratio-and-clip.
    """
    if advantages.dim() != logprobs.dim():
        raise ValueError(
            f"advantages has shape {tuple(advantages.shape)} beside logprobs of shape "
            f"{tuple(logprobs.shape)}; expected (B, T), or (B, 1) for one a "
            "completion"
        )
