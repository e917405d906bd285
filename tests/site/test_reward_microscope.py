"""The reward microscope in a real browser: recorded edits without Python, typing with one."""

from __future__ import annotations

import pytest

from rlhf_lib.seeing.widgets import RewardMicroscope
from rlhf_lib.worlds import letters
from tests.site import alone
from tests.site.alone import assert_fits_and_reads, assert_told, case, show

REPLIES = [
    (
        "write to ben. ask for a refund: the lamp, friday. reply:",
        "hello ben, thank you for writing. i would like a refund for the lamp bought on friday "
        "because it arrived broken. kind regards",
    ),
    (
        "write to maria. confirm the booking: the boat, monday. reply:",
        "hi maria, your boat is booked for monday. many thanks",
    ),
]
EXACT = 1e-9
WORDS = """(chips) => chips.map(
  (chip) => [chip.querySelector("span").textContent, Number(chip.dataset.value)])"""


def reward(prompts, completions):
    """Likes gushing and long replies, dislikes a repeated letter: words act together."""
    if any(len(c) > 600 for c in completions):
        raise ValueError("217 tokens; expected at most 128, the context of this model")
    return [
        0.31 * len(set(letters.GUSH) & set(letters.words(c)))
        + 0.017 * len(c)
        - 0.0013 * len(set(c)) ** 2
        for c in completions
    ]


def microscope(gold=letters.gold_reward) -> RewardMicroscope:
    return RewardMicroscope(reward, REPLIES, gold=gold)


class Shown(alone.Shown):
    def text(self, name: str) -> str:
        return self.root.locator(f'[data-name="{name}"]').text_content()

    def value(self, name: str) -> float:
        return float(self.root.locator(f'[data-name="{name}"]').get_attribute("data-value"))

    def words(self) -> list[list]:
        return self.root.locator(".rlhf-word").evaluate_all(WORDS)

    def check(self, demo: RewardMicroscope) -> None:
        """Everything on display is what Python has for the same state."""
        numbers = demo.result
        assert self.value("score") == numbers.scores.score
        assert self.value("change") == pytest.approx(numbers.change, abs=EXACT)
        if numbers.gold is None:
            assert self.root.locator('[data-name="gold"]').is_hidden()
        else:
            assert self.value("gold") == numbers.gold
            assert self.value("gold_change") == pytest.approx(numbers.gold_change, abs=EXACT)
        running = numbers.scores.running
        expected = (
            numbers.scores.contributions
            if demo.view == "contributions"
            else [b - a for a, b in zip(running, running[1:])]
        )
        words = self.words()
        assert [word for word, _ in words] == [piece.strip() for piece in numbers.scores.pieces]
        assert [value for _, value in words] == pytest.approx(expected, abs=EXACT)
        assert self.value("sum") == pytest.approx(sum(expected), abs=1e-4)
        assert self.value("whole") == pytest.approx(numbers.scores.score - running[0], abs=1e-4)
        assert self.text("request") == demo.prompts[demo.case]


@pytest.mark.parametrize("source", ["http", "file"])
def test_without_python_every_recorded_edit_is_shown(page, source):
    demo = microscope()
    shown = Shown(show(page, demo, source))
    assert "Recorded edits" in shown.text("where") and shown.control("reply").is_hidden()
    for demo.case in range(len(REPLIES)):
        shown.control("case").select_option(str(demo.case))
        for row in demo.rows[demo.case]:
            demo.edit = row["name"]
            shown.control(f"edit-{demo.edit}").click()
            shown.check(demo)
    assert shown.numbers('[data-name="effect"]') == pytest.approx(
        [row["score"] - demo.rows[1][0]["score"] for row in demo.rows[1]], abs=EXACT
    )
    assert (page.errors, page.outside) == ([], [])


def test_running_scores_add_up(page):
    demo = microscope()
    shown = Shown(show(page, demo))
    demo.view = "running"
    shown.control("view-running").click()
    shown.check(demo)
    assert shown.text("sum") == shown.text("whole")
    demo.view = "contributions"
    shown.control("view-contributions").click()
    shown.check(demo)
    assert shown.text("sum") != shown.text("whole")


def test_by_keyboard_alone(page):
    demo = microscope()
    shown = Shown(show(page, demo))
    shown.control("case").focus()
    page.keyboard.press("ArrowDown")
    demo.case = 1
    shown.check(demo)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    demo.view = "running"
    shown.check(demo)
    page.keyboard.press("Tab")  # one stop for all words
    page.keyboard.press("ArrowRight")
    assert shown.text("detail").startswith("If the reply broke off after “maria”")
    page.keyboard.press("End")
    assert shown.text("detail").startswith("If the reply broke off after “thanks”")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    demo.edit = demo.rows[1][2]["name"]
    shown.check(demo)
    assert shown.control(f"edit-{demo.edit}").evaluate("e => e === document.activeElement")


def test_words_that_came_and_went_are_marked(page):
    shown = Shown(show(page, microscope()))
    shown.control("edit-one gushing word").click()
    assert shown.root.locator(".rlhf-word-new span").all_text_contents() == ["wonderful", "!"]
    assert shown.root.locator("del").count() == 0
    shown.control("edit-another day").click()
    assert shown.root.locator(".rlhf-word-new span").all_text_contents() == ["saturday"]
    assert shown.root.locator("del").all_text_contents() == ["friday"]
    shown.control("edit-no closing").click()
    assert shown.root.locator("del").all_text_contents() == ["kind", "regards"]


def test_the_verdict_names_a_disagreement(page):
    shown = Shown(show(page, microscope()))
    shown.control("edit-three gushing words").click()
    assert "scores this edit higher" in shown.text("verdict")
    assert "by gold it is worse" in shown.text("verdict")
    assert shown.text("verdict").endswith("They disagree.")


def test_without_gold(page):
    demo = microscope(gold=None)
    shown = Shown(show(page, demo))
    demo.edit = "small talk"
    shown.control("edit-small talk").click()
    shown.check(demo)
    assert "gold" not in shown.text("verdict") and page.errors == []


# The demo with the real Python half behind it.
CONNECT = """async (silent) => {
  const { state } = Object.values(JSON.parse(document.querySelector(
    'script[type="application/vnd.jupyter.widget-state+json"]').textContent).state)
    .find((s) => s.state._esm);
  const heard = {};
  window.sent = [];
  const emit = (event, ...rest) => (heard[event] ?? []).forEach((f) => f(...rest));
  const model = { get: (k) => state[k], save_changes() {},
    set: (k, v) => { state[k] = v; emit(`change:${k}`); },
    on: (e, f) => (heard[e] ??= []).push(f), off() {},
    send: async (content) => {
      window.sent.push(content);
      if (silent && content.kind === "score") return;
      const { typed, answers } = await window.python(content);
      model.set("typed", typed);
      for (const answer of answers) emit("msg:custom", answer); } };
  const url = URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" }));
  const el = document.createElement("div");
  el.id = "with-python";
  document.querySelector("article").prepend(el);
  (await import(url)).default.render({ model, el });
}"""


def connect(page, silent: bool = False) -> tuple[Shown, RewardMicroscope]:
    demo = microscope()
    show(page, demo)
    sent: list[dict] = []
    demo.send = lambda content, buffers=None: sent.append(content)

    def python(content: dict) -> dict:
        sent.clear()
        demo._heard(demo, content, [])
        return {"typed": demo.typed, "answers": list(sent)}

    page.expose_function("python", python)
    page.evaluate(CONNECT, silent)
    shown = Shown(page.locator("#with-python"))
    shown.control("reply").wait_for()
    return shown, demo


def wait_for_score(page, value: float) -> None:
    page.wait_for_function(
        """value => Math.abs(Number(document.querySelector(
        '#with-python [data-name=score]').dataset.value) - value) < 1e-9""",
        arg=value,
    )


def test_with_python_what_is_typed_is_scored(page):
    shown, demo = connect(page)
    field = shown.control("reply")
    assert field.input_value() == REPLIES[0][1]
    field.press("End")
    field.press_sequentially(" indeed", delay=20)
    wait_for_score(page, round(reward([""], [field.input_value()])[0], 4))
    demo.edit = "your own"
    shown.check(demo)
    assert shown.root.locator(".rlhf-word-new span").all_text_contents() == ["indeed"]
    assert len(page.evaluate("window.sent")) < 1 + len(" indeed")  # at pauses, not at each key
    shown.control("edit-another day").click()
    demo.edit = "another day"
    shown.check(demo)
    assert field.input_value() == demo.result.completion  # to go on from there
    assert page.errors == []


UNSCORED = [
    ("", "Not scored: the reply is empty; expected at least one word.", "hello ben"),
    ("word " * 150, "217 tokens; expected at most 128, the context of this model", "hi maria"),
]


def test_what_cannot_be_scored_is_said_and_the_last_reply_stays(page):
    shown, demo = connect(page)
    message = shown.root.locator(".rlhf-message")
    for text, says, scored in UNSCORED:
        with case(says):
            shown.control("reply").fill(text)
            message.wait_for()
            assert says in message.text_content()
            shown.check(demo)
            shown.control("reply").fill(scored)
            wait_for_score(page, round(reward([""], [scored])[0], 4))
            assert message.is_hidden()
            demo.edit = "your own"


def test_a_python_that_dies_is_noticed(page):
    shown, demo = connect(page, silent=True)
    shown.control("reply").fill("hello")
    message = shown.root.locator(".rlhf-message")
    message.wait_for()
    assert "Python does not answer" in message.text_content()
    shown.check(demo)


def test_an_answer_that_came_too_late_is_not_shown(page):
    shown, demo = connect(page)
    page.evaluate("""() => {
        const answer = window.python;
        window.late = [];
        window.python = (content) => new Promise((free) => {
            window.late.push(() => { free(answer(content)); });
        });
    }""")
    shown.control("reply").fill("hello")
    page.wait_for_function("window.late.length === 1")
    shown.control("edit-small talk").click()  # the reader went elsewhere
    page.evaluate("window.late[0]()")
    page.wait_for_timeout(300)
    demo.edit = "small talk"
    shown.check(demo)


def row(**changes) -> list:
    return [
        [
            {
                "name": "as written",
                "pieces": ["a"],
                "score": 1,
                "contributions": [1],
                "running": [0, 1],
                "gold": 1,
                **changes,
            }
        ]
    ] * 2


BAD = [
    ({"prompts": []}, "replies is empty"),
    ({"rows": []}, "rows has 0 entries; expected 2"),
    ({"rows": [[], []]}, "rows has a prompt without a reply"),
    ({"rows": row(pieces=[])}, "the reply “as written” is empty; expected at least one word"),
    ({"rows": row(contributions=[])}, "contributions of “as written” are not 1 finite numbers"),
    ({"rows": row(running=[0, None])}, "running of “as written” are not 2 finite numbers"),
    ({"rows": row(score="much")}, "score of “as written” is much; expected a number"),
    ({"rows": row(gold="much")}, "gold of “as written” is much; expected a number"),
    ({"case": 2}, "case is 2; expected 0 to 1"),
    ({"edit": None}, "edit is null; expected the name of an edit"),
    ({"view": "other"}, "view is other; expected contributions or running"),
]


def test_a_bad_state_gets_a_message_and_never_a_blank(page):
    show(page, microscope())
    assert_told(page, BAD)


def test_fits_and_reads_in_both_themes(page):
    root = show(page, microscope(), width=390)
    Shown(root).control("edit-another day").click()
    assert_fits_and_reads(
        page,
        root,
        [
            ".rlhf-word span",
            ".rlhf-word small",
            "del",
            ".rlhf-legend",
            ".rlhf-edit",
            ".rlhf-true",
            ".rlhf-verdict",
            ".rlhf-tile output",
        ],
    )


def test_controls_have_names(page):
    root = show(page, microscope())
    for control in root.locator("input, button, select, textarea").all():
        assert control.get_attribute("aria-label") or control.text_content()
    for control in root.locator("select, textarea, .rlhf-word, .rlhf-edit").all():
        assert control.get_attribute("data-lm-suppress-shortcuts") == "true"
