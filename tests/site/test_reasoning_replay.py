"""The reasoning replay in a real browser: it reads every reply as Python does, and can be moved."""

from __future__ import annotations

import random

import pytest

from rlhf_lib.seeing.widgets import ReasoningReplay
from rlhf_lib.seeing.widgets.reasoning_replay import MEASURES
from rlhf_lib.worlds import sums
from tests.site import alone
from tests.site.alone import assert_fits, assert_fits_and_reads, assert_told, case, resize, show
from tests.unit.test_reasoning_replay import ROWS, TWO, recorded, row

CARDS = """root => Object.fromEntries([...root.querySelectorAll("[data-card]")].map((card) => {
  const lines = [...card.querySelectorAll("[data-fault]")];
  const answer = card.querySelector("[data-answer]");
  const mark = (line) => line.querySelector("[role=img]")?.textContent ?? null;
  return [card.dataset.card, {
    step: Number(card.dataset.step), reply: card.querySelector("[data-reply]").dataset.reply,
    written: lines.filter((line) => "written" in line.dataset).map((line) => line.dataset.written),
    faults: lines.map((line) => line.dataset.fault), marks: lines.map(mark),
    text: lines.map((line) => line.textContent), answer: answer.dataset.answer,
    right: answer.dataset.right, answerMark: mark(answer), answerText: answer.textContent }];
}))"""

# every sum at every step, moved as a reader moves it
ALL = """async (root) => {
  const cards = CARDS, found = [];
  const slider = root.querySelector("[data-control=step]");
  for (let k = 0; k <= Number(slider.max); k += 1) {
    slider.value = k;
    slider.dispatchEvent(new Event("input"));
    for (const button of root.querySelectorAll("[data-control^=sum-]")) {
      button.click();
      found.push([Number(root.querySelector("[data-setting=step]").dataset.value),
                  Number(button.dataset.control.slice(4)), cards(root)]);
    }
  }
  return found;
}""".replace("CARDS", CARDS)


def check_card(card: dict, step: int, prompt: str, reply: str) -> None:
    """A card shows a reply, and reads it as Python does."""
    reading = sums.read(prompt, reply)
    assert (card["step"], card["reply"]) == (step, reply)
    assert card["written"] == reading.steps, reply
    absent = len(reading.expected) - len(reading.steps)
    filler = ["missing" if reading.steps else "none"] * max(0, absent)
    assert card["faults"] == reading.faults + filler, reply
    assert card["marks"] == [{"": "✓", "none": None}.get(f, "✗") for f in card["faults"]], reply
    for k, (fault, text) in enumerate(zip(card["faults"], card["text"])):
        belongs = fault not in ("", "none", "no such column")
        assert (
            (f"{reading.expected[k]} belongs here" in text) if belongs else ("belongs" not in text)
        ), (reply, text)
    assert (card["answer"], card["right"]) == (reading.answer, str(reading.right).lower()), reply
    assert card["answerMark"] == ("✓" if reading.right else "✗"), reply
    flawless = reading.steps == reading.expected
    for remark, said in (
        ("the working never ends: all of the text counts", not reading.closed),
        ("right and paid, whatever the working", reading.right and reading.steps and not flawless),
        (f"the sum is {sums.answer(prompt)}", reading.closed and not reading.right),
        ("right working, wrong answer", reading.closed and not reading.right and flawless),
    ):
        assert (remark in card["answerText"]) == bool(said), (reply, card["answerText"])


def check_all(root, prompts: list[str], rows: list[dict]) -> None:
    """Every reply to every prompt, before, at each step and after."""
    found = root.evaluate(ALL)
    assert [(step, k) for step, k, _ in found] == [
        (at["step"], k) for at in rows for k in range(len(prompts))
    ]
    for step, k, cards in found:
        here = next(at for at in rows if at["step"] == step)
        for name, at in (("before", rows[0]), ("here", here), ("after", rows[-1])):
            check_card(cards[name], at["step"], prompts[k], at["replies"][k])


class Shown(alone.Shown):
    def __init__(self, page, demo: ReasoningReplay, **options) -> None:
        super().__init__(show(page, demo, **options))
        self.demo = demo

    def says(self, name: str) -> str:
        return self.root.locator(f'[data-name="{name}-says"]').text_content()

    def check(self, step: int, k: int) -> None:
        """Numbers, plots, cards and words at this step and sum are Python's."""
        self.demo.step, self.demo.sum = step, k
        shown = self.demo.result
        assert self.root.locator("[data-setting=step]").get_attribute("data-value") == str(step)
        for name in MEASURES:
            output = self.root.locator(f'output[data-name="{name}"]')
            assert float(output.get_attribute("data-value")) == shown.measures[name]
        assert (
            self.root.locator("[data-cursor]").evaluate_all(
                "lines => lines.map((line) => line.dataset.cursor)"
            )
            == [str(step)] * 2
        )
        pressed = self.root.locator('[data-control^="sum-"][aria-pressed="true"]')
        assert pressed.get_attribute("data-control") == f"sum-{k}"
        here = next(at for at in self.demo.measured if at["step"] == step)
        for button, prompt, reply in zip(
            self.root.locator('[data-control^="sum-"]').all(),
            self.demo.prompts,
            here["replies"],
            strict=True,
        ):
            mark = "✓" if sums.read(prompt, reply).right else "✗"
            assert button.text_content() == f"{prompt[:-1]} {mark}"
        cards = self.root.evaluate(CARDS)
        rows = {at["step"]: at["replies"][k] for at in self.demo.measured}
        for name, at in (("before", 0), ("here", step), ("after", max(rows))):
            check_card(cards[name], at, self.demo.prompts[k], rows[at])
        story, turned, settled = self.says("sum"), shown.working_from, shown.settled_from
        if turned is None:
            assert "does not bring" in story
        else:
            assert ("from the start" if turned == 0 else f"for good at step {turned}") in story
            assert ("not one character" in story) == (settled == turned < max(rows))
            assert (f"last changes at step {settled}" in story) == (settled != turned)
        assert "NaN" not in self.root.inner_html()
        assert "undefined" not in self.root.inner_html()


def replay(page, **options) -> Shown:
    run = recorded()
    return Shown(page, ReasoningReplay(run["prompts"], run["measured"]), **options)


def made_up(page, rows=ROWS, prompts=TWO, **options) -> Shown:
    return Shown(page, ReasoningReplay(prompts, rows), **options)


@pytest.mark.parametrize("source", ["http", "file"])
def test_starts_with_pythons_numbers_and_asks_nobody(page, source):
    shown = replay(page, source=source)
    shown.check(shown.demo.step, 0)
    assert (page.errors, page.outside) == ([], [])


def test_every_recorded_reply_is_read_as_python_reads_it(page):
    run = recorded()
    check_all(replay(page).root, run["prompts"], run["measured"])
    assert page.errors == []


def odd_replies(prompt: str, count: int, rng: random.Random) -> list[str]:
    """What no demonstrator would write: nothing, no end, and workings with a character changed."""
    right = sums.working(*sums.parse(prompt))
    found = [
        "",
        " ",
        "<",
        ">",
        "<>",
        "<,,>",
        "0",
        right[1:],
        right[:-1],
        right.replace(">", ""),
        right.replace("+1=", "="),
        right.replace("=", "+1="),
        right + ">",
        right * 2,
        ("<" + "1+1=2," * 20)[: sums.MAX_NEW_TOKENS],
        right + "\n",
        right.replace(",", ";"),
        "<b>&amp;</b>",
        "１+１=２",
        "<𝟙+𝟙=𝟚>𝟚",
        right.upper() + "é",
    ]
    while len(found) < count:
        text, k = list(right), rng.randrange(len(right))
        text[k : k + rng.randrange(2)] = rng.choices("0123456789+=<>,", k=rng.randrange(3))
        found.append("".join(text))
    return found


def test_odd_replies_are_read_as_python_reads_them(page):
    prompts, rng = (
        ["67+45=", "0+0=", "9999+9999=", "123456789+987654321=", "105+895="],
        random.Random(0),
    )
    replies = [odd_replies(prompt, 60, rng) for prompt in prompts]
    rows = [row(step, list(those)) for step, those in enumerate(zip(*replies))]
    check_all(made_up(page, rows, prompts).root, prompts, rows)
    assert page.errors == []


def test_the_step_moves_by_keyboard_and_by_buttons(page):
    shown = made_up(page)
    shown.check(3, 0)
    shown.control("step").focus()
    page.keyboard.press("ArrowRight")
    shown.check(4, 0)
    page.keyboard.press("End")
    shown.check(9, 0)
    assert shown.control("step").get_attribute("aria-valuetext") == "step 9"
    page.keyboard.press("Home")
    shown.check(0, 0)
    shown.control("back").click()
    shown.check(0, 0)
    shown.control("next").focus()
    page.keyboard.press("Enter")
    shown.check(3, 0)
    for step in (4, 9, 9):
        page.keyboard.press("Enter")
        shown.check(step, 0)
    shown.control("back").click()
    shown.check(4, 0)
    shown.control("sum-1").focus()
    page.keyboard.press("Space")
    shown.check(4, 1)
    assert page.errors == []


def test_a_click_on_a_curve_chooses_the_nearest_measurement(page):
    shown = made_up(page)
    for plot in shown.root.locator("svg").all():
        for step, about in ((9, 9), (0, 0.5), (4, 5), (3, 3.2), (9, 7), (0, -1)):
            box = plot.bounding_box()
            x = (34 + (340 - 34 - 8) * about / 9) * box["width"] / 340
            plot.click(position={"x": x, "y": box["height"] / 2})
            shown.check(step, 0)


def test_curves_go_through_the_measurements(page):
    shown = made_up(
        page,
        [
            row(0, ["1", "2"], greedy=0.25, length=10.0),
            row(4, ["1", "2"], greedy=1.0, length=20.0),
            row(8, ["1", "2"], greedy=0.0, length=15.0),
        ],
    )
    points = {}
    for name in MEASURES:
        path = shown.root.locator(f'[data-curve="{name}"]').get_attribute("d")
        points[name] = [tuple(map(float, p.split(","))) for p in path[1:].split("L")]
        dot = shown.root.locator(f'[data-dot="{name}"]')
        assert [float(dot.get_attribute(c)) for c in ("cx", "cy")] == pytest.approx(
            points[name][-1], abs=0.01
        )  # it starts at the last step
    for name, values, high in (
        ("greedy", [0.25, 1.0, 0.0], 1.0),
        ("sampled", [0.4] * 3, 1.0),
        ("working", [0.3] * 3, 1.0),
        ("length", [10, 20, 15], 1.08 * 20),
    ):
        assert [x for x, _ in points[name]] == pytest.approx([34, 34 + 149, 34 + 298], abs=0.01)
        assert [y for _, y in points[name]] == pytest.approx(
            [168 - 34 - (168 - 34 - 8) * value / high for value in values], abs=0.01
        ), name


def test_it_says_what_changed(page):
    run = recorded()
    first = run["measured"][0]
    shown = replay(page)
    shown.control("step").focus()
    page.keyboard.press("Home")
    for at in run["measured"]:
        if at["step"]:
            shown.control("next").click()
        told = shown.says("run")
        if at["step"] == 0:
            assert "Before training, of the sampled replies: begin with working 0.175," in told
        else:
            assert f"From step 0 to step {at['step']}, " in told
            assert f"{first['working']:.3f} → {at['working']:.3f}, are right" in told
            assert f"{first['sampled']:.3f} → {at['sampled']:.3f}, mean length" in told
            assert f"{first['length']:.1f} → {at['length']:.1f} tokens" in told
        assert (
            "Greedy replies to 8 of the 8 sums below turn to working for good. In 8 of them "
            "the working they turn to is word for word the last one: the habit flips, and the "
            "columns stay as they were."
        ) in told
    made = made_up(
        page,
        [
            row(0, ["1", "<9+8=17>17"]),
            row(1, ["<7+5=12,6+4=10>102", "17"]),
            row(2, ["<7+5=12,6+4+1=11>112", "17"]),
        ],
    )
    assert "replies to 1 of the 2 sums" in made.says("run") and "In 0 of them" in made.says("run")
    assert "training changes the columns too" in made.says("run")
    made.check(2, 0)
    made.control("sum-1").click()
    made.check(2, 1)
    made = made_up(page, [row(0, ["1", "17"]), row(1, ["2", "17"])])
    assert "Greedy replies" not in made.says("run")


def test_it_says_when_a_reply_turns_and_when_it_settles(page):
    """The cases of the unit test, side by side."""
    replies = [
        ("12", "<1+1=2>2", "<1+1=2>2"),
        ("12", "13", "12"),
        ("<a", "<b", "<b"),
        ("1", "<a", "<b"),
        ("1", "1", "1"),
        ("<a", "1", "<a"),
        ("<a", "<a", "<a"),
    ]
    rows = [row(step, [of_one[i] for of_one in replies]) for i, step in enumerate((0, 2, 5))]
    shown = made_up(page, rows, ["1+1="] * len(replies))
    for k in range(len(replies)):
        shown.control(f"sum-{k}").click()
        shown.check(5, k)
    assert "Greedy replies to 3 of the 7 sums" in shown.says("run")
    assert "In 2 of them" in shown.says("run")


def test_a_right_answer_is_right_whatever_the_working(page):
    made = made_up(
        page, [row(0, ["<7+5=12,6+4=10>112", "1"]), row(1, ["<7+5=12,6+4+1=11>102", "1"])]
    )
    cards = made.root.evaluate(CARDS)
    assert "right and paid, whatever the working" in cards["before"]["answerText"]
    assert "the sum is 112: right working, wrong answer" in cards["after"]["answerText"]


BAD = [
    ({"prompts": []}, "prompts is empty; expected at least one sum"),
    ({"prompts": None}, "prompts is empty"),
    ({"prompts": ["67+45=", "hi"]}, "prompts[1] is hi; expected a sum such as 4821+377="),
    ({"measured": []}, "measured has 0 entries; expected at least two, before training and after"),
    ({"measured": None}, "measured has undefined entries"),
    ({"measured": [ROWS[0], None]}, "measured[1] has step=undefined"),
    ({"measured": [ROWS[1], ROWS[3]]}, "measured[0] has step=3; expected 0, before training"),
    ({"measured": [ROWS[0], ROWS[3], ROWS[1]]}, "measured[2] has step=3; expected one after 9"),
    ({"measured": [ROWS[0], {**ROWS[1], "greedy": 2}]}, "measured[1] has greedy=2; expected a sha"),
    ({"measured": [ROWS[0], {**ROWS[1], "working": None}]}, "measured[1] has working=null"),
    ({"measured": [ROWS[0], {**ROWS[1], "length": None}]}, "length=null; expected a mean of token"),
    (
        {"measured": [ROWS[0], {**ROWS[1], "replies": ["1"]}]},
        "measured[1] has other replies; expected 2 texts, one for each prompt",
    ),
    ({"measured": [ROWS[0], {**ROWS[1], "replies": ["1", None]}]}, "expected 2 texts"),
    ({"step": 2}, "step is 2; expected one that was measured: 0, 3, 4, 9"),
    ({"sum": 2}, "sum is 2; expected 0 to 1"),
]


def test_a_bad_state_gets_a_message_and_never_a_blank(page):
    made_up(page)
    assert_told(page, BAD)


LONG = [
    row(0, ["<" + "1+1=2," * 6 + "1+1=", "<9+8+1=18,123456789123456789>17"]),
    row(3, ["", "9" * sums.MAX_NEW_TOKENS]),
    row(900, ["<7+5=12,6+4=10>112", "<9+8=17>17"]),
]


TEXTS = [
    ".rlhf-reason-reply",
    ".rlhf-reason-place",
    ".rlhf-reason-written",
    ".rlhf-reason-remark",
    ".rlhf-reason-wrong",
    ".rlhf-reason-right",
    ".rlhf-legend",
    ".rlhf-reason-key",
    "[data-name=run-says]",
    "[data-name=sum-says]",
    ".rlhf-button",
    ".rlhf-label",
]


@pytest.mark.parametrize(
    "make, texts",
    [
        (replay, [*TEXTS, ".rlhf-reason-quiet"]),
        (lambda page, width: made_up(page, LONG, width=width), TEXTS),
    ],
    ids=["recorded", "long"],
)
def test_fits_and_reads_in_both_themes(page, make, texts):
    shown = make(page, width=390)
    shown.control("step").focus()
    page.keyboard.press("Home")
    for width in (390, 820, 1280):
        for k in reversed(range(len(shown.demo.prompts))):
            with case(f"sum {k}"):
                shown.control(f"sum-{k}").click()
                assert_fits(page, shown.root, width)
        assert_fits_and_reads(page, shown.root, texts, widths=(width,))


def test_the_controls_stay_in_place_when_the_step_moves(page):
    shown = replay(page, width=360)
    for width in (360, 390, 1280):
        resize(page, width)
        shown.control("step").focus()
        page.keyboard.press("Home")
        places = set()
        for _ in recorded()["measured"]:
            boxes = [shown.control(name).bounding_box() for name in ("step", "sum-0", "sum-7")]
            places.add(tuple((box["x"], box["y"], box["width"]) for box in boxes))
            page.keyboard.press("ArrowRight")
        assert len(places) == 1, (width, places)


def test_controls_have_names_and_changes_are_announced(page):
    shown = replay(page)
    for control in shown.root.locator("input, button").all():
        assert control.get_attribute("aria-label"), control.evaluate("e => e.outerHTML")
    shown.control("step").focus()
    page.keyboard.press("End")
    shown.control("sum-2").click()
    page.wait_for_function(
        "document.querySelector('.rlhf-reason [aria-live=polite]').textContent"
        ".includes('answer right, 3 of 3 columns right')"
    )
    announced = shown.root.locator("[aria-live=polite]").text_content()
    assert announced.startswith("Step 40: greedy 0.985, sampled 0.940, with working 1.000, length")
    assert shown.control("sum-2").get_attribute("aria-label") == (
        "223+87: right at step 40; read its working"
    )
