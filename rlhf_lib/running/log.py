"""What a run leaves behind: a log in JSON lines, each on disk before training goes on.

Chapter: ppo-live.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

NOT_HERE = "no record {!r} here; the book's repository has it in benchmarks/results"


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
    return [record for _, record in _records(Path(path))]


def recorded(name: str) -> list[dict]:
    """The lines of a recorded benchmark of the book; none, and a warning, where it is not.

    It is looked for in `benchmarks/results` of the working folder and of those above it, then of
    the repository that this library stands in, then in the installed package, which brings it.
    Chapter: real-model.
    """
    package = Path(__file__).parents[1]
    clones = (Path.cwd(), *Path.cwd().parents, package.parent)
    folders = [*(clone / "benchmarks" / "results" for clone in clones), package / "records"]
    for folder in folders:
        if (file := folder / f"{name}.jsonl").exists():
            return read_log(file)
    warnings.warn(NOT_HERE.format(name), RuntimeWarning, stacklevel=2)
    return []


def read_steps(path: Path, needed: Sequence[str] = ("step",)) -> list[dict]:
    """The same, of a log whose records have what is needed; a ValueError names one that has not.

    Chapter: ppo-live.
    """
    found = []
    for number, record in _records(path):
        lacking = [name for name in needed if record.get(name) is None]
        if lacking or not isinstance(record.get("step", 0), int):
            raise ValueError(
                f"{path}, line {number}: expected {', '.join(needed)}, as a run writes "
                f"{'it' if len(needed) == 1 else 'them'}, got {str(record)[:60]!r}"
            )
        found.append(record)
    return found


def read_json(path: Path) -> dict:
    """The content of a JSON file that a run wrote; a ValueError names a damaged one.

    Chapter: ppo-live.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(
            f"{path} is damaged; expected JSON, as a run writes it: {error}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} is damaged; expected a JSON object, as a run writes it, "
            f"got {str(content)[:60]!r}"
        )
    return content


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


def _records(path: Path) -> Iterator[tuple[int, dict]]:
    """Line numbers and records; of the last line, only if it is whole."""
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line.decode("utf-8")) if line else None
        except ValueError:  # no JSON, or no UTF-8
            record = None
        if isinstance(record, dict):
            yield number, record
        elif line and number < len(lines):
            raise ValueError(
                f"{path}, line {number}: expected a JSON object, got "
                f"{line[:60].decode('utf-8', 'backslashreplace')!r}"
            )
