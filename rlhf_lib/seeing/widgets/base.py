"""What every demo shares: how its browser code is put together, and how it prints.

A demo must work with a kernel (JupyterLab, Binder, Colab) and without one (the static book, where a
host script runs the saved state). So the browser computes everything it shows, and needs no file
beside the one it is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import anywidget

_HERE = Path(__file__).parent


def browser_code(name: str) -> str:
    """The JavaScript module of demo `name`: common.js, then name.js.

    They are joined because a demo's module is a string in the saved widget state and cannot import
    a sibling file.

    Parameters
    ----------
    name : str
        File name without its ending, such as "tilt_explorer".

    Returns
    -------
    str
    """
    parts = [(_HERE / f"{part}.js").read_text(encoding="utf-8") for part in ("common", name)]
    return "\n".join(parts)


def styles() -> str:
    """The one stylesheet of all demos. Every class in it begins with `rlhf-`."""
    return (_HERE / "common.css").read_text(encoding="utf-8")


def clamp(name: str, value: float, limits: Sequence[float]) -> float:
    """The number itself, or the limit that it is beyond; what is no number is refused."""
    low, high = limits
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; expected a number from {low:g} to {high:g}")
    return min(max(value, low), high)


class Demo(anywidget.AnyWidget):
    """Base class of the demos.

    A subclass sets `_esm = browser_code("its_name")` and `_css = styles()`, tags its state with
    `sync=True`, keeps NaN out of it (it has no form in JSON), and offers the numbers on display as
    `result`, computed by the library.
    """

    def summary(self) -> str:
        """The state in a few words, the same on every machine."""
        return "interactive demo"

    def __repr__(self) -> str:
        """Stable text beside the figure: no memory address, so a stored output can be compared."""
        return f"{type(self).__name__}({self.summary()})"
