"""The sample explorer in a real browser: replies and numbers are Python's, whatever moves it."""

from __future__ import annotations

import itertools
import json

import pytest

from rlhf_lib.seeing.widgets import SampleExplorer
from tests.site.alone import Shown, assert_fits, assert_readable, assert_told

CHAPTER = "book/alignment/alignment-problem.html"
LISTS = ("prompts", "stages", "temperatures", "styles", "replies", "counts", "totals")
EXACT = 1e-12
STATE = """() => Object.values(JSON.parse(document.querySelector(
    'script[type="application/vnd.jupyter.widget-state+json"]').textContent).state)
    .map((record) => record.state).find((s) => s._esm && s.replies)"""

REPLIES = """(rows) => rows.map((row) => [
  row.querySelector(".rlhf-reply-text").textContent,
  row.querySelector(".rlhf-reply-style").textContent,
  Number(row.querySelector(".rlhf-reply-gold").dataset.value)])"""


def twin(state: dict) -> SampleExplorer:
    """The demo in Python with the samples that the page has."""
    row = dict(stage="", temperature=1.0, prompt="", completion="", style="", gold=0.0, asked=True)
    demo = SampleExplorer([row], [row])
    for name in LISTS + ("prompt", "stage", "temperature"):
        setattr(demo, name, state[name])
    return demo


class Demo(Shown):
    """The explorer on its page: what it shows, and how a reader moves it."""

    def __init__(self, page, base: str | None = None) -> None:
        page.goto((base or page.base) + CHAPTER, wait_until="domcontentloaded")
        self.page = page
        super().__init__(page.locator(".rlhf-samples").first)
        self.root.locator(".rlhf-reply").first.wait_for()
        self.python = twin(page.evaluate(STATE))

    def stage(self, name: str):
        return self.root.locator(f'[data-stage="{name}"]')

    def value(self, selector: str) -> float:
        return float(self.root.locator(selector).get_attribute("data-value"))

    def to(self, temperature: float) -> None:
        """Move the temperature by the keyboard."""
        self.control("temperature").focus()
        self.page.keyboard.press("Home")
        for _ in range(self.python.temperatures.index(temperature)):
            self.page.keyboard.press("ArrowRight")

    def check(self) -> tuple[int, str, float]:
        """Compare everything on display with Python, and return the settings."""
        pressed = self.root.locator('[data-stage][aria-pressed="true"]')
        assert pressed.count() == 1
        settings = (
            int(self.control("prompt").input_value()),
            pressed.text_content(),
            self.value('[data-setting="temperature"]'),
        )
        self.python.prompt, self.python.stage, self.python.temperature = settings
        expected = self.python.result
        shown = self.root.locator(".rlhf-reply").evaluate_all(REPLIES)
        assert shown == [list(reply) for reply in expected.completions]
        assert self.value('[data-name="gold"]') == pytest.approx(expected.gold, abs=EXACT)
        assert self.value('[data-interval="gold"]') == pytest.approx(
            expected.gold_margin, abs=EXACT
        )
        assert self.value('[data-name="asked"]') == pytest.approx(expected.asked, abs=EXACT)
        text = self.root.locator('[data-name="gold"]').text_content().replace("−", "-")
        assert float(text) == pytest.approx(expected.gold, abs=5.01e-3)
        cells = self.look("td.rlhf-share", "data-value", "data-low", "data-high")
        for cell, style in zip(cells, self.python.styles, strict=True):
            assert [float(number) for number in cell] == pytest.approx(
                [expected.shares[style], *expected.intervals[style]], abs=EXACT
            )
        bars = self.look(".rlhf-bar:not(.rlhf-bar-ref)", "style")
        widths = [float(style.split(":")[1].rstrip("%;")) for (style,) in bars]
        widest = max(
            max(counts) / totals[0]
            for s, t in zip(self.python.counts, self.python.totals)
            for counts, totals in zip(s, t)
        )  # one scale for all settings
        assert widths == pytest.approx(
            [100 * share / widest for share in expected.shares.values()], abs=0.01
        )
        return settings


@pytest.mark.parametrize("source", ["http", "file"])
def test_starts_with_pythons_numbers(page, source):
    demo = Demo(page, page.base if source == "http" else page.folder)
    assert demo.check() == (0, "base", 1.0)
    assert (page.errors, page.outside) == ([], [])


def test_every_stage_and_temperature(page):
    demo = Demo(page)
    for stage, temperature in itertools.product(demo.python.stages, demo.python.temperatures):
        demo.stage(stage).click()
        demo.to(temperature)
        assert demo.check() == (0, stage, temperature)


def test_keyboard_alone(page):
    demo = Demo(page)
    demo.control("prompt").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")  # past the first stage
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")  # past the last
    page.keyboard.press("ArrowLeft")
    prompt, stage, temperature = demo.check()
    assert (prompt, stage, temperature) == (1, demo.python.stages[1], 0.7)
    assert "0.7" in demo.control("temperature").get_attribute("aria-valuetext")
    page.keyboard.press("End")
    assert demo.check()[2] == max(demo.python.temperatures)


def test_every_request_can_be_chosen(page):
    demo = Demo(page)
    options = demo.control("prompt").locator("option").all_text_contents()
    assert options == demo.python.prompts and len(set(options)) == 6
    for place in range(len(options)):
        demo.control("prompt").select_option(str(place))
        assert demo.check()[0] == place


BAD = [
    ({"prompts": []}, "prompts is empty; expected recorded samples"),
    ({"prompt": 99}, "prompt is 99; expected 0 to 5"),
    ({"prompt": None}, "prompt is null; expected 0 to 5"),
    ({"stage": "ppo"}, "stage is ppo; expected one of base, SFT, aligned"),
    ({"temperature": 0.9}, "temperature is 0.9; expected one of 0.3, 0.7, 1, 1.5"),
    ({"totals": []}, "totals of stage base at temperature 0.3 are undefined"),
    ({"totals": [[[0, 0, 0, 0]] * 4] * 3}, "totals of stage base at temperature 0.3 are [0,0,0,0]"),
    ({"counts": [[[1]] * 4] * 3}, "counts of stage base at temperature 0.3 are [1]; expected 10"),
    ({"replies": [[[[]] * 4] * 3] * 6}, "replies to prompt 0 of stage base at temperature 0.3"),
]


def test_a_bad_state_gets_a_message_and_never_a_blank(page):
    Demo(page)
    assert_told(page, BAD, "replies", ".rlhf-reply")


def test_fits_and_works_on_a_phone(page):
    page.set_viewport_size({"width": 375, "height": 800})
    demo = Demo(page)
    assert_fits(page, demo.root, 375)
    demo.stage("aligned").click()
    assert demo.check()[1] == "aligned"


def test_controls_have_names_and_changes_are_announced(page):
    demo = Demo(page)
    for control in demo.root.locator("input, button, select").all():
        assert control.get_attribute("aria-label"), control.evaluate("e => e.outerHTML")
    for control in demo.root.locator("input, select").all():  # else JupyterLab takes the arrows
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
    demo.stage("SFT").click()
    page.wait_for_function(
        "document.querySelector('.rlhf-samples [aria-live=polite]')"
        ".textContent.includes('SFT at temperature 1')"
    )
    demo.check()
    said = demo.root.locator("[aria-live=polite]").text_content()
    assert f"{demo.python.result.gold:.2f}" in said
    assert demo.python.result.completions[0][0] in said


def test_saved_state_is_small(page):
    demo = Demo(page)
    assert len(json.dumps(demo.page.evaluate(STATE))) < 60_000


def test_text_stands_out_from_the_page(page):
    demo = Demo(page)
    for theme in ("light", "dark"):
        assert_readable(
            page,
            demo.root,
            theme,
            [
                ".rlhf-tile output",
                ".rlhf-reply-text",
                ".rlhf-reply-gold",
                ".rlhf-bars tbody th",
                ".rlhf-legend",
                ".rlhf-select",
                '.rlhf-button[aria-pressed="true"]',
            ],
        )
