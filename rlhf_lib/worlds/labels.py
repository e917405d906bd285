"""Comparisons made by hand: a file that labels are appended to, and what it says when read.

The file is JSON lines. Nothing in it is ever changed or removed: a label is one line, and taking
it back is another line. A line that a crash cut short stays where it is and is skipped. ::

    {"kind": "label", "id": "5f…", "annotator": "me", "prompt": …, "chosen": …, "rejected": …}
    {"kind": "retraction", "id": "a0…", "of": "5f…"}

What it leaves out: several annotators on one label at once, ties, and editing.
Chapter: preferences.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

try:  # where it exists, two writers take turns; elsewhere one short write has to do
    import fcntl
except ImportError:
    fcntl = None

log = logging.getLogger(__name__)


class Labels(NamedTuple):
    """What a label file says.

    Chapter: preferences.

    Attributes
    ----------
    rows : list of dict
        The labels that count, in the order they were made: `id`, `annotator`, `prompt`,
        `chosen`, `rejected`, `time`. Columns for `datasets.Dataset.from_list`.
    retracted, superseded, torn : int
        Labels taken back; labels that a later one of the same annotator on the same pair
        replaces; lines that are not whole.
    contradicted : int
        Pairs that were decided both ways and still are, by different annotators.
    """

    rows: list[dict]
    retracted: int
    superseded: int
    torn: int
    contradicted: int


def pair_key(prompt: str, one: str, other: str) -> tuple[str, str, str]:
    """A pair by its content, whichever completion stands first.

    Chapter: preferences.
    """
    return prompt, min(one, other), max(one, other)


def append_label(
    path: str | os.PathLike, prompt: str, chosen: str, rejected: str, annotator: str = "me"
) -> str:
    """Append one label and return its id. It is on the disk when this returns.

    Chapter: preferences.

    Raises
    ------
    ValueError
        If the two are the same: such a label says nothing.
    OSError
        If the file cannot be written. Then nothing was appended, or a torn line that is skipped.
    """
    if chosen == rejected:
        raise ValueError("chosen and rejected are the same reply; expected two different ones")
    identity = uuid.uuid4().hex[:12]
    _append(
        path,
        {
            "kind": "label",
            "id": identity,
            "annotator": annotator,
            "prompt": prompt,
            "chosen": chosen,
            "rejected": rejected,
            "time": round(time.time(), 3),
        },
    )
    return identity


def retract(path: str | os.PathLike, identity: str) -> None:
    """Take a label back, by appending a line that says so.

    Chapter: preferences.
    """
    _append(
        path,
        {
            "kind": "retraction",
            "id": uuid.uuid4().hex[:12],
            "of": identity,
            "time": round(time.time(), 3),
        },
    )


def read_labels(path: str | os.PathLike) -> Labels:
    """Read a label file; a file that does not exist yet has no labels.

    Chapter: preferences.

    Raises
    ------
    ValueError
        If a whole line is not a record of this format: the message has its number.
    """
    rows: dict[str, dict] = {}  # by id
    retracted: set[str] = set()
    torn = 0
    content = Path(path).read_bytes() if Path(path).exists() else b""
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:  # cut short by a crash, or by a full disk
            torn += 1
            continue
        wanted = {"retraction": ("of",), "label": ("id", "prompt", "chosen", "rejected")}.get(
            record.get("kind") if isinstance(record, dict) else None
        )
        who = record.get("annotator") if wanted else None
        if (
            wanted is None
            or not all(isinstance(record.get(key), str) for key in wanted)
            or isinstance(who, list | dict)  # a name, or a number, tells people apart
        ):
            raise ValueError(
                f"line {number} of {Path(path).name} is {line[:60]!r}; expected a "
                "label or a retraction"
            )
        if record["kind"] == "retraction":
            retracted.add(record["of"])
        else:
            rows[record["id"]] = {"annotator": "me", "time": 0.0, **record}
    last: dict[tuple, dict] = {}  # a later label of the same annotator on the same pair counts
    standing = [row for row in rows.values() if row["id"] not in retracted]
    for row in standing:
        last[row["annotator"], pair_key(row["prompt"], row["chosen"], row["rejected"])] = row
    kept = [
        row
        for row in standing
        if last[row["annotator"], pair_key(row["prompt"], row["chosen"], row["rejected"])] is row
    ]
    ways = {(row["prompt"], row["chosen"], row["rejected"]) for row in kept}
    if torn:
        log.warning("%s: skipped %d torn lines", Path(path).name, torn)
    return Labels(
        [{k: v for k, v in row.items() if k != "kind"} for row in kept],
        len(retracted & set(rows)),
        len(standing) - len(kept),
        torn,
        sum((p, b, a) in ways for p, a, b in ways) // 2,
    )


def check_pairs(pairs: Iterable[dict], max_words: int | None = None) -> tuple[list[dict], Counter]:
    """The pairs that can be labelled, and how many were dropped for which flaw.

    Chapter: preferences.

    Parameters
    ----------
    pairs : iterable of dict
        With `prompt`, and either `first` and `second` or `chosen` and `rejected`, all text.
    max_words : int, optional
        The longest completion that the model to be trained has room for, in words.

    Returns
    -------
    list of dict with `prompt`, `first`, `second`; Counter

    Raises
    ------
    ValueError
        If a pair lacks a key or has something other than text there.

    Examples
    --------
    >>> check_pairs([dict(prompt="a", first="b", second="b")])
    ([], Counter({'with two equal replies': 1}))
    """
    kept, dropped, seen = [], Counter(), set()
    for number, pair in enumerate(pairs):
        names = ("first", "second") if "first" in pair else ("chosen", "rejected")
        texts = [pair.get(name) for name in ("prompt", *names)]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"pair {number} has the keys {', '.join(pair)}; expected prompt, "
                "first and second (or chosen and rejected), all text"
            )
        prompt, first, second = texts
        longest = max(len(first.split()), len(second.split()))
        flaw = (
            "with an empty prompt or reply"
            if not all(map(str.strip, texts))
            else "with two equal replies"
            if first == second
            else "seen before"
            if pair_key(*texts) in seen
            else "with a reply that is too long"
            if max_words and longest > max_words
            else None
        )
        seen.add(pair_key(*texts))
        if flaw:
            dropped[flaw] += 1
        else:
            kept.append({"prompt": prompt, "first": first, "second": second})
    return kept, dropped


def load_pairs(path: str | os.PathLike) -> list[dict]:
    """The rows of a file of JSON lines, to be labelled; see `check_pairs` for the keys.

    Chapter: preferences.

    Raises
    ------
    ValueError
        If a line is not a JSON object: the message has its number.
    """
    rows = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError:
                rows.append(None)
            if not isinstance(rows[-1], dict):
                raise ValueError(
                    f"line {number} of {Path(path).name} is {line[:60]!r}; expected "
                    "a JSON object with prompt, first and second"
                )
    return rows


def _append(path: str | os.PathLike, record: dict) -> None:
    line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    with open(path, "ab+") as file:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":  # a torn line: leave it, and start a new one
                line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
