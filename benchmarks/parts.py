"""Parts of a recording, each in a process of its own and within its share of the time.

A part that fails, runs out of memory or hangs harms none of the others, and none is begun that
cannot end in the time that is left. What a part finds is on disk at once, the part as one line as
soon as it ends, and a second call takes up what the first left open. `on_a_gpu.py` uses it.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lib.running.log import RunLog, read_log


@dataclass(frozen=True)
class Part:
    """The least seconds that it is begun with, and the most that it gets."""

    least: float
    most: float


class LeftOut(Exception):
    """Raised by a part that has no place here; says why."""


@dataclass
class Run:
    """What a part is told, and where it tells what it finds."""

    device: str
    rehearsal: bool
    until: float  # when it is ended, on the clock that all processes share
    tell: Callable[[tuple], None]

    def note(self, name: str, found: Any) -> None:
        """Hand over what was found; it is on disk in a moment, whatever happens next."""
        self.tell(("note", name, found))

    def left(self) -> float:
        """Seconds until it should come to an end by itself."""
        return self.until - 3 - time.monotonic()


# ---------------------------------------------------------------------------------- one part


def work(answer, module: str, name: str, device: str, rehearsal: bool, until: float) -> None:
    """Run a part in this process, and say through a pipe what it found and how it ended."""
    os.setsid()  # what it starts itself is ended with it
    threading.Thread(target=end_with, args=(answer,), daemon=True).start()
    run = Run(device, rehearsal, until, answer.send)
    try:
        getattr(importlib.import_module(module), name)(run)
        answer.send(("done", None))
    except LeftOut as reason:
        answer.send(("left out", str(reason)))
    except BaseException as error:
        traceback.print_exc()
        answer.send(("failed", f"{type(error).__name__}: {error}"[:4000]))


def end_with(asker) -> None:
    """End this process and all that it started once the one that asked for it is gone."""
    with suppress(EOFError, OSError):
        asker.recv()  # nothing is ever sent
    os.killpg(0, signal.SIGKILL)


def in_a_process(
    module: str, name: str, device: str, rehearsal: bool, seconds: float, note: Callable
) -> tuple[str, str | None]:
    """Run a part, `note(name, found)` whatever it finds, and return how it ended and why."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([module])  # its imports are made once for all parts
    answers, answer = processes.Pipe()
    until = time.monotonic() + seconds
    settings = (answer, module, name, device, rehearsal, until)
    process = processes.Process(target=work, args=settings)
    process.start()
    answer.close()
    try:
        while answers.poll(max(0.0, until - time.monotonic())):
            kind, *said = answers.recv()
            if kind != "note":
                return kind, *said
            note(*said)
        return "failed", f"it took longer than its {seconds:.0f} s, and was ended"
    except EOFError:
        process.join()
        return "failed", f"its process ended with status {process.exitcode}"
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()  # it may not have had a group of its own yet
        process.join()
        answers.close()


# ---------------------------------------------------------------------------------- all parts


def run_parts(
    parts: dict[str, Part],
    module: str,
    results: Path,
    device: str,
    rehearsal: bool,
    seconds: float,
    watch: Callable[[dict[str, dict]], None],
) -> dict[str, dict]:
    """Run what is not recorded as done on this hardware; the last line of each part.

    `watch` gets these lines whenever one was added. The function `hardware` of `module` says where
    it runs: it notes "provenance", with the name of the "hardware" in it.

    Raises
    ------
    RuntimeError
        If the device cannot be used at all.
    """
    until, found = time.monotonic() + seconds, {}
    status, why = in_a_process(module, "hardware", device, rehearsal, seconds, found.__setitem__)
    if status != "done":
        raise RuntimeError(f"device is {device!r}, and cannot be used: {why}")
    where = {"hardware": found["provenance"]["hardware"], "rehearsal": rehearsal}
    for name, part in parts.items():
        if last_lines(results, parts, where).get(name, {}).get("status") == "done":
            print(f"{name}: recorded, and not run again", flush=True)
            continue
        left = until - time.monotonic()
        print(f"{name}: {left:.0f} s are left", flush=True)
        line = {"part": name, **where}
        if left < part.least:
            why = f"{max(left, 0):.0f} s were left, and it needs {part.least:.0f}"
            line |= {"status": "left out", "why": why, "seconds": 0.0, "found": {}}
        else:
            notes = results.with_suffix(".notes.jsonl")
            line |= one_part(name, module, notes, device, rehearsal, min(part.most, left))
        with RunLog(results) as log:
            log.write({**line, "provenance": found["provenance"]})
        watch(last_lines(results, parts, where))
    return last_lines(results, parts, where)


def last_lines(results: Path, parts: dict[str, Part], where: dict) -> dict[str, dict]:
    """The last line of each part that was recorded there, those that were added last at the end."""
    found: dict[str, dict] = {}
    for line in read_log(results) if results.exists() else []:
        if line["part"] in parts and all(line[key] == value for key, value in where.items()):
            found.pop(line["part"], None)
            found[line["part"]] = line
    return found


def one_part(
    name: str, module: str, notes: Path, device: str, rehearsal: bool, seconds: float
) -> dict:
    """Run a part: how it ended and why, after how many seconds, and what it found."""
    begun, found = time.monotonic(), {}
    with RunLog(notes) as log:

        def note(key: str, value) -> None:
            found[key] = value
            log.write({"part": name, "seconds": round(time.monotonic() - begun, 2), key: value})

        status, why = in_a_process(module, name, device, rehearsal, seconds, note)
    if odd := not_finite(found):
        status, why = "failed", f"{odd} is no finite number" + (f"; {why}" if why else "")
    ended = {"status": status, "seconds": round(time.monotonic() - begun, 2)}
    return {**ended, **({"why": why} if why else {}), "found": readable(found)}


def not_finite(found, name: str = "") -> str | None:
    """Where the first number stands that is not finite; None if there is none.

    >>> not_finite({"a": [1.0, {"b": float("nan")}]})
    'a.1.b'
    """
    if isinstance(found, float):
        return None if abs(found) < float("inf") else name
    if not isinstance(found, dict | list | tuple):
        return None
    items = found.items() if isinstance(found, dict) else enumerate(found)
    places = (not_finite(x, f"{name}.{key}".lstrip(".")) for key, x in items)
    return next((place for place in places if place), None)


def readable(found):
    """The same with null for what is no finite number: JSON has no NaN."""
    return json.loads(json.dumps(found), parse_constant=lambda _: None)
