"""The page of notation and the chapters say the same: each symbol and each link is where it says.

Symbols are compared as TeX tokens, so that `A_{i,t}` is found in `A_{i,t}(y)` and `\\pi_\\theta`
in `\\pi_{\\theta}`, and the r of `\\mathrm{ref}` is no r.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from book.build import ROOT, notebooks, pages

PAGE = ROOT / "book" / "appendices" / "notation.md"
CHAPTERS = [path for path in notebooks() if path.parent != ROOT / "book"]
GREEK = set(
    """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi
    varpi rho varrho sigma varsigma tau upsilon varphi phi chi psi omega ell Gamma Delta Theta
    Lambda Xi Pi Sigma Upsilon Phi Psi Omega pi""".split()
)

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$(?=\S)([^$\n]+?)\$", re.DOTALL)
LINK = re.compile(r"\]\((?!http)([^)#\s]*)(?:#([^)\s]+))?\)")  # within the book
WORD = r"\\(?:mathrm|text|operatorname)\*?\{[^{}]*\}"
TOKEN = re.compile(rf"{WORD}|\\[A-Za-z]+|\\.|[^\s{{}}]")
LAYOUT = re.compile(r"\\(?:[,;:! ]|q?quad$|[bB]igg?[lr]?$|left$|right$)")


def tokens(mathematics: str) -> list[str]:
    """TeX as tokens, without braces and without what only sets the layout."""
    mathematics = re.sub(r"\\[lr]vert(?![A-Za-z])", "|", mathematics)
    return [token for token in TOKEN.findall(mathematics) if not LAYOUT.match(token)]


def occurs(symbol: str, mathematics: list[str]) -> bool:
    wanted = tokens(symbol)
    starts = range(len(mathematics) - len(wanted) + 1)
    return any(mathematics[i : i + len(wanted)] == wanted for i in starts)


def mathematics_of(text: str) -> list[str]:
    """All formulas of a text as one list of tokens, a newline between two formulas."""
    found = (display or inline for display, inline in MATH.findall(FENCE.sub("", text)))
    return [token for formula in found for token in [*tokens(formula), "\n"]]


def anchors(text: str) -> set[str]:
    """The anchors of a text's headings down to the third level, as MyST makes them."""
    found: set[str] = set()
    for title in re.findall(r"^#{1,3} (.+?)\s*$", FENCE.sub("", text), re.MULTILINE):
        slug = first = re.sub(r"[^\w\- ]", "", title.lower().replace(" ", "-"))
        number = 1
        while slug in found:
            slug, number = f"{first}-{number}", number + 1
        found.add(slug)
    return found


@cache
def text_of(path: Path) -> str:
    """The Markdown of a page; of a notebook that of its cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = (cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    return "\n\n".join("".join(cell["source"]) for cell in cells)


@cache
def formulas(path: Path) -> list[str]:
    return mathematics_of(text_of(path))


def section(title: str) -> str:
    return re.split(r"^## ", text_of(PAGE).split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def symbols(cell: str) -> list[str]:
    return [inline for _, inline in MATH.findall(cell)]


def linked(text: str) -> list[Path]:
    """The files that a piece of the page links to."""
    return [(PAGE.parent / file).resolve() for file, _ in LINK.findall(text) if file]


def missing_links(text: str, page: Path = PAGE, known=(*CHAPTERS, PAGE)) -> Iterator[str]:
    for file, anchor in LINK.findall(text):
        path = (page.parent / file).resolve() if file else page
        if path not in known:
            yield f"{file}: no chapter of the book"
        elif anchor and anchor not in anchors(text_of(path)):
            yield f"{path.stem}#{anchor}: no such heading"


def unexplained(mathematics: list[str], explained: set[str]) -> set[str]:
    return {token for token in mathematics if token[1:] in GREEK and token not in explained}


SYMBOLS, DOUBLES = rows("Symbols"), rows("Letters that mean two things")
ENTRY = re.compile(r"^- \*\*(.+?)\.\*\* (.+\n(?:  .+\n)*)", re.MULTILINE)
GLOSSARY = ENTRY.findall(section("Glossary"))
EXPLAINED = {
    token for row in [*SYMBOLS, *DOUBLES] for symbol in symbols(row[0]) for token in tokens(symbol)
}


def test_the_page_has_its_tables_and_its_words():
    assert len(SYMBOLS) > 60 and {len(row) for row in SYMBOLS} == {4}
    assert len(DOUBLES) > 20 and {len(row) for row in DOUBLES} == {3}
    assert len(GLOSSARY) == section("Glossary").count("\n- ") > 70
    assert PAGE in pages()


def test_every_link_leads_to_a_heading_of_a_chapter():
    assert list(missing_links(text_of(PAGE))) == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_every_link_between_pages_leads_to_a_heading(page):
    assert list(missing_links(FENCE.sub("", text_of(page)), page, pages())) == []


@pytest.mark.parametrize("row", SYMBOLS, ids=lambda row: row[0])
def test_a_symbol_is_in_the_mathematics_of_the_chapter_that_introduces_it(row):
    (chapter,) = linked(row[3])
    absent = [symbol for symbol in symbols(row[0]) if not occurs(symbol, formulas(chapter))]
    assert symbols(row[0]) and not absent, f"{absent} not in {chapter.stem}"


@pytest.mark.parametrize("row", DOUBLES, ids=lambda row: row[0])
def test_a_letter_of_two_meanings_is_in_the_chapters_that_are_named(row):
    assert linked(row[2])
    for letter in symbols(row[0]):
        absent = [path.stem for path in linked(row[2]) if not occurs(letter, formulas(path))]
        assert not absent, f"{letter} not in {absent}"


def test_a_symbol_has_one_meaning():
    listed = [tuple(tokens(symbol)) for row in SYMBOLS for symbol in symbols(row[0])]
    assert sorted(listed) == sorted(set(listed))
    letters = [symbol for row in DOUBLES for symbol in symbols(row[0])]
    assert sorted(letters) == sorted(set(letters))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_greek_letter_of_a_chapter_is_explained(path):
    assert unexplained(formulas(path), EXPLAINED) == set()


def test_the_glossary_is_in_order_and_every_word_has_its_chapter():
    words = [word.casefold() for word, _ in GLOSSARY]
    assert words == sorted(set(words))
    assert [word for word, text in GLOSSARY if not linked(text)] == []


# --- the tests can fail ---------------------------------------------------------------------------
def test_a_new_greek_letter_and_a_symbol_that_is_not_there_are_noticed():
    mathematics = mathematics_of("so $\\xi + \\pi_{\\mathrm{ref}}$, and\n\n$$ A_{i,t}\\,x $$")
    assert unexplained(mathematics, {"\\pi"}) == {"\\xi"}
    there = ("\\pi", "\\pi_{\\mathrm{ref}}", "A_{i,t}", "A_{i,t} x")
    absent = ("r", "A_t", "\\pi_\\theta", "\\xi A", "ref")
    assert [occurs(s, mathematics) for s in [*there, *absent]] == [True] * 4 + [False] * 5


def test_a_heading_that_is_gone_and_a_chapter_that_is_none_are_noticed():
    text = "# A\n\n## γ is 1\n\n### A\n\n```\n# no\n```\n#### D\n"
    assert anchors(text) == {"a", "γ-is-1", "a-1"}
    broken = "[a](../grpo/grpo.ipynb#gone) [b](../grpo/gone.ipynb) [c](#gone) [d](library.md)"
    assert len(list(missing_links(broken))) == 4
