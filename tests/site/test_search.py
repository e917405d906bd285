"""The search: a hit leads to the section in which its words stand; no hit says so."""

from __future__ import annotations

import pytest

from tests.site.alone import assert_accessible, set_theme

REFERENCE = "book/appendices/library.html"
LANDED = """() => {
  const mark = document.activeElement, { top, bottom } = mark.getBoundingClientRect();
  return {
    name: mark.localName, inView: top >= 0 && bottom <= innerHeight,
    hash: decodeURIComponent(location.hash.slice(1)), section: mark.closest("section").id,
    folded: Boolean(mark.closest("details:not([open])")),
    words: [...new Set([...document.querySelectorAll("mark")].map((m) => m.dataset.word))].sort(),
    inDemos: document.querySelectorAll(".live-widget mark, script mark, mjx-container mark").length,
  };
}"""


def search(page, source: str, words: str) -> list[str]:
    """Ask for words as a reader does; returns where the hits lead, the first one first."""
    page.goto((page.base if source == "http" else page.folder) + "search.html")
    field = page.locator(".bd-search-container input[name=q]")
    field.fill(words)
    field.press("Enter")
    page.locator("#search-results [role=status]:not(:empty)").wait_for()
    links = page.locator("#search-results li a").evaluate_all("all => all.map((a) => a.href)")
    return [link.removeprefix(page.base).removeprefix(page.folder) for link in links]


def go(page, place: int = 0) -> dict:
    """Take a hit by the keyboard, and say where that leads."""
    page.locator("#search-results li a").nth(place).press("Enter")
    page.locator("mark:focus").wait_for()
    return page.evaluate(LANDED)


@pytest.mark.parametrize("source", ["http", "file"])
def test_a_hit_leads_to_its_section_and_marks_the_words(page, source):
    assert search(page, source, "forward KL")[0].startswith("book/")
    landed = go(page)
    assert landed["name"] == "mark" and landed["inView"] and not landed["folded"]
    assert landed["hash"] == landed["section"] != ""
    assert landed["words"] == ["forward", "kl"] and landed["inDemos"] == 0
    assert "marked" in page.locator(".search-marks[role=status]").inner_text()
    assert (page.outside, page.errors) == ([], [])


@pytest.mark.parametrize("source", ["http", "file"])
def test_chapters_stand_before_the_reference(page, source):
    hits = search(page, source, "rewards")
    of_reference = [hit.startswith(REFERENCE) for hit in hits]
    assert any(of_reference) and not all(of_reference)
    assert of_reference == sorted(of_reference)


@pytest.mark.parametrize("source", ["http", "file"])
def test_no_hit_says_so(page, source):
    assert search(page, source, "xyzzyq") == []
    said = page.locator("#search-results [role=status]").inner_text()
    assert "Nothing in this book matches “xyzzyq”" in said
    assert (page.outside, page.errors) == ([], [])


def test_an_entry_of_the_reference_is_found_at_its_place(page):
    hits = search(page, "file", "group_advantages")
    (place,) = [i for i, hit in enumerate(hits) if hit.endswith(".advantages.group_advantages")]
    landed = go(page, place)
    assert landed["inView"] and landed["hash"].endswith(".advantages.group_advantages")


def test_words_are_marked_by_their_stem_and_unmarked_by_escape(page):
    search(page, "file", "policies")
    go(page)
    assert "policy" in page.locator("mark").all_inner_texts()
    marked = page.locator(".bd-article").text_content()
    page.keyboard.press("Escape")
    assert page.locator("mark, .search-marks").count() == 0
    assert page.locator(".bd-article").text_content() == marked


def test_next_goes_through_the_places_and_opens_folds(page):
    search(page, "file", "forward KL")
    before = go(page)
    page.get_by_role("button", name="Next", exact=True).press("Enter")
    after = page.evaluate(LANDED)
    assert after["name"] == "mark" and after["inView"] and not after["folded"]
    assert page.locator("mark").count() > 1 and before["words"] == after["words"]


@pytest.mark.parametrize("words", ["forward KL", "xyzzyq"])
def test_results_and_marks_are_accessible(page, words):
    found = search(page, "http", words)
    for landed in (False, True) if found else (False,):
        if landed:
            go(page)
        for theme in ("light", "dark"):
            set_theme(page, theme)
            assert_accessible(page, "html")
