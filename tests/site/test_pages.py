"""Every page of the built book: complete in itself, without errors, fit for a phone.

The demos' own behaviour is tested beside this, one file per demo.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

import book.build
from book.build import CONFIG, ROOT, WIDGET_STATE, build, notebooks, pages
from tests.site.alone import assert_accessible, set_theme
from tests.site.budgets import DESK, beside_a_phone, over_budget

NAMES = [
    "index.html",
    "search.html",
    *(str(p.relative_to(ROOT).with_suffix(".html")) for p in pages()),
]
CHAPTERS = {str(p.relative_to(ROOT).with_suffix(".html")) for p in notebooks()}
VIEW = 'script[type="application/vnd.jupyter.widget-view+json"]'


@pytest.fixture
def page(page):
    page.whole = True
    return page


def views(path: Path) -> int:
    """Return how many widgets a notebook's stored outputs show."""
    return path.read_text(encoding="utf-8").count('"application/vnd.jupyter.widget-view+json"')


def visit(page, name: str, base: str) -> None:
    """Open a page and wait until mathematics is set, demos have started, and no request is open."""
    page.goto(base + name)
    if name == "index.html":  # it leads on to the first page
        page.wait_for_url("**/intro.html")
    page.wait_for_function("!window.MathJax || (MathJax.startup && MathJax.startup.promise)")
    page.evaluate("window.MathJax ? MathJax.startup.promise.then(() => 1) : 1")
    if page.locator(VIEW).count():
        page.wait_for_function("document.documentElement.dataset.liveWidgets === 'done'")
    page.wait_for_load_state("networkidle")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("source, width", [("http", DESK["width"]), ("file", 375)])
def test_page_is_complete_quiet_and_accessible(page, name, source, width):
    """From a server at a desk in light, within its budgets; from a file on a phone in the dark."""
    page.set_viewport_size({**DESK, "width": width})
    visit(page, name, page.base if source == "http" else page.folder)
    assert page.outside == []
    assert page.errors == []
    assert page.locator("mjx-merror").count() == 0
    raw = page.locator(".math").filter(has_not=page.locator("mjx-container"))
    assert raw.count() == 0, "mathematics that was not typeset"
    shown = page.locator(VIEW).count()
    assert page.locator('.live-widget[data-state="ready"]').count() == shown
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if name in CHAPTERS:
        assert (over_budget(page) if source == "http" else beside_a_phone(page)) == []
    set_theme(page, "light" if source == "http" else "dark")
    page.evaluate("for (const one of document.querySelectorAll('dl.py')) one.remove()")
    assert_accessible(page, "html")  # without what Sphinx writes, by hundreds


def test_a_word_of_code_that_is_pale_is_noticed(page):
    """Though axe looks at one word of each colour."""
    visit(page, "book/beyond/choosing.html", page.base)
    page.add_style_tag(content=".highlight .k { color: #ccc !important; }")
    with pytest.raises(AssertionError, match="color-contrast"):
        assert_accessible(page, "html")


def test_every_widget_of_the_notebooks_is_on_its_page(html):
    """A notebook whose widget state is lost gives a blank where the demo was, and no warning."""
    for path in notebooks():
        page = (html / path.relative_to(ROOT)).with_suffix(".html").read_text(encoding="utf-8")
        assert page.count("application/vnd.jupyter.widget-view+json") == views(path), path.stem
        assert page.count(f'"{WIDGET_STATE}"') == (1 if views(path) else 0), path.stem


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


@pytest.fixture
def small_book(tmp_path, monkeypatch) -> Path:
    """The folder of a book with this one's settings and two short chapters: seconds to build."""
    shutil.copy(CONFIG, tmp_path)
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "static").symlink_to(ROOT / "book" / "static")
    toc = {"format": "jb-book", "root": "book/first", "chapters": [{"file": "book/ppo/second"}]}
    (tmp_path / "_toc.yml").write_text(json.dumps(toc), encoding="utf-8")  # JSON is YAML too
    for name in ("first", "ppo/second"):
        path = (tmp_path / "book" / name).with_suffix(".ipynb")
        path.parent.mkdir(exist_ok=True)
        cells = [nbformat.v4.new_markdown_cell("# A chapter", id="a")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    monkeypatch.setattr("book.build.ROOT", tmp_path)
    for name in ("CONFIG", "TOC"):
        monkeypatch.setattr(f"book.build.{name}", tmp_path / getattr(book.build, name).name)
    monkeypatch.setattr("book.build.write_weights", lambda folder: None)  # no page trains a model
    return tmp_path


def launch_links(page: Path) -> list[str]:
    """Return the links to Binder and Colab on a built page."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r'href="(https://(?:mybinder|colab)\.[^"]*)"', text)


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
def test_an_address_turns_on_launch_buttons(small_book, address, services):
    first = build(repository=address, output=small_book)
    chapters = notebooks()
    assert len(chapters) == 2
    for path in chapters:
        name = path.relative_to(small_book)
        links = launch_links((first.parent / name).with_suffix(".html"))
        assert len(links) == len(services)
        for link, service in zip(links, services):
            assert link.startswith(f"https://{service}/OWNER")
            assert link.endswith(name.as_posix())
