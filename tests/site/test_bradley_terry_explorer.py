"""The Bradley–Terry explorer in a real browser: its numbers are Python's, whatever moves it."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_lib.mathematics import bradley_terry
from rlhf_lib.seeing.widgets import BradleyTerryExplorer

CHAPTER = "book/reward/preferences.html"
EXACT = 1e-9


class Demo:
    def __init__(self, page, base: str | None = None) -> None:
        page.set_default_timeout(60_000)
        page.goto((base or page.base) + CHAPTER, wait_until="domcontentloaded")
        self.page, self.root = page, page.locator(".rlhf-bt").first
        self.root.locator(".rlhf-win").first.wait_for()

    def control(self, name: str):
        return self.root.locator(f'[data-control="{name}"]')

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
def test_starts_with_pythons_numbers(page, source):
    demo = Demo(page, page.base if source == "http" else page.folder)
    assert demo.check().scores == [0, 0, 0]
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


RENDER = """async (bad) => {
  const states = Object.values(JSON.parse(document.querySelector(
    'script[type="application/vnd.jupyter.widget-state+json"]').textContent).state);
  const state = {...states.find((s) => s.state.wins).state, ...bad};
  const model = { get: (k) => state[k], set() {}, save_changes() {}, on() {}, off() {} };
  const url = URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" }));
  const el = document.createElement("div");
  document.querySelector("article").prepend(el);
  (await import(url)).default.render({ model, el });
  return el.querySelector(".rlhf-message").textContent;
}"""


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"wins": [[0]]}, "wins has 1 items; expected 2 to 6"),
        ({"wins": [[0, 1, 2], [1, 0], [1, 2, 0]]}, "wins is not square"),
        ({"wins": [[0, -1, 0], [1, 0, 0], [0, 0, 0]]}, "expected counts"),
        ({"wins": [[1, 1, 0], [1, 0, 0], [0, 0, 0]]}, "wins[0] counts an item against itself"),
        ({"labels": ["A"]}, "labels has 1 entries; expected 3"),
        ({"scores": [0, None, 0]}, "expected finite numbers"),
        ({"ridge": "much"}, "ridge is much"),
    ],
)
def test_a_bad_state_gets_a_message(page, bad, says):
    Demo(page)
    assert says in page.evaluate(RENDER, bad)


@pytest.mark.parametrize("width", [375, 1280])
def test_fits_the_page(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    demo = Demo(page)
    beyond = demo.root.evaluate("""(root) => [...root.querySelectorAll("*")]
        .map((e) => [e.outerHTML.slice(0, 90), e.getBoundingClientRect()])
        .filter(([, r]) => r.width > 1 && r.right > root.getBoundingClientRect().right + 1)""")
    assert beyond == []
    assert demo.root.bounding_box()["width"] <= width


def test_controls_have_names(page):
    demo = Demo(page)
    for control in demo.root.locator("input, button").all():
        assert control.get_attribute("aria-label"), control.evaluate("e => e.outerHTML")
    for control in demo.root.locator("input").all():
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
