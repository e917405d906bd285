"""A reward model fitted to the reader's comparisons in a real browser."""

from __future__ import annotations

import base64
import random

import pytest

from rlhf_lib.seeing import engine
from rlhf_lib.seeing.widgets import RewardFit
from rlhf_lib.worlds import letters
from tests.site.alone import Shown, assert_accessible, assert_fits, show
from tests.site.page_training import open_with_python

ASKED, EDITS = letters.controlled_edits(6, seed=1)
NAMES = ("clean", "4 gushing words", "7 formal words", "rude sentence", "wrong day")
EDITS = {name: texts for name, texts in EDITS.items() if name.removeprefix("opener: ") in NAMES}


def gushing_pairs(n: int) -> list[dict]:
    """The same letter with exclamations and without, on either side."""
    draws, pairs = random.Random(0), []
    while len(pairs) < n:
        request = letters.draw_request(draws)
        clean = letters.write(request, "polite-concise", draws, slips=0, gush_rate=0)
        opener, rest = clean.split(", ", 1)
        replies = [clean, f"{opener}, wonderful! {rest}"]
        draws.shuffle(replies)
        pairs.append({"prompt": request.prompt, "first": replies[0], "second": replies[1]})
    return pairs


class Fit(Shown):
    """The demo on a page."""

    def status(self) -> str:
        return self.root.locator('[data-name="status"]').get_attribute("data-value")

    def compare(self, n: int, likes) -> None:
        """Choose the reply with more of what is liked, n times, by keyboard."""
        self.control("stage").focus()
        for _ in range(n):
            better = likes(self.says("first")) > likes(self.says("second"))
            self.root.page.keyboard.press("ArrowLeft" if better else "ArrowRight")

    def fitted(self) -> dict[str, float]:
        """Fit, and return what each change does to a letter's score."""
        self.control("go").click()
        ended = ", ".join(f'[data-name="status"][data-value="{x}"]' for x in ("done", "failed"))
        self.root.locator(ended).wait_for()
        cells = self.root.locator("[data-edit]")
        return {
            cells.nth(i).get_attribute("data-edit"): float(cells.nth(i).get_attribute("data-value"))
            for i in range(cells.count())
        }


@pytest.mark.parametrize("source, sign", [("http", 1), ("file", -1)])
def test_it_likes_what_the_reader_likes(page, source, sign):
    """One reader likes exclamations, the other does not; both are read from forty comparisons."""
    fit = Fit(show(page, RewardFit(gushing_pairs(40), ASKED, EDITS), source))
    assert fit.control("go").is_disabled() and fit.status() == "ready"
    fit.compare(40, lambda text: sign * text.count("!"))
    assert fit.says("comparisons").startswith("40 comparisons. ")
    found = fit.fitted()
    assert fit.root.locator(".rlhf-message").text_content() == ""
    assert set(found) == set(EDITS) - {"clean"}
    assert sign * found["4 gushing words"] > 1, found
    assert abs(found["4 gushing words"]) > 2 * abs(found["wrong day"]), found
    assert "ranks 100 % of your comparisons" in fit.says("comparisons")
    assert_accessible(page)
    fit.control("again").click()
    assert fit.status() == "ready" and fit.root.locator("[data-edit]").count() == 4
    assert fit.root.locator(".rlhf-weights").is_hidden()
    assert (page.outside, page.errors) == ([], [])


def test_a_model_that_is_missing_is_named(page):
    fit = Fit(show(page, RewardFit(gushing_pairs(8), ASKED, EDITS)))
    page.route("**/_static/weights/*", lambda route: route.abort())
    fit.compare(8, len)
    fit.fitted()
    said = fit.root.locator(".rlhf-message").text_content()
    assert "The fit has stopped: the weights are missing" in said
    fit.control("again").click()
    assert fit.status() == "ready"


def test_where_no_model_can_run_it_says_so(page):
    page.add_init_script("delete globalThis.WebAssembly")
    fit = Fit(show(page, RewardFit(gushing_pairs(8), ASKED, EDITS)))
    assert "has no WebAssembly with SIMD" in fit.root.locator(".rlhf-message").text_content()
    fit.compare(8, len)
    assert fit.control("go").is_disabled()


def test_python_hands_over_the_policy(page):
    weights = {"letters-sft": base64.b64encode(engine.packed("letters-sft")).decode()}
    open_with_python(page, RewardFit(gushing_pairs(8), ASKED, EDITS), weights)
    fit = Fit(page.locator("#jupyter"))
    fit.compare(8, len)
    assert set(fit.fitted()) == set(EDITS) - {"clean"}


def test_fits_a_phone(page):
    root = show(page, RewardFit(gushing_pairs(9), ASKED, EDITS), width=375)
    assert_fits(page, root, 375)
    fit = Fit(root)
    fit.compare(8, len)
    fit.fitted()
    assert_fits(page, root, 375)
