"""PPO on letters in a real browser: β by hand, and the reader's own taste as the reward."""

from __future__ import annotations

import base64
import json
import random

import pytest

from benchmarks.in_page import heard, of_kind
from rlhf_lib.seeing import engine
from rlhf_lib.seeing.widgets import Annotator, LettersTraining
from rlhf_lib.seeing.widgets.letters_training import BATCH, MODELS
from rlhf_lib.worlds import letters
from tests.site.alone import Shown, assert_accessible, assert_fits, show
from tests.site.page_training import Training, open_with_python

PROMPTS = list(letters.prompts(2, seed=3, held_out=True)["prompt"])
RECORDED = {
    "name": "recorded",
    "records": [{"step": 1, "reward": 0.5, "gold": 2.0, "kl": 0.5, "length": 9.0, "beta": 0.1}],
    "measured": [{"step": 0, "gold": 2.0, "replies": [("hello ben", 1.0), ("no.", -2.0)]}],
}
KEPT = "JSON.parse(localStorage.getItem('rlhf-comparisons') ?? '[]')"


def written(n: int, seed: int = 0) -> list[dict]:
    """Pairs of replies of different styles."""
    draws, pairs = random.Random(seed), []
    while len(pairs) < n:
        request = letters.draw_request(draws)
        first, second = (
            letters.write(request, draws.choice(letters.STYLES[:3]), draws) for _ in "ab"
        )
        if first != second:
            pairs.append({"prompt": request.prompt, "first": first, "second": second})
    return pairs


def open_demo(page, source: str = "http", **settings) -> Training:
    return Training(show(page, LettersTraining(PROMPTS, **settings), source))


@pytest.mark.parametrize("source", ["http", "file"])
def test_a_run_from_start_to_end(page, source):
    demo = open_demo(page, source, total=2, every=1)
    assert demo.status() == "ready" and demo.replies() == []
    demo.control("go").click()
    demo.until("done", "failed")
    assert demo.message() == "" and demo.step() == 2
    assert len(demo.replies()) == len(PROMPTS) and all(demo.replies())
    for metric in ("reward", "gold", "kl", "length"):
        assert demo.curve(metric).count("L") == 1, metric
    assert demo.root.locator(".rlhf-held").count() == 3
    assert abs(demo.number('[data-name="kl"]')) < 3
    assert demo.root.locator(".rlhf-changes tbody tr").count() == 8
    assert (page.outside, page.errors) == ([], [])


def test_two_workers_in_a_page_do_what_one_does(page):
    """The critic learns beside the policy, and the numbers are those of a single worker."""
    demo = open_demo(page, total=2, every=2, seed=3)
    demo.control("go").click()
    demo.until("done", "failed")
    start = {"world": "letters", "settings": {**BATCH, "beta": 0.1}, "asked": PROMPTS}
    start |= {"seed": 3, "total": 2, "every": 2, "lists": engine.letters_lists()}
    said = heard(MODELS, start)
    record = of_kind(said, "step")[-1]["record"]
    assert demo.number('[data-name="gold"]') == pytest.approx(record["worth"], abs=1e-6)
    for metric in ("reward", "kl", "length"):
        shown = demo.number(f'[data-name="{metric}"]')
        assert shown == pytest.approx(record[metric], abs=1e-6), metric
    assert demo.replies() == [text for text, _ in of_kind(said, "measured")[-1]["replies"]]


def test_beta_is_turned_while_it_runs(page):
    demo = open_demo(page, total=40, every=40)
    demo.control("go").click()
    demo.until_step(1)
    demo.control("beta-field").fill("0,5")
    demo.control("beta-field").press("Enter")
    turned = '[data-name="beta"][data-value="0.5"]'
    demo.root.locator(turned).wait_for()
    demo.control("beta-field").fill("much")
    demo.control("beta-field").press("Enter")
    page.wait_for_function(
        "document.querySelector('.rlhf-message').textContent === "
        "'Refused: beta is much; expected 0 or more. The run is as it was.'"
    )
    newest = demo.step()
    demo.until_step(newest + 1)
    assert demo.root.locator(turned).count() == 1
    demo.control("go").click()
    demo.until("paused")
    demo.move("beta", 0)  # no price at all
    page.wait_for_function("document.querySelector('[data-control=beta-field]').value === '0'")
    paused = demo.step()
    demo.control("go").click()
    demo.until_step(paused + 1)
    demo.root.locator('[data-name="beta"][data-value="0"]').wait_for()
    assert page.errors == []


@pytest.mark.parametrize("width", [375, 1280])
def test_anybody_can_use_it_before_and_after_a_run(page, width):
    """It fits, and axe finds nothing in either theme."""
    root = show(page, LettersTraining(PROMPTS, pairs=written(3), reward="yours"), width=width)
    assert_fits(page, root, width)
    assert_accessible(page)
    demo = Training(show(page, LettersTraining(PROMPTS, total=1, every=1), width=width))
    demo.control("go").click()
    demo.until("done")
    assert_fits(page, demo.root, width)
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        page.wait_for_timeout(400)  # the theme fades its colours
        assert_accessible(page)


def test_a_recorded_run_where_nothing_can_be_trained(page):
    page.add_init_script("delete globalThis.WebAssembly")
    demo = open_demo(page, recorded=[RECORDED])
    assert "has no WebAssembly with SIMD. Below is a recorded run." in demo.message()
    assert demo.control("go").is_hidden()
    assert demo.replies() == ["hello ben", "no."]


def test_python_hands_over_both_models(page):
    models = ("letters-sft", "letters-reward")
    weights = {name: base64.b64encode(engine.packed(name)).decode() for name in models}
    demo = open_with_python(page, LettersTraining(PROMPTS, total=1), weights)
    demo.control("go").click()
    demo.until("done", "failed")
    assert demo.message() == "" and demo.step() == 1


# ---------------------------------------------------------------------------------- your taste


def test_comparisons_are_kept_and_become_a_reward(page):
    pairs = written(12)
    demo = open_demo(page, pairs=pairs, total=1, every=1)
    assert demo.root.locator(".rlhf-taste").is_hidden()
    demo.control("reward-yours").click()
    assert demo.control("go").is_disabled()  # too few
    demo.control("go").dispatch_event("click")
    assert demo.status() == "ready"
    assert "0 comparisons. At least 8 make a reward model" in demo.says("comparisons")
    stage = demo.control("stage")
    stage.focus()
    for i, pair in enumerate(pairs[:9]):
        assert demo.says("first") == pair["first"], i
        page.keyboard.press("ArrowRight" if i % 3 else "ArrowLeft")
    page.keyboard.press("u")
    page.keyboard.press("s")
    assert demo.says("first") == pairs[9]["first"]  # the one taken back is skipped
    kept = page.evaluate(KEPT)
    assert kept == [
        {
            "prompt": pair["prompt"],
            "chosen": pair["second" if i % 3 else "first"],
            "rejected": pair["first" if i % 3 else "second"],
        }
        for i, pair in enumerate(pairs[:8])
    ]
    demo.control("go").click()
    demo.until("done", "failed")
    assert demo.message() == "" and demo.step() == 1
    assert "% of your comparisons as you did" in demo.says("comparisons")
    again = open_demo(page, pairs=pairs, reward="yours")  # another visit
    assert again.says("comparisons").startswith("8 comparisons. ")
    again.control("forget").click()
    assert again.control("forget").text_content() == "press again to forget them all"
    assert len(page.evaluate(KEPT)) == 8
    again.control("forget").click()
    assert page.evaluate(KEPT) == [] and "0 comparisons" in again.says("comparisons")
    assert page.errors == []


def test_choices_of_the_chapter_on_preferences_count(page):
    """And they are there again when the reader comes back."""
    pairs = written(9, seed=4)
    recorded = [(0, "first")]
    shown = Shown(show(page, Annotator(pairs, recorded=recorded)))
    shown.control("mode-label").click()
    shown.control("stage").focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("u")
    assert "Your choices stay in this browser" in shown.says("where")
    back = Shown(show(page, Annotator(pairs, recorded=recorded)))
    back.root.locator('[data-name="progress"]:has-text("8 of 9 pairs labelled")').wait_for()
    demo = open_demo(page, pairs=written(3), reward="yours")
    assert demo.says("comparisons").startswith("8 comparisons. ")
    assert page.errors == []


@pytest.mark.parametrize("kept", ["not JSON", '{"a": 1}', '[{"prompt": "x"}, 7, null]'])
def test_a_storage_that_others_have_written_to_is_no_harm(page, kept):
    page.goto(page.base + "book/intro.html", wait_until="networkidle")
    page.evaluate("text => localStorage.setItem('rlhf-comparisons', text)", kept)
    demo = open_demo(page, pairs=written(3), reward="yours")
    assert demo.says("comparisons").startswith("0 comparisons")
    demo.control("first").click()
    assert demo.says("comparisons").startswith("1 comparisons")
    assert page.errors == []


def test_a_browser_that_keeps_nothing_says_so(page):
    page.add_init_script(
        "Storage.prototype.setItem = () => { throw new Error('full'); };"
        "Storage.prototype.getItem = () => { throw new Error('closed'); };"
    )
    demo = open_demo(page, pairs=written(3), reward="yours")
    demo.control("second").click()
    said = demo.says("comparisons")
    assert said.startswith("1 comparisons") and "This browser keeps nothing" in said
    with page.expect_download() as download:
        demo.control("download").click()
    lines = download.value.path().read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["label"]
