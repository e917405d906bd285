"""What every demo shares: how its browser code is put together, and how it prints.

A demo must work with a kernel (JupyterLab, Binder, Colab) and without one (the static book, where a
host script runs the saved state). So the browser computes everything it shows, and needs no file
beside the one it is given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import anywidget

_HERE = Path(__file__).parent
SHARED = ("common", "controls", "plot", "demo")  # the order in which they are joined
RANDOM = "../engine/random.js"  # before them: the same draws in a demo and in the engine


def browser_code(*names: str) -> str:
    """The JavaScript module of a demo: the files that all demos share, then its own.

    They are joined because a demo's module is a string in the saved widget state and cannot import
    a sibling file.

    Parameters
    ----------
    names : str
        Files without their ending, such as "tilt_explorer", in their order.

    Returns
    -------
    str
    """
    return _joined(RANDOM, *(f"{name}.js" for name in (*SHARED, *names)))


def styles(*names: str) -> str:
    """The stylesheet of a demo: what all demos share, then its own files, if it has any.

    Every class in it begins with `rlhf-`.
    """
    return _joined(*(f"{name}.css" for name in ("common", *names)))


def _joined(*files: str) -> str:
    """The files in one, without indentation and comments: each notebook stores it for each demo."""
    text = "\n".join((_HERE / file).read_text(encoding="utf-8") for file in files)
    text = re.sub(r"/\*.*?\*/|^\s*//.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^export (?=function )", "", text, flags=re.MULTILINE)  # of a module
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def clamp(name: str, value: float, limits: Sequence[float]) -> float:
    """The number itself, or the limit that it is beyond; what is no number is refused."""
    low, high = limits
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; expected a number from {low:g} to {high:g}")
    return min(max(value, low), high)


class Demo(anywidget.AnyWidget):
    """Base class of the demos.

    A subclass sets `_esm = browser_code("its_name")` and `_css = styles("its_name")`, tags its
    state with `sync=True`, keeps NaN out of it (it has no form in JSON), and offers the numbers on
    display as `result`, computed by the library.
    """

    def summary(self) -> str:
        """The state in a few words, the same on every machine."""
        return "interactive demo"

    def __repr__(self) -> str:
        """Stable text beside the figure: no memory address, so a stored output can be compared."""
        return f"{type(self).__name__}({self.summary()})"
