"""What chapters say of their run times is what `make test` last measured."""

from __future__ import annotations

import re

import nbformat
import pytest

from book import status
from book.build import ROOT, notebooks
from book.conftest import MEGABYTES

PROMISE = re.compile(r"\*\*Time:\*\* [^.]*?to read[,;] about (.+?) to run on one core\b")
TRAIN_LARGE = ("gpt2-live", "real-model")  # how long, depends on what a machine has
CHAPTERS = [path for path in notebooks() if path.stem not in ("intro", *TRAIN_LARGE)]


def said(opening: str) -> str | None:
    """Return how long a chapter says that it runs.

    >>> said("- **Time:** 40 minutes to read, about a minute to run on one core; the exercises")
    'a minute'
    >>> said("- **Time:** 40 minutes to read, about a minute to run")
    """
    found = PROMISE.search(opening)
    return found[1] if found else None


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_opening_says_how_long_the_chapter_runs(path):
    measured = float(status.read()[status.link(path)]["seconds"])
    opening = nbformat.read(path, as_version=4).cells[0].source
    assert said(opening) == status.in_words(measured)


def test_every_chapter_has_a_row_in_the_order_of_the_book():
    assert list(status.read()) == [status.link(path) for path in notebooks()]


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_a_chapter_took_no_more_memory_than_it_may(path):
    budget = nbformat.read(path, as_version=4).metadata.get("budget", {})
    row = status.read()[status.link(path)]
    assert float(row["MB"]) <= budget.get("megabytes", MEGABYTES)


def test_what_was_measured_replaces_the_row_before(tmp_path, monkeypatch):
    monkeypatch.setattr(status, "FILE", tmp_path / "status.csv")
    first, second, third = (ROOT / f"book/ppo/{name}.ipynb" for name in ("a", "b", "c"))
    assert status.read() == {}
    status.record({second: (70.4, 600.0), third: (9.0, 90.0)}, [first, second, third])
    status.record({first: (20.0, 500.6)}, [first, second, third])
    status.record({second: (99.0, 601.0)}, [first, second])  # the third is no longer there
    rows = status.read()
    assert list(rows) == [status.link(first), status.link(second)]
    assert [(row["seconds"], row["MB"]) for row in rows.values()] == [("20", "501"), ("99", "601")]
    assert rows[status.link(first)].keys() == set(status.COLUMNS)
    assert [path.name for path in tmp_path.iterdir()] == ["status.csv"]
