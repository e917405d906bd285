"""Pages for readers without scripts, without a mouse, and on paper."""

from __future__ import annotations

import pytest

from book.build import ROOT, notebooks
from book.without_scripts import PICTURES, stand_ins

WITH_DEMOS = [path for path in notebooks() if list(stand_ins(path))]
MATHEMATICAL = "book/practice/evaluation.html"  # has equations wider than a phone, tables and folds
PAPER = 794  # pixels across, as A4 has at 96 an inch


@pytest.mark.parametrize("path", WITH_DEMOS, ids=lambda path: path.stem)
def test_without_scripts_a_picture_stands_in_for_each_demo(browser, html, path):
    context = browser.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto((html / path.relative_to(ROOT)).with_suffix(".html").as_uri())
        pictures = page.locator(".no-script img")
        expected = list(stand_ins(path))
        assert pictures.count() == len(expected)
        for number, one in enumerate(expected):
            shown = pictures.nth(number)
            assert shown.is_visible() and shown.bounding_box()["width"] > 200, one.picture.name
            assert shown.get_attribute("alt") == one.shows != ""
            caption = page.locator(".no-script figcaption").nth(number).inner_text()
            assert caption.startswith(one.purpose) and one.purpose
    finally:
        context.close()


def test_every_picture_is_of_a_demo_that_is_shown():
    """`make pictures` takes those that are missing, and removes what nothing shows."""
    expected = {one.picture for path in WITH_DEMOS for one in stand_ins(path)}
    assert set(PICTURES.glob("*")) == expected


def test_with_scripts_no_stand_in_is_seen(page):
    page.goto(page.base + "book/grpo/stale-samples.html")
    page.wait_for_function("document.documentElement.dataset.liveWidgets === 'done'")
    assert page.locator(".no-script img").count() == 0


def test_a_keyboard_reaches_what_scrolls_and_nothing_else(page):
    page.whole = True
    page.goto(page.base + MATHEMATICAL)
    reached = page.locator('mjx-container[display="true"][tabindex="0"][aria-label="equation"]')
    page.wait_for_function("document.querySelectorAll('mjx-container[display=true]').length > 5")
    assert reached.count() == 0
    page.set_viewport_size({"width": 390, "height": 844})
    reached.first.wait_for(state="attached")
    wide = "(all) => all.map((e) => e.scrollWidth > e.clientWidth + 1)"
    assert all(reached.evaluate_all(wide))
    page.set_viewport_size({"width": 1280, "height": 900})
    reached.first.wait_for(state="detached")


def test_on_paper_folds_are_open_and_nothing_is_cut_off(page):
    page.set_viewport_size({"width": PAPER, "height": 1123})
    page.goto(page.base + MATHEMATICAL)
    folds = page.locator(".bd-article details")
    page.wait_for_load_state("load")
    closed = page.locator(".bd-article details:not([open])").count()
    assert closed > 5
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert folds.evaluate_all("(all) => all.every((fold) => fold.open)")
    cut = """(all) => all.filter((e) => e.getBoundingClientRect().width &&
      getComputedStyle(e).overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1)
      .map((e) => e.textContent.slice(0, 80))"""
    assert page.locator(".bd-article pre, .bd-article .book-table").evaluate_all(cut) == []
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".bd-article details:not([open])").count() == closed
