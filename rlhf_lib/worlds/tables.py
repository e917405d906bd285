"""A dataset as a loop reads it: columns that are checked, rows in shuffled epochs.

Chapters: sft, ppo-live.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

TAKEN = ("prompts", "completions")  # the keywords under which a reward gets these


def rows_of_step(size: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Row numbers for one step, walking through reshuffled epochs of the data.

    Chapter: sft.

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


def column(dataset, name: str, kind: type | tuple[type, ...] = str) -> list:
    """A column of a dataset as a list, checked: it is there, and its entries are of one kind.

    Examples
    --------
    >>> from datasets import Dataset
    >>> column(Dataset.from_dict({"prompt": ["a", None]}), "prompt")
    Traceback (most recent call last):
    ...
    ValueError: prompt[1] of the dataset is None; expected str
    """
    if name not in dataset.column_names:
        raise ValueError(
            f"the dataset has the columns {', '.join(dataset.column_names)}; "
            f"expected {name!r} among them"
        )
    values = list(dataset[name])
    for i, value in enumerate(values):
        if not isinstance(value, kind):
            expected = " or ".join(
                k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,))
            )
            raise ValueError(f"{name}[{i}] of the dataset is {value!r}; expected {expected}")
    return values


def prompt_table(dataset) -> dict[str, Any]:
    """A dataset as lists: the column `prompt`, checked, and whatever else it knows of a prompt.

    Pictures, sounds and what else has to be decoded stay as they are stored until a row of them is
    taken: decoded all at once they would fill the memory. Chapter: ppo-live.

    Raises
    ------
    ValueError
        If there is no prompt in a row, or a column has a name under which a reward gets something
        else.
    """
    for name in TAKEN:
        if name in dataset.column_names:
            raise ValueError(
                f"the dataset has a column {name!r}, and a reward gets the batch's own {name} "
                f"under that name; expected another (dataset.rename_column({name!r}, ...))"
            )
    others = [name for name in dataset.column_names if name != "prompt"]
    return {"prompt": column(dataset, "prompt")} | {
        name: Stored(dataset, name) if _is_encoded(dataset, name) else list(dataset[name])
        for name in others
    }


class Stored(Sequence):
    """A column whose entries are decoded when they are asked for. Chapter: your-own."""

    def __init__(self, dataset, name: str):
        self.rows, self.name = dataset.select_columns([name]), name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row):
        try:
            return self.rows[row][self.name]
        except ImportError as error:
            raise ImportError(
                f"column {self.name!r} of the dataset cannot be decoded: {error} (a reward gets "
                f"every column; dataset.remove_columns({self.name!r}) leaves it out)"
            ) from error


def _is_encoded(dataset, name: str) -> bool:
    from datasets.features.features import require_decoding

    return require_decoding(dataset.features[name])


def take(table: dict[str, Any], rows: list[int]) -> tuple[list[str], dict[str, list]]:
    """Some rows of a prompt table: the prompts, and the other columns, for the reward.

    Chapter: ppo-live.

    Examples
    --------
    >>> take({"prompt": ["a", "b"], "answer": [1, 2]}, [1, 1])
    (['b', 'b'], {'answer': [2, 2]})
    """
    columns = {name: [values[i] for i in rows] for name, values in table.items()}
    return columns.pop("prompt"), columns
