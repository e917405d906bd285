"""Every notebook keeps every rule of lint.py, and every rule is known to fail."""

from __future__ import annotations

import copy
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from book.build import ROOT, WIDGET_STATE, notebooks, stable_widget_ids
from tests.notebooks import lint

HERE = ROOT / "book" / "somewhere" / "sound.ipynb"


@pytest.mark.parametrize("rule", lint.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_notebook_keeps_rule(path, rule):
    problems = list(rule(nbformat.read(path, as_version=4), path))
    assert not problems, "\n".join([f"{path.relative_to(ROOT)}: {rule.__doc__}", *problems])


def test_the_book_has_notebooks():
    assert notebooks()


# --- the rules can fail -------------------------------------------------------------------------
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}
FOLD = "<details><summary>Answer</summary>\n\n**so**, and\n\n- so\n\n</details>\n"


def sound():
    """Return a notebook that keeps every rule."""
    png = new_output("display_data", {"image/png": "aGk=", "text/plain": "<Figure>"})
    loss = new_output("stream", name="stdout", text="loss 0.25 after 3 steps\n")
    cells = [
        new_markdown_cell(
            "# Title\n\nThe loss falls to $0.25$, `.25` in code; see [the start]"
            "(../build.py).\n\nElsewhere 0.31 was seen [(source)](https://arxiv.org)."
        ),
        new_code_cell(lint.SETUP, metadata={"tags": ["setup", "hide-input"], **FOLDED}),
        new_code_cell(
            "table()",
            outputs=[new_output("display_data", {"text/html": "<b>2</b>", "text/plain": "2"})],
        ),
        new_code_cell("train()", outputs=[loss], metadata={"tags": ["nbval-ignore-output"]}),
        new_code_cell("assert loss < 1"),
        new_code_cell(
            "plot()",
            outputs=[png],
            metadata={"mystnb": {"image": {"alt": "A curve"}, "figure": {"caption": "The loss."}}},
        ),
        new_markdown_cell("$$ \\tfrac{0.125}{2} $$\n\n" + FOLD),
        new_code_cell("def one():\n    ...", metadata={"tags": ["exercise:one"]}),
        new_code_cell(
            "def solution_one():\n    return 1",
            metadata={"tags": ["solution:one", "hide-cell"], **FOLDED},
        ),
    ]
    for count, cell in enumerate((c for c in cells if c.cell_type == "code"), 1):
        cell.execution_count = count
    return new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
    )


def put(place, value):
    """Return a change of one entry of a notebook."""

    def change(notebook):
        *holders, last = place
        for key in holders:
            notebook = notebook[key]
        notebook[last] = value

    return change


def say(text):
    return put(("cells", 6, "source"), text)


def widget(view="a", **state):
    def change(notebook):
        notebook.cells[5].outputs = [
            new_output(
                "display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": view}}
            )
        ]
        notebook.metadata["widgets"] = {
            WIDGET_STATE: {
                "state": {
                    "a": {"model_module": "anywidget", "model_name": "AnyModel", "state": state}
                }
            }
        }

    return change


BREAKS = [
    ("executed_in_order", put(("cells", 3, "execution_count"), 7)),
    ("executed_in_order", put(("cells", 3, "execution_count"), None)),
    ("kernel_is_python3", put(("metadata", "kernelspec", "name"), "my-env")),
    ("opens_with_title_and_setup", put(("cells", 1, "source"), lint.SETUP + " ")),
    ("opens_with_title_and_setup", put(("cells", 1, "metadata", "tags"), ["setup", "hide-cell"])),
    ("opens_with_title_and_setup", put(("cells", 0, "source"), "No title")),
    ("no_trace_of_a_machine", say("saved in /home/" + "someone/run")),
    (
        "no_trace_of_a_machine",
        put(("cells", 3, "outputs", 0, "text"), "loss 0.25 of <Model at 0x7f3a12bc45>"),
    ),
    (
        "no_errors_or_warnings_stored",
        put(("cells", 4, "outputs"), [new_output("stream", name="stderr", text="Warning")]),
    ),
    (
        "no_errors_or_warnings_stored",
        put(
            ("cells", 4, "outputs"),
            [new_output("error", ename="ValueError", evalue="", traceback=[])],
        ),
    ),
    ("no_errors_or_warnings_stored", put(("cells", 4, "metadata", "tags"), ["raises-exception"])),
    ("figures_are_described", put(("cells", 5, "metadata", "mystnb", "image"), {})),
    ("figures_are_described", put(("cells", 5, "metadata", "mystnb", "figure"), {})),
    ("html_has_its_text", put(("cells", 2, "outputs", 0, "data", "text/plain"), "<T object>")),
    ("html_has_its_text", put(("cells", 2, "outputs", 0, "data"), {"text/html": "<b>2</b>"})),
    ("live_cells_are_asserted", put(("cells", 4, "source"), "print(loss)")),
    ("live_cells_are_asserted", put(("cells", 4, "metadata", "tags"), ["nbval-skip"])),
    ("plain_markdown", say("see {ref}`fig-loss`")),
    ("plain_markdown", say("```{note}\nhello\n```")),
    ("plain_markdown", say("(a-label)=\n## A")),
    ("folds_are_folds_everywhere", put(("cells", 1, "metadata", "cellView"), "code")),
    ("folds_are_folds_everywhere", put(("cells", 1, "metadata", "jupyter"), {})),
    ("folds_are_folds_everywhere", put(("cells", 4, "metadata", "cellView"), "form")),
    ("solutions_keep_the_attempt", put(("cells", 8, "source"), "def one():\n    return 1")),
    ("visible_code_fits", put(("cells", 3, "source"), "train(" + 80 * "x" + ")")),
    ("visible_code_fits", put(("cells", 3, "source"), 26 * "train()\n")),
    ("tables_name_their_columns", say("| | loss |\n|---|---|\n| a | 2 |")),
    ("tables_name_their_columns", say("| run | $x$ |\n|---|---|\n| a | 2 |")),
    ("tables_name_their_columns", say("| run | |\n|:--|--:|\n| a | 2 |")),
    ("folds_hold_markdown", say(FOLD.replace("\n\n**so**", "\n**so**"))),
    ("folds_hold_markdown", say(FOLD.replace("\n\n</details>", "\n</details>"))),
    ("folds_hold_markdown", say(FOLD.replace("</details>", ""))),
    ("folds_hold_markdown", say(FOLD.replace("<summary>Answer</summary>", ""))),
    ("numbers_come_from_cells", say("The loss is 0.26.")),
    ("numbers_come_from_cells", say("The loss is $\\beta = 0.250$ here.")),
    ("numbers_come_from_cells", say("| loss |\n|---|\n| 1.5 |")),
    ("links_resolve", say("[gone](../gone.ipynb)")),
    ("links_resolve", say('<a href="gone.png">gone</a>')),
    ("widgets_are_saved_and_current", widget(view="b", _anywidget_id="rlhf_lib.x.X")),
    ("widgets_are_saved_and_current", widget(_anywidget_id="__main__.Demo")),
]


def test_sound_notebook_keeps_every_rule():
    assert [p for rule in lint.RULES for p in rule(sound(), HERE)] == []


@pytest.mark.parametrize("name, change", BREAKS, ids=[f"{n}-{b[0]}" for n, b in enumerate(BREAKS)])
def test_rule_catches(name, change):
    notebook = copy.deepcopy(sound())
    change(notebook)
    assert [r.__name__ for r in lint.RULES if list(r(notebook, HERE))] == [name]


def test_every_rule_is_shown_to_catch_something():
    assert {rule.__name__ for rule in lint.RULES} == {name for name, _ in BREAKS}


def test_stale_widget_code_is_caught(monkeypatch):
    """Browser code stored in a notebook differs from what the library would store today."""
    import rlhf_lib

    class Demo:
        _esm = "export default { render() {} }"

    monkeypatch.setattr(rlhf_lib, "Demo", Demo, raising=False)
    for esm, problems in ((Demo._esm, 0), (Demo._esm + " // older", 1)):
        notebook = sound()
        widget(_anywidget_id="rlhf_lib.Demo", _esm=esm)(notebook)
        assert len(list(lint.widgets_are_saved_and_current(notebook, HERE))) == problems


def test_widget_ids_do_not_depend_on_the_run():
    """Two executions, whose models have random ids, are stored as the same file."""

    def stored(demo, layout, unused):
        notebook = sound()
        widget(view=demo)(notebook)
        notebook.metadata["widgets"][WIDGET_STATE]["state"] = {
            layout: {"model_name": "LayoutModel", "state": {}},
            unused: {"model_name": "LayoutModel", "state": {}},
            demo: {"model_name": "AnyModel", "state": {"layout": f"IPY_MODEL_{layout}"}},
        }
        for number, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{number}"
        return stable_widget_ids(nbformat.writes(notebook), "book/sound.ipynb")

    one, other = stored("1" * 32, "2" * 32, "3" * 32), stored("c" * 32, "b" * 32, "a" * 32)
    assert one == other
    assert not any(old * 32 in one for old in "123")
    assert one.count("LayoutModel") == 1  # what nothing refers to is left out
    assert stable_widget_ids(one, "book/sound.ipynb") == one


def test_only_existing_pages_are_listed():
    assert all(isinstance(path, Path) and path.exists() for path in notebooks())
