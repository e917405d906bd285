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
MATHEMATICS = [module for module in MODULES if module.startswith("mathematics")]
# the plan of the book: a chapter may be named before it is written
CHAPTERS = set(
    """alignment-problem kl-tilt kl-estimators sft preferences reward-model
    reward-sources policy-gradients ppo-mechanics ppo-live over-optimization debugging grpo rlvr
    grpo-variants dpo choosing gpt2-on-a-gpu scaling-out evaluation""".split()
)


def public(module: str):
    """(name, docstring) of a module's public functions and classes; its own docstring first."""
    path = ROOT / "rlhf_lib" / (module.replace(".", "/") + ".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield module, ast.get_docstring(tree) or ""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield f"{module}.{node.name}", ast.get_docstring(node) or ""


def chapters_named(docstring: str) -> set[str]:
    found = re.findall(r"Chapters?:\s+([a-z0-9,\s-]+)", docstring)
    return {name for names in found for name in re.split(r"[,\s]+", names) if name}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_its_chapter(module):
    for name, docstring in public(module):
        assert docstring, f"{name} has no docstring"
        if module.startswith("worlds") and name != module:
            continue  # a world is described once, at the top of its file
        named = chapters_named(docstring)
        assert named and named <= CHAPTERS, f"{name} names {named or 'no chapter'}"


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
