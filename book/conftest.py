"""How pytest tests this folder: nbval runs every notebook of the book again and compares outputs.

Each code cell is a test. One more follows in the same kernel: its peak memory. The time that the
notebook took is told at the end and is no test: it depends on the machine, and on what else runs
there. `make test` runs as many notebooks at a time as there are cores, each on one of them.
Notebooks that are not in the table of contents are not collected.

A chapter that trains a model of GPT-2's size says in its metadata what it needs for that, such as
`"budget": {"seconds": 420, "megabytes": 6000}`, and is promised to nobody who has less: it replays.
"""

from __future__ import annotations

import ast
import os
import tempfile
import time
from functools import cached_property
from pathlib import Path

import nbformat
import pytest
from nbval.plugin import IPyNbFile

from book import status
from book.build import ROOT, allocator_of, kernel_environment, notebooks

SECONDS = 120  # of wall time on two cores: what a reader is promised
MEGABYTES = 750  # of resident memory: Binder's machine has 1 GB

# Peak memory since the kernel's own start. (Linux carries ru_maxrss over from the process that
# started it, so there the kernel's own high-water mark is read.)
PEAK_MEMORY = """
def _peak():
    import resource, sys
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) / 1e3 for line in status if line.startswith("VmHWM"))
    except FileNotFoundError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1e6 if sys.platform == "darwin" else 1e3)
_peak()
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--status", action="store_true", help="store what notebooks took in the appendix `status`"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix == ".ipynb" and file_path in notebooks():
        return Notebook.from_parent(parent, path=file_path)
    return None


class Notebook(IPyNbFile):
    """A notebook's cells as nbval's tests, and its budget."""

    def collect(self):
        yield from super().collect()
        yield Budget.from_parent(
            self,
            name="time",
            limit=self.budget["seconds"],
            unit="s",
            is_test=False,
            measure=lambda: time.monotonic() - self.started,
        )
        yield Budget.from_parent(
            self,
            name="memory",
            limit=self.budget["megabytes"],
            unit="MB",
            is_test=True,
            measure=lambda: evaluate(self.kernel, PEAK_MEMORY),
        )

    @cached_property
    def notebook(self) -> nbformat.NotebookNode:
        return nbformat.read(self.path, as_version=4)

    @property
    def budget(self) -> dict[str, float]:
        own = self.notebook.metadata.get("budget", {})
        return {"seconds": SECONDS, "megabytes": MEGABYTES} | own

    def setup(self) -> None:
        options = self.config.option
        options.nbval_current_env = True  # the kernel of this environment, whatever else there is
        options.nbval_cell_timeout = 6 * self.budget["seconds"]  # a slow machine, one core of it
        self.skip_compare += ("text/html",)  # a table is compared by its text
        self.environment = dict(os.environ)
        os.environ.update(kernel_environment(allocator_of(self.notebook)))
        os.environ.pop("MPLBACKEND", None)  # figures are drawn inline, as a reader sees them
        self.profile = tempfile.TemporaryDirectory()  # nobody's own IPython settings or history
        os.environ["IPYTHONDIR"] = self.profile.name
        if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are shared: a kernel has one
            os.environ["OMP_THREAD_LIMIT"] = "1"
        super().setup()
        # nbval runs cells outside the kernel's history, where a `;` does not hide a result.
        self.kernel.execute_cell_input = lambda source, allow_stdin=None: self.kernel.kc.execute(
            source, store_history=True, allow_stdin=allow_stdin, stop_on_error=False
        )
        self.started = time.monotonic()

    def teardown(self) -> None:
        super().teardown()
        os.environ.clear()
        os.environ.update(self.environment)
        self.profile.cleanup()


class Budget(pytest.Item):
    """One measurement of the notebook that has just run: told, and held to its limit if a test."""

    def __init__(self, *, limit: float, unit: str, is_test: bool, measure, **kwargs) -> None:
        super().__init__(**kwargs)
        self.limit, self.unit, self.is_test, self.measure = limit, unit, is_test, measure

    def runtest(self) -> None:
        value = self.measure()
        told = f"{value:.0f} {self.unit}"
        over = value > self.limit
        where = str(self.parent.path.relative_to(ROOT))
        self.user_properties.append(("budget", [where, self.name, value, self.limit, self.unit]))
        self.add_report_section("call", self.name, told)
        if self.is_test and over:
            pytest.fail(f"{told}; expected at most {self.limit} {self.unit}", pytrace=False)

    def reportinfo(self):
        return self.path, 0, f"{self.parent.path.name}::{self.name}"


def evaluate(kernel, code: str) -> float:
    """Run code in a kernel and return the number that its last expression shows."""
    message_id = kernel.execute_cell_input(code, allow_stdin=False)
    kernel.await_reply(message_id, timeout=30)
    while True:
        message = kernel.get_message("iopub", timeout=30)
        if message["parent_header"].get("msg_id") == message_id:
            if message["msg_type"] == "execute_result":
                return float(ast.literal_eval(message["content"]["data"]["text/plain"]))
            if message["msg_type"] == "error":
                raise RuntimeError("\n".join(message["content"]["traceback"]))


def pytest_terminal_summary(terminalreporter) -> None:
    """Print what each notebook took, below the results; with --status store it too."""
    measured: dict[str, dict[str, float]] = {}
    told: dict[str, list[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for kind, found in getattr(report, "user_properties", []):
                if kind == "budget" and getattr(report, "when", "") == "call":
                    where, name, value, limit, unit = found
                    measured.setdefault(where, {})[name] = value
                    over = ", more than promised" * (value > limit)
                    told.setdefault(where, []).append(f"{value:.0f} {unit}{over}")
    if not measured:
        return
    terminalreporter.section("notebooks")
    for where, values in told.items():
        terminalreporter.line(f"{Path(where).stem}: {', '.join(values)}")
    if terminalreporter.config.getoption("status"):
        whole = {
            ROOT / where: (took["time"], took["memory"])
            for where, took in measured.items()
            if took.keys() >= {"time", "memory"}
        }
        status.record(whole, notebooks())
