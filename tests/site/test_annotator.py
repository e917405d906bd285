"""Be the annotator in a real browser: the replay, labelling without Python, and with one."""

from __future__ import annotations

import json
from functools import cache

import nbformat
import pytest

from book.build import ROOT, WIDGET_STATE
from rlhf_lib.seeing.widgets import Annotator
from rlhf_lib.worlds import labels as label_file
from tests.site.alone import Shown, assert_fits, assert_told

CHAPTER = "book/reward/preferences.html"
EXACT = 1e-7


@cache
def saved() -> dict:
    """The state of the demo that the chapter stores."""
    notebook = nbformat.read((ROOT / CHAPTER).with_suffix(".ipynb"), as_version=4)
    states = notebook.metadata.widgets[WIDGET_STATE]["state"].values()
    return next(s["state"] for s in states if "recorded" in s["state"])


def in_python() -> Annotator:
    state = saved()
    return Annotator(
        [dict(zip(("prompt", "first", "second"), pair)) for pair in state["pairs"]],
        recorded=state["recorded"],
        ridge=state["ridge"],
    )


class Demo(Shown):
    def __init__(self, page, base: str | None = None) -> None:
        page.goto((base or page.base) + CHAPTER, wait_until="domcontentloaded")
        super().__init__(page.locator(".rlhf-annotator").first)
        self.page = page
        self.root.locator(".rlhf-weight").first.wait_for()

    def text(self, name: str) -> str:
        return self.root.locator(f'[data-name="{name}"]').text_content()

    def check(self, choices) -> None:
        """Compare everything on display with Python after these choices."""
        numbers = in_python().numbers([tuple(c) for c in choices])
        weights = self.values("data-feature")
        for name, weight in numbers.weights.items():
            assert float(weights[name]) == pytest.approx(weight, abs=EXACT), name
        tile = self.root.locator('[data-name="foreseen"]')
        assert (int(tile.get_attribute("data-value")), int(tile.get_attribute("data-judged"))) == (
            numbers.foreseen,
            numbers.judged,
        )
        assert int(self.text("labelled")) == len(choices)


@pytest.mark.parametrize("source", ["http", "file"])
def test_without_python_it_opens_with_the_recorded_session(page, source):
    demo = Demo(page, page.base if source == "http" else page.folder)
    demo.check([])
    assert demo.control("mode-replay").get_attribute("aria-pressed") == "true"
    assert "program" in demo.text("where")  # never presented as a person's
    assert (page.errors, page.outside) == ([], [])


def test_the_replay_is_stepped_by_keyboard(page):
    demo, recorded = Demo(page), saved()["recorded"]
    demo.control("stage").focus()
    for n in (1, 2, 3):
        page.keyboard.press("ArrowRight")
        demo.check(recorded[:n])
        pair, side = recorded[n - 1]
        assert demo.text("prompt") == saved()["pairs"][pair][0]
        picked = demo.root.locator(".rlhf-card-picked")
        assert picked.get_attribute("data-control") == side
    page.keyboard.press("ArrowLeft")
    demo.check(recorded[:2])
    page.keyboard.press("End")
    demo.check(recorded)
    demo.control("step").focus()
    page.keyboard.press("Home")
    demo.check([])


def test_labelling_by_keyboard_alone(page):
    demo = Demo(page)
    demo.control("mode-label").focus()
    page.keyboard.press("Enter")
    for _ in range(40):  # Tab from there to the stage
        if page.evaluate("document.activeElement.dataset.control") == "stage":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("s")
    page.keyboard.press("ArrowLeft")
    demo.check([(0, "first"), (1, "second"), (3, "first")])
    assert demo.text("prompt") == saved()["pairs"][4][0]
    page.keyboard.press("u")
    demo.check([(0, "first"), (1, "second")])
    assert "Your choices stay in this browser" in demo.text("where")
    assert page.errors == []


def test_a_key_held_down_labels_once(page):
    demo = Demo(page)
    demo.control("mode-label").click()
    demo.control("stage").focus()
    page.keyboard.down("ArrowLeft")
    page.keyboard.down("ArrowLeft")  # what a browser sends while it is held
    page.keyboard.up("ArrowLeft")
    demo.check([(0, "first")])


def test_all_pairs_can_be_labelled_and_downloaded(page, tmp_path):
    demo, pairs = Demo(page), saved()["pairs"]
    demo.control("mode-label").click()
    demo.control("stage").focus()
    sides = ["first" if i % 3 else "second" for i in range(len(pairs))]
    for side in sides:
        page.keyboard.press("ArrowLeft" if side == "first" else "ArrowRight")
    demo.check(list(enumerate(sides)))
    assert "All pairs are labelled" in demo.text("prompt")
    page.keyboard.press("ArrowLeft")  # nothing is left: nothing happens
    assert demo.text("labelled") == str(len(pairs))
    with page.expect_download() as download:
        demo.control("download").click()
    file = tmp_path / "mine.jsonl"
    download.value.save_as(file)
    rows = label_file.read_labels(file).rows
    assert [row["chosen"] for row in rows] == [
        pair[1 if side == "first" else 2] for pair, side in zip(pairs, sides)
    ]


# The demo with a Python of our own behind it: what the page sends, and what is answered.
WITH_PYTHON = """([answers]) => {
  const states = Object.values(JSON.parse(document.querySelector(
    'script[type="application/vnd.jupyter.widget-state+json"]').textContent).state);
  const state = {...states.find((s) => s.state.recorded).state};
  const heard = {};
  window.sent = [];
  const emit = (event, ...rest) => (heard[event] ?? []).forEach((f) => f(...rest));
  const model = { get: (k) => state[k], save_changes() {},
    set: (k, v) => { state[k] = v; emit(`change:${k}`); },
    on: (e, f) => (heard[e] ??= []).push(f), off() {},
    send: (content) => { window.sent.push(content);
      const answer = answers[content.kind];
      if (!answer) return;
      setTimeout(() => {
        if (answer.kind === "done" && content.kind === "label") {
          model.set("labels", [...state.labels, [content.pair, content.side]]);
        }
        emit("msg:custom", answer); }, 20); } };
  const url = URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" }));
  const el = document.createElement("div");
  el.id = "with-python";
  document.querySelector("article").prepend(el);
  return import(url).then((m) => { m.default.render({ model, el }); });
}"""
DONE = {"kind": "done", "saves": True}


def test_with_python_a_choice_is_sent_and_counts_once_answered(page):
    Demo(page)
    page.evaluate(WITH_PYTHON, [{"hello": DONE, "label": DONE, "undo": DONE}])
    root = page.locator("#with-python")
    page.wait_for_function(
        "document.querySelector('#with-python [data-name=where]')"
        ".textContent.includes('my-labels.jsonl')"
    )
    root.locator('[data-control="stage"]').focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "document.querySelector('#with-python [data-name=labelled]').textContent === '1'"
    )
    assert page.evaluate("window.sent") == [
        {"kind": "hello"},
        {"kind": "label", "pair": 0, "side": "second"},
    ]
    assert root.locator('[data-control="download"]').is_hidden()


def test_a_choice_that_could_not_be_saved_does_not_count(page):
    Demo(page)
    failed = {"kind": "failed", "text": "OSError: No space left on device"}
    page.evaluate(WITH_PYTHON, [{"hello": DONE, "label": failed}])
    root = page.locator("#with-python")
    page.wait_for_function(
        "document.querySelector('#with-python [data-name=where]')"
        ".textContent.includes('my-labels.jsonl')"
    )
    root.locator('[data-control="stage"]').focus()
    page.keyboard.press("ArrowRight")
    message = root.locator(".rlhf-message")
    message.wait_for()
    assert "Not saved: OSError: No space left" in message.text_content()
    assert root.locator('[data-name="labelled"]').text_content() == "0"


def test_a_python_that_dies_is_noticed(page):
    Demo(page)
    page.evaluate(WITH_PYTHON, [{"hello": DONE}])
    root = page.locator("#with-python")
    page.wait_for_function(
        "document.querySelector('#with-python [data-name=where]')"
        ".textContent.includes('my-labels.jsonl')"
    )
    root.locator('[data-control="stage"]').focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")  # while the first is open, no second is sent
    root.locator(".rlhf-message").wait_for()
    assert "Python does not answer" in root.locator(".rlhf-message").text_content()
    assert len(page.evaluate("window.sent")) == 2


BAD = [
    ({"pairs": []}, "pairs has none that can be labelled"),
    ({"pairs": [["a", "b"]]}, "pairs has an entry that is not prompt, first and second"),
    ({"differences": []}, "differences has 0 rows; expected 40"),
    ({"labels": [[99, "first"]]}, "labels[0] is 99,first; expected a pair from 0 to 39"),
    ({"recorded": [[0, "left"]]}, "recorded[0] is 0,left"),
    ({"ridge": 0}, "ridge is 0; expected a positive number"),
    ({"reference": [1]}, "reference has 1 entries; expected 12"),
]


def test_a_bad_state_gets_a_message_and_never_a_blank(page):
    Demo(page)
    assert_told(page, BAD, "recorded")


def test_no_machine_in_the_saved_state():
    state = saved()
    assert state["labels"] == [] and state["file_name"] == "my-labels.jsonl"
    assert "/" not in json.dumps([state["file_name"], state["recorded_by"]])


def test_fits_the_page(page):
    page.set_viewport_size({"width": 375, "height": 900})
    demo = Demo(page)
    demo.control("mode-label").click()
    for width in (375, 1280):
        assert_fits(page, demo.root, width)


def test_controls_have_names(page):
    demo = Demo(page)
    for control in demo.root.locator("input, button").all():
        assert control.get_attribute("aria-label") or control.text_content().strip()
    assert demo.control("stage").get_attribute("aria-label")
