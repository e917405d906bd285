"""The table of mutants fits the library as it is; whether they are killed is `make mutants`."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.mutants import MUTANTS
from tests.mutation.mutate import apply, parsed
from tests.mutation.run import NOTICED, tally, verdict

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def read(file: str) -> str:
    return (ROOT / "rlhf_lib" / file).read_text(encoding="utf-8")


def meaning(text: str, mutant) -> str:
    """What a file says once it is changed, without how it is laid out."""
    return ast.dump(ast.parse(apply(text, mutant.function, mutant.old, mutant.new)))


MEANING: dict[str, str] = {}  # of the files as they are, by the mutant's name


def meaning_here(mutant) -> str:
    if mutant.name not in MEANING:
        MEANING[mutant.name] = meaning(read(mutant.file), mutant)
    return MEANING[mutant.name]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies_once_and_compiles(mutant):
    text = read(mutant.file)
    compile(apply(text, mutant.function, mutant.old, mutant.new), mutant.file, "exec")
    assert meaning_here(mutant) != ast.dump(parsed(text))


@pytest.mark.parametrize("width", [60, 160])
@pytest.mark.parametrize("file", sorted({mutant.file for mutant in MUTANTS}))
def test_a_mutant_survives_formatting(file, width):
    laid_out = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--line-length", str(width), "-"],
        input=read(file),
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    for mutant in MUTANTS:
        if mutant.file == file:
            assert meaning(laid_out, mutant) == meaning_here(mutant), mutant.name


def test_code_is_found_as_it_is_spelled_and_not_as_it_is_laid_out():
    text = "def f(x):\n    return g(\n        x,  # a comment\n        .5,\n        'a',\n    )\n"
    assert apply(text, "f", 'g(x, 0.5, "a")', "x") == "def f(x):\n    return x\n"
    wide = "def f(x):\n    return (\n        g(x)\n        + h(x)\n    )\n"
    assert apply(wide, "f", "return g(x) + h(x)", "return x") == "def f(x):\n    return x\n"
    assert apply(wide, "f", "+ h(x)", "- 1") == wide.replace("+ h(x)", "- 1")
    with pytest.raises(ValueError, match="ends inside a bracket"):
        apply(wide, "f", "return g(x)", "return 1")
    with pytest.raises(ValueError, match="stands 0 times in f"):
        apply(text, "f", "g(x, 0.6)", "x")
    with pytest.raises(ValueError, match="stands 2 times in f"):
        apply(text, "f", "x", "y")
    with pytest.raises(ValueError, match="h is defined 0 times"):
        apply(text, "h", "x", "y")


@pytest.mark.parametrize(
    "code, output, result, by",
    [
        (1, "F\nFAILED tests/unit/test_kl.py::test_k3 - assert 1 == 2\n1 failed", "killed", "k3"),
        (None, "...FAILED", "HANGS", "no end within"),  # whatever it wrote before it was stopped
        (0, "4 passed", "SURVIVED", ""),
        (1, "ERROR tests/unit/test_kl.py - ImportError\n", "ERROR", "exit code 1\nERROR tests"),
        (2, "FAILED tests/unit/test_kl.py::test_k3\n", "ERROR", "exit code 2"),  # interrupted
        (4, "no such test", "ERROR", "no such test"),
        (-9, "", "ERROR", "exit code -9"),
    ],
)
def test_a_verdict_is_of_a_failing_test_or_of_no_end(tmp_path, code, output, result, by):
    (tmp_path / "output").write_text(output)
    said, reason = verdict(code, tmp_path / "output")
    assert said == result and by in reason
    assert (said in NOTICED) == (result in ("killed", "HANGS"))


def test_those_that_hang_are_counted_apart():
    assert tally(["killed", "killed"]) == "2 killed, of 2"
    assert tally(["killed", "HANGS", "HANGS"]) == "1 killed, 2 hang, of 3"
    assert (
        tally(["killed", "SURVIVED", "ERROR", "HANGS"])
        == "1 killed, 1 hang, 1 survived, 1 in error, of 4"
    )


def test_names_are_unique_and_their_tests_exist():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40
    for mutant in MUTANTS:
        for test in mutant.tests:
            path, _, name = test.partition("::")
            text = (ROOT / path).read_text(encoding="utf-8")
            assert not name or f"def {name.partition('[')[0]}(" in text, test
