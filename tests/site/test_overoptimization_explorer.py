"""The over-optimisation explorer in a real browser: it fits what Python fits, and shows it."""

from __future__ import annotations

import math

import pytest

from rlhf_lib.seeing.widgets import OveroptimizationExplorer
from tests.site import alone
from tests.site.alone import assert_fits, assert_readable, assert_told, show
from tests.unit.test_overoptimization_explorer import run, runs

CHAPTER = "book/ppo/over-optimization.html"
EXACT = 1e-9  # the page and Python compute in the same precision
STATE = """() => Object.values(JSON.parse(document.querySelector(
  'script[type="application/vnd.jupyter.widget-state+json"]').textContent).state)
  .map((record) => record.state).find((state) => state._esm && state.runs)"""


class Demo(alone.Shown):
    """The explorer on a page: what it shows, and how a reader moves it."""

    def __init__(self, root, recorded: list[dict]) -> None:
        super().__init__(root)
        self.recorded = recorded
        root.locator(".rlhf-form").first.wait_for(state="attached")

    def settings(self) -> dict:
        pressed = {
            name: self.root.locator(f'[data-{name}][aria-pressed="true"]')
            for name in ("pairs", "seed")
        }
        return {
            "method": self.control("method").input_value(),
            **{name: int(button.get_attribute(f"data-{name}")) for name, button in pressed.items()},
            "point": int(self.number('[data-setting="point"]')),
        }

    def check(self) -> dict:
        """Compare everything on display with Python, and return the settings."""
        settings = self.settings()
        demo = OveroptimizationExplorer(self.recorded, **settings)
        expected = demo.result
        for name in ("d", "gold", "proxy"):
            assert self.number(f'[data-name="{name}"]') == pytest.approx(
                getattr(expected, name), abs=EXACT
            )
        assert float(
            self.root.locator('[data-margin="gold"]').get_attribute("data-value")
        ) == pytest.approx(expected.gold_margin, abs=EXACT)
        for name in ("alpha", "beta", "fitted"):
            mean, half = getattr(expected, name)
            assert self.number(f'[data-name="{name}"]') == pytest.approx(mean, rel=1e-6, abs=1e-8)
            margin = self.root.locator(f'[data-margin="{name}"]').get_attribute("data-value")
            assert (
                (margin == "")
                if half is None
                else (float(margin) == pytest.approx(half, rel=1e-6, abs=1e-8))
            )
        shown = self.root.locator('[data-name="peak"]').text_content()
        assert (
            shown == "none"
            if expected.peak == math.inf
            else (float(shown) == pytest.approx(expected.peak, abs=0.0051))
        )
        texts = self.root.locator(".rlhf-reply-text").all_text_contents()
        assert texts == [text for _, text, _, _ in expected.completions]
        dots = {
            dot.get_attribute("data-key"): float(dot.get_attribute("data-value"))
            for dot in self.root.locator("circle.rlhf-dot").all()
        }
        assert dots == pytest.approx({"gold": expected.gold, "proxy": expected.proxy}, abs=EXACT)
        return settings


def explorer(page, recorded=None, width: int = 1280, **settings) -> Demo:
    recorded = recorded or runs()
    return Demo(show(page, OveroptimizationExplorer(recorded, **settings), width=width), recorded)


@pytest.mark.parametrize("source", ["http", "file"])
def test_the_chapter_starts_with_pythons_numbers(page, source):
    page.goto(
        (page.base if source == "http" else page.folder) + CHAPTER, wait_until="domcontentloaded"
    )
    demo = Demo(page.locator(".rlhf-overopt"), page.evaluate(STATE)["runs"])
    assert demo.check() == {"method": "PPO, no KL penalty", "pairs": 1_000, "seed": 1, "point": 2}
    for method in {one["method"]: one for one in demo.recorded}:
        demo.control("method").select_option(method)
        assert demo.check()["method"] == method
    assert (page.errors, page.outside) == ([], [])


def test_keyboard_moves_along_the_run(page):
    demo = explorer(page)
    assert demo.check()["point"] == 0
    demo.control("point").focus()
    page.keyboard.press("ArrowRight")
    assert demo.check()["point"] == 1
    page.keyboard.press("End")
    assert demo.check()["point"] == 4
    assert demo.control("point").get_attribute("aria-valuetext") == "step 8"
    page.keyboard.press("Home")
    assert demo.check()["point"] == 0


def test_buttons_choose_the_run_and_the_pairs(page):
    demo = explorer(page, point=3)
    for seed in (2, 3):
        demo.root.locator(f'[data-seed="{seed}"]').click()
        assert demo.check()["seed"] == seed
    demo.root.locator('[data-pairs="250"]').click()
    assert demo.check() == {"method": "PPO", "pairs": 250, "seed": 2, "point": 3}
    demo.control("method").select_option("best-of-n")
    assert demo.check() == {"method": "best-of-n", "pairs": 250, "seed": 5, "point": 3}
    assert demo.root.locator('[data-pairs="1000"]').is_disabled()


def test_the_band_is_there_for_several_runs_only(page):
    demo = explorer(page)
    assert demo.root.locator(".rlhf-band").count() == 1
    assert demo.root.locator(".rlhf-run-gold").count() == 3
    demo.root.locator('[data-pairs="250"]').click()
    assert demo.root.locator(".rlhf-band").count() == 0


def test_a_run_without_replies_says_where_some_are(page):
    silent = run(seed=2, replies=[[] for _ in range(5)])
    demo = explorer(page, [run(), silent])
    assert not demo.root.locator(".rlhf-none").is_visible()
    demo.root.locator('[data-seed="2"]').click()
    assert "replies of run 1 can be read" in demo.root.locator(".rlhf-none").text_content()
    assert demo.root.locator(".rlhf-none").is_visible()


def test_a_form_that_never_falls_has_no_peak(page):
    demo = explorer(page, [run(beta=-0.5)])
    demo.check()
    assert demo.root.locator('[data-name="peak"]').text_content() == "none"


BAD = [
    ({"runs": []}, "runs is empty"),
    ({"runs": [{}]}, "runs[0]['form'] is undefined"),
    ({"runs": [run(gold=[0.0, 1.0])]}, "runs[0]['gold'] has 2 entries; expected 5"),
    ({"runs": [run(gold=[0.0, None, 1.0, 1.0, 1.0])]}, "runs[0]['gold'] has the entry null"),
    ({"runs": [run(d=[0.0, 1.0, 1.0, 2.0, 2.0])]}, "fewer than 3 distances"),
    ({"method": "GRPO"}, "method is GRPO; expected one of PPO, best-of-n"),
    ({"pairs": "many"}, "pairs is many; expected a whole number"),
    ({"point": 9}, "point is 9; expected 0 to 4"),
]


def test_a_bad_state_gets_a_message_and_never_a_blank(page):
    explorer(page)
    assert_told(page, BAD, drawn="path")


def test_fits_and_works(page):
    demo = explorer(page, width=390)
    for width, seed in ((390, 3), (1280, 2)):
        assert_fits(page, demo.root, width)
        demo.root.locator(f'[data-seed="{seed}"]').click()
        assert demo.check()["seed"] == seed


def test_controls_have_names_and_changes_are_announced(page):
    demo = explorer(page)
    for control in demo.root.locator("input, button, select").all():
        assert control.get_attribute("aria-label"), control.evaluate("e => e.outerHTML")
    for control in demo.root.locator("input, select").all():  # else JupyterLab takes the keys
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
    assert "square root of the KL" in demo.root.locator(".rlhf-plot").get_attribute("aria-label")
    demo.root.locator('[data-seed="2"]').click()
    page.wait_for_function(
        "document.querySelector('.rlhf-overopt [aria-live=polite]').textContent.includes('run 2')"
    )


def test_text_stands_out_from_the_page(page):
    demo = explorer(page)
    for theme in ("light", "dark"):
        assert_readable(
            page,
            demo.root,
            theme,
            [
                ".rlhf-tile output",
                ".rlhf-tile small",
                ".rlhf-legend",
                ".rlhf-reply-text",
                ".rlhf-reply-head",
            ],
        )
