"""GRPO on sums in a real browser: it trains in the page, from a server and from a file."""

from __future__ import annotations

import base64
import zlib

import pytest

from benchmarks.in_page import heard, of_kind
from rlhf_lib.seeing.widgets import SumsTraining
from rlhf_lib.seeing.widgets.sums_training import BATCH, MODELS
from tests.site.alone import show
from tests.site.page_training import Training, open_with_python

PROMPTS = ["12+34=", "4821+377="]
RECORDED = {
    "name": "recorded",
    "records": [{"step": 1, "reward": 0.5, "length": 9.0}],
    "measured": [{"step": 0, "gold": 0.25, "replies": [("46", 1.0), ("7", 0.0)]}],
}
FOUR_BYTES = base64.b64encode(zlib.compress(b"abcd")).decode()


def open_demo(page, source: str = "http", **settings) -> Training:
    return Training(show(page, SumsTraining(PROMPTS, **settings), source))


@pytest.mark.parametrize("source", ["http", "file"])
def test_a_run_from_start_to_end(page, source):
    demo = open_demo(page, source, total=4, every=2)
    assert demo.status() == "ready" and demo.replies() == []
    demo.control("go").click()
    demo.until("done", "failed")
    assert demo.message() == "" and demo.step() == 4
    assert len(demo.replies()) == len(PROMPTS) and all(demo.replies())
    assert demo.curve("reward").count("L") == 3  # four steps, one line
    assert demo.root.locator(".rlhf-held").count() == 3  # before, and after steps 2 and 4
    assert 0 <= demo.number('[data-name="reward"]') <= 1
    assert demo.control("go").is_disabled()
    assert (page.outside, page.errors) == ([], [])


TOLD = """(() => {
  const { postMessage } = Worker.prototype;
  Worker.prototype.postMessage = function (said) {
    postMessage.call(this, said.script ? { ...said, script: `%s` + said.script } : said);
  };
})();"""  # what the second worker begins with, beside the script that it gets from the first
BEATS = """
globalThis.beats = 0;
new BroadcastChannel("second").onmessage = () => { globalThis.beats += 1; };
"""  # of a second worker, which says so as long as it lives
BEATING = """
{
  const channel = new BroadcastChannel("second");
  setInterval(() => channel.postMessage("alive"), 50);
}
"""
FAILING = """
{
  const { postMessage } = self;
  let answers = 0;
  self.postMessage = (...said) => postMessage(...(++answers > 9 ? [{ failed: "boom" }] : said));
}
"""  # after some steps
ALONE = """
const Whole = Blob;
globalThis.Blob = class extends Whole {
  constructor(parts, how) { super(["globalThis.document ?? delete self.Worker;", ...parts], how); }
};
"""  # a worker that can have no worker


@pytest.mark.parametrize(
    "second, rest", [(BEATING, ""), (BEATING, ALONE), ("boom();" + BEATING, "")]
)
def test_two_workers_in_a_page_do_what_one_does(page, second, rest):
    """Half of the rows are in the second one, and the numbers are those of one thread.

    So they are where no second one can be had, and where it does not start.
    """
    page.add_init_script(TOLD % second + BEATS + rest)
    demo = open_demo(page, total=2, every=2, seed=3)
    demo.control("go").click()
    demo.until("done", "failed")
    assert bool(page.evaluate("beats")) == (second == BEATING and not rest)
    settings = {**BATCH, "learningRate": 3e-4, "numGenerations": 8}
    start = {"world": "sums", "settings": settings, "asked": PROMPTS}
    said = heard(MODELS, {**start, "seed": 3, "total": 2, "every": 2})
    record = of_kind(said, "step")[-1]["record"]
    for metric in ("reward", "length", "zeroVarianceGroups"):
        assert demo.number(f'[data-name="{metric}"]') == record[metric], metric
    assert demo.replies() == [text for text, _ in of_kind(said, "measured")[-1]["replies"]]
    assert page.errors == []


@pytest.mark.parametrize("how", ["reset", "paused", "done", "failed"])
def test_no_worker_is_left_behind(page, how):
    page.add_init_script(TOLD % (BEATING + (FAILING if how == "failed" else "")) + BEATS)
    demo = open_demo(page, total=2 if how == "done" else 60)
    demo.control("go").click()
    page.wait_for_function("beats > 0")
    if how in ("done", "failed"):
        demo.until(how)
    else:
        demo.until_step(1)
        if how == "paused":
            demo.control("go").click()
            demo.until("paused")
        demo.control("again").click()
    page.wait_for_timeout(500)
    before = page.evaluate("beats")
    page.wait_for_timeout(1000)
    assert page.evaluate("beats") == before and page.workers == []


def test_a_second_worker_that_fails_on_its_way_is_named(page):
    page.add_init_script(TOLD % FAILING)
    demo = open_demo(page)
    demo.control("go").click()
    demo.until("failed")
    assert "boom" in demo.message()


def test_a_seed_is_a_run(page):
    runs = []
    for seed in (1, 1, 2):
        demo = open_demo(page, total=2, seed=seed)
        demo.control("go").click()
        demo.until("done")
        runs.append((demo.curve("reward"), demo.curve("length"), tuple(demo.replies())))
    assert runs[0] == runs[1] != runs[2]


def test_it_pauses_goes_on_and_begins_again(page):
    demo = open_demo(page, total=60)
    demo.control("samples-4").click()
    demo.control("go").click()
    demo.until_step(1)
    assert demo.control("samples-8").is_disabled()
    demo.control("go").click()
    demo.until("paused")
    page.wait_for_timeout(1500)  # the step that was under way may still end
    stopped = demo.step()
    page.wait_for_timeout(1500)
    assert demo.step() == stopped < 60
    demo.control("go").click()
    demo.until_step(stopped + 1)
    demo.control("again").click()
    assert (demo.status(), demo.step()) == ("ready", 0) and demo.replies() == []
    assert demo.control("samples-8").is_enabled()
    assert demo.control("samples-4").get_attribute("aria-pressed") == "true"
    assert page.errors == []


def test_the_reader_looks_back_while_it_trains(page):
    demo = open_demo(page, total=60)
    demo.control("go").click()
    demo.until_step(3)
    demo.control("back").click()
    demo.control("back").click()
    there = int(demo.root.locator('[data-setting="step"]').get_attribute("data-value"))
    demo.until_step(demo.step() + 2)
    assert demo.root.locator('[data-setting="step"]').get_attribute("data-value") == str(there)
    demo.move("step", 60)  # the newest: it is followed again
    newest = demo.step()
    demo.until_step(newest + 2)
    assert int(demo.root.locator('[data-setting="step"]').get_attribute("data-value")) > newest


@pytest.mark.parametrize("webassembly", [True, False])
def test_a_recorded_run_is_there_to_look_at(page, webassembly):
    if not webassembly:
        page.add_init_script("delete globalThis.WebAssembly")
    demo = open_demo(page, recorded=[RECORDED])
    said = "has no WebAssembly with SIMD. Below is a recorded run." in demo.message()
    assert said == demo.control("go").is_hidden() == (not webassembly)
    assert demo.replies() == ["46", "7"]
    demo.control("next").click()
    assert demo.root.locator('[data-setting="step"]').get_attribute("data-value") == "1"


@pytest.mark.parametrize(
    "missing, words",
    [("Worker", "it has no workers."), ("DecompressionStream", "it cannot unpack its weights.")],
)
def test_what_else_a_browser_may_lack(page, missing, words):
    page.add_init_script(f"delete globalThis.{missing}")
    assert words in open_demo(page).message()


@pytest.mark.parametrize(
    "script, words",
    [
        (
            "globalThis.Worker = class { constructor() { throw new Error('not here'); } }",
            "not here",
        ),
        (
            "const W = Worker; globalThis.Worker = function () { return new W('data:,boom()'); }",
            "boom is not defined",
        ),
    ],
)
def test_a_worker_that_does_not_start_is_named(page, script, words):
    page.add_init_script(script)
    demo = open_demo(page)
    demo.control("go").click()
    demo.until("failed")
    page.wait_for_timeout(500)  # the weights have come meanwhile
    assert demo.status() == "failed" and words in demo.message()


def test_the_keyboard_keeps_its_place(page):
    demo = open_demo(page, total=3)
    focused = "document.activeElement.dataset.control"
    demo.control("go").focus()
    page.keyboard.press("Enter")
    demo.until("done")
    assert page.evaluate(focused) == "go"
    page.keyboard.press("Enter")  # at the end it does nothing
    assert demo.status() == "done"
    demo.control("again").focus()
    page.keyboard.press("Enter")
    assert demo.status() == "ready" and page.evaluate(focused) == "again"


def test_python_hands_over_the_weights_where_there_is_one(page):
    sent = []
    demo = SumsTraining(PROMPTS, total=1)
    demo.send = lambda content, buffers: sent.append((content, buffers))
    demo._heard(None, {"kind": "weights", "name": "sums-base"}, [])
    demo._heard(None, {"kind": "weights", "name": "/etc/passwd"}, [])  # not one of its models
    ((content, (weights,)),) = sent
    assert content == {"kind": "done", "of": "sums-base"}
    shown = open_with_python(page, demo, {"sums-base": base64.b64encode(weights).decode()})
    shown.control("go").click()
    shown.until("done", "failed")
    assert shown.message() == "" and shown.step() == 1


@pytest.mark.parametrize(
    "weights, words",
    [
        (None, "Python has the weights and does not answer; begin again when its cell has ended"),
        ({"sums-base": ""}, "Python sent no weights"),
    ],
)
def test_a_python_without_an_answer_is_named(page, weights, words):
    demo = open_with_python(page, SumsTraining(PROMPTS), weights)
    demo.control("go").click()
    demo.until("failed")
    assert words in demo.message()


@pytest.mark.parametrize(
    "script, words",
    [
        (None, "the weights are missing: _static/weights/sums-base.js did not load"),
        ("", "the weights are missing: _static/weights/sums-base.js did not load"),
        ('globalThis.rlhfWeights = {"sums-base": btoa("abc")}', "damaged: they cannot be unpacked"),
        ('globalThis.rlhfWeights = {"sums-base": "%&/"}', "damaged: they cannot be unpacked"),
        (
            f'globalThis.rlhfWeights = {{"sums-base": "{FOUR_BYTES}"}}',
            "weights has 2 entries; expected 349728",
        ),
    ],
)
def test_weights_that_are_missing_or_damaged_are_named(page, script, words):
    demo = open_demo(page)

    def answer(route) -> None:
        route.abort() if script is None else route.fulfill(body=script)

    page.route("**/_static/weights/*", answer)
    demo.control("go").click()
    demo.until("failed")
    assert words in demo.message()
    demo.control("again").click()
    assert demo.status() == "ready" and demo.message() == ""


def test_it_learns(page):
    """From a sixth of the sums to most of them, within a minute on a usual machine."""
    demo = open_demo(page, total=30, every=30)
    demo.control("go").click()
    demo.until("done")
    held = demo.root.locator(".rlhf-held")
    first, last = (float(held.nth(i).get_attribute("cy")) for i in (0, 1))
    assert first > last + 30  # of 90 pixels between the lowest and the highest value
    assert demo.number('[data-name="reward"]') > 0.6
