"""The Bradley–Terry explorer in a real browser: its numbers are Python's, whatever moves it."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_lib.mathematics import bradley_terry
from rlhf_lib.seeing.widgets import BradleyTerryExplorer
from rlhf_lib.seeing.widgets.bradley_terry_explorer import START
from tests.site.alone import Shown, assert_fits, assert_told, show

CHAPTER = "book/reward/preferences.html"
EXACT = 1e-9


PRESETS = {
    "start": START["wins"],
    "unbeaten": [[0, 3, 2], [0, 0, 3], [0, 2, 0]],
    "cycle": [[0, 4, 1], [1, 0, 4], [4, 1, 0]],
}


class Demo(Shown):
    def __init__(self, page, root=None) -> None:
        super().__init__(root or show(page, BradleyTerryExplorer(presets=PRESETS)))
        self.page = page
        self.root.locator(".rlhf-win").first.wait_for()

    def value(self, name: str) -> float | None:
        text = self.root.locator(f'[data-name="{name}"]').get_attribute("data-value")
        return float(text) if text else None

    def state(self) -> dict:
        n = self.root.locator(".rlhf-item").count()
        wins = [
            [
                0 if i == j else int(self.control(f"win-{i}-{j}").locator("b").text_content())
                for j in range(n)
            ]
            for i in range(n)
        ]
        return {
            "wins": wins,
            "scores": [self.value(f"score-{i}") for i in range(n)],
            "ridge": self.value("ridge"),
        }

    def check(self) -> BradleyTerryExplorer:
        """Compare everything on display with Python, and return its half."""
        demo = BradleyTerryExplorer(**self.state())
        numbers, n = demo.result, len(demo.labels)
        assert self.value("loss") == pytest.approx(numbers.loss, abs=EXACT)
        assert self.value("fit_loss") == (
            None if numbers.fit is None else pytest.approx(numbers.fit_loss, abs=EXACT)
        )
        for i in range(n):
            assert self.value(f"surplus-{i}") == pytest.approx(numbers.surplus[i], abs=EXACT)
            assert self.value(f"fit-{i}") == (
                None if numbers.fit is None else pytest.approx(numbers.fit[i], abs=1e-7)
            )
            for j in set(range(n)) - {i}:
                p = float(self.control(f"win-{i}-{j}").get_attribute("data-value"))
                assert p == pytest.approx(numbers.probabilities[i, j], abs=EXACT)
        says = self.root.locator('[data-name="status"]').text_content()
        assert ("the fit is finite" in says) == (len(numbers.groups) == 1)
        assert "NaN" not in self.root.inner_html()
        return demo


@pytest.mark.parametrize("source", ["http", "file"])
def test_the_chapter_starts_with_pythons_numbers(page, source):
    base = page.base if source == "http" else page.folder
    page.goto(base + CHAPTER, wait_until="domcontentloaded")
    assert Demo(page, page.locator(".rlhf-bt")).check().scores == [0, 0, 0]
    assert (page.errors, page.outside) == ([], [])


def test_keyboard_moves_a_score(page):
    demo = Demo(page)
    demo.control("score-0").focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert demo.check().scores == [0.5, 0, 0]
    page.keyboard.press("End")
    assert demo.check().scores[0] == 6


def test_the_fit_balances_wins(page):
    demo = Demo(page)
    demo.control("fit").click()
    shown = demo.check()
    assert shown.result.surplus == pytest.approx([0, 0, 0], abs=1e-7)
    assert shown.result.loss == pytest.approx(shown.result.fit_loss)
    demo.control("zero").click()
    assert demo.check().scores == [0, 0, 0]


def test_a_press_adds_a_comparison_and_undo_takes_it_back(page):
    demo = Demo(page)
    before = demo.check().wins
    demo.control("win-2-0").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    after = demo.check().wins
    assert after[2][0] == before[2][0] + 2
    demo.control("undo").click()
    demo.control("undo").click()
    assert demo.check().wins == before and demo.control("undo").is_disabled()


def test_separable_data_have_no_fit_until_the_ridge(page):
    demo = Demo(page)
    demo.control("preset-unbeaten").click()
    shown = demo.check()
    assert shown.result.fit is None and demo.control("fit").is_disabled()
    demo.control("steps-100").click()
    steps = bradley_terry.fit_by_gradient(np.array(shown.wins), 100, rate=1.0)
    assert demo.check().scores == pytest.approx(steps.tolist(), abs=1e-9)
    demo.control("steps-100").click()
    a, b, _ = demo.check().scores
    assert a - b > steps[0] - steps[1] + 0.5  # and on it goes
    demo.control("ridge").focus()
    page.keyboard.press("ArrowRight")
    assert demo.check().ridge == 0.05
    demo.control("fit").click()
    assert demo.check().result.fit is not None


def test_a_cycle_leaves_no_trace(page):
    demo = Demo(page)
    demo.control("preset-cycle").click()
    assert demo.check().result.fit == pytest.approx([0, 0, 0], abs=1e-9)


def test_no_comparisons_at_all(page):
    demo = Demo(page)
    demo.control("clear").click()
    assert demo.check().result.loss == 0
    assert page.errors == []


BAD = [
    ({"wins": [[0]]}, "wins has 1 items; expected 2 to 6"),
    ({"wins": [[0, 1, 2], [1, 0], [1, 2, 0]]}, "wins is not square"),
    ({"wins": [[0, -1, 0], [1, 0, 0], [0, 0, 0]]}, "expected counts"),
    ({"wins": [[1, 1, 0], [1, 0, 0], [0, 0, 0]]}, "wins[0] counts an item against itself"),
    ({"labels": ["A"]}, "labels has 1 entries; expected 3"),
    ({"scores": [0, None, 0]}, "expected finite numbers"),
    ({"ridge": "much"}, "ridge is much"),
]


def test_a_bad_state_gets_a_message_and_never_a_blank(page):
    Demo(page)
    assert_told(page, BAD, drawn=".rlhf-win")


def test_fits_the_page(page):
    root = show(page, BradleyTerryExplorer(presets=PRESETS), width=375)
    for width in (375, 1280):
        assert_fits(page, root, width)


def test_controls_have_names(page):
    demo = Demo(page)
    for control in demo.root.locator("input, button").all():
        assert control.get_attribute("aria-label"), control.evaluate("e => e.outerHTML")
    for control in demo.root.locator("input").all():
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
