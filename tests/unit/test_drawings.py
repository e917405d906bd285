"""Drawings of processes: what they draw, and what they say to those who do not see them."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from rlhf_lib.seeing.drawings import Drawing, arrow, box, label
from rlhf_lib.seeing.plots import COLOURS


def drawing(*parts, description="A to B", caption="Two boxes"):
    return Drawing(200, 100, parts, description, caption)


def test_a_drawing_is_one_picture_with_its_description():
    shown = drawing(box(0, 0, 50, 40, ["A <1>", "x & y"]), description='"A" to B', caption="<i>")
    figure = ElementTree.fromstring(shown._repr_html_())  # well formed, and everything escaped
    picture, caption = figure
    assert (picture.get("role"), picture.get("aria-label")) == ("img", '"A" to B')
    assert picture.get("viewBox") == "0 0 200 100" and caption.text == "<i>"
    texts = picture.findall("text")
    assert [text.text for text in texts] == ["A <1>", "x & y"]
    assert [text.get("font-weight") for text in texts] == ["bold", None]


def test_its_text_says_what_it_shows():
    assert repr(drawing()) == "[drawing: A to B]\nTwo boxes"


def test_lines_are_centred_in_their_box():
    y = [float(y) for y in re.findall(r'<text x="35" y="([\d.]+)"', box(10, 20, 50, 60, "abc"))]
    assert y == [30, 50, 70]  # around 50


def test_text_and_lines_have_the_colour_of_the_page():
    shown = drawing(box(0, 0, 9, 9, ["A"], "blue"), arrow((0, 0), (9, 9)))._repr_html_()
    colours = set(re.findall(r'(?:fill|stroke)="([^"]*)"', shown))
    assert colours == {"currentColor", "none", COLOURS["blue"]}


@pytest.mark.parametrize("end, behind", [((50, 10), "x"), ((10, 50), "y")])
def test_the_head_of_an_arrow_is_at_its_end_and_points_on(end, behind):
    line, head = re.findall(r'd="M([^"]*)"', arrow((10, 10), end))
    assert line.split(" L") == ["10.0,10.0", f"{end[0]:.1f},{end[1]:.1f}"]
    wing, tip, other = (
        tuple(map(float, p.split(","))) for p in head.removesuffix(" Z").split(" L")
    )
    along = 0 if behind == "x" else 1
    assert tip == end and wing[along] == other[along] < end[along]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: drawing(description=" "), "description is empty"),
        (lambda: drawing(caption=""), "caption is empty"),
        (lambda: box(0, 0, 9, 9, ["A"], "red"), "colour is 'red'; expected one of 'blue'"),
        (lambda: label(0, 0, "A", "left"), "anchor is 'left'; expected 'start'"),
        (lambda: arrow((0, 0)), "expected at least two"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
