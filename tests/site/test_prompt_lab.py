"""Writing with the book's models in a real browser, to a prompt of one's own."""

from __future__ import annotations

import base64

import pytest

from rlhf_lib.seeing import engine
from rlhf_lib.seeing.widgets import PromptLab
from rlhf_lib.seeing.widgets.prompt_lab import MODELS
from rlhf_lib.worlds import letters
from tests.site.alone import Shown, assert_accessible, assert_fits, assert_readable, show
from tests.site.page_training import open_with_python

ASKED = "write to ben. ask for a refund: the lamp, friday. reply:"
RECORDED = {"base": ["no."], "sft": ["hello ben", "dear ben"], "aligned": ["dear ben, thanks"]}


class Lab(Shown):
    """The demo on a page."""

    def replies(self) -> list[str]:
        return self.root.locator(".rlhf-reply-text").all_text_contents()

    def write(self, model: str, prompt: str | None = None) -> str:
        """Ask, wait for the answer, and return what is said below the replies."""
        before = self.says("summary")
        if prompt is not None:
            self.control("prompt").fill(prompt)
        self.control(f"model-{model}").click()
        self.control("write").click()
        self.root.page.wait_for_function(
            """([before]) => document.querySelector('[data-control=write]').textContent === 'write'
            && (document.querySelector('[data-name=summary]').textContent !== before
                || document.querySelector('.rlhf-message').textContent !== '')""",
            arg=[before],
        )
        return self.says("summary")

    def message(self) -> str:
        return self.root.locator(".rlhf-message").text_content()


@pytest.mark.parametrize("source", ["http", "file"])
def test_three_models_answer_a_prompt(page, source):
    lab = Lab(show(page, PromptLab(ASKED, RECORDED), source))
    assert lab.replies() == RECORDED["sft"]
    assert lab.says("heading") == f"SFT, recorded, to: {ASKED}"
    mine = "write to anna. say no: the lunch, monday. reply:"
    assert lab.write("sft", mine).startswith("SFT is what the others are measured against. Length")
    assert lab.says("heading") == f"SFT, to: {mine}" and len(lab.replies()) == 5
    far = {}
    for model in ("aligned", "base"):
        said = lab.write(model)
        far[model], half = map(float, said.split("replies: ")[1].split(" nats")[0].split(" ± "))
        assert 0 < half < far[model]
    assert 1 < far["aligned"] < 8 and 0.2 < far["base"] < 3
    gold = lab.root.locator(".rlhf-reply-gold").first.text_content()
    reply = lab.replies()[0]
    assert gold.startswith(f"gold {letters.utility(mine, reply):.2f}".replace("-", "−"))
    lab.control("model-aligned").click()  # nothing written by it is on display any more
    assert lab.replies() == RECORDED["aligned"]
    assert (page.outside, page.errors) == ([], [])


def test_any_words_may_be_a_prompt(page):
    lab = Lab(show(page, PromptLab(ASKED, RECORDED)))
    said = lab.write("sft", "a zebra and a quagga, and a zebra")
    assert said.endswith("No model of this world has read “zebra”, “quagga”.")
    assert "gold" not in lab.root.locator(".rlhf-replies").text_content()
    lab.write("sft", "   ")
    assert lab.message() == "Nothing was written: the prompt is empty; expected a few words."
    lab.write("sft", "no " * 97)
    assert "the prompt has 97 words and marks; expected at most 96" in lab.message()
    lab.write("sft", "no " * 96)
    assert lab.message() == "" and len(lab.replies()) == 5
    assert page.errors == []


def test_where_no_model_can_run_replies_are_recorded(page):
    page.add_init_script("delete globalThis.WebAssembly")
    lab = Lab(show(page, PromptLab(ASKED, RECORDED)))
    assert "has no WebAssembly with SIMD. Below are recorded replies." in lab.message()
    assert lab.control("write").is_disabled() and lab.replies() == RECORDED["sft"]
    lab.control("model-base").click()
    assert lab.replies() == RECORDED["base"]


def test_a_model_that_is_missing_is_named_and_can_be_asked_again(page):
    lab = Lab(show(page, PromptLab(ASKED, RECORDED)))
    page.route("**/_static/weights/letters-base*", lambda route: route.abort())
    lab.write("base")
    assert "the weights are missing: _static/weights/letters-base.js did not load" in lab.message()
    assert "Length" in lab.write("sft") and lab.message() == ""


def test_python_hands_over_what_is_asked_for(page):
    weights = {name: base64.b64encode(engine.packed(name)).decode() for name in MODELS.values()}
    open_with_python(page, PromptLab(ASKED, RECORDED), weights)
    lab = Lab(page.locator("#jupyter"))
    assert "KL from SFT on 64 replies" in lab.write("aligned")


@pytest.mark.parametrize("width", [375, 1280])
def test_fits_and_reads_in_both_themes(page, width):
    root = show(page, PromptLab(ASKED, RECORDED), width=width)
    assert_fits(page, root, width)
    assert_accessible(page)
    for theme in ("light", "dark"):
        assert_readable(page, root, theme, [".rlhf-reply-text", ".rlhf-replies-head"])
