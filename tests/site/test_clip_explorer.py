"""The clip explorer in a real browser: its numbers are Python's, in every case and at the edges."""

from __future__ import annotations

import itertools

import pytest

from rlhf_lib.seeing.widgets import ClipExplorer
from tests.site import alone
from tests.site.alone import assert_fits_and_reads, assert_told, case, show

EXACT = 1e-8
NUMBERS = ("plain", "clipped", "objective", "gradient")
STEPS = {"ratio": 0.01, "epsilon": 0.01, "advantage": 0.1, "dual_clip": 0.1}


class Shown(alone.Shown):
    def set(self, **settings) -> None:
        self.moves({name: round(value / STEPS[name]) for name, value in settings.items()})

    def settings(self) -> dict:
        values = self.values("data-setting")
        found = {name: float(values[name]) for name in STEPS}
        return found if self.control("dual").is_checked() else found | {"dual_clip": None}

    def check(self) -> ClipExplorer:
        """Compare everything on display with Python, and return its half."""
        demo = ClipExplorer(**self.settings())
        numbers, values = demo.result, self.values()
        for name in NUMBERS:
            shown = float(values[name])
            assert shown == pytest.approx(getattr(numbers, name), abs=EXACT), (name, demo)
        says = self.look('[data-name="says"]', "data-zone", "data-active")
        assert says == [[numbers.zone, str(numbers.active).lower()]], demo
        return demo


@pytest.mark.parametrize("source", ["http", "file"])
def test_starts_with_pythons_numbers(page, source):
    shown = Shown(show(page, ClipExplorer(1.3, 0.1, -3.0), source))
    demo = shown.check()
    assert (demo.ratio, demo.epsilon, demo.advantage, demo.dual) == (1.3, 0.1, -3.0, False)
    assert (page.errors, page.outside) == ([], [])


def test_every_case_and_every_edge(page):
    shown = Shown(show(page, ClipExplorer()))
    seen = set()
    for epsilon in (0.2, 0.13):
        shown.set(epsilon=epsilon)
        for dual in (False, True):
            shown.control("dual").set_checked(dual)
            edges = (
                0.05,
                0.5,
                1 - epsilon,
                1 - epsilon - 0.01,
                1.0,
                1 + epsilon,
                1 + epsilon + 0.01,
                2.5,
                3.0,
                3.01,
                4.0,
            )
            for ratio, advantage in itertools.product(edges, (-2.3, 0.0, 1.7)):
                shown.set(ratio=ratio, advantage=advantage)
                numbers = shown.check().result
                seen.add((numbers.zone, numbers.active, advantage))
    assert len(seen) == 10  # below, inside, above for each advantage; beyond for the negative one
    assert ("beyond", False, -2.3) in seen and page.errors == []


CASES = [
    ("good, fallen", "below", True),
    ("good, risen", "above", False),
    ("bad, fallen", "below", False),
    ("bad, risen", "above", True),
]


def test_the_four_cases_have_buttons_and_words(page):
    shown = Shown(show(page, ClipExplorer()))
    for name, zone, active in CASES:
        with case(name):
            shown.control(f"case-{name}").click()
            numbers = shown.check().result
            assert (numbers.zone, numbers.active) == (zone, active)
            says = shown.root.locator('[data-name="says"]').text_content()
            assert ("the gradient is active" in says) == active
            assert ("No gradient" in says) == (not active)
            assert ("good token" in says) == name.startswith("good")
            assert ("less likely" in says) == name.endswith("fallen")
            cell = shown.root.locator('[data-case][aria-current="true"]')
            assert cell.count() == 1 and cell.get_attribute("data-active") == str(active).lower()
            assert cell.get_attribute("data-case") == ("+" if "good" in name else "-") + zone


def test_the_point_lies_on_the_plot_of_its_sign(page):
    shown = Shown(show(page, ClipExplorer(1.5, 0.2, -1.0)))
    for sign, advantage in ((-1, -1.0), (1, 1.0)):
        shown.set(advantage=advantage)
        numbers = shown.check().result
        dot = shown.root.locator(".rlhf-dot")
        assert dot.count() == 1
        plot = shown.root.locator("svg").filter(has=page.locator(".rlhf-dot"))
        assert plot.get_attribute("data-sign") == str(sign)
        assert float(dot.get_attribute("data-objective")) == pytest.approx(numbers.objective)
        # the dot's height between those of the axis labels is the objective
        heights = plot.evaluate(
            """(plot, value) => {
            const curve = plot.querySelector(".rlhf-curve");
            const dot = plot.querySelector(".rlhf-dot");
            const x = Number(dot.getAttribute("cx")), n = curve.getTotalLength();
            let best = null;
            for (let i = 0; i <= 4000; i++) {
              const at = curve.getPointAtLength((n * i) / 4000);
              if (!best || Math.abs(at.x - x) < Math.abs(best.x - x)) best = at;
            }
            return [best.y, Number(dot.getAttribute("cy"))];
        }""",
            numbers.objective,
        )
        assert heights[0] == pytest.approx(heights[1], abs=0.3)
        assert shown.root.locator(".rlhf-clip-push").count() == int(numbers.active)


def test_keyboard_alone(page):
    shown = Shown(show(page, ClipExplorer(1.19, 0.2, 1.0)))
    shown.control("ratio").focus()
    page.keyboard.press("ArrowRight")
    assert shown.check().result.active  # at the edge
    page.keyboard.press("ArrowRight")
    assert not shown.check().result.active
    page.keyboard.press("End")
    assert shown.check().ratio == 4
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert shown.check().advantage == -3
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert shown.check().epsilon == 0.19
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert shown.check().result.zone == "beyond"


BAD = [
    ({"ratio": None}, "ratio is null; expected a number from 0.05 to 4"),
    ({"epsilon": "wide"}, "epsilon is wide; expected a number from 0.01 to 0.5"),
    ({"advantage": None}, "advantage is null; expected a number from -3 to 3"),
    ({"dual_clip": None}, "dual_clip is null; expected a number from 1.6 to 4"),
    ({"dual": 1}, "dual is 1; expected true or false"),
]


def test_a_bad_state_gets_a_message_and_never_a_blank(page):
    show(page, ClipExplorer())
    assert_told(page, BAD)


def test_fits_and_reads_in_both_themes(page):
    root = show(page, ClipExplorer(3.5, 0.5, -3.0, 3.0), width=390)
    assert "NaN" not in root.inner_html()
    assert_fits_and_reads(
        page,
        root,
        [".rlhf-says", ".rlhf-cases td", ".rlhf-legend", ".rlhf-tile output", ".rlhf-label"],
    )


def test_controls_have_names_and_changes_are_announced(page):
    root = show(page, ClipExplorer())
    for control in root.locator("input, button").all():
        assert control.get_attribute("aria-label"), control.evaluate("e => e.outerHTML")
    for control in root.locator("input").all():
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
    root.locator('[data-control="case-bad, risen"]').click()
    page.wait_for_function(
        "document.querySelector('.rlhf-clip [aria-live]').textContent.includes('−3.90')"
    )
