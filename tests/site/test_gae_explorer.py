"""The GAE explorer in a real browser: its numbers are Python's, whatever moves it."""

from __future__ import annotations

import pytest

from rlhf_lib.seeing.widgets import GAEExplorer
from rlhf_lib.seeing.widgets.gae_explorer import PRESETS
from tests.site import alone
from tests.site.alone import assert_fits_and_reads, assert_told, case, show

EXACT = 1e-9
STEPS = {"lam": 0.01, "gamma": 0.01, "score": 0.1, "beta": 0.01}


class Shown(alone.Shown):
    def set(self, **settings) -> None:
        self.moves({name: round(value / STEPS[name]) for name, value in settings.items()})

    def check(self) -> GAEExplorer:
        """Compare everything on display with Python, and return its half."""
        tokens = self.root.locator("tbody th").all_text_contents()
        places = range(len(tokens))
        controls, settings = self.values("data-control"), self.values("data-setting")
        cells = {
            name: [float(controls[f"{name}-{t}"]) for t in places]
            for name in ("log_ratios", "values")
        }
        settings = {name: float(settings[name]) for name in STEPS}
        demo = GAEExplorer(tokens, **cells, **settings, lumped=self.control("lumped").is_checked())
        shown, values = demo.result, self.values()
        for name in ("rewards", "deltas", "advantages", "returns"):
            found = [float(values[f"{name}-{t}"]) for t in places]
            assert found == pytest.approx(getattr(shown, name).tolist(), abs=EXACT), (name, demo)
        for kind, expected in (
            ("delta", shown.deltas),
            ("advantage", shown.advantages),
            ("return", shown.returns),
            ("other", shown.other if demo.lumped else []),
        ):
            bars = self.numbers(f'[data-bar="{kind}"]')
            assert bars == pytest.approx(list(expected), abs=EXACT), kind
        t = int(self.root.locator(".rlhf-sum").get_attribute("data-token"))
        for name in ("score_weight", "critic_weight"):
            assert float(values[name]) == pytest.approx(getattr(shown, name)[t], abs=EXACT)
        assert "NaN" not in self.root.inner_html()
        return demo

    def message(self) -> str:
        place = self.root.locator(".rlhf-message")
        return "" if place.is_hidden() else place.text_content()


@pytest.mark.parametrize("source", ["http", "file"])
def test_starts_with_pythons_numbers(page, source):
    shown = Shown(show(page, GAEExplorer(), source))
    demo = shown.check()
    assert (demo.lam, demo.gamma, demo.score, demo.beta) == (0.95, 1, 2, 0.1)
    assert (page.errors, page.outside) == ([], [])


def test_presets_sliders_and_the_switch(page):
    shown = Shown(show(page, GAEExplorer()))
    for name, (log_ratios, values, score) in PRESETS.items():
        shown.control(f"preset-{name}").click()
        demo = shown.check()
        assert (demo.log_ratios, demo.values, demo.score) == (log_ratios, values, score)
        for lam, gamma in ((0, 1), (1, 1), (0.5, 0.9), (1, 0)):
            shown.set(lam=lam, gamma=gamma, beta=0.3, score=-1.7)
            shown.control("lumped").set_checked(lam != 0.5)
            assert shown.check().lam == lam
    assert page.errors == []


def test_lumped_says_what_it_blames(page):
    shown = Shown(show(page, GAEExplorer()))
    shown.control("preset-a costly token").click()
    shown.control("lam-1").click()
    before = shown.check().result
    shown.control("lumped").check()
    after = shown.check().result
    assert after.advantages[5] - before.advantages[5] < -0.3  # for a charge three tokens earlier
    shown.control("values-5").focus()
    says = shown.root.locator('[data-name="lumped-says"]').text_content()
    assert "The difference, −0.39, is the charges of the tokens before (−0.39)" in says


def test_keyboard_moves_sliders_fields_and_handles(page):
    shown = Shown(show(page, GAEExplorer()))
    shown.control("lam").focus()
    page.keyboard.press("Home")
    assert shown.check().lam == 0
    assert "λ = 0: only δ" in shown.root.locator(".rlhf-sum").text_content()
    page.keyboard.press("End")
    assert "λ = 1: the critic" in shown.root.locator(".rlhf-sum").text_content()
    shown.control("values-2").focus()
    page.keyboard.press("ArrowUp")
    assert shown.check().values[2] == 1.8
    shown.control("log_ratios-3").focus()
    page.keyboard.press("ArrowDown")
    assert shown.check().log_ratios[3] == pytest.approx(0.3)
    shown.control("handle-4").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("PageUp")
    assert shown.check().values[4] == pytest.approx(2.8)
    assert shown.root.locator('tr[aria-current="true"] th').text_content() == "lamp"
    assert shown.control("handle-4").get_attribute("aria-valuenow") == "2.8"


def test_a_value_can_be_dragged(page):
    shown = Shown(show(page, GAEExplorer()))
    before = shown.check().values
    handle = shown.control("handle-3")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 40, steps=5)  # beyond the scale: it waits for the hand
    during = shown.check().values
    assert handle.bounding_box()["y"] == pytest.approx(box["y"] - 40, abs=2)
    page.mouse.up()
    after = shown.check().values
    assert during == after and after[3] > before[3] + 0.5
    assert after[:3] + after[4:] == before[:3] + before[4:]


TYPED = [
    ("abc", "value of “lamp” is abc; expected a number from −6 to 6. Still showing 1.9.", 1.9),
    ("", "value of “lamp” is empty; expected a number", 1.9),
    ("50", "value of “lamp” is 50; expected a number from −6 to 6. Showing 6.", 6),
    ("−1.25", "", -1.25),
]


def test_typing_a_value(page):
    shown = Shown(show(page, GAEExplorer()))
    field = shown.control("values-4")
    for typed, says, kept in TYPED:
        with case(typed):
            shown.control("preset-good critic").click()
            field.fill(typed)
            field.press("Enter")
            assert shown.check().values[4] == kept
            assert shown.message().startswith(says) and bool(says) == bool(shown.message())
            shown.control("preset-critic at zero").click()
            assert shown.message() == "" and field.input_value() == "0"
            assert shown.check().values == [0.0] * 7


BAD = [
    ({"tokens": []}, "tokens has 0 entries; expected 2 to 10"),
    ({"values": [1]}, "values has 1 entries; expected 7, one for each token"),
    ({"log_ratios": [0, None, 0, 0, 0, 0, 0]}, "log_ratios[1] is null; expected a number"),
    ({"score": None}, "score is null; expected a number from -5 to 5"),
    ({"lam": "much"}, "lam is much; expected a number from 0 to 1"),
    ({"lumped": 1}, "lumped is 1; expected true or false"),
    ({"token": 0.5}, "token is 0.5; expected a whole number"),
]


def test_a_bad_state_gets_a_message_and_never_a_blank(page):
    show(page, GAEExplorer())
    assert_told(page, BAD)


def test_zeros_everywhere_are_drawn(page):
    root = show(page, GAEExplorer(["a", "b"], score=0.0, beta=0.0))
    assert Shown(root).check().result.advantages.tolist() == [0, 0]
    assert "Infinity" not in root.inner_html() and page.errors == []


def test_fits_and_reads_in_both_themes(page):
    root = show(
        page,
        GAEExplorer(
            ["considerably-long"] * 10,
            [-4.0] * 10,
            [-6.0] * 10,
            -5.0,
            lumped=True,
            presets={"one": ([0.0] * 10, [0.0] * 10, 1.0)},
        ),
        width=390,
    )
    assert_fits_and_reads(
        page, root, [".rlhf-sum", ".rlhf-bars td", ".rlhf-legend", ".rlhf-label", ".rlhf-cell"]
    )


def test_nothing_jumps_when_numbers_change(page):
    shown = Shown(show(page, GAEExplorer()))
    places = set()
    for name in PRESETS:
        shown.control(f"preset-{name}").click()
        shown.set(score=-5 if name == "late surprise" else 5)
        box = shown.root.locator("table").bounding_box()
        places.add((box["x"], box["y"], box["width"]))
    assert len(places) == 1 and min(places)[0] > 500  # beside the plot


def test_controls_have_names_and_changes_are_announced(page):
    root = show(page, GAEExplorer())
    for control in root.locator("input, button, [role=slider]").all():
        assert control.get_attribute("aria-label"), control.evaluate("e => e.outerHTML")
    for control in root.locator("input, [role=slider]").all():
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
    root.locator('[data-control="lam-0"]').click()
    page.wait_for_function(
        "document.querySelector('.rlhf-gae [aria-live=polite]').textContent.includes('delta')"
    )
