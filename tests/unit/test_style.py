"""Python is laid out by ruff and free of what it finds; types hold in the rooms of formulas."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TYPED = ["mathematics", "machinery", "models", "algorithms"]  # rooms of the library


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, text=True, capture_output=True
    )


def test_ruff_finds_nothing():
    done = run("ruff", "check", "--quiet", "--output-format", "concise", ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_are_laid_out_by_ruff():
    """`make format` lays them out."""
    done = run("ruff", "format", "--quiet", "--check", ".")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def type_errors() -> dict[str, list[str]]:
    """By room, what pyright reports; all rooms are read once."""
    rooms = [f"rlhf_lib/{room}" for room in TYPED]
    done = run("basedpyright", "--pythonpath", sys.executable, "--outputjson", *rooms)
    report, found = json.loads(done.stdout), defaultdict(list)
    assert report["summary"]["filesAnalyzed"] > len(rooms), done.stderr
    for error in report["generalDiagnostics"]:
        path, line = Path(error["file"]).relative_to(ROOT), error["range"]["start"]["line"] + 1
        found[path.parts[1]].append(f"{path}:{line}: {error['message']}")
    return found


@pytest.mark.parametrize("room", TYPED)
def test_the_types_of_a_room_hold(type_errors, room):
    assert not type_errors[room], "\n".join(type_errors[room])
