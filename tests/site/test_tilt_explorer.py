"""The tilt explorer in a real browser: its numbers are Python's, whatever moves it.

The landing page has it in its compact form, the chapter in full, once as it is and once with a
flawed proxy.
"""

from __future__ import annotations

import re

import pytest

from rlhf_lib.seeing.widgets import TiltExplorer
from tests.site.alone import Shown, assert_fits, assert_readable, assert_told, case, show
from tests.site.render import render

CHAPTER, LANDING = "book/alignment/kl-tilt.html", "book/intro.html"
EXACT = 1e-9  # the page and Python compute in the same precision
TILES = ("expected_reward", "expected_true_reward", "overstatement", "kl", "objective")


class Demo(Shown):
    """One explorer on a page: what it shows, and how a reader moves it."""

    def __init__(self, page, root) -> None:
        self.page = page
        super().__init__(root)
        self.root.locator(".rlhf-dot").first.wait_for()
        for fold in self.root.locator("details:not([open]) > summary").all():
            fold.click()  # the compact form keeps two sliders there

    def settings(self) -> dict[str, float]:
        return {
            "beta": self.number('[data-control="beta-field"]'),
            "reward_shift": self.number('[data-setting="reward_shift"]'),
            "proxy_gap": self.number('[data-setting="proxy_gap"]'),
        }

    def message(self) -> str:
        place = self.root.locator(".rlhf-message")
        return place.text_content() if place.is_visible() else ""

    def check(self) -> dict[str, float]:
        """Compare everything on display with Python, and return the settings."""
        settings = self.settings()
        expected = TiltExplorer(**settings).result
        for name in TILES:
            tile = self.root.locator(f'[data-name="{name}"]')
            assert self.number(f'[data-name="{name}"]') == pytest.approx(
                getattr(expected, name), abs=EXACT
            ), name
            shown = tile.text_content().replace("−", "-")
            assert float(shown) == pytest.approx(getattr(expected, name), abs=5.01e-4), name
        policy = self.root.locator("td.rlhf-policy").all_text_contents()
        assert policy == [f"{p:.5f}" for p in expected.policy]
        values = self.numbers("td.rlhf-policy")
        assert values == pytest.approx(list(expected.policy), abs=EXACT)
        bars = self.look(".rlhf-bar:not(.rlhf-bar-ref)", "style")
        widths = [float(style.split(":")[1].rstrip("%;")) for (style,) in bars]
        assert widths == pytest.approx([100 * p for p in expected.policy], abs=0.01)
        dot = self.root.locator(".rlhf-dot:not(.rlhf-dot-true)")
        assert float(dot.get_attribute("data-kl")) == pytest.approx(expected.kl, abs=EXACT)
        self.check_tangent(expected)
        for name in ("expected_true_reward", "overstatement"):
            tile = self.root.locator(f'[data-name="{name}"]')
            assert tile.is_visible() == (settings["proxy_gap"] > 0), name
        return settings

    def check_tangent(self, expected) -> None:
        """The line is drawn through the point and through beta log Z on the left axis."""
        (x1, y1, x2, y2), (cx, cy), (y,) = (
            map(float, *self.look(*part))
            for part in (
                (".rlhf-tangent", "x1", "y1", "x2", "y2"),
                (".rlhf-dot:not(.rlhf-dot-true)", "cx", "cy"),
                (".rlhf-intercept", "y"),
            )
        )
        assert y + 3.5 == pytest.approx(y1)
        if x2 - x1 > 1 and cx - x1 > 1:
            assert (cy - y1) / (cx - x1) == pytest.approx((y2 - y1) / (x2 - x1), rel=1e-6)


def explorer(page, width: int = 1280, **settings) -> Demo:
    """The explorer in its compact form, unless told otherwise, alone on a page."""
    demo = TiltExplorer(**{"compact": True, **settings})
    return Demo(page, show(page, demo, width=width))


def on_page(page, name: str, base: str | None = None) -> list[Demo]:
    """Open a page of the book and return its explorers."""
    page.goto((base or page.base) + name, wait_until="domcontentloaded")
    page.wait_for_function("document.documentElement.dataset.liveWidgets === 'done'")
    return [Demo(page, root) for root in page.locator(".rlhf-tilt").all()]


AS_IT_IS = {"beta": 1.0, "reward_shift": 0.0, "proxy_gap": 0.0}
FLAWED = {"beta": 20.0, "reward_shift": 0.0, "proxy_gap": 1.0}


@pytest.mark.parametrize("source", ["http", "file"])
@pytest.mark.parametrize("name, starts", [(LANDING, [AS_IT_IS]), (CHAPTER, [AS_IT_IS, FLAWED])])
def test_starts_with_pythons_numbers(page, name, starts, source):
    demos = on_page(page, name, page.base if source == "http" else page.folder)
    assert [demo.check() for demo in demos] == starts
    assert (page.errors, page.outside) == ([], [])


def test_keyboard_moves_beta(page):
    demo = explorer(page)
    demo.control("beta").focus()
    for key in ["ArrowLeft"] * 10:
        page.keyboard.press(key)
    left = demo.check()["beta"]
    assert left == pytest.approx(10 ** (-10 / 40), rel=5e-3)
    page.keyboard.press("Home")
    assert demo.check()["beta"] == 0.05
    page.keyboard.press("End")
    assert demo.check()["beta"] == 20
    assert "20" in demo.control("beta").get_attribute("aria-valuetext")


def test_mouse_drags_beta_and_the_numbers_follow(page):
    demo = explorer(page)
    before, kl = demo.check()["beta"], demo.number('[data-name="kl"]')
    demo.control("beta").scroll_into_view_if_needed()
    box = demo.control("beta").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.15, y, steps=8)
    page.mouse.up()
    assert demo.check()["beta"] < before / 3
    assert demo.number('[data-name="kl"]') > kl


def test_buttons_set_beta_exactly(page):
    """Digit for digit at the three prices at which the chapter reaches the optimum in four ways."""
    demo = explorer(page)
    for beta in ("0.1", "1", "10"):
        demo.root.locator(f'[data-beta="{beta}"]').click()
        assert demo.check()["beta"] == float(beta)
        assert demo.root.locator('[aria-pressed="true"]').get_attribute("data-beta") == beta


def test_a_typed_beta_is_used_exactly(page):
    demo = explorer(page)
    demo.control("beta-field").fill("0.7331")
    demo.control("beta-field").press("Enter")
    assert demo.check()["beta"] == 0.7331
    assert demo.message() == ""


def test_shift_changes_rewards_and_nothing_else(page):
    demo = explorer(page)
    policy = demo.root.locator("td.rlhf-policy").all_text_contents()
    before = {name: demo.number(f'[data-name="{name}"]') for name in TILES}
    demo.control("reward_shift").focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    assert demo.check()["reward_shift"] == 3.0
    after = {name: demo.number(f'[data-name="{name}"]') for name in TILES}
    assert after["kl"] == pytest.approx(before["kl"], abs=EXACT)
    assert after["expected_reward"] == pytest.approx(before["expected_reward"] + 3, abs=EXACT)
    assert after["objective"] == pytest.approx(before["objective"] + 3, abs=EXACT)
    assert demo.root.locator("td.rlhf-policy").all_text_contents() == policy


def test_with_a_gap_the_proxy_rises_and_the_truth_falls(page):
    demo = explorer(page, compact=False, beta=20.0, proxy_gap=1.0)
    demo.root.locator('[data-beta="10"]').click()
    demo.check()
    proxy, true = (demo.number(f'[data-name="{name}"]') for name in TILES[:2])
    demo.root.locator('[data-beta="0.1"]').click()
    demo.check()
    assert demo.number('[data-name="expected_reward"]') > proxy
    assert demo.number('[data-name="expected_true_reward"]') < true - 5
    assert demo.root.locator(".rlhf-curve-true").count() == 1


def test_two_explorers_on_a_page_are_apart(page):
    first, second = on_page(page, CHAPTER)
    first.root.locator('[data-beta="0.1"]').click()
    assert second.check()["beta"] == 20.0


TYPED = [
    ("-1", "beta is -1; expected a positive number"),
    ("0", "beta is 0; expected a positive number"),
    ("abc", "beta is abc; expected a positive number"),
    ("", "beta is empty; expected a positive number"),
]


def test_a_bad_beta_gets_a_message_and_the_figure_stays(page):
    demo = explorer(page)
    for typed, says in TYPED:
        with case(typed):
            demo.root.locator('[data-beta="1"]').click()
            demo.control("beta-field").fill(typed)
            demo.control("beta-field").press("Enter")
            assert says in demo.message()
            assert demo.root.locator(".rlhf-message").get_attribute("role") == "alert"
            assert demo.number('[data-name="expected_reward"]') == pytest.approx(7.6104, abs=1e-4)
            demo.root.locator('[data-beta="10"]').click()
            assert demo.message() == ""
            demo.check()


def test_a_beta_beyond_the_slider_is_clamped_and_said(page):
    demo = explorer(page)
    demo.control("beta-field").fill("500")
    demo.control("beta-field").press("Enter")
    assert demo.check()["beta"] == 20 == TiltExplorer(beta=500).beta
    assert "this figure goes from 0.05 to 20" in demo.message()


BAD = [
    ({"beta": -1}, "beta is -1; expected a positive number"),
    ({"beta": None}, "beta is null; expected a positive number"),
    ({"reference": [0.5] * 8}, "reference sums to 4; expected probabilities that sum to 1"),
    ({"reference": [1.5, -0.5] + [0] * 6}, "reference[1] is -0.5; expected probabilities"),
    ({"rewards": [1, 2]}, "rewards has 2 entries; expected 8, as reference has"),
    ({"rewards": [None] * 8}, "rewards[0] is null; expected finite numbers"),
    ({"labels": []}, "labels is empty"),
    ({"beta_range": [3, 1]}, "beta_range is 3,1; expected two positive numbers"),
    ({"reference": [0] * 8}, "reference sums to 0; expected probabilities that sum to 1"),
    ({"rewards": [1e308] * 8}, "a reward or bias of size 1e+308 over beta=0.05 overflows"),
    ({"proxy_gap": "much"}, "proxy_gap is much; expected a number"),
]


def test_a_bad_state_gets_a_message_and_never_a_blank(page):
    explorer(page)
    assert_told(page, BAD, drawn=".rlhf-dot")


def test_zeros_in_the_reference_and_ties_are_drawn(page):
    explorer(page)
    state = {"reference": [0.5, 0.5, 0, 0, 0, 0, 0, 0], "rewards": [1, 1, 9, 9, 0, 0, 0, 0]}
    shown = render(page, "rewards", ".rlhf-dot", state, {})
    assert (shown["text"], shown["figure"], shown["drawn"]) == ("", True, 1)
    assert not re.search("NaN|Infinity", shown["inside"])


@pytest.mark.parametrize("compact", [True, False])
def test_fits_and_works_on_a_phone(page, compact):
    demo = explorer(page, width=375, compact=compact)
    assert_fits(page, demo.root, 375)
    demo.root.locator('[data-beta="0.1"]').click()
    assert demo.check()["beta"] == 0.1


@pytest.mark.parametrize("width, height", [(1280, 900), (375, 800)])
def test_what_moves_is_seen_beside_what_moves_it(page, width, height):
    demo = explorer(page, width=width)
    slider = demo.root.locator(".rlhf-slider").first.bounding_box()
    for part in (".rlhf-tiles", ".rlhf-bars"):
        box = demo.root.locator(part).bounding_box()
        assert box["y"] + box["height"] - slider["y"] <= height, part


def test_controls_have_names_and_changes_are_announced(page):
    demo = explorer(page)
    for control in demo.root.locator("input, button").all():
        assert control.get_attribute("aria-label"), control.evaluate("e => e.outerHTML")
    for control in demo.root.locator("input").all():  # else JupyterLab takes the arrow keys
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
    demo.root.locator('[data-beta="10"]').click()
    page.wait_for_function(
        "document.querySelector('.rlhf-tilt [aria-live=polite]').textContent.includes('beta 10')"
    )
    said = demo.root.locator("[aria-live=polite]").text_content()
    assert "4.058" in said and "0.110" in said


def test_text_stands_out_from_the_page(page):
    demo = explorer(page, compact=False, beta=20.0, proxy_gap=1.0)
    for theme in ("light", "dark"):
        assert_readable(
            page,
            demo.root,
            theme,
            [".rlhf-tile output", "td.rlhf-true", ".rlhf-bars tbody th", ".rlhf-legend"],
        )
