"""The estimator explorer in a real browser: it draws Python's samples and shows Python's numbers.

The chapter has it twice: on two bell curves, and on two distributions over a first word.
"""

from __future__ import annotations

import math
import re

import pytest

from rlhf_lib.seeing.widgets import EstimatorExplorer
from rlhf_lib.seeing.widgets.estimator_explorer import RUNS
from tests.site.alone import Shown, assert_fits, assert_told, set_theme, show
from tests.site.render import render

CHAPTER = "book/ppo/kl-estimators.html"
EXACT = 1e-9  # the page and Python compute in the same precision
STATE = """() => Object.values(JSON.parse(document.querySelector(
  'script[type="application/vnd.jupyter.widget-state+json"]').textContent).state)
  .map((record) => record.state).filter((state) => state._esm && state.policy)"""


class Demo(Shown):
    """One explorer on a page: what it shows, and how a reader moves it."""

    def __init__(self, page, root, saved: dict | None = None) -> None:
        self.page, self.seed, self.saved = page, 0, saved or {}
        super().__init__(root)
        self.root.locator(".rlhf-hist").first.wait_for()

    def settings(self) -> dict:
        return {
            "distance": self.number('[data-setting="distance"]'),
            "samples": int(self.number('[data-setting="samples"]')),
            "seed": self.seed,
        }

    def check(self) -> dict:
        """Compare everything on display with Python, and return the settings."""
        settings = self.settings()
        expected = EstimatorExplorer(**self.saved, **settings).result
        numbers, (exact,) = self.values(), self.numbers(".rlhf-exact", "data-kl")
        assert float(numbers["kl"]) == pytest.approx(expected.kl, abs=EXACT)
        assert exact == pytest.approx(expected.kl, abs=EXACT)
        for name in ("k1", "k2", "k3"):
            estimator = getattr(expected, name)
            for column, value, digits in (
                ("expected", estimator.expected, 4),
                ("std", estimator.std / expected.kl, 2),
                ("mean", estimator.mean, 4),
                ("spread", estimator.spread, 4),
                ("below_zero", estimator.below_zero, 3),
                ("below_kl", estimator.below_kl, 3),
            ):
                cell = f"{name}-{column}"
                assert float(numbers[cell]) == pytest.approx(value, rel=1e-7, abs=EXACT), cell
                text = self.root.locator(f'[data-name="{cell}"]').text_content()
                shown = float(text.replace("−", "-"))
                assert shown == pytest.approx(value, abs=0.51 * 10**-digits), cell
        self.check_bars(expected)
        return settings

    def check_bars(self, expected) -> None:
        """A bar for each bin that is not empty, as high as its share of the tallest."""
        bars = self.root.locator("rect.rlhf-hist").evaluate_all(
            "(bars) => bars.map((b) => Number(b.getAttribute('height')))"
        )
        counts = [
            [int(c) for c in getattr(expected, name).counts if c] for name in ("k1", "k2", "k3")
        ]
        wanted = [60 * c / max(row) for row in counts for c in row]
        assert bars == pytest.approx(wanted, abs=1e-6)
        said = self.root.locator(".rlhf-beyond").all_text_contents()
        beyond = [getattr(expected, name).beyond for name in ("k1", "k2", "k3")]
        assert said == [f"{n} of {RUNS} runs beyond →" for n in beyond if n]


def explorer(page, width: int = 1280) -> Demo:
    """The explorer of two bell curves, alone on a page."""
    return Demo(page, show(page, EstimatorExplorer(), width=width))


def in_chapter(page, base: str | None = None) -> list[Demo]:
    """Open the chapter and return its two explorers."""
    page.goto((base or page.base) + CHAPTER, wait_until="domcontentloaded")
    page.wait_for_function("document.documentElement.dataset.liveWidgets === 'done'")
    # the two models in the saved state, told apart by their size: 191 points, or a vocabulary
    states = sorted(page.evaluate(STATE), key=lambda state: len(state["policy"]))
    names = ("reference", "policy", "distance_range", "presets")
    return [
        Demo(page, root, {name: saved[name] for name in names})
        for root, saved in zip(page.locator(".rlhf-estimators").all(), states, strict=True)
    ]


@pytest.mark.parametrize("source", ["http", "file"])
def test_starts_with_pythons_numbers(page, source):
    for demo in in_chapter(page, page.base if source == "http" else page.folder):
        assert demo.check()["distance"] == 1
    assert (page.errors, page.outside) == ([], [])


def test_keyboard_moves_both_sliders(page):
    demo = explorer(page)
    demo.control("distance").focus()
    for key in ["ArrowRight"] * 6:
        page.keyboard.press(key)
    assert demo.check()["distance"] == 1.3
    page.keyboard.press("Home")
    assert demo.check()["distance"] == 0.05
    page.keyboard.press("End")
    assert demo.check()["distance"] == 3
    demo.control("samples").focus()
    page.keyboard.press("ArrowLeft")
    assert demo.check()["samples"] == 8
    page.keyboard.press("End")
    assert demo.check()["samples"] == 256
    assert "256" in demo.control("samples").get_attribute("aria-valuetext")


def test_buttons_set_the_rows_of_the_table(page):
    demo = explorer(page)
    for distance in ("0.1", "1", "2"):
        demo.root.locator(f'[data-distance="{distance}"]').click()
        assert demo.check()["distance"] == float(distance)
        assert demo.number('[data-name="kl"]') == pytest.approx(float(distance) ** 2 / 2)
        pressed = demo.root.locator('[aria-pressed="true"]')
        assert pressed.get_attribute("data-distance") == distance


def test_draw_again_draws_the_next_samples(page):
    demo = explorer(page)
    before = demo.number('[data-name="k1-mean"]')
    demo.control("again").click()
    demo.seed = 1
    demo.check()
    assert demo.number('[data-name="k1-mean"]') != before
    assert demo.number('[data-name="k1-expected"]') == pytest.approx(0.5)


def test_two_explorers_on_a_page_are_apart(page):
    first, second = in_chapter(page)
    first.root.locator('[data-distance="2"]').click()
    first.check()
    assert second.check()["distance"] == 1


def test_k2_settles_beside_the_truth_and_most_runs_of_k3_are_below_it(page):
    """What the text says to look for."""
    demo = explorer(page)
    demo.control("samples").focus()
    page.keyboard.press("End")
    demo.check()
    kl, mean = demo.number('[data-name="kl"]'), demo.number('[data-name="k2-mean"]')
    assert mean - kl > 10 * demo.number('[data-name="k2-spread"]') / math.sqrt(RUNS)
    demo.root.locator('[data-distance="2"]').click()
    for _ in range(4):
        demo.control("samples").press("ArrowLeft")
    assert demo.check()["samples"] == 16
    assert demo.number('[data-name="k3-below_kl"]') > 0.6 > demo.number('[data-name="k1-below_kl"]')


BAD = [
    ({"policy": [0.5, 0.5]}, "policy has 2 entries; expected"),
    ({"policy": []}, "policy is empty"),
    ({"reference": [0.5, 0.6], "policy": [0.5, 0.5]}, "reference sums to 1.1; expected"),
    (
        {"reference": [0.5, 0.5], "policy": [1, 0]},
        "policy[1] is 0; expected positive probabilities",
    ),
    ({"reference": [0.5, 0.5], "policy": [None, 1]}, "policy[0] is null; expected finite numbers"),
    ({"distance": "far"}, "distance is far; expected a number"),
    ({"distance_range": [3, 1]}, "distance_range is 3,1; expected two positive numbers"),
    ({"samples": 3}, "samples is 3; expected a power of two"),
    ({"seed": -1}, "seed is -1; expected 0 to"),
    ({"reference": [0.5, 0.5], "policy": [1, 1e-300], "distance": 1.2}, "spread of k3 is beyond"),
]


def test_a_bad_state_gets_a_message_and_never_a_blank(page):
    explorer(page)
    assert_told(page, BAD, drawn=".rlhf-hist")


def test_equal_policies_are_drawn(page):
    explorer(page)
    state = {"reference": [0.5, 0.5], "policy": [0.5, 0.5]}
    shown = render(page, "policy", ".rlhf-hist", state, {})
    assert shown["text"] == "" and shown["figure"] and shown["drawn"]
    assert not re.search("NaN|Infinity", shown["inside"])


def test_fits_and_works_on_a_phone(page):
    demo = explorer(page, width=375)
    assert_fits(page, demo.root, 375)
    demo.root.locator('[data-distance="2"]').click()
    assert demo.check()["distance"] == 2


def test_controls_have_names_and_changes_are_announced(page):
    demo = explorer(page)
    for control in demo.root.locator("input, button").all():
        assert control.get_attribute("aria-label"), control.evaluate("e => e.outerHTML")
    for control in demo.root.locator("input").all():  # else JupyterLab takes the arrow keys
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
    assert "exact KL" in demo.root.locator(".rlhf-plot").get_attribute("aria-label")
    demo.root.locator('[data-distance="2"]').click()
    page.wait_for_function(
        "document.querySelector('.rlhf-estimators [aria-live=polite]')"
        ".textContent.includes('distance 2')"
    )
    assert "2.0000" in demo.root.locator("[aria-live=polite]").text_content()


CONTRAST = """(root) => {
  const rgb = (css) => css.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((s, c, i) => s + c * [.2126, .7152, .0722][i], 0);
  let paper = root;
  while (rgb(getComputedStyle(paper).backgroundColor)[3] === 0) paper = paper.parentElement;
  const below = light(rgb(getComputedStyle(paper).backgroundColor));
  const parts = [[".rlhf-tile output", "color"], [".rlhf-bars tbody td", "color"],
    [".rlhf-legend", "color"], [".rlhf-hist-name", "fill"], [".rlhf-hist", "fill"],
    [".rlhf-exact", "stroke"]];
  return parts.map(([selector, property]) => {
    const ink = light(rgb(getComputedStyle(root.querySelector(selector))[property]));
    return (Math.max(ink, below) + .05) / (Math.min(ink, below) + .05);
  });
}"""


def test_text_and_bars_stand_out_from_the_page(page):
    demo = explorer(page)
    for theme in ("light", "dark"):
        set_theme(page, theme)
        assert min(demo.root.evaluate(CONTRAST)) >= 4.5, theme
