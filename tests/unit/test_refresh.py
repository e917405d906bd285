"""`make refresh`: browser code that changed reaches the notebooks without running them."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest

from book import build
from rlhf_lib.seeing.widgets import ClipExplorer, TiltExplorer

TILT, CLIP = (f"{demo.__module__}.{demo.__name__}" for demo in (TiltExplorer, ClipExplorer))


def stored(name: str, **state) -> dict:
    return {
        "model_module": "anywidget",
        "model_name": "AnyModel",
        "state": {"_anywidget_id": name, **state},
    }


@pytest.fixture
def path(tmp_path) -> Path:
    """A notebook with an old demo, a current one, somebody else's, and a model that is no demo."""
    state = {
        "old": stored(TILT, _esm="old", _css="old", beta=1e-05, labels=["gut – schön"]),
        "current": stored(CLIP, _esm=str(ClipExplorer._esm), _css=str(ClipExplorer._css)),
        "foreign": stored("__main__.TiltExplorer", _esm="old", _css="old"),
        "layout": {"model_module": "@jupyter-widgets/base", "model_name": "L", "state": {"w": 1.0}},
    }
    cells = [{"cell_type": "code", "execution_count": 3, "outputs": [{"text": "0.250"}]}]
    notebook = {"cells": cells, "metadata": {"widgets": {build.WIDGET_STATE: {"state": state}}}}
    path = tmp_path / "chapter.ipynb"
    path.write_text(build.stored_form(notebook) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def states(notebook: dict) -> dict:
    return notebook["metadata"]["widgets"][build.WIDGET_STATE]["state"]


def test_code_is_refreshed_and_nothing_else_is_touched(path):
    expected = copy.deepcopy(read(path))
    states(expected)["old"]["state"].update(
        _esm=str(TiltExplorer._esm), _css=str(TiltExplorer._css)
    )
    assert build.refresh(path) == (1, 2)
    assert path.read_text(encoding="utf-8") == build.stored_form(expected) + "\n"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("trait", ["_esm", "_css"])
def test_one_of_the_two_is_enough(path, trait):
    build.refresh(path)
    fresh = path.read_text(encoding="utf-8")
    notebook = json.loads(fresh)
    del states(notebook)["current"]["state"][trait]
    path.write_text(build.stored_form(notebook) + "\n", encoding="utf-8")
    assert build.refresh(path) == (1, 2)
    assert path.read_text(encoding="utf-8") == fresh


def test_a_current_notebook_is_not_written(path):
    build.refresh(path)
    path.write_text(path.read_text(encoding="utf-8") + "\n\n", encoding="utf-8")
    before = path.read_text(encoding="utf-8")
    assert build.refresh(path) == (0, 2)
    assert path.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    "name, words",
    [
        (f"{TiltExplorer.__module__}.Gone", "has no attribute 'Gone'; execute the notebook again"),
        ("rlhf_lib.gone.Gone", "No module named 'rlhf_lib.gone'; execute the notebook again"),
    ],
)
def test_a_demo_that_the_library_does_not_have_stops_it(path, name, words):
    notebook = read(path)
    states(notebook)["current"]["state"]["_anywidget_id"] = name
    path.write_text(build.stored_form(notebook), encoding="utf-8")
    with pytest.raises(SystemExit, match=f"chapter.ipynb: {name}: .*{words}"):
        build.refresh(path)
    assert read(path) == notebook


def test_the_verb_says_how_many_in_each_notebook(path, monkeypatch, capsys):
    bare = path.with_name("bare.ipynb")
    bare.write_text('{"cells": [], "metadata": {}}', encoding="utf-8")
    monkeypatch.setattr(build, "ROOT", path.parent)
    monkeypatch.setattr(build, "notebooks", lambda: [path, bare])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["build.py", "refresh"])
    build.main()
    assert capsys.readouterr().out == "chapter.ipynb: 1 of 2 demos refreshed\n"
    assert states(read(path))["old"]["state"]["_esm"] == str(TiltExplorer._esm)
