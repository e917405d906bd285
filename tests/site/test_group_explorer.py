"""The group explorer in a real browser: its numbers are Python's, whatever moves it."""

from __future__ import annotations

import pytest

from rlhf_lib.algorithms.variants import VARIANTS
from rlhf_lib.seeing.widgets import GroupExplorer
from rlhf_lib.seeing.widgets.group_explorer import PRESETS
from tests.site import alone
from tests.site.alone import assert_fits_and_reads, assert_told, show

EXACT = 1e-9


class Shown(alone.Shown):
    def check(self, budget: int = 32) -> GroupExplorer:
        """Compare everything on display with Python, and return its half."""
        places = range(self.root.locator("tbody tr").count())
        pressed = self.root.locator('[data-control^="method-"][aria-pressed="true"]')
        verdicts, values = self.values("data-control"), self.values()
        demo = GroupExplorer(
            [float(verdicts[f"verdict-{i}"]) for i in places],
            [int(values[f"lengths-{i}"]) for i in places],
            pressed.get_attribute("data-control").removeprefix("method-"),
            budget,
        )
        shown = demo.result
        for name, expected in (
            ("advantages", shown.advantages),
            ("weights", shown.token_weights),
            ("pulls", shown.pulls),
        ):
            found = [float(values[f"{name}-{i}"]) for i in places]
            assert found == pytest.approx(expected.tolist(), abs=EXACT), (name, demo)
        for name in ("spread", "up", "down"):
            expected = pytest.approx(getattr(shown, name), abs=EXACT)
            assert float(values[name]) == expected, (name, demo)
        for name, expected in (("advantage", shown.advantages), ("weight", shown.token_weights)):
            bars = self.look(f'[data-bar="{name}"]', "data-value", "class")
            found = [float(value) for value, _ in bars]
            assert found == pytest.approx(expected.tolist(), abs=EXACT), name
            for (_, kind), value in zip(bars, expected):  # its colour
                if abs(value) > EXACT:
                    assert ("rlhf-group-down" in kind) == (value < 0), name
        assert ("teaches nothing" in self.says()) == (not shown.teaches)
        assert "NaN" not in self.root.inner_html()
        return demo


@pytest.mark.parametrize("source", ["http", "file"])
def test_starts_with_pythons_numbers(page, source):
    demo = Shown(show(page, GroupExplorer(), source)).check()
    assert (demo.method, demo.rewards, demo.lengths) == (
        "grpo",
        *map(list, PRESETS["one right of eight"]),
    )
    assert (page.errors, page.outside) == ([], [])


def test_every_method_on_every_preset(page):
    shown = Shown(show(page, GroupExplorer()))
    for method in VARIANTS:
        shown.control(f"method-{method}").click()
        for name, (rewards, lengths) in PRESETS.items():
            shown.control(f"preset-{name}").click()
            demo = shown.check()
            assert (demo.method, demo.rewards, demo.lengths) == (method, rewards, lengths)
    assert page.errors == []


def test_equal_rewards_pull_exactly_nothing(page):
    shown = Shown(show(page, GroupExplorer([0.1] * 3, [4, 9, 2])))  # 0.1 + 0.1 + 0.1 is not 0.3
    for method in VARIANTS:
        shown.control(f"method-{method}").click()
        shown.check()
        if method != "reinforce++":  # which has no groups: its mean is over tokens
            bars = shown.root.locator("[data-bar]").all()
            assert {float(bar.get_attribute("data-value")) for bar in bars} == {0.0}, method


def test_an_area_is_a_pull(page):
    shown = Shown(show(page, GroupExplorer(*PRESETS["one long wrong"])))
    pulls = shown.check().result.pulls
    areas = [
        bar.evaluate("e => e.width.baseVal.value * e.height.baseVal.value")
        for bar in shown.root.locator('[data-bar="weight"]').all()
    ]
    assert [area / areas[0] for area in areas] == pytest.approx(
        [abs(pull / pulls[0]) for pull in pulls], rel=1e-4
    )


def test_it_says_what_a_division_does(page):
    shown = Shown(show(page, GroupExplorer(*PRESETS["one long wrong"])))
    assert "multiplies every advantage by 1.87" in shown.says()  # 1/(0.5345 + 0.0001)
    assert (
        "Of completion 8 (32 tokens) and completion 5 (10), with the same reward, a token of "
        "the longer weighs 3.2 times less: long wrong answers are let off"
    ) in shown.says()
    shown.control("method-dapo").click()
    assert "by all 102 tokens" in shown.says() and "pulls 3.2 times as hard" in shown.says()
    shown.control("method-dr_grpo").click()
    assert "the constant 8 × 32" in shown.says() and "keeps its small voice" in shown.says()
    shown.control("method-rloo").click()
    assert "the mean of the 7 others: 8/7 times" in shown.says()
    shown.control("method-reinforce++").click()
    assert "the mean over all tokens of the batch (here only this group), 0.39" in shown.says()
    shown.control("method-gspo").click()
    assert "At ratio 1 this is GRPO" in shown.says()
    shown.control("preset-all equal").click()
    assert "takes up a share of the batch" in shown.says()
    shown.control("method-dapo").click()
    assert "draws other groups in place" in shown.says()


@pytest.mark.parametrize(
    "rewards, lengths, says",
    [
        (
            [1, 1, 0, 0],
            [20, 5, 9, 8],  # wrong ones before right ones that differ more
            "Of completion 3 (9 tokens) and completion 4 (8), with the same reward, a token of the "
            "longer weighs 1.1 times less: long wrong answers are let off lightly.",
        ),
        (
            [1, 1, 1, 0],
            [20, 6, 5, 7],  # of those, the two that differ most
            "Of completion 1 (20 tokens) and completion 3 (5), with the same reward, a token of "
            "the longer weighs 4.0 times less: short right answers are favoured.",
        ),
        ([1, 0, 0], [4, 6, 6], "a completion’s pull is shared among its tokens."),
    ],
)  # none to compare
def test_it_names_two_that_differ_in_length_alone(page, rewards, lengths, says):
    shown = Shown(show(page, GroupExplorer(rewards, lengths)))
    assert says in shown.says()
    assert ("with the same reward" in shown.says()) == ("with the same reward" in says)


def test_keyboard_chooses_switches_and_slides(page):
    shown = Shown(show(page, GroupExplorer()))
    shown.control("pick-2").focus()
    page.keyboard.press("Enter")
    assert shown.root.locator('tr[aria-current="true"] th').text_content() == "3"
    shown.control("length").focus()
    page.keyboard.press("End")
    assert shown.check().lengths[2] == 32
    page.keyboard.press("ArrowLeft")
    assert shown.check().lengths[2] == 31
    page.keyboard.press("Home")
    assert shown.check().lengths[2] == 1
    shown.control("reward").focus()
    page.keyboard.press("ArrowLeft")
    assert shown.check().rewards[2] == pytest.approx(-0.1)
    shown.control("verdict-4").focus()
    page.keyboard.press("Space")
    demo = shown.check()
    assert demo.rewards[4] == 1
    assert shown.control("verdict-4").get_attribute("aria-label") == (
        "reward of completion 5 is 1; press for 0"
    )
    page.keyboard.press("Space")
    assert shown.check().rewards[4] == 0 and page.errors == []


def test_a_block_can_be_clicked(page):
    shown = Shown(show(page, GroupExplorer()))
    shown.root.locator('[data-bar="weight"]').nth(5).click()
    assert shown.control("pick-5").get_attribute("aria-pressed") == "true"


def test_groups_of_two_to_twelve(page):
    demo = GroupExplorer([1, 0, 0], [9, 4, 5])
    demo.budget = 16  # after its presets were made
    shown = Shown(show(page, demo))
    shown.control("fewer").click()
    assert len(shown.check(16).rewards) == 2 and shown.control("fewer").is_disabled()
    for size in range(3, 13):
        shown.control("more").click()
        assert len(shown.check(16).rewards) == size
        assert shown.control(f"pick-{size - 1}").get_attribute("aria-pressed") == "true"
    assert shown.control("more").is_disabled()
    shown.control("fewer").click()  # the one that was chosen goes
    shown.check(16)
    assert shown.control("pick-10").get_attribute("aria-pressed") == "true"
    shown.control("preset-half right").click()  # its lengths are cut to the budget
    assert shown.check(16).lengths == [16, 16, 16, 16, 6, 5, 6, 16]
    assert shown.control("length").get_attribute("max") == "16" and page.errors == []


BAD = [
    ({"rewards": [1]}, "rewards has 1 entries; expected 2 to 12, as a completion is compared"),
    ({"rewards": None}, "rewards has undefined entries; expected 2 to 12"),
    ({"rewards": [1, None, 0, 0, 0, 0, 0, 0]}, "rewards[1] is null; expected a number from -2 to"),
    ({"lengths": [3]}, "lengths has 1 entries; expected 8, one for each reward"),
    ({"lengths": [3, 0, 3, 3, 3, 3, 3, 3]}, "lengths[1] is 0; expected at least 1 token"),
    ({"budget": 4}, "budget is 4; expected at least the longest completion, 26 tokens"),
    ({"method": "ppo"}, "method is ppo; expected one of grpo, dr_grpo"),
    ({"methods": None}, "method is grpo; expected one of"),
    ({"completion": 0.5}, "completion is 0.5; expected a whole number"),
]


def test_a_bad_state_gets_a_message_and_never_a_blank(page):
    show(page, GroupExplorer())
    assert_told(page, BAD)


def test_fits_and_reads_in_both_themes(page):
    root = show(page, GroupExplorer([-2.0, 2.0] * 6, [1, 32] * 6, "reinforce++"), width=390)
    assert_fits_and_reads(
        page,
        root,
        [
            "[data-name=says]",
            ".rlhf-bars td",
            ".rlhf-legend",
            ".rlhf-label",
            ".rlhf-button:not(:disabled)",
            ".rlhf-tile output",
        ],
        widths=(390, 820, 1280),
    )


def test_nothing_jumps_when_numbers_change(page):
    shown = Shown(show(page, GroupExplorer()))
    places = set()
    for name in PRESETS:
        shown.control(f"preset-{name}").click()
        for method in VARIANTS:
            shown.control(f"method-{method}").click()
            box = shown.root.bounding_box(), shown.root.locator("table").bounding_box()
            places.add(tuple(one[key] for one in box for key in ("x", "y", "width", "height")))
    assert len(places) == 1, places


def test_controls_have_names_and_changes_are_announced(page):
    root = show(page, GroupExplorer())
    for control in root.locator("input, button").all():
        assert control.get_attribute("aria-label"), control.evaluate("e => e.outerHTML")
    root.locator('[data-control="method-rloo"]').click()
    page.wait_for_function(
        "document.querySelector('.rlhf-group [aria-live=polite]').textContent.includes('RLOO')"
    )
