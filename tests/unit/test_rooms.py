"""The rooms of the library, and that lower ones never import upper ones."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[2] / "rlhf_lib"
ROOMS = [
    "mathematics",
    "machinery",
    "families",
    "models",
    "worlds",
    "algorithms",
    "seeing",
    "running",
]
APART = {("machinery", "mathematics")}  # how it is computed, whatever it is


def imported_rooms(path: Path) -> list[tuple[int, str]]:
    """(line, room) of every import of the library in a file, however it is written."""
    package = ("rlhf_lib", *path.relative_to(LIBRARY).parts[:-1])
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [
            (node.lineno, name.split(".")[1]) for name in names if name.startswith("rlhf_lib.")
        ]
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_those_below_it(room):
    for path in sorted((LIBRARY / room).rglob("*.py")):
        for line, other in imported_rooms(path):
            if other.startswith("__"):  # of the package itself, such as its version
                continue
            assert other in ROOMS, f"{path.name}, line {line} imports {other}, which is no room"
            assert ROOMS.index(other) <= ROOMS.index(room) and (room, other) not in APART, (
                f"{path.relative_to(LIBRARY)}, line {line}: {room} imports {other}"
            )


def test_every_folder_of_code_is_a_room_and_says_what_it_is():
    folders = {path.parent for path in LIBRARY.rglob("*.py")} - {LIBRARY}
    assert {folder.relative_to(LIBRARY).parts[0] for folder in folders} == set(ROOMS)
    for room in ROOMS:
        document = ast.get_docstring(ast.parse((LIBRARY / room / "__init__.py").read_text()))
        assert len(document.splitlines()) == 3, f"{room} says what lives there and what it imports"
    assert {path.name for path in LIBRARY.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_the_map_names_every_room_and_module():
    document = ast.get_docstring(ast.parse((LIBRARY / "__init__.py").read_text()))
    for path in LIBRARY.glob("*/*.py"):
        name = path.parent.name if path.stem == "__init__" else path.stem
        assert re.search(rf"\b{name}\b", document), f"{path} is not on the map"
