"""The staleness explorer in a real browser: its numbers are Python's, whatever moves it."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from rlhf_lib.seeing.widgets import StalenessExplorer
from rlhf_lib.seeing.widgets.staleness_explorer import REWARDS, SAMPLER, TREATMENTS, token_logprobs
from tests.site import alone
from tests.site.alone import assert_fits_and_reads, assert_told, case, resize, show

EXACT = 1e-9
NO_BOUND = 23  # the last position of the slider
BOUND_AT = {1.1: 0, 1.5: 4, 2.0: 7, 3.0: 11, 10.0: 22, None: NO_BOUND}
COLUMNS = ("bias", "noise", "error", "cosine", "effective")
TILES = ("kl", "largest_ratio", "largest_weight", "over_bound", "over_bound_learner")


class Shown(alone.Shown):
    def set(self, updates: int, bound: float | None, replies: int) -> None:
        positions = {"updates": updates, "bound": BOUND_AT[bound], "replies": math.log2(replies)}
        self.moves(positions)

    def check(self) -> StalenessExplorer:
        """Compare everything on display with Python, and return its half."""
        pressed = self.root.locator('[data-control^="treatment-"][aria-pressed="true"]')
        settings = self.values("data-setting")
        bound = float(settings["bound"])
        demo = StalenessExplorer(
            int(settings["updates"]),
            pressed.get_attribute("data-control").removeprefix("treatment-"),
            None if math.isinf(bound) else bound,
            int(settings["replies"]),
        )
        values = self.values()
        for treatment, numbers in demo.table.items():
            for name in COLUMNS:
                found = float(values[f"{treatment}-{name}"])
                expected = pytest.approx(getattr(numbers, name), rel=EXACT, abs=1e-12)
                assert found == expected, (treatment, name, demo)
        for name in TILES:
            found, expected = float(values[name]), getattr(demo.result, name)
            assert found == pytest.approx(expected, rel=EXACT, abs=1e-12), (name, demo)
        marked = self.root.locator('tr[aria-current="true"] th').text_content()
        assert marked == pressed.text_content()
        self.check_curves(demo)
        self.check_dots(demo)
        assert "NaN" not in self.root.inner_html()
        return demo

    def check_curves(self, demo: StalenessExplorer) -> None:
        """Bias, noise and error of the chosen treatment, and the errors of the others."""
        curves = demo.curves
        highest = max(along[:, 2].max() for along in curves.values())
        scale = next(top for top in (1.5, 3, 6) if top >= highest)
        paths = dict(self.look("path[data-curve]", "data-curve", "d"))
        wanted = {f"{kind}-error": (kind, 2) for kind in TREATMENTS}
        wanted |= {f"{demo.treatment}-bias": (demo.treatment, 0)}
        wanted |= {f"{demo.treatment}-noise": (demo.treatment, 1)}
        assert set(paths) == set(wanted)
        for name, (kind, place) in wanted.items():
            heights = [float(y) for y in re.findall(r",([\d.]+)", paths[name])]
            expected = 218 - 190 * curves[kind][:, place] / scale
            assert heights == pytest.approx(expected.tolist(), abs=0.006), (name, demo)
        points = self.look("[data-point]", "data-point", "cx", "cy")
        found = {name: (float(x), float(y)) for name, x, y in points}
        for place, name in enumerate(COLUMNS[:3]):
            at = (34 + 212 * demo.updates / 40, 218 - 190 * demo.result[place] / scale)
            assert found[name] == pytest.approx(at, abs=1e-6), (name, demo)

    def check_dots(self, demo: StalenessExplorer) -> None:
        """A mark for each reply or token: what its ratio is, and what has become of it."""
        names = ["data-letters", "data-chance", "data-ratio", "data-weight", "class", "cx", "cy"]
        dots = self.look(".rlhf-age-dot", *names)
        tokens = demo.treatment.startswith("token")
        assert len(dots) == (120 if tokens else 81)
        found, written = demo.estimate, np.exp(token_logprobs(SAMPLER))
        for letters, chance, ratio, weight, kind, _, _ in dots:
            place = len(letters) - 1
            i = sum("abc".index(letter) * 3 ** (3 - t) for t, letter in enumerate(letters))
            assert float(chance) == pytest.approx(written[i, : place + 1].prod(), rel=EXACT)
            assert float(ratio) == pytest.approx(found.ratios[i, place], rel=EXACT)
            assert float(weight) == pytest.approx(found.weights[i, place], rel=EXACT)
            over = demo.bound is not None and float(ratio) > demo.bound
            if demo.treatment == "ignored":
                mark = "rlhf-age-unused"
            elif over:
                mark = "rlhf-age-masked" if "mask" in demo.treatment else "rlhf-age-ring"
            else:
                earns = letters.endswith("ab") if tokens else REWARDS[i] > 0
                mark = "rlhf-age-earns" if earns else ""
            assert kind.removeprefix("rlhf-age-dot").strip() == mark, (letters, demo)
        self.check_scales(*np.array([[float(dot[i]) for i in (1, 2, 5, 6)] for dot in dots]).T)
        crosses = self.root.locator(".rlhf-age-cross").count()
        capped = self.look(".rlhf-age-capped", "cy")
        rings = [kind.split()[-1] for *_, kind, _, _ in dots]
        assert crosses == 2 * rings.count("rlhf-age-masked")
        assert len(capped) == rings.count("rlhf-age-ring")
        line = self.look(".rlhf-age-bound", "y1")
        assert len(line) == (demo.treatment != "ignored" and demo.bound is not None)
        assert all(height == line[0] for height in capped)

    def check_scales(self, chances, ratios, x, y) -> None:
        """Both axes are logarithmic; a ratio of 1 lies on its line."""
        one = float(self.root.locator(".rlhf-zero").get_attribute("y1"))
        same = abs(ratios - 1) < 1e-6
        heights = (one - y[~same]) / np.log(ratios[~same])  # pixels for a nat
        assert (heights > 20).all() and np.ptp(heights) < 1e-3 if len(heights) else same.all()
        assert y[same] == pytest.approx(np.full(same.sum(), one), abs=1e-3)
        run = np.polyfit(np.log(chances), x, 1)
        assert run[0] > 20 and np.polyval(run, np.log(chances)) == pytest.approx(x, abs=1e-6)


@pytest.mark.parametrize("source", ["http", "file"])
def test_starts_with_pythons_numbers(page, source):
    demo = Shown(show(page, StalenessExplorer(), source)).check()
    assert (demo.updates, demo.treatment) == (20, "sequence_truncate")
    assert (demo.bound, demo.replies) == (3, 256)
    assert (page.errors, page.outside) == ([], [])


def test_every_treatment_at_the_ends_and_between(page):
    shown = Shown(show(page, StalenessExplorer()))
    for treatment in TREATMENTS:
        shown.control(f"treatment-{treatment}").click()
        for updates, bound, replies in [
            (0, 3.0, 256),
            (40, 1.1, 16),
            (40, None, 16),
            (17, 2.0, 1024),
            (40, 10.0, 64),
        ]:
            shown.set(updates, bound, replies)
            demo = shown.check()
            assert (demo.updates, demo.treatment) == (updates, treatment)
            assert (demo.bound, demo.replies) == (bound, replies)
    assert page.errors == []


def test_a_bound_that_is_on_no_stop_is_shown_as_it_is(page):
    shown = Shown(show(page, StalenessExplorer(30, "token_mask", 1.7)))
    assert shown.check().bound == 1.7
    assert shown.root.locator('[data-setting="bound"]').text_content() == "1.7"
    assert shown.control("bound").input_value() in ("5", "6")  # 1.6 and 1.8


def test_what_it_says(page):
    shown = Shown(show(page, StalenessExplorer(0)))
    assert "Learner and sampler are one policy" in shown.says()
    shown.set(40, 3.0, 256)
    share = "8.0\u00a0% have a ratio over C and count 3; of the learner’s, it would be 77\u00a0%."
    assert f"Of the sampler’s replies, {share} The error is larger than that" in shown.says()
    shown.control("treatment-sequence_mask").click()
    assert "have a ratio over C and count nothing" in shown.says()
    shown.set(10, 3.0, 256)
    assert shown.says().endswith("its whole reply. No ratio is over C = 3.")
    shown.set(10, None, 256)
    assert shown.says().endswith("Without a bound, nothing is biased.")
    assert shown.root.locator('[data-name="over_bound"]').text_content() == "–"
    shown.control("treatment-token_mask").click()
    assert shown.says() == "Every token counts by its own ratio, whatever came before it."
    shown.control("treatment-ignored").click()
    assert "as if the learner itself had written it" in shown.says()
    assert "every weight is 1" in shown.root.locator("svg").nth(1).text_content()


def test_keyboard_alone(page):
    shown = Shown(show(page, StalenessExplorer()))
    shown.control("treatment-ignored").focus()
    page.keyboard.press("Space")
    assert shown.check().treatment == "ignored"
    for name in TREATMENTS[1:]:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert shown.check().treatment == name
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert shown.check().updates == 21
    page.keyboard.press("End")
    assert shown.check().updates == 40
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert shown.check().bound == 2.8
    page.keyboard.press("End")
    assert shown.check().bound is None
    assert shown.control("bound").get_attribute("aria-valuetext") == "no bound"
    page.keyboard.press("Home")
    assert shown.check().bound == 1.1
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert shown.check().replies == 16
    page.keyboard.press("ArrowRight")
    assert shown.check().replies == 32


BAD = [
    ({"logits": [0, 1]}, "logits has 2 entries; expected 120, three for each prefix"),
    ({"logits": [None] * 120}, "logits[0] is null; expected a number from -4 to 4"),
    ({"logits": [0, 9] * 60}, "logits[1] is 9; expected a number from -4 to 4"),
    ({"updates": 41}, "updates is 41; expected 0 to 40"),
    ({"updates": 2.5}, "updates is 2.5; expected 0 to 40"),
    ({"treatment": "clip"}, "treatment is clip; expected one of ignored, token_truncate"),
    ({"bound": "low"}, "bound is low; expected a number from 1.1 to 10"),
    ({"replies": 100}, "replies is 100; expected a power of two from 16 to 1024"),
]


def test_a_bad_state_gets_a_message_and_never_a_blank(page):
    show(page, StalenessExplorer())
    assert_told(page, BAD)


STATES = [
    (0, "sequence_truncate", 3.0, 256),
    (40, "sequence_mask", 1.1, 16),
    (40, "sequence_truncate", None, 16),
    (40, "token_truncate", 10.0, 1024),
    (40, "ignored", 1.5, 64),
]
TEXTS = [".rlhf-age-says", ".rlhf-bars td", ".rlhf-bars th", ".rlhf-legend", ".rlhf-label"]


def test_fits_and_reads_in_both_themes(page):
    shown = Shown(show(page, StalenessExplorer(), width=390))
    for width in (390, 1280):
        for updates, treatment, bound, replies in STATES:
            shown.control(f"treatment-{treatment}").click()
            shown.set(updates, bound, replies)
            with case(treatment, updates):
                assert_fits_and_reads(page, shown.root, TEXTS, widths=(width,))


def test_nothing_jumps_when_a_setting_changes(page):
    shown = Shown(show(page, StalenessExplorer(), width=390))
    for width in (390, 1280):
        resize(page, width)
        places = set()
        for treatment in TREATMENTS:
            shown.control(f"treatment-{treatment}").click()
            for updates, bound in [(0, 3.0), (20, 3.0), (40, 1.1), (40, None)]:
                shown.set(updates, bound, 16)
                box = shown.root.locator("svg").first.bounding_box()
                table = shown.root.locator("table").bounding_box()
                at = (box["x"], box["y"], box["width"], table["y"], table["width"])
                places.add(tuple(round(place) for place in at))
        assert len(places) == 1, (width, places)


def test_controls_have_names_and_changes_are_announced(page):
    root = show(page, StalenessExplorer())
    for control in root.locator("input, button").all():
        assert control.get_attribute("aria-label"), control.evaluate("e => e.outerHTML")
    for control in root.locator("button").all():
        assert control.text_content() in control.get_attribute("aria-label")
    for control in root.locator("input").all():
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
    errors, weights = (plot.get_attribute("aria-label") for plot in root.locator("svg").all())
    assert "for the treatment reply, truncated. After 20: bias 0.34, noise 0.33, error" in errors
    assert "after 20: ignored 0.64; token, truncated 0.56" in errors
    assert "for 81 replies. The largest ratio, 5.63, has abab. 9 are truncated." in weights
    root.locator('[data-control="treatment-token_mask"]').click()
    page.wait_for_function(
        "document.querySelector('.rlhf-staleness [aria-live=polite]').textContent.includes('0.52')"
    )
    said = root.locator("[aria-live=polite]").text_content()
    assert said.startswith("token, masked, 20 updates, C = 3, 256 replies: bias 0.52, noise 0.21")
