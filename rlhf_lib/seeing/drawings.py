"""Drawings of processes, boxes and arrows: SVG in the colours of the page, and a text that says it.

A drawing shows what no plot can: what goes where, and in which order. Chapter: what-a-step-costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .plots import COLOURS


@dataclass(frozen=True)
class Drawing:
    """Parts on a canvas, in pixels; a page may show it smaller. Chapter: what-a-step-costs.

    Parameters
    ----------
    width, height : float
    parts : sequence of str
        What `box`, `arrow` and `label` return.
    description : str
        What a reader who does not see it is told: all that the drawing says.
    caption : str
        Shown below it, to everybody.
    """

    width: float
    height: float
    parts: Sequence[str]
    description: str
    caption: str

    def __post_init__(self):
        for name in ("description", "caption"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty; expected what the drawing says, in words")

    def __repr__(self) -> str:
        return f"[drawing: {self.description}]\n{self.caption}"

    def _repr_html_(self) -> str:
        return (
            f'<figure class="book-drawing" style="margin:0">\n'
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" '
            f'aria-label="{escape(self.description)}" font-size="15" fill="currentColor" '
            f'style="width:100%;max-width:{1.25 * self.width:g}px;height:auto">\n'
            + "\n".join(self.parts)
            + f"\n</svg>\n<figcaption>{escape(self.caption)}</figcaption>\n</figure>"
        )


def label(x: float, y: float, text: str, anchor: str = "middle", bold: bool = False) -> str:
    """A line of text, its middle (or "start", or "end") at a point. Chapter: what-a-step-costs."""
    if anchor not in ("start", "middle", "end"):
        raise ValueError(f"anchor is {anchor!r}; expected 'start', 'middle' or 'end'")
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" dominant-baseline="central"{weight}>'
        f"{escape(text)}</text>"
    )


def box(
    x: float, y: float, width: float, height: float, lines: Sequence[str], colour: str = "grey"
) -> str:
    """A box with lines of text, the first one bold; colours are those of `plots.COLOURS`.

    Chapter: what-a-step-costs.
    """
    if colour not in COLOURS:
        raise ValueError(f"colour is {colour!r}; expected one of {', '.join(map(repr, COLOURS))}")
    first = y + height / 2 - 10 * (len(lines) - 1)
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" '
        f'fill="{COLOURS[colour]}" fill-opacity="0.15" stroke="{COLOURS[colour]}"/>'
    ) + "".join(
        label(x + width / 2, first + 20 * i, line, bold=i == 0) for i, line in enumerate(lines)
    )


def arrow(*points: tuple[float, float]) -> str:
    """A line through points, with a head at the last one. Chapter: what-a-step-costs.

    Examples
    --------
    >>> arrow((0, 0), (0, 20)).count("path")
    2
    """
    if len(points) < 2:
        raise ValueError(f"points are {points}; expected at least two")
    (x0, y0), (x, y) = points[-2:]
    angle = math.atan2(y - y0, x - x0)
    wings = [
        (x - 9 * math.cos(angle + turn), y - 9 * math.sin(angle + turn)) for turn in (-0.45, 0.45)
    ]
    line, head = (
        "M" + " L".join(f"{a:.1f},{b:.1f}" for a, b in path)
        for path in (points, [wings[0], (x, y), wings[1]])
    )
    return f'<path d="{line}" fill="none" stroke="currentColor"/><path d="{head} Z"/>'
