"""The table of mutants fits the library as it is; whether they are killed is `make mutants`."""
from __future__ import annotations

from pathlib import Path

import pytest
from tests.mutation.mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies_once_and_compiles(mutant):
    text = (ROOT / "rlhf_lib" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1, "the library has moved on: update the mutant"
    assert mutant.old != mutant.new
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")


def test_names_are_unique_and_their_tests_exist():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40
    for mutant in MUTANTS:
        for test in mutant.tests:
            path, _, name = test.partition("::")
            text = (ROOT / path).read_text(encoding="utf-8")
            assert not name or f"def {name.partition('[')[0]}(" in text, test
