"""What the recorded benchmarks share: their command line, and a file that only grows."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import torch

from book.build import LARGE
from rlhf_lib.models.reward_model import load_reward_model
from rlhf_lib.running.log import RunLog, read_log


def command_line(
    description: str,
    seeds: Iterable[int] = (1, 2, 3, 4, 5),
    threads: int = min(2, os.cpu_count() or 1),
) -> argparse.ArgumentParser:
    """A parser that knows --seeds, --threads and --check; a benchmark adds what else it needs."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--check", action="store_true", help="run nothing; assert the floors")
    return parser


def recorded(results: Path) -> list[dict]:
    """The lines of a results file; none if there is no file yet."""
    return read_log(results) if results.exists() else []


def record(
    results: Path,
    names: tuple[str, ...],
    plan: Iterable[tuple],
    run: Callable[..., dict],
    seconds: float = float("inf"),
) -> None:
    """Make the runs of a plan that are not there yet, each a line as soon as it is done.

    A run is known by the values of `names` in its line, and is made by `run(*values)`. None is
    started after `seconds`. The file is read again before each run, so that a recording which
    was stopped goes on where it stopped.
    """
    started = time.perf_counter()
    for values in plan:
        known = {tuple(line[name] for name in names) for line in recorded(results)}
        if values not in known and time.perf_counter() - started <= seconds:
            begun = time.perf_counter()
            line = run(*values)
            with RunLog(results) as log:
                log.write(line)
            print(f"{', '.join(map(str, values))}: {time.perf_counter() - begun:.0f} s", flush=True)


def trained_once(folder: Path, train: Callable[[], Any]):
    """The reward model in a folder; trained and put there by the first call that asks for it."""
    if not (folder / "done").exists():
        train().save_pretrained(folder)
        (folder / "done").touch()
    return load_reward_model(folder)


def alone(run: Callable[..., dict], *settings) -> Callable[..., dict]:
    """`run(*values, *settings)`, each time in a new process, so that its peak memory is its own.

    There the allocator of Linux gives large tensors back, as it does where the chapters run.
    """
    os.environ.update(LARGE)
    spawned = multiprocessing.get_context("spawn")

    def call(*values) -> dict:
        with ProcessPoolExecutor(1, mp_context=spawned) as process:
            return process.submit(run, *values, *settings).result()

    return call


def record_runs(
    description: str,
    results: Path,
    name: str,
    choices: Iterable[str],
    run: Callable[[int, str], dict],
    assert_floors: Callable[[dict], None],
    **settings,
) -> None:
    """All of the command of a benchmark whose runs are seeds times something with a name.

    `name` is what that is called in a line and in the call of `run`, and its plural is the flag
    that chooses among `choices`; `settings` go to `command_line`.
    """
    parser = command_line(description, **settings)
    parser.add_argument(f"--{name}s", nargs="+", default=list(choices), choices=list(choices))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.check:
        record(results, ("seed", name), product(options.seeds, getattr(options, f"{name}s")), run)
    check(results, assert_floors)


def check(results: Path, assert_floors: Callable[[dict], None], what: str = "runs") -> None:
    """Assert the floors of every line of a results file that has some."""
    lines = recorded(results)
    assert lines, f"{results.name} has no runs; expected at least one (run without --check)"
    for line in lines:
        assert_floors(line)
    print(f"{len(lines)} {what}, every floor cleared")
