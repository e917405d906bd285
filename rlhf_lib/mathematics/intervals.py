"""Intervals: how far what was measured may lie from what is true, at 95 %.

Two kinds: of a share of independent trials, and of a mean over a few independent values, such as
one a seed. Axes: S values. Chapters: alignment-problem, over-optimization.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z = 1.96  # standard errors each side of a 95 % interval, where there are many values
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)  # t.975, 1–10 df


def wilson(count: float, n: int, z: float = Z) -> tuple[float, float]:
    """Wilson's interval for a share of which `count` in `n` independent trials were seen.

    It stays inside 0 and 1, and has a width where the count is 0 or n; a normal interval,
    share ± z·standard error, has neither property.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953. Chapter: alignment-problem.

    Parameters
    ----------
    count : float
        From 0 to n.
    n : int
        Number of trials, at least 1.
    z : float
        Standard errors each side; 1.96 for 95 %.

    Returns
    -------
    tuple of two floats
        The ends of the interval.

    Raises
    ------
    ValueError
        If n is below 1, or count is not from 0 to n.

    Examples
    --------
    >>> low, high = wilson(0, 300)
    >>> round(low, 4), round(high, 4)
    (0.0, 0.0126)
    """
    if not n >= 1:
        raise ValueError(f"n is {n}; expected at least 1 trial")
    if not 0 <= count <= n:
        raise ValueError(f"count is {count}; expected a number from 0 to n={n}")
    share = count / n
    centre = share + z * z / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (
        max(0.0, (centre - reach) / (1 + z * z / n)),
        min(1.0, (centre + reach) / (1 + z * z / n)),
    )


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval, from independent values such as one a seed.

    Source: Student 1908, doi:10.2307/2331554. Chapters: over-optimization, rlvr, grpo-variants.

    Parameters
    ----------
    values : sequence of S floats
        From 2 to 11 of them: with so few, 1.96 standard errors would be far too narrow.

    Examples
    --------
    >>> mean, half = mean_interval([1., 2., 3.])
    >>> round(mean, 3), round(half, 3)  # 4.303 / √3
    (2.0, 2.484)
    """
    if not 2 <= len(values) <= len(STUDENT) + 1:
        raise ValueError(f"values has {len(values)} entries; expected 2 to {len(STUDENT) + 1}")
    deviation = float(np.std(values, ddof=1))
    return float(np.mean(values)), STUDENT[len(values) - 2] * deviation / math.sqrt(len(values))
