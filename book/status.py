"""How long each chapter takes to run, and how much memory: what `make test` last measured.

The appendix `status` shows the file as a table; a test holds the openings of the chapters to it.
"""

from __future__ import annotations

import csv
import os
from datetime import date
from pathlib import Path

FILE = Path(__file__).parent / "appendices" / "status.csv"
COLUMNS = ("chapter", "seconds", "MB", "date")


def link(notebook: Path) -> str:
    """Return what names a chapter in the table: a link to it, by the name of its file."""
    return f"[{notebook.stem}]({os.path.relpath(notebook, FILE.parent)})"


def read() -> dict[str, dict[str, str]]:
    """Return the rows of the table by the chapter that they name."""
    if not FILE.exists():
        return {}
    with FILE.open(encoding="utf-8", newline="") as lines:
        return {row["chapter"]: row for row in csv.DictReader(lines)}


def record(measured: dict[Path, tuple[float, float]], chapters: list[Path]) -> None:
    """Write what notebooks took, (seconds, megabytes) each; rows of other chapters stay.

    The rows have the order of `chapters`, and whatever else had a row has none any more.
    """
    rows = read()
    for notebook, numbers in measured.items():
        found = (link(notebook), *(f"{x:.0f}" for x in numbers), date.today().isoformat())
        rows[link(notebook)] = dict(zip(COLUMNS, found, strict=True))
    draft = FILE.with_suffix(".draft")
    with draft.open("w", encoding="utf-8", newline="") as lines:
        table = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows[name] for name in map(link, chapters) if name in rows)
    os.replace(draft, FILE)


def in_words(seconds: float) -> str:
    """Return a time as the opening of a chapter says it.

    >>> [in_words(t) for t in (3, 12, 29, 70, 80, 118, 250)]
    ['some seconds', 'a quarter of a minute', 'half a minute', 'a minute', 'a minute and a half', \
'two minutes', 'four minutes']
    """
    if seconds < 8:
        return "some seconds"
    if seconds < 22.5:
        return "a quarter of a minute"
    halves = round(seconds / 30)
    if halves <= 4:
        return ["half a minute", "a minute", "a minute and a half", "two minutes"][halves - 1]
    minutes = ["three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    return f"{minutes[max(3, round(seconds / 60)) - 3]} minutes"
