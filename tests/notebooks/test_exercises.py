"""The exercises check themselves: no on the stub and on wrong answers, yes on the solution.

An exercise NAME is three code cells, tagged `check:NAME`, `exercise:NAME` and `solution:NAME`.
`wrong_answers/CHAPTER.py` keeps at least two plausible wrong answers to each, as
`WRONG = {"NAME": [wrong, also_wrong]}`. The cells run without the rest of the chapter: only the
earlier cells that define a name which they use, and what those use in turn.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import io
import runpy
from pathlib import Path

import nbformat
import pytest

from book.build import notebooks

WRONG = Path(__file__).parent / "wrong_answers"
KINDS = ("check", "exercise", "solution")


@functools.cache
def cells_of(path: Path) -> list:
    return nbformat.read(path, as_version=4).cells


@functools.cache
def exercises(path: Path) -> dict[str, dict[str, list[int]]]:
    """Return, for each exercise of a notebook, the places of its cells of each kind."""
    found: dict[str, dict[str, list[int]]] = {}
    for place, cell in enumerate(cells_of(path)):
        for tag in cell.metadata.get("tags", []):
            kind, _, name = tag.partition(":")
            if kind in KINDS:
                found.setdefault(name, {}).setdefault(kind, []).append(place)
    return found


def wrong_answers(path: Path) -> dict[str, list]:
    file = WRONG / f"{path.stem}.py"
    return runpy.run_path(str(file))["WRONG"] if file.exists() else {}


@functools.cache
def names(source: str) -> tuple[set[str], set[str]]:
    """Return the names that a cell defines, and those that it takes from earlier cells."""
    defined: set[str] = set()
    taken: set[str] = set()

    def stored(node: ast.AST) -> set[str]:
        """Return the names that a piece of code binds, nested functions apart."""
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            return {node.name}
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            return {(a.asname or a.name).partition(".")[0] for a in node.names}
        own = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
        if isinstance(node, ast.arg):
            own = {node.arg}
        if isinstance(node, ast.ExceptHandler) and node.name:
            own = {node.name}
        return own.union(*map(stored, ast.iter_child_nodes(node)))

    def loaded(node: ast.AST) -> set[str]:
        """Return the names that a piece of code reads and does not bind itself in a scope."""
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            return {node.target.id} | loaded(node.value)
        own = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else set()
        inner = own.union(*map(loaded, ast.iter_child_nodes(node)))
        scopes = (
            ast.FunctionDef,
            ast.Lambda,
            ast.ListComp,
            ast.SetComp,
            ast.DictComp,
            ast.GeneratorExp,
        )
        if isinstance(node, scopes):
            inner -= set().union(*map(stored, ast.iter_child_nodes(node)))
        return inner

    for statement in ast.parse(source).body:
        own = stored(statement) if not isinstance(statement, (ast.Assign, ast.AugAssign)) else set()
        taken |= loaded(statement) - defined - own - set(dir(builtins))
        defined |= stored(statement)
    return defined, taken


def needed(sources: list[str], targets: list[int]) -> list[int]:
    """Return the places of the cells to run before the target cells, in order.

    A name comes from the last cell before that defines it.
    """
    code = [names(source) for source in sources]
    run: set[int] = set()

    def add(place: int) -> None:
        for name in code[place][1]:
            origin = max((p for p in range(place) if name in code[p][0]), default=place)
            if origin not in run and origin not in targets and origin != place:
                run.add(origin)
                add(origin)

    for target in targets:
        add(target)
    return sorted(run)


class Exercise:
    """One exercise, with the names that its cells need: these are computed once."""

    def __init__(self, path: Path, name: str) -> None:
        cells = cells_of(path)
        self.path, self.name = path, name
        self.sources = [c.source if c.cell_type == "code" else "" for c in cells]
        self.place = {kind: place[0] for kind, place in exercises(path)[name].items()}
        self.namespace: dict[str, object] = {"__name__": "__main__"}
        for place in needed(self.sources, sorted(self.place.values())):
            self.run(place)
        self.run(self.place["check"])
        self.before = dict(self.namespace)

    def reset(self) -> None:
        """Forget what was answered."""
        self.namespace.clear()  # functions of earlier cells look names up in this very dictionary
        self.namespace.update(self.before)

    def run(self, place: int) -> str:
        """Run a cell and return what it prints."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(self.sources[place], f"cell {place + 1}", "exec"), self.namespace)
        return printed.getvalue()

    def check(self, candidate: object) -> tuple[bool, str]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            verdict = self.namespace[f"check_{self.name}"](candidate)
        assert verdict is not None, f"check_{self.name} returns nothing; expected True or False"
        return bool(verdict), printed.getvalue()


ALL = [
    pytest.param((path, name), id=f"{path.stem}-{name}")
    for path in notebooks()
    for name in exercises(path)
]


@pytest.fixture(scope="module", params=ALL)  # so pytest asks all of one before the next
def prepared(request) -> Exercise:
    return Exercise(*request.param)


@pytest.fixture
def exercise(prepared) -> Exercise:
    prepared.reset()
    return prepared


@pytest.mark.parametrize("path, name", [pytest.param(*p.values[0], id=p.id) for p in ALL])
def test_exercise_has_its_three_cells_in_order(path, name):
    place = exercises(path)[name]
    assert {kind: len(places) for kind, places in place.items()} == dict.fromkeys(KINDS, 1)
    assert place["check"] < place["exercise"] < place["solution"]
    tags = cells_of(path)[place["solution"][0]].metadata.tags
    assert "hide-cell" in tags


def test_check_refuses_the_stub(exercise):
    name = exercise.name
    printed = exercise.run(exercise.place["exercise"])
    assert f"{name}: not yet" in printed, printed
    assert exercise.check(exercise.namespace[name])[0] is False


def test_check_refuses_wrong_answers(exercise):
    name, wrong = exercise.name, wrong_answers(exercise.path).get(exercise.name, [])
    file = f"wrong_answers/{exercise.path.stem}.py"
    assert len(wrong) >= 2, f"{file} has {len(wrong)} for {name}; expected 2"
    for candidate in wrong:
        verdict, printed = exercise.check(candidate)
        label = getattr(candidate, "__name__", candidate)
        assert not verdict and f"{name}: not yet: " in printed, f"{label}: {printed}"


def test_check_accepts_the_solution(exercise):
    name = exercise.name
    printed = exercise.run(exercise.place["solution"])
    assert f"{name}: passed" in printed, printed
    names = exercise.namespace
    assert exercise.check(names.get(f"solution_{name}", names.get(name)))[0] is True


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_wrong_answers_are_to_exercises_that_exist(path):
    assert set(wrong_answers(path)) <= set(exercises(path))


@pytest.mark.parametrize(
    "sources, run",
    [
        (["import math", "x = 1", "boom()", "def f():\n    return math.pi * x", "f()"], [0, 1, 3]),
        (["x = 1", "x += 1", "x"], [0, 1]),  # the last definition, and what it took
        (["x = 1", "x = 2", "x"], [1]),
        (["fig = boom()", "fig = 1\nfig"], []),  # defined here before it is used here
        (["i = boom()", "[i for i in range(3)]"], []),  # a scope of its own
        (["a = boom()", "def f(a, *b, c=1):\n    d = a\n    return d, b, c\nf(2)"], []),
        (["k = 2", "def f(a):\n    return lambda b: a + b + k"], [0]),
    ],
)
def test_only_the_cells_that_are_needed_run(sources, run):
    assert needed(sources, [len(sources) - 1]) == run
