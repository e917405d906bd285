"""Tables of results: HTML where it can be shown, aligned text everywhere else.

Chapter: what-a-step-costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from string import Formatter

MARK = "▸ "  # before the rows that matter: bold type alone is not heard, nor seen in plain text


@dataclass(frozen=True)
class Table:
    """Cells as text, and how they are shown; see `table`. Chapter: what-a-step-costs."""

    caption: str
    head: list[str]  # a unit stands on a second line
    cells: list[list[str]]
    numeric: list[bool]  # by column: aligned to the right
    marked: set[int]  # numbers of rows

    def __repr__(self) -> str:
        blank = " " * len(MARK) if self.marked else ""
        lines = zip_longest(*(title.split("\n") for title in self.head), fillvalue="")
        rows = [(blank, line) for line in lines]
        rows += [(MARK if i in self.marked else blank, row) for i, row in enumerate(self.cells)]
        widths = [max(len(row[k]) for _, row in rows) for k in range(len(self.head))]
        sides = [str.rjust if numeric else str.ljust for numeric in self.numeric]
        text = [self.caption, ""]
        for start, row in rows:
            aligned = (side(cell, n) for cell, side, n in zip(row, sides, widths))
            text.append((start + "  ".join(aligned)).rstrip())
        return "\n".join(text)

    def _repr_html_(self) -> str:
        # Alignment stands inline: Jupyter and Colab have other styles, and not this book's.
        styles = [f' style="text-align:{"right" if n else "left"}"' for n in self.numeric]
        head = "".join(_head(title, style) for title, style in zip(self.head, styles))
        body = ""
        for number, (first, *others) in enumerate(self.cells):
            bold = ' class="marked" style="font-weight:bold"' if number in self.marked else ""
            mark = MARK.replace(" ", "&nbsp;") if bold else ""
            body += f'<tr{bold}><th scope="row"{styles[0]}>{mark}{escape(first)}</th>'
            body += "".join(f"<td{s}>{escape(t)}</td>" for t, s in zip(others, styles[1:]))
            body += "</tr>\n"
        caption = escape(self.caption)
        return (
            f'<div class="book-table" role="group" tabindex="0" aria-label="{caption}" '
            'style="overflow-x:auto">\n<table style="font-variant-numeric:tabular-nums">\n'
            f'<caption style="text-align:left"><span>{caption}</span></caption>\n'
            f"<thead>\n<tr>{head}</tr>\n</thead>\n<tbody>\n{body}</tbody>\n</table>\n</div>"
        )


def table(
    rows: Iterable[Sequence[object]],
    columns: Mapping[str, str],
    caption: str,
    mark: int | Iterable[int] = (),
) -> Table:
    """A table that a notebook shows as HTML, and a terminal or a test as text.

    Chapter: what-a-step-costs.

    Parameters
    ----------
    rows : iterable of sequences
        The first cell names the row. A cell is text, a number, None (a dash), or a tuple
        (number, half width of its interval).
    columns : mapping of str to str
        Title to format, such as `{"part": "{}", "time\\nms": "{:.2f}"}`. A unit stands behind a
        line break. Text is not formatted.
    caption : str
        What is shown, and of what.
    mark : int or iterable of int
        The rows that matter, counted from 0.

    Examples
    --------
    >>> columns = {"activations": "{}", "time\\nms": "{:.2f}", "memory\\nMB": "{:.0f}"}
    >>> table([["kept", 1.5, (12, 3)], ["recomputed", None, 7]], columns, "A step", mark=1)
    A step
    <BLANKLINE>
      activations  time  memory
                     ms      MB
      kept         1.50  12 ± 3
    ▸ recomputed      –       7
    """
    rows, columns = [list(row) for row in rows], dict(columns)
    if not caption.strip():
        raise ValueError(f"caption is {caption!r}; expected what the table shows")
    if not rows or not columns:
        raise ValueError(f"{'columns' if rows else 'rows'} is empty; expected at least one")
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(
                f"rows[{number}] has {len(row)} cells; expected {len(columns)}, one a column"
            )
    marked = {mark} if isinstance(mark, int) else set(mark)
    if not marked <= set(range(len(rows))):
        raise ValueError(f"mark is {mark}; expected rows from 0 to {len(rows) - 1}")
    cells = [[_cell(x, title, columns[title]) for x, title in zip(row, columns)] for row in rows]
    numeric = [any(not isinstance(x, str | None) for x in column) for column in zip(*rows)]
    return Table(caption, list(columns), cells, numeric, marked)


def _cell(value: object, title: str, form: str) -> str:
    if value is None or isinstance(value, str):
        return "–" if value is None else value
    try:
        if sum(field is not None for _, field, _, _ in Formatter().parse(form)) != 1:
            raise ValueError("it has no field, or several")
        return " ± ".join(map(form.format, value if isinstance(value, tuple) else (value,)))
    except (ValueError, TypeError, LookupError) as error:
        expected = f"a format of {value!r}, such as {{:.2f}} ({error})"
        raise ValueError(f"columns[{title!r}] is {form!r}; expected {expected}") from None


def _head(title: str, style: str) -> str:
    name, _, unit = escape(title).partition("\n")
    shown = f'{name}<br><span class="unit">{unit}</span>' if unit else name
    return f'<th scope="col"{style}>{shown}</th>' if shown else f"<td{style}></td>"
