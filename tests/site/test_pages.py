"""Every page of the built book: complete in itself, without errors, fit for a phone.

The demos' own behaviour is tested beside this, one file per demo.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from book.build import ROOT, WIDGET_STATE, build, notebooks, pages

NAMES = [
    "index.html",
    "search.html",
    *(str(p.relative_to(ROOT).with_suffix(".html")) for p in pages()),
]
VIEW = 'script[type="application/vnd.jupyter.widget-view+json"]'


def views(path: Path) -> int:
    """Return how many widgets a notebook's stored outputs show."""
    return path.read_text(encoding="utf-8").count('"application/vnd.jupyter.widget-view+json"')


def visit(page, name: str, base: str) -> None:
    """Open a page and wait until its mathematics is set and its demos have started."""
    page.goto(base + name)
    page.wait_for_load_state("networkidle")
    page.wait_for_function("!window.MathJax || (MathJax.startup && MathJax.startup.promise)")
    page.evaluate("window.MathJax ? MathJax.startup.promise.then(() => 1) : 1")
    if page.locator(VIEW).count():
        page.wait_for_function("document.documentElement.dataset.liveWidgets === 'done'")


@pytest.mark.parametrize("source", ["http", "file"])
@pytest.mark.parametrize("name", NAMES)
def test_page_is_complete_and_quiet(page, name, source):
    visit(page, name, page.base if source == "http" else page.folder)
    assert page.outside == []
    assert page.errors == []
    assert page.locator("mjx-merror").count() == 0
    raw = page.locator(".math").filter(has_not=page.locator("mjx-container"))
    assert raw.count() == 0, "mathematics that was not typeset"
    shown = page.locator(VIEW).count()
    assert page.locator('.live-widget[data-state="ready"]').count() == shown


def test_every_widget_of_the_notebooks_is_on_its_page(html):
    """A notebook whose widget state is lost gives a blank where the demo was, and no warning."""
    for path in notebooks():
        page = (html / path.relative_to(ROOT)).with_suffix(".html").read_text(encoding="utf-8")
        assert page.count("application/vnd.jupyter.widget-view+json") == views(path), path.stem
        assert page.count(f'"{WIDGET_STATE}"') == (1 if views(path) else 0), path.stem


@pytest.mark.parametrize("name", NAMES)
def test_page_fits_a_phone(page, name):
    page.set_viewport_size({"width": 375, "height": 800})
    visit(page, name, page.base)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.parametrize("source", ["http", "file"])
def test_search_finds_a_page(page, source):
    base = page.base if source == "http" else page.folder
    page.goto(base + "search.html?q=RLHF+reward")
    first = page.locator("#search-results li a").first
    first.wait_for()
    page.wait_for_load_state("networkidle")
    assert ".html" in first.get_attribute("href")
    assert (page.outside, page.errors) == ([], [])


def test_every_page_is_reachable_from_the_first(page):
    page.goto(page.base)
    page.wait_for_url("**/intro.html")
    linked = page.eval_on_selector_all("a[href]", "links => links.map(a => a.href.split('#')[0])")
    for name in NAMES[2:]:
        assert page.base + name in linked, name


def launch_links(first: Path, path: Path) -> list[str]:
    """Return the links to Binder and Colab on a notebook's page."""
    page = (first.parent / path.relative_to(ROOT)).with_suffix(".html").read_text(encoding="utf-8")
    return re.findall(r'href="(https://(?:mybinder|colab)\.[^"]*)"', page)


@pytest.mark.parametrize(
    "address, services",
    [
        ("", []),
        (
            "https://github.com/OWNER/NAME",
            ["mybinder.org/v2/gh", "colab.research.google.com/github"],
        ),
        ("https://gitlab.com/OWNER/NAME", ["mybinder.org/v2/gl"]),
        ("https://git.invalid/OWNER/NAME", []),  # .invalid: a host that cannot exist
    ],
)
def test_an_address_turns_on_launch_buttons(tmp_path, address, services):
    first = build(repository=address, output=tmp_path)
    for path in notebooks():
        links = launch_links(first, path)
        assert len(links) == len(services)
        for link, service in zip(links, services):
            assert link.startswith(f"https://{service}/OWNER")
            assert link.endswith(path.relative_to(ROOT).as_posix())
