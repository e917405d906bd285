"""Which rows of the data a training step sees: a function of seed and step, and of nothing else.

A run that resumes at step s therefore goes on with the rows it would have seen.
"""
from __future__ import annotations

import torch


def rows_of_step(size: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Row numbers for one step, walking through reshuffled epochs of the data.

    Examples
    --------
    >>> a, b = rows_of_step(6, 3, step=0, seed=0), rows_of_step(6, 3, step=1, seed=0)
    >>> sorted(a + b)
    [0, 1, 2, 3, 4, 5]
    """
    if size < 1:
        raise ValueError(f"the dataset has {size} rows; expected at least 1")
    rows = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, size)
        if not rows or offset == 0:
            shuffle = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(size, generator=shuffle).tolist()
        rows.append(order[offset])
    return rows
