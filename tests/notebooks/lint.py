"""The rules that every notebook of the book keeps. Each yields what breaks it, cell by cell.

A rule is a function of a notebook and its path. `RULES` is all of them; test_lint.py runs them on
the book, and on a sound notebook broken on purpose, so that each is known to fail.
"""

from __future__ import annotations

import ast
import copy
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

from nbformat import NotebookNode

from book.build import (
    ADDRESS,
    FOLDS,
    WIDGET_STATE,
    changed_code,
    demo_class,
    fold,
    is_of_the_library,
    notebooks,
    stored_demos,
)

Problems = Iterator[str]
RULES: list[Callable[[NotebookNode, Path], Problems]] = []

SETUP = """\
REPOSITORY = ""  # the book's public git address; `make address REPOSITORY=...` fills it in
import importlib.util, subprocess, sys
if importlib.util.find_spec("rlhf_lib") is None:
    if not REPOSITORY:
        raise ModuleNotFoundError(
            "rlhf_lib is not on this machine. Run this notebook from a clone of the book "
            "(`pip install --no-deps .` at its top level), or set REPOSITORY to its git address.")
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", \
f"git+{REPOSITORY}"])"""

# A path that exists on one machine only, or an object's address in its memory.
MACHINE = re.compile(
    r"(?<![\w.~:/-])/(?:home|Users|root|tmp|work|private|content|mnt)/[\w.-]+|[A-Z]:\\\\\w"
    r"|ipykernel_\d|\bat 0x[0-9a-f]{6,}"
)
# Syntax that only Sphinx understands: roles, directives, targets.
MYST = re.compile(r"\{[a-z][\w:-]*\}`|^\s*(?:```+|:::+)\{[a-z]|^\([\w-]+\)=\s*$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
DISPLAY_MATH = re.compile(r"\$\$.*?\$\$", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|<a\s[^>]*href=[\"']([^\"']+)[\"']")
TAG = re.compile(r"<[a-zA-Z/][^>]*>")
UNSEEN = {*FOLDS, "remove-input"}
COLUMNS, LINES = 84, 25  # of visible code: beside two sidebars, and in one look
DECIMAL = re.compile(r"(?<![\d.])\d*\.\d+(?!\.?\d)")


def rule(function: Callable[[NotebookNode, Path], Problems]):
    RULES.append(function)
    return function


def cells(notebook: NotebookNode, kind: str) -> Iterator[tuple[int, NotebookNode]]:
    """Yield the cells of one type, with their place in the notebook counted from 1."""
    return ((n, c) for n, c in enumerate(notebook.cells, 1) if c.cell_type == kind)


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def text_outputs(cell: NotebookNode) -> Iterator[str]:
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        data = output.get("data", {})
        for kind in ("text/plain", "text/markdown", "text/html"):
            yield data.get(kind, "")


@rule
def executed_in_order(notebook: NotebookNode, path: Path) -> Problems:
    """Run from top to bottom in one go: the counts are 1, 2, ..., n."""
    for expected, (n, cell) in enumerate(cells(notebook, "code"), 1):
        if cell.execution_count != expected:
            yield f"cell {n}: execution count {cell.execution_count}; expected {expected}"


@rule
def kernel_is_python3(notebook: NotebookNode, path: Path) -> Problems:
    """The kernel that every Jupyter and Colab has."""
    kernel = notebook.metadata.get("kernelspec", {})
    if (kernel.get("name"), kernel.get("display_name")) != ("python3", "Python 3"):
        yield f"kernelspec {dict(kernel)}; expected name python3, display_name Python 3"


@rule
def opens_with_title_and_setup(notebook: NotebookNode, path: Path) -> Problems:
    """A title, then the setup cell, the same in every notebook but for the book's address."""
    first, second = [*notebook.cells[:2], None, None][:2]
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "cell 1: expected markdown that starts with a title"
    if second is None or ADDRESS.sub(r"\1\2", second.source) != SETUP:
        yield "cell 2: expected the setup cell, as in tests/notebooks/lint.py"
    elif tags(second) != ["setup", "hide-input"]:
        yield f"cell 2: tags {tags(second)}; expected ['setup', 'hide-input']"


@rule
def no_trace_of_a_machine(notebook: NotebookNode, path: Path) -> Problems:
    """No path or memory address that only one machine has."""
    for n, cell in enumerate(notebook.cells, 1):
        for found in MACHINE.findall(json.dumps(cell, ensure_ascii=False)):
            yield f"cell {n}: {found!r}"


@rule
def no_errors_or_warnings_stored(notebook: NotebookNode, path: Path) -> Problems:
    """No exception among the outputs, allowed or not, and nothing on the error stream."""
    for n, cell in cells(notebook, "code"):
        if "raises-exception" in tags(cell) or "NBVAL_RAISES_EXCEPTION" in cell.source:
            yield f"cell {n}: raises-exception passes also when nothing is raised; catch it instead"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"cell {n}: stores the error {output.ename}"
            if output.get("name") == "stderr":
                yield f"cell {n}: stores an error stream: {output.text[:60]!r}"


@rule
def figures_are_described(notebook: NotebookNode, path: Path) -> Problems:
    """Alt text and a caption for every picture."""
    for n, cell in cells(notebook, "code"):
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        if any(kind.startswith("image/") for kind in kinds) and not any(
            "widget" in k for k in kinds
        ):
            shown = cell.metadata.get("mystnb", {})
            if not shown.get("image", {}).get("alt"):
                yield f"cell {n}: a picture without mystnb.image.alt"
            if not shown.get("figure", {}).get("caption"):
                yield f"cell {n}: a picture without mystnb.figure.caption"


@rule
def html_has_its_text(notebook: NotebookNode, path: Path) -> Problems:
    """What is shown as HTML is there as text too, for terminals and for nbval, which compares it.

    `rlhf_lib.seeing.tables` shows results so.
    """
    for n, cell in cells(notebook, "code"):
        for output in cell.outputs:
            data = output.get("data", {})
            if "text/html" in data and re.match(
                r"\s*(<.*>)?\s*$", data.get("text/plain", ""), re.S
            ):
                yield f"cell {n}: HTML without its text"


@rule
def live_cells_are_asserted(notebook: NotebookNode, path: Path) -> Problems:
    """After a cell whose output is not compared, asserts say what holds on any machine.

    They stand in the cell itself, or in a later one of the same section (`##`).
    """
    has_assert = re.compile(r"^\s*assert\b", re.MULTILINE)
    for n, cell in cells(notebook, "code"):
        if "nbval-ignore-output" in tags(cell):
            section = itertools.takewhile(
                lambda later: (
                    not (later.cell_type == "markdown" and later.source.startswith("## "))
                ),
                notebook.cells[n - 1 :],
            )
            if not any(has_assert.search(c.source) for c in section if c.cell_type == "code"):
                yield f"cell {n}: output not compared, and no assert after it in its section"
        if "nbval-skip" in tags(cell) or re.search(
            r"^# *(NBVAL|PYTEST_VALIDATE)_", cell.source, re.M
        ):
            yield f"cell {n}: use the tag nbval-ignore-output; nothing is skipped"


@rule
def plain_markdown(notebook: NotebookNode, path: Path) -> Problems:
    """Only what Jupyter and Colab show as well as the book does."""
    for n, cell in cells(notebook, "markdown"):
        for found in MYST.findall(
            FENCE.sub("", cell.source)
            + "".join(
                line + "\n" for line in cell.source.splitlines() if line.lstrip().startswith("```{")
            )
        ):
            yield f"cell {n}: {found.strip()!r} is understood by Sphinx alone"


@rule
def visible_code_fits(notebook: NotebookNode, path: Path) -> Problems:
    """What is not folded has lines that fit their column, and before the exercises it is short."""
    exercises = False
    for n, cell in enumerate(notebook.cells, 1):
        exercises |= cell.cell_type == "markdown" and cell.source.startswith("## Exercises")
        if cell.cell_type != "code" or UNSEEN & set(tags(cell)):
            continue
        lines = cell.source.splitlines()
        if (widest := max(map(len, lines), default=0)) > COLUMNS:
            yield f"cell {n}: a line of {widest} characters; expected at most {COLUMNS}"
        if len(lines) > LINES and not exercises:
            yield f"cell {n}: {len(lines)} lines; expected at most {LINES}, or a fold"


@rule
def folds_are_folds_everywhere(notebook: NotebookNode, path: Path) -> Problems:
    """What the book folds is folded in JupyterLab and on Colab too; `make execute` sees to it."""
    for n, cell in cells(notebook, "code"):
        kept = copy.deepcopy(cell)
        fold(kept)
        if kept != cell:
            yield f"cell {n}: folded in the book and open in Jupyter, or the other way round"


@rule
def solutions_keep_the_attempt(notebook: NotebookNode, path: Path) -> Problems:
    """A solution has names of its own: after "Run All" the reader's answer is still there."""
    own: dict[str, set[str]] = {}
    for n, cell in cells(notebook, "code"):
        for kind, _, name in (tag.partition(":") for tag in tags(cell)):
            if kind == "exercise":
                own[name] = defined(cell.source)
            if kind == "solution":
                for taken in sorted(own.get(name, set()) & defined(cell.source)):
                    yield f"cell {n}: defines {taken}, as the exercise does; expected another name"


def defined(source: str) -> set[str]:
    """The names of the functions and classes that a cell defines."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.parse(source).body if isinstance(node, kinds)}


@rule
def tables_name_their_columns(notebook: NotebookNode, path: Path) -> Problems:
    """Each column of a Markdown table has a title, which a screen reader says with each cell."""
    for n, cell in cells(notebook, "markdown"):
        for head in untitled_columns(cell.source):
            yield f"cell {n}: {head[:60]!r} has a column without a title"


def untitled_columns(text: str) -> Iterator[str]:
    """Yield the first lines of the Markdown tables with a title that has no word.

    Mathematics alone is none: a screen reader may pass over it.
    """
    lines = FENCE.sub("", text).splitlines()
    for head, below in itertools.pairwise(lines):
        if re.fullmatch(r"\|[\s:|-]*-[\s:|-]*\|", below.strip()):
            bare = re.sub(r"\$[^$]*\$", "", head).strip().strip("|")
            if not all(re.search(r"\w", title) for title in bare.split("|")):
                yield head


@rule
def folds_hold_markdown(notebook: NotebookNode, path: Path) -> Problems:
    """A fold's text has empty lines around it: without them it is HTML, and shown unformatted."""
    for n, cell in cells(notebook, "markdown"):
        for text in re.findall(r"<details.*?(?:</details>|\Z)", cell.source, re.DOTALL):
            if not re.fullmatch(
                r"<details><summary>[^\n]+</summary>\n\n.*\S\n\n</details>", text, re.DOTALL
            ):
                yield f"cell {n}: {text[:60]!r}; expected a fold as in CONTRIBUTING.md"


@rule
def numbers_come_from_cells(notebook: NotebookNode, path: Path) -> Problems:
    """A number with a decimal point stands in a cell's output or code, or beside its source.

    Compared as digits: 0.95, .95 and -0.95 are one number, 0.950 is another. Checked in prose,
    tables, code spans and inline mathematics. Not checked: display mathematics and fenced code,
    and a paragraph that links to another site, which is where such a number has its source.
    """

    def digits(text: str) -> set[str]:
        return {number.lstrip("0") for number in DECIMAL.findall(text)}

    known: set[str] = set()
    for _, cell in cells(notebook, "code"):
        known |= digits(cell.source)
        for text in text_outputs(cell):
            known |= digits(text)
    for n, cell in cells(notebook, "markdown"):
        prose = DISPLAY_MATH.sub("", FENCE.sub("", cell.source))
        for paragraph in re.split(r"\n\s*\n", prose):
            if any(target.startswith("http") for target in targets(paragraph)):
                continue
            bare = TAG.sub("", LINK.sub("", paragraph))
            for number in sorted(digits(bare) - known):
                yield f"cell {n}: {number} stands in no output or code cell, and has no source"


def targets(text: str) -> list[str]:
    return [first or second for first, second in LINK.findall(text)]


@rule
def links_resolve(notebook: NotebookNode, path: Path) -> Problems:
    """A link within the book leads to a file that is there; a notebook must be in the contents."""
    for n, cell in cells(notebook, "markdown"):
        for target in targets(FENCE.sub("", cell.source)):
            if re.match(r"[a-z]+:|#", target):
                continue
            file = (path.parent / unquote(target.partition("#")[0])).resolve()
            if not file.exists():
                yield f"cell {n}: {target} does not exist"
            elif file.suffix == ".ipynb" and file not in notebooks():
                yield f"cell {n}: {target} is not in the table of contents"


@rule
def widgets_are_saved_and_current(notebook: NotebookNode, path: Path) -> Problems:
    """Each widget shown has its state stored, with the browser code that the library has today."""
    stored = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for n, cell in cells(notebook, "code"):
        for output in cell.outputs:
            view = output.get("data", {}).get("application/vnd.jupyter.widget-view+json")
            if view and view["model_id"] not in stored:
                yield f"cell {n}: shows a widget whose state is not stored"
    for demo in stored_demos(notebook):
        module, name = demo_class(demo)
        if not is_of_the_library(demo):
            yield f"{name}: defined in {module}; a demo belongs in rlhf_lib.seeing.widgets"
            continue
        try:
            changed = changed_code(demo)
        except (ImportError, AttributeError) as error:
            yield f"{name}: {error}"
            continue
        for trait in changed:
            yield f"{name}.{trait}: not what the library has now; `make refresh` puts it there"
