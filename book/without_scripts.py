"""What stands in the place of a demo where no JavaScript runs: its picture, and what it is for.

`make pictures` takes the pictures, of the demos as they open; the sentence is the first of the
class's docstring, read from the source, so that building the book needs no package of the demos.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

from book.build import ROOT, WIDGET_STATE, demo_class

PICTURES = ROOT / "book" / "static" / "demos"
VIEW_KIND = "application/vnd.jupyter.widget-view+json"
_VIEW = re.compile(rf'<script type="{re.escape(VIEW_KIND)}">')


class StandIn(NamedTuple):
    """What a page shows of a demo that cannot run."""

    picture: Path
    shows: str  # the demo's state in a few words
    purpose: str


def stand_ins(path: Path) -> Iterator[StandIn]:
    """Yield what stands in for each demo of a notebook, in their order."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    states = notebook["metadata"].get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    seen: Counter[str] = Counter()
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            view = output.get("data", {}).get(VIEW_KIND)
            if view is None:
                continue
            module, name = demo_class(states[view["model_id"]]["state"])
            seen[name] += 1
            again = f"-{seen[name]}" if seen[name] > 1 else ""
            yield StandIn(
                PICTURES / f"{path.stem}-{name}{again}.png",
                "".join(output["data"].get("text/plain", "")),
                _first_sentence(module, name),
            )


def put_in(html: Path, root: Path, notebooks: list[Path]) -> None:
    """Write the stand-ins into the pages of a book built from `root`.

    Raises
    ------
    ValueError
        If a page has other demos than its notebook.
    """
    for path in notebooks:
        found = list(stand_ins(path))
        place = path.relative_to(root)
        page = (html / place).with_suffix(".html")
        first, *rest = _VIEW.split(page.read_text(encoding="utf-8"))
        if len(rest) != len(found):
            raise ValueError(f"{page} has {len(rest)} demos; expected {len(found)}, as {path}")
        up = "../" * len(place.parent.parts)
        for one, after in zip(found, rest):
            first += f'{_noscript(one, up)}<script type="{VIEW_KIND}">{after}'
        page.write_text(first, encoding="utf-8")


def _noscript(one: StandIn, up: str) -> str:
    return (
        f'<noscript><figure class="no-script"><img src="{up}_static/demos/{one.picture.name}" '
        f'alt="{escape(one.shows)}"><figcaption>{escape(one.purpose)} This is its picture: it '
        "moves in a browser that runs JavaScript.</figcaption></figure></noscript>"
    )


def _first_sentence(module: str, name: str) -> str:
    """The first line of a class's docstring, from the file of its module."""
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    [found] = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
    return (ast.get_docstring(found) or "").split("\n\n")[0].replace("\n", " ")
