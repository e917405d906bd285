"""Every public name says what it is for, in which chapter, and by which formula or paper."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("mathematics", "models", "worlds", "machinery", "algorithms", "running")
MODULES = [
    f"{room}.{path.stem}"
    for room in ROOMS
    for path in sorted((ROOT / "rlhf_lib" / room).glob("*.py"))
    if path.stem != "__init__"
]
# no interface of a chapter's: each is described once, at the top of its file
COMMAND_LINE = [f"running.{name}" for name in ("artifacts", "command_line", "commands", "report")]
MATHEMATICS = [module for module in MODULES if module.startswith("mathematics")]
PAGES = set(re.findall(r"file: book/\S*/(\S+)", (ROOT / "_toc.yml").read_text()))


def public(module: str):
    """(name, docstring) of a module's public functions and classes; its own docstring first."""
    path = ROOT / "rlhf_lib" / (module.replace(".", "/") + ".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield module, ast.get_docstring(tree) or ""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield f"{module}.{node.name}", ast.get_docstring(node) or ""


def chapters_named(docstring: str) -> set[str]:
    """The chapters of `Chapter: NAME.`, `Chapters: NAME, NAME.` or a section of that name."""
    found = re.findall(r"\bChapters?:\s+([a-z0-9,\s-]+)", docstring)
    found += re.findall(r"^Chapters?\n-+\n([a-z0-9,\s-]+?)(?:\n\n|$)", docstring, re.MULTILINE)
    lists = [re.split(r"[,\s]+", names.strip(" \n,")) for names in found]
    return {name for names in lists for name in names}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_its_chapter(module):
    for name, docstring in public(module):
        if module in COMMAND_LINE and name != module:
            continue
        assert docstring, f"{name} has no docstring"
        if module.startswith("worlds") and name != module:
            continue  # a world is described once, at the top of its file
        assert chapters_named(docstring), f"{name} names no chapter"


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "rlhf_lib").rglob("*.py")),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_every_chapter_named_is_in_the_book(path):
    """In any docstring, of public names or not; also where a sentence speaks of a chapter."""
    assert len(PAGES) >= 20
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node) or ""
            spoken_of = re.findall(r"\bchapters? ([a-z0-9]+(?:-[a-z0-9]+)+)", docstring)
            unknown = (chapters_named(docstring) | set(spoken_of)) - PAGES
            assert not unknown, f"{getattr(node, 'name', 'the module')} names {sorted(unknown)}"


def test_what_counts_as_naming_a_chapter():
    assert chapters_named("Source: this. Chapters: a-b,\n    c.") == {"a-b", "c"}
    assert chapters_named("A demo.\n\nChapter\n-------\na-b\n\nExamples") == {"a-b"}
    assert chapters_named("Chapter: your-own.\n\nParameters") == {"your-own"}
    assert chapters_named("In the chapter's words: no.") == set()


@pytest.mark.parametrize("module", MATHEMATICS)
def test_every_formula_has_its_source(module):
    """A paper with its equation, or the definition itself where there is nobody to cite."""
    for name, docstring in public(module):
        if name != module:
            assert re.search(r"Source:|Definition:", docstring), name


@pytest.mark.parametrize("module", MODULES)
def test_sources_are_ones_that_can_be_looked_up(module):
    for name, docstring in public(module):
        for source in re.findall(r"Source:((?:.|\n)+?)(?:\.\s+Chapter|\n\n|$)", docstring):
            assert re.search(
                r"arXiv:\d{4}\.\d{5}|https?://|as k1|as for this module|\b(19|20)\d\d\b", source
            ), f"{name}: {source}"


@pytest.mark.parametrize("module", MODULES)
def test_sources_stand_before_the_tables(module):
    """After `Raises` the reference page would print a source as one more exception."""
    for name, docstring in public(module):
        tables = re.search(r"^\w+\n-{3,}$", docstring, re.MULTILINE)
        if tables:
            assert not re.search(r"Source:|Chapters?:", docstring[tables.start() :]), name
