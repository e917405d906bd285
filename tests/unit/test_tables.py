"""Tables of results: their text, their HTML, and what they refuse."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

import pytest

from rlhf_lib.seeing.tables import table

COLUMNS = {"part": "{}", "time\nms": "{:.1f}", "share": "{:.0%}"}
ROWS = [["sample", 4.25, 0.5], ["update", 123.0, None]]


class Cells(HTMLParser):
    """The tags of a document that were opened, and the text in each kind."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.opened, self.open, self.text = [], [], {}
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.opened.append((tag, dict(attributes)))
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.setdefault(self.open[-1], []).append(data)


def test_the_text_is_aligned_by_column():
    assert repr(table(ROWS, COLUMNS, "A step")).splitlines() == [
        "A step",
        "",
        "part     time  share",
        "           ms",
        "sample    4.2    50%",
        "update  123.0      –",
    ]


def test_the_html_is_a_table_with_heads_caption_and_alignment():
    cells = Cells(table(ROWS, COLUMNS, "A step")._repr_html_())
    assert cells.text["td"] == ["4.2", "50%", "123.0", "–"]
    assert cells.text["th"] == ["part", "time", "share", "sample", "update"]
    assert cells.text["span"] == ["A step", "ms"]
    heads = [attributes for tag, attributes in cells.opened if tag == "th"]
    assert [head["scope"] for head in heads] == ["col"] * 3 + ["row"] * 2
    assert heads[0]["style"] == "text-align:left" and heads[1]["style"] == "text-align:right"
    (frame, attributes), *_ = cells.opened
    assert frame == "div" and attributes["tabindex"] == "0"  # it scrolls, by the keyboard too
    assert attributes["aria-label"] == "A step"


def test_both_forms_hold_the_same_cells():
    shown = table([["a", (1.25, 0.5)], ["b", -3]], {"run": "{}", "gold": "{:.2f}"}, "Gold", mark=1)
    words = unescape(re.sub(r"<[^>]*>", " ", shown._repr_html_())).split()
    assert words == repr(shown).split() == "Gold run gold a 1.25 ± 0.50 ▸ b -3.00".split()


@pytest.mark.parametrize("mark, marked", [((), ""), (0, "a"), ([0, 2], "ac")])
def test_marked_rows_are_bold_and_begin_with_a_sign(mark, marked):
    shown = table([[name, 1] for name in "abc"], {"run": "{}", "n": "{}"}, "Runs", mark)
    lines = [line for line in repr(shown).splitlines() if line.startswith("▸ ")]
    assert "".join(line.split()[1] for line in lines) == marked
    bold = re.findall(r'<tr class="marked"[^>]*><th[^>]*>▸&nbsp;(\w)<', shown._repr_html_())
    assert "".join(bold) == marked


def test_text_is_escaped():
    shown = table([["<b>&", '"x"']], {"a < b": "{}", "c\n<i>": "{}"}, 'The "<s>" & more')
    document = shown._repr_html_()
    assert not re.search(r"<(b|i|s)>", document)
    cells = Cells(document)
    assert cells.text["span"] == ['The "<s>" & more', "<i>"]
    assert cells.opened[0][1]["aria-label"] == 'The "<s>" & more'
    assert cells.text["td"] == ['"x"'] and cells.text["th"] == ["a < b", "c", "<b>&"]


def test_a_column_of_text_stands_at_the_left_and_one_with_a_number_at_the_right():
    shown = table([["a", "yes", "none"], ["b", "no", 3]], dict.fromkeys("xyz", "{}"), "Answers")
    assert shown.numeric == [False, False, True]
    assert repr(shown).splitlines()[-2:] == ["a  yes  none", "b  no      3"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rows": []}, "rows is empty"),
        ({"columns": {}}, "columns is empty"),
        ({"caption": " "}, "caption is ' '; expected what the table shows"),
        ({"rows": [*ROWS, ["score", 1.0]]}, r"rows\[2\] has 2 cells; expected 3"),
        ({"mark": 2}, "mark is 2; expected rows from 0 to 1"),
        ({"mark": [-1]}, r"mark is \[-1\]; expected rows from 0 to 1"),
        ({"columns": {**COLUMNS, "share": "{:.2q}"}}, r"columns\['share'\] is '{:.2q}'; expected"),
        ({"columns": {**COLUMNS, "share": ".0%"}}, "expected a format of 0.5, such as {:.2f}"),
        ({"columns": {**COLUMNS, "share": "{} {}"}}, "it has no field, or several"),
        ({"columns": {**COLUMNS, "share": "{"}}, r"columns\['share'\] is '{'; expected"),
        ({"columns": {**COLUMNS, "share": "{x}"}}, r"columns\['share'\] is '{x}'; expected"),
        ({"rows": [["sample", [4], 0.5]]}, r"columns\['time\\nms'\] is '{:.1f}'; exp"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        table(**{"rows": ROWS, "columns": COLUMNS, "caption": "A step", **change})
