"""The policy-gradient bandit in a real browser: Python's arms are drawn, Python's numbers shown."""

from __future__ import annotations

import math
import re

import pytest

from rlhf_lib.seeing.widgets import PolicyGradientBandit
from tests.site.alone import Shown, assert_fits, assert_told, case, set_theme, show
from tests.site.render import render

CHAPTER = "book/ppo/policy-gradients.html"
EXACT = 1e-9  # the page and Python compute in the same precision
BASELINES = ("none", "mean", "leave_one_out", "value", "optimal")


class Demo(Shown):
    """The demo on a page: what it shows, and how a reader moves it."""

    def __init__(self, page, root) -> None:
        self.page, self.seed = page, 0
        super().__init__(root)
        self.root.locator(".rlhf-simplex").wait_for()

    def settings(self) -> dict:
        pressed = self.root.locator('[data-baseline][aria-pressed="true"]')
        return {
            "baseline": pressed.get_attribute("data-baseline"),
            "reward_shift": self.number('[data-setting="reward_shift"]'),
            "learning_rate": self.number('[data-setting="learning_rate"]'),
            "batch_size": int(self.number('[data-setting="batch_size"]')),
            "steps": int(self.number('[data-name="steps"]')),
            "seed": self.seed,
        }

    def check(self) -> dict:
        """Compare everything on display with Python, and return the settings."""
        settings = self.settings()
        expected, numbers = PolicyGradientBandit(**settings).result, self.values()
        for name, value, digits in (
            ("expected", expected.expected_reward, 3),
            ("entropy", expected.entropy, 3),
            ("variance", expected.variance, 4),
            ("kept", expected.kept, 3),
            ("cosine", expected.cosine, 3),
        ):
            assert float(numbers[name]) == pytest.approx(value, rel=1e-7, abs=EXACT), name
            text = self.root.locator(f'[data-name="{name}"]').text_content()
            shown = float(text.replace("−", "-"))
            assert shown == pytest.approx(value, abs=0.51 * 10**-digits), name
        assert float(numbers["noise"]) == pytest.approx(expected.noise, rel=1e-7)
        for a in range(3):
            for name, values in (
                ("policy", expected.path[-1]),
                ("count", expected.counts),
                ("advantage", expected.advantages),
            ):
                assert float(numbers[f"{name}-{a}"]) == pytest.approx(
                    float(values[a]), rel=1e-7, abs=EXACT
                ), (name, a)
        drawn = self.root.locator(".rlhf-drawn").text_content().partition(": ")[2].split()
        assert [drawn.count(label) for label in "ABC"] == expected.counts.tolist()
        self.check_arrows(expected, settings)
        return settings

    def check_arrows(self, expected, settings) -> None:
        """The path has its points, and each arrow ends where it should."""
        corners = [(34, 276), (306, 276), (170, 40)]

        def place(policy):
            return [sum(p * c[axis] for p, c in zip(policy, corners)) for axis in (0, 1)]

        path = self.root.locator(".rlhf-path").get_attribute("points").split()
        assert len(path) == settings["steps"] + 1
        for point, policy in zip(path, expected.path):
            assert [float(x) for x in point.split(",")] == pytest.approx(place(policy), abs=0.011)
        rate = settings["learning_rate"]
        factor = self.number('[data-name="factor"]')  # the two means are drawn longer
        here, tips = (
            place(expected.path[-1]),
            {
                "mean": expected.next_policy,
                "exact": moved(expected.path[-1], rate * expected.exact),
            },
        )
        lengths = []
        for kind, policy in tips.items():
            tip = self.root.locator(f".rlhf-arrow-{kind} polygon").get_attribute("points")
            tip = [float(x) for x in tip.split()[0].split(",")]
            wanted = [h + factor * (x - h) for h, x in zip(here, place(policy))]
            assert tip == pytest.approx(wanted, abs=0.011), kind
            lengths.append(math.dist(here, tip))
        assert factor in (1, 2, 5, 10, 20, 50, 100) and (factor == 1 or max(lengths) <= 90.1)
        alone = self.root.locator(".rlhf-arrow-one").evaluate_all(
            "(arrows) => arrows.map((a) => Number(a.dataset.arm))"
        )
        assert alone == [a for a in range(3) if expected.counts[a]]


def moved(policy, step):
    weights = [p * math.exp(s) for p, s in zip(policy, step)]
    return [w / sum(weights) for w in weights]


def demo_of(page, width: int = 1280) -> Demo:
    return Demo(page, show(page, PolicyGradientBandit(), width=width))


@pytest.mark.parametrize("source", ["http", "file"])
def test_the_chapter_starts_with_pythons_numbers(page, source):
    base = page.base if source == "http" else page.folder
    page.goto(base + CHAPTER, wait_until="domcontentloaded")
    assert Demo(page, page.locator(".rlhf-bandit")).check()["steps"] == 0
    assert (page.errors, page.outside) == ([], [])


def test_step_run_stop_and_reset(page):
    demo = demo_of(page)
    demo.control("step").click()
    assert demo.check()["steps"] == 1
    demo.control("run").click()
    page.wait_for_function(
        "document.querySelector('.rlhf-bandit [data-name=steps]').dataset.value === '51'"
    )
    page.wait_for_function(
        "document.querySelector('.rlhf-bandit [data-control=run]').textContent === 'run 50'"
    )
    assert demo.check()["steps"] == 51
    demo.control("run").click()
    page.wait_for_function(
        "Number(document.querySelector('.rlhf-bandit [data-name=steps]').dataset.value) > 53"
    )
    demo.control("run").click()  # now it says stop
    stopped = demo.settings()["steps"]
    page.wait_for_timeout(400)
    assert demo.check()["steps"] == stopped < 101
    demo.control("reset").click()
    assert demo.check()["steps"] == 0


def test_each_baseline_replays_the_run(page):
    demo = demo_of(page)
    for _ in range(3):
        demo.control("step").click()
    for baseline in BASELINES:
        with case(baseline):
            demo.root.locator(f'[data-baseline="{baseline}"]').click()
            settings = demo.check()
            assert (settings["baseline"], settings["steps"]) == (baseline, 3)
            demo.control("reward_shift").focus()
            for key in ["ArrowRight"] * 4:
                page.keyboard.press(key)
            assert demo.check()["reward_shift"] == 2
            for key in ["ArrowLeft"] * 4:
                page.keyboard.press(key)


def test_keyboard_moves_every_slider(page):
    demo = demo_of(page)
    demo.control("step").click()
    demo.control("reward_shift").focus()
    page.keyboard.press("End")
    assert demo.check()["reward_shift"] == 10
    page.keyboard.press("Home")
    assert demo.check()["reward_shift"] == -5
    demo.control("learning_rate").focus()
    page.keyboard.press("ArrowRight")
    assert demo.check()["learning_rate"] == 2
    page.keyboard.press("Home")
    assert demo.check()["learning_rate"] == 0.1
    demo.control("batch_size").focus()
    page.keyboard.press("End")
    assert demo.check()["batch_size"] == 32
    page.keyboard.press("Home")
    assert demo.check()["batch_size"] == 2
    assert "2 draws" in demo.control("batch_size").get_attribute("aria-valuetext")


def test_other_draws_replay_with_the_next_seed(page):
    demo = demo_of(page)
    for _ in range(4):
        demo.control("step").click()
    before = demo.number('[data-name="expected"]')
    demo.control("again").click()
    demo.seed = 1
    assert demo.check()["steps"] == 4
    assert demo.number('[data-name="expected"]') != before


def test_the_run_ends_at_the_last_step(page):
    demo_of(page)
    shown = render(
        page, "logits", ".rlhf-step", {"steps": 200, "reward_shift": 10, "learning_rate": 20}, {}
    )
    assert shown["figure"] and shown["drawn"] == 200
    assert not re.search("NaN", shown["inside"])


BAD = [
    ({"rewards": [1, 0]}, "rewards has 2 entries; expected 3"),
    ({"rewards": [1, 0, None]}, "rewards[2] is null; expected a number"),
    ({"logits": [0, 0, 1000]}, "logits[2] is 1000; expected a number"),
    ({"labels": None}, "labels has 0 entries; expected 3"),
    ({"baseline": "median"}, "baseline is 'median'; expected one of 'none', 'mean'"),
    ({"reward_shift": "up"}, "reward_shift is up; expected a number from -5 to 10"),
    ({"learning_rate": None}, "learning_rate is null; expected a number from 0.01 to 20"),
    ({"batch_size": 12}, "batch_size is 12; expected a power of two from 2 to 32"),
    ({"seed": -1}, "seed is -1; expected 0 to"),
    ({"steps": 201}, "steps is 201; expected 0 to 200"),
]


def test_a_bad_state_gets_a_message_and_never_a_blank(page):
    demo_of(page)
    assert_told(page, BAD, drawn=".rlhf-simplex")


def test_rewards_that_are_all_equal_are_drawn(page):
    demo_of(page)
    shown = render(page, "logits", ".rlhf-simplex", {"rewards": [1, 1, 1], "baseline": "mean"}, {})
    assert shown["text"] == "" and shown["figure"] and "∞" in shown["inside"]
    assert "NaN" not in shown["inside"]


def test_fits_and_works_on_a_phone(page):
    demo = demo_of(page, width=375)
    assert_fits(page, demo.root, 375)
    demo.control("step").click()
    assert demo.check()["steps"] == 1


def test_controls_have_names_and_changes_are_announced(page):
    demo = demo_of(page)
    for control in demo.root.locator("input, button").all():
        assert control.get_attribute("aria-label"), control.evaluate("e => e.outerHTML")
    for control in demo.root.locator("input").all():  # else JupyterLab takes the arrow keys
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
    assert "after 0 steps" in demo.root.locator(".rlhf-plot").get_attribute("aria-label")
    demo.control("step").click()
    page.wait_for_function(
        "document.querySelector('.rlhf-bandit [aria-live=polite]')"
        ".textContent.includes('step 1, baseline none')"
    )


CONTRAST = """(root) => {
  const rgb = (css) => css.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((s, c, i) => s + c * [.2126, .7152, .0722][i], 0);
  let paper = root;
  while (rgb(getComputedStyle(paper).backgroundColor)[3] === 0) paper = paper.parentElement;
  const below = light(rgb(getComputedStyle(paper).backgroundColor));
  const parts = [[".rlhf-tile output", "color"], [".rlhf-bars tbody td", "color"],
    [".rlhf-corner", "fill"], [".rlhf-arrow-mean", "fill"], [".rlhf-arrow-exact", "fill"]];
  return parts.map(([selector, property]) => {
    const ink = light(rgb(getComputedStyle(root.querySelector(selector))[property]));
    return (Math.max(ink, below) + .05) / (Math.min(ink, below) + .05);
  });
}"""


def test_text_and_arrows_stand_out_from_the_page(page):
    demo = demo_of(page)
    for theme in ("light", "dark"):
        set_theme(page, theme)
        assert min(demo.root.evaluate(CONTRAST)) >= 4.5, theme
