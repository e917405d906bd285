"""Parts for the tests of `benchmarks.parts`: quick, cut off, broken, and without an end."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from benchmarks.parts import LeftOut, Part, Run

PARTS = {
    name: Part(least=0.1, most=30)
    for name in ("quick", "raises", "dies", "says_nan", "has_no_place", "last")
}


def hardware(run: Run) -> None:
    if run.device == "none":
        raise RuntimeError("no such device")
    run.note("provenance", {"hardware": f"a {run.device}", "commit": "", "date": "2000-01-01"})


def quick(run: Run) -> None:
    run.note("process", os.getpid())
    run.note("left", run.left())


last = quick


def raises(run: Run) -> None:
    run.note("before", 1)
    raise ValueError("what went wrong")


def dies(run: Run) -> None:
    run.note("before", 2)
    os._exit(3)


def says_nan(run: Run) -> None:
    run.note("point", {"ratios": [1.0, float("nan")]})


def has_no_place(run: Run) -> None:
    raise LeftOut("there is no such program here")


def endless(run: Run) -> None:
    """Starts a program of its own, says its number, and waits."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    run.note("started", started.pid)
    time.sleep(60)
