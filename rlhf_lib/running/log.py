"""What a run leaves behind: a log in JSON lines, each on disk before training goes on.

Chapter: ppo-live.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


class RunLog:
    """Append records to a file, one JSON object a line, each on disk before `write` returns.

    An entry that is not finite is left out: JSON has no NaN, and other readers stop at one.

    Chapter: ppo-live.

    Parameters
    ----------
    path : path
        Created with its folders if missing. An existing log is continued, never overwritten; a
        torn last line, as a crash leaves it, is cut off first.
    resume_at : int, optional
        The `step_number` of the checkpoint that the run continues from. Records of later steps
        are cut off: the run died after logging them, and will write them again.

    Raises
    ------
    ValueError
        If a line of the log to continue is damaged, other than the last.
    OSError
        If a line cannot be written, as on a full disk. The lines before it are whole.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> with RunLog(path) as log:
    ...     log.write({"step": 0, "reward": .5})
    >>> read_log(path)
    [{'step': 0, 'reward': 0.5}]
    """

    def __init__(self, path: str | os.PathLike, resume_at: int | None = None):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "ab", buffering=0)  # nothing waits in a buffer to be lost
        text = self.path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
        if resume_at is not None:
            read_log(self.path)  # names a damaged line
            whole = [line for line in whole if json.loads(line).get("step", 0) <= resume_at]
        if sum(map(len, whole)) < len(text):
            self.file.truncate(sum(map(len, whole)))  # steps only grow: what is cut is the end

    def write(self, record: dict) -> None:
        finite = {
            name: value
            for name, value in record.items()
            if not isinstance(value, float) or math.isfinite(value)
        }
        line, end = (json.dumps(finite) + "\n").encode(), os.fstat(self.file.fileno()).st_size
        try:
            while line:
                line = line[self.file.write(line) :]
            os.fsync(self.file.fileno())
        except OSError as error:  # a full disk: no half of a line stays
            with suppress(OSError):
                self.file.truncate(end)
            raise OSError(
                f"{str(self.path)!r} could not be written: {error}. The lines before are whole"
            ) from error

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def read_log(path: str | os.PathLike) -> list[dict]:
    """The records of a log, in order; a torn last line is left out.

    Chapter: ppo-live.

    Raises
    ------
    ValueError
        If a line before the last is no JSON object.
    """
    return list(_records(Path(path)))


def read_json(path: Path) -> dict:
    """The content of a JSON file that a run wrote; a ValueError names a damaged one.

    Chapter: ppo-live.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is damaged; expected JSON, as a run writes it: {error}"
        ) from error


def write_whole(path: str | os.PathLike, text: str) -> None:
    """Replace a text file in one move, so that it is whole at any moment: the old one or the new.

    A character that UTF-8 does not have, as in a file name of another encoding, is written as JSON
    escapes it. Chapter: ppo-live.

    Raises
    ------
    OSError
        If it cannot be written, as on a full disk. The file before is as it was.
    """
    path = Path(path)
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.write_text(text, encoding="utf-8", errors="backslashreplace")
        fresh.replace(path)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        raise OSError(f"{str(path)!r} could not be written: {error}") from error


def _records(path: Path) -> Iterator[dict]:
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            if line:
                yield json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(
                    f"{path.name}, line {number}: expected a JSON object, got {line[:60]!r}"
                ) from error
