"""The DPO explorer in a real browser: its numbers are Python's, whatever moves it."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from rlhf_lib.seeing.widgets import DPOExplorer
from tests.site import alone
from tests.site.alone import assert_fits_and_reads, assert_told, case, show

EXACT = 1e-9
SETTINGS = ("chosen_log_ratio", "rejected_log_ratio", "beta")
NAMES = ("chosen_reward", "rejected_reward", "margin", "probability", "loss")
STEP = 13.2  # of the plane: its units to a nat
PAIRS = {
    "at the reference": (0, 0),
    "pushed apart": (2, -2),
    "both fallen": (-4, -8),
    "wrong way round": (-3, 1),
}


class Shown(alone.Shown):
    def set(self, chosen: float, rejected: float, beta: float) -> None:
        positions = (10 * chosen, 10 * rejected, 40 * (math.log10(beta) + 2))
        self.moves({name: round(position) for name, position in zip(SETTINGS, positions)})

    def check(self) -> DPOExplorer:
        """Compare everything on display with Python, and return its half."""
        values = self.values("data-setting")
        settings = {name: float(values[name]) for name in SETTINGS}
        pressed = self.root.locator('[data-control^="loss-"][aria-pressed="true"]')
        demo = DPOExplorer(**settings, loss=pressed.get_attribute("data-control")[5:])
        numbers, values = demo.result, self.values()
        for name in NAMES:
            found = float(values[name])
            assert found == pytest.approx(getattr(numbers, name), rel=EXACT, abs=1e-13), (
                name,
                demo,
            )
        names = ["chosen_pull", "rejected_pull"] if demo.loss == "kto" else ["pull"]
        pulls = [float(values[name]) for name in names]
        assert pulls == pytest.approx(numbers.pull[: len(names)], rel=EXACT, abs=1e-13), demo
        self.check_plane(demo)
        self.check_curve(demo)
        assert not re.search("NaN|Infinity", self.root.inner_html())
        return demo

    def check_plane(self, demo: DPOExplorer) -> None:
        """The point is where its log-ratios are, and the arrow goes the way of descent."""
        point, numbers = ".rlhf-dpo-point", demo.result
        at = list(map(float, *self.look(point, "cx", "cy")))
        assert at == pytest.approx(
            [170 + STEP * demo.chosen_log_ratio, 172 - STEP * demo.rejected_log_ratio]
        )
        size = math.hypot(*numbers.gradient)
        reference = math.hypot(*DPOExplorer(0, 0, demo.beta, demo.loss).result.gradient)
        push = self.look(".rlhf-dpo-push", "data-share", "x2", "y2")
        if size < 0.05 * reference:
            assert not push, demo
            return
        share, x, y = map(float, *push)
        assert share == pytest.approx(size / reference, rel=EXACT)
        way = [(x - at[0]), (at[1] - y)]
        long = 28 * min(share, 2)
        assert math.hypot(*way) == pytest.approx(8 + long - min(10, long) / 2, abs=0.01)
        descent = [-slope / size for slope in numbers.gradient]
        assert [part / math.hypot(*way) for part in way] == pytest.approx(descent, abs=1e-6)

    def check_curve(self, demo: DPOExplorer) -> None:
        dots = self.root.locator("svg").nth(1).locator(".rlhf-dot")
        found = dots.evaluate_all("(dots) => dots.map((dot) => Number(dot.dataset.loss))")
        if demo.loss == "kto":
            assert len(found) == 2 and sum(found) / 2 == pytest.approx(demo.result.loss)
        else:
            assert found == pytest.approx([demo.result.loss], rel=EXACT, abs=1e-13)


@pytest.mark.parametrize("source", ["http", "file"])
def test_starts_with_pythons_numbers(page, source):
    demo = Shown(show(page, DPOExplorer(), source)).check()
    assert (demo.chosen_log_ratio, demo.rejected_log_ratio) == (-2, -4)
    assert (demo.beta, demo.loss) == (0.1, "dpo")
    assert (page.errors, page.outside) == ([], [])


def test_every_corner_of_the_plane(page):
    shown = Shown(show(page, DPOExplorer()))
    for loss in ("dpo", "ipo", "kto"):
        shown.control(f"loss-{loss}").click()
        for chosen, rejected in itertools.product((-8, -1.3, 8), repeat=2):
            for beta in (0.01, 0.1, 1):
                shown.set(chosen, rejected, beta)
                demo = shown.check()
                assert (demo.chosen_log_ratio, demo.rejected_log_ratio) == (chosen, rejected)
                assert (demo.beta, demo.loss) == (beta, loss)
    assert page.errors == []


def test_two_pairs_with_one_gap_have_one_loss_but_under_kto(page):
    shown = Shown(show(page, DPOExplorer()))
    for name, pair in PAIRS.items():
        shown.control(f"pair-{name}").click()
        demo = shown.check()
        assert (demo.chosen_log_ratio, demo.rejected_log_ratio) == pair
    for loss in ("dpo", "ipo", "kto"):
        shown.control(f"loss-{loss}").click()
        found = []
        for name in ("pushed apart", "both fallen"):
            shown.control(f"pair-{name}").click()
            lines = shown.root.locator(".rlhf-dpo-same").all()
            found.append((shown.check().result.loss, [one.get_attribute("d") for one in lines]))
            says = shown.root.locator('[data-name="says"]').text_content()
            assert ("Both replies are less likely" in says) == (name == "both fallen")
            assert ("does not notice" in says) == (name == "both fallen" and loss != "kto")
        assert (found[0] == found[1]) == (loss != "kto")


def test_ipo_says_on_which_side_of_its_target_the_gap_is(page):
    shown = Shown(show(page, DPOExplorer(2.5, -2.5, loss="ipo")))
    says = shown.root.locator('[data-name="says"]')
    assert "at its target" in says.text_content() and shown.check().result.loss == 0
    for chosen, words in ((3.5, "1.00 nats beyond"), (1.5, "1.00 nats short of")):
        shown.set(chosen, -2.5, 0.1)
        assert words in says.text_content() and shown.check().result.loss == pytest.approx(1)


def test_keyboard_alone(page):
    shown = Shown(show(page, DPOExplorer()))
    shown.control("loss-dpo").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert shown.check().loss == "ipo"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert shown.check().loss == "kto"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert shown.check().chosen_log_ratio == -1.9
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert shown.check().rejected_log_ratio == -8
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert shown.check().beta == 1
    page.keyboard.press("Home")
    assert shown.check().beta == 0.01
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert shown.check().chosen_log_ratio == 0


def test_the_point_can_be_dragged(page):
    shown = Shown(show(page, DPOExplorer()))
    point = shown.root.locator(".rlhf-dpo-point")
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    nat = STEP * point.evaluate("e => e.ownerSVGElement.getBoundingClientRect().width") / 340
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 3 * nat, y - 2 * nat, steps=5)
    demo = shown.check()
    assert (demo.chosen_log_ratio, demo.rejected_log_ratio) == pytest.approx((1, -2), abs=0.11)
    page.mouse.move(x + 40 * nat, y, steps=5)
    assert shown.check().chosen_log_ratio == 8
    page.mouse.up()
    page.mouse.move(x, y)
    assert shown.check().chosen_log_ratio == 8  # let go


BAD = [
    ({"chosen_log_ratio": None}, "chosen_log_ratio is null; expected a number from -8 to 8"),
    ({"rejected_log_ratio": "low"}, "rejected_log_ratio is low; expected a number from -8 to"),
    ({"beta": None}, "beta is null; expected a number from 0.01 to 1"),
    ({"loss": "simpo"}, "loss is simpo; expected one of dpo, ipo, kto"),
]


def test_a_bad_state_gets_a_message_and_never_a_blank(page):
    show(page, DPOExplorer())
    assert_told(page, BAD)


# corners from which the arrow is long, or points out of the plane
STATES = [("dpo", -8, 8, 1), ("ipo", 8, -8, 0.01), ("kto", 8, -8, 0.01), ("dpo", 8, 8, 0.1)]
TEXTS = [".rlhf-dpo-says", ".rlhf-bars td", ".rlhf-bars th", ".rlhf-legend", ".rlhf-label"]


def test_fits_and_reads_in_both_themes(page):
    shown = Shown(show(page, DPOExplorer(), width=390))
    for width in (390, 1280):
        for loss, *state in STATES:
            shown.control(f"loss-{loss}").click()
            shown.set(*state)
            with case(loss, *state):
                assert_fits_and_reads(page, shown.root, TEXTS, widths=(width,))


def test_nothing_jumps_when_the_pair_changes(page):
    shown = Shown(show(page, DPOExplorer()))
    for loss in ("dpo", "ipo", "kto"):
        shown.control(f"loss-{loss}").click()
        places = set()
        for name in PAIRS:
            shown.control(f"pair-{name}").click()
            box = shown.root.locator("table").bounding_box()
            places.add((box["x"], box["y"], box["width"], box["height"]))
        assert len(places) == 1 and min(places)[0] > 500  # beside the plane


def test_controls_have_names_and_changes_are_announced(page):
    root = show(page, DPOExplorer())
    for control in root.locator("input, button").all():
        assert control.get_attribute("aria-label"), control.evaluate("e => e.outerHTML")
    for control in root.locator("button").all():  # who speaks to the page says what is to be seen
        assert control.text_content() in control.get_attribute("aria-label")
    for control in root.locator("input").all():
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
    plane, curve = (plot.get_attribute("aria-label") for plot in root.locator("svg").all())
    assert "raises ℓ_c and lowers ℓ_r; the gradient is 0.900 times as large" in plane
    assert "at most twice" in plane and "it falls for ever" in curve
    root.locator('[data-control="loss-ipo"]').click()
    page.wait_for_function(
        "document.querySelector('.rlhf-dpo [aria-live=polite]').textContent.includes('9.000')"
    )
    said = root.locator("[aria-live=polite]").text_content()
    assert said.startswith("IPO, ℓ_c −2, ℓ_r −4, β 0.1") and "3.00 nats short" in said
