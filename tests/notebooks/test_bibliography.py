"""The field guide's bibliography and the links of the chapters say the same.

A rule is a function of the book and yields what breaks it. `RULES` is all of them; each is run on
the book, and on a small sound book broken on purpose, so that it is known to fail. Files are read,
and nothing else is needed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = "book/appendices/field-guide"

# What stands in a sentence or in HTML, and the text of a Markdown link; both without anchors.
URL = re.compile(r"https?://[^\s()<>\[\]\"'`]+")
LINK = re.compile(r"\[([^\[\]]+)\]\((https?://[^\s()]+)\)")
SOURCE = re.compile(
    r"([A-ZÀ-Þ][\w-]+(?: et al\.| and [A-ZÀ-Þ][\w-]+)?) (\d{4}),\s+arXiv:(\d{4}\.\d{4,5})"
)
CHAPTER = re.compile(r"\]\((?:\.\./)*(?:\w+/)*([\w-]+)\.(?:ipynb|md)\)")
ENTRY = re.compile(
    r"- \*\*(?P<authors>.+?)(?: (?P<year>\d{4})(?:, (?P<short>.+?))?)?\.\*\* "
    r"\[\*(?P<title>.+?)\*\]\((?P<url>\S+)\)\. .+ Cited in (?P<chapters>.+)\."
)
YEAR = re.compile(r"\b(?:18|19|20)\d\d[a-z]?\b")
# "Gao et al. 2022", "Zermelo (1929)", "Ouyang et al. 2022, section 3", "InstructGPT, 2022"
WORD = r"(?:[A-ZÀ-Þ][\w.’'-]*|van|von|de|and|et al\.)"
NAMED = re.compile(rf"({WORD}(?:,? {WORD})*),? \(?{YEAR.pattern}")
ARXIV = re.compile(r"https://arxiv\.org/abs/(\d\d)\d\d\.\d+")

Texts = dict[str, str]


@dataclass(frozen=True)
class Entry:
    authors: str
    year: str | None
    names: frozenset[str]  # how a chapter may call it
    chapters: frozenset[str]


@dataclass(frozen=True)
class Book:
    chapters: Texts  # the Markdown of each page but the guide, by the page's name
    guide: str
    library: Texts  # the source of each module


def markdown(path: Path) -> str:
    """Return the text of a page: a file, or the Markdown cells of a notebook."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


@cache
def the_book() -> Book:
    contents = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    pages = re.findall(r"(?:file|root): (\S+)", contents)
    files = {page: next(ROOT.glob(f"{page}.[im]*")) for page in pages}
    assert GUIDE in files, "the field guide is not in the table of contents"
    return Book(
        {Path(page).name: markdown(file) for page, file in files.items() if page != GUIDE},
        markdown(files[GUIDE]),
        {
            path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted((ROOT / "rlhf_lib").rglob("*.py"))
        },
    )


def entry_lines(book: Book) -> list[str]:
    """Return the bullets of the bibliography, each as one line."""
    section = book.guide.partition("\n## Bibliography\n")[2]
    return re.findall(r"^- .*", re.sub(r"\n {2,}", " ", section), re.MULTILINE)


def entries(book: Book) -> dict[str, Entry]:
    found = {}
    for match in filter(None, map(ENTRY.fullmatch, entry_lines(book))):
        authors, short = match["authors"], match["short"]
        names = {authors, short} - {None}
        if "," in authors:  # three or more
            names.add(authors.partition(",")[0] + " et al.")
        chapters = frozenset(CHAPTER.findall(match["chapters"]))
        found[match["url"]] = Entry(authors, match["year"], frozenset(names), chapters)
    return found


def links(text: str) -> list[str]:
    return [url.rstrip(".,;:") for url in URL.findall(text)]


def citations(book: Book) -> Iterator[tuple[str, str, str]]:
    """Yield (place, text, url) of links in chapters and the guide, and of sources in docstrings."""
    history = book.guide.partition("\n## Bibliography\n")[0]
    for place, text in [*book.chapters.items(), ("the guide", history)]:
        for words, url in LINK.findall(text):
            yield place, " ".join(words.split()), url
    for place, text in book.library.items():
        for name, year, number in SOURCE.findall(text):
            yield place, f"{name} {year}", f"https://arxiv.org/abs/{number}"


Problems = Iterator[str]
RULES: list[Callable[[Book], Problems]] = []


def rule(function: Callable[[Book], Problems]):
    RULES.append(function)
    return function


@rule
def entries_are_read(book: Book) -> Problems:
    """Every bullet of the bibliography has the form of an entry, and each URL has one."""
    for line in entry_lines(book):
        if not ENTRY.fullmatch(line):
            yield f"no entry: {line}"
    counts = Counter(url for line in entry_lines(book) for url in links(line)[:1])
    yield from (f"{count} entries for {url}" for url, count in counts.items() if count > 1)


@rule
def links_have_entries(book: Book) -> Problems:
    """Every external link of every page is in the bibliography."""
    known = entries(book)
    for place, text in book.chapters.items():
        yield from (f"{place}: {url}" for url in dict.fromkeys(links(text)) if url not in known)


@rule
def years_agree(book: Book) -> Problems:
    """A year in the text of a link is the year of the entry."""
    known = entries(book)
    for place, words, url in citations(book):
        for year in YEAR.findall(words) if url in known else []:
            if year != known[url].year:
                yield f"{place}: {words!r}; the bibliography has {known[url].year}"


@rule
def names_agree(book: Book) -> Problems:
    """A name before the year in the text of a link is a name of the entry."""
    known = entries(book)
    for place, words, url in citations(book):
        named = NAMED.match(words)
        if named and url in known and named[1] not in known[url].names:
            yield f"{place}: {words!r}; the bibliography has {sorted(known[url].names)}"


@rule
def years_are_of_the_first_version(book: Book) -> Problems:
    """A paper on arXiv has the year of its number, or was in print before."""
    for url, entry in entries(book).items():
        number = ARXIV.match(url)
        if number and not (entry.year and int(entry.year) <= 2000 + int(number[1])):
            yield f"{entry.authors} {entry.year}: {url}"


@rule
def entries_name_the_chapters_that_cite_them(book: Book) -> Problems:
    """An entry names the pages that link to it, which are one at least, and no others."""
    cited = {place: set(links(text)) for place, text in book.chapters.items()}
    for url, entry in entries(book).items():
        citing = {place for place, urls in cited.items() if url in urls}
        if not citing or citing != entry.chapters:
            yield f"{entry.authors} {entry.year} is cited in {sorted(citing)}: {url}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_book_keeps_rule(rule):
    problems = list(rule(the_book()))
    assert not problems, "\n".join([rule.__doc__, *problems])


def test_the_book_has_a_bibliography():
    book = the_book()
    assert entries(book) and any(NAMED.match(words) for _, words, _ in citations(book))


# --- the rules can fail -------------------------------------------------------------------------
SOUND = Book(
    {
        "one": "As [Gao et al. 2022, section 3](https://arxiv.org/abs/2210.10760), and more in "
        "[Kool et al. (2019)](https://openreview.net/forum?id=r1), [the docs](https://docs.org/a).",
        "two": '[Gao et al.\n2022](https://arxiv.org/abs/2210.10760) <a href="https://docs.org/a">',
    },
    "# Guide\n\n[Gao et al. 2022](https://arxiv.org/abs/2210.10760), and [another](https://a.org)\n"
    "\n## Bibliography\n\nIn order:\n\n"
    "- **Gao et al. 2022, Scaling.** [*Scaling\n  laws*](https://arxiv.org/abs/2210.10760).\n"
    "  Two forms. Cited in [one](../x/one.ipynb), [two](two.md).\n"
    "- **Kool, van Hoof and Welling 2019.** [*Buy*](https://openreview.net/forum?id=r1). A mean.\n"
    "  Cited in [one](../x/one.ipynb).\n"
    "- **Docs.** [*A page*](https://docs.org/a). What is set.\n"
    "  Cited in [one](../x/one.ipynb), [two](two.md).\n",
    {"module.py": '"""Source: Gao et al. 2022,\n    arXiv:2210.10760, section 1."""'},
)


def in_chapter(old: str, new: str) -> Book:
    assert old in SOUND.chapters["one"]
    return replace(
        SOUND, chapters=SOUND.chapters | {"one": SOUND.chapters["one"].replace(old, new)}
    )


def in_guide(old: str, new: str) -> Book:
    assert old in SOUND.guide
    return replace(SOUND, guide=SOUND.guide.replace(old, new))


def in_module(old: str, new: str) -> Book:
    source = SOUND.library["module.py"]
    assert old in source
    return replace(SOUND, library={"module.py": source.replace(old, new)})


BY_BOTH = "[one](../x/one.ipynb), [two](two.md)"
ONCE_MORE = "- **Docs.** [*A page*](https://docs.org/a). What is set."
BREAKS = [
    ("entries_are_read", in_guide("Welling 2019.**", "Welling 2019**")),
    ("entries_are_read", in_guide(ONCE_MORE, f"{ONCE_MORE} Cited in [one](one.md).\n{ONCE_MORE}")),
    ("links_have_entries", in_chapter("and more", "https://new.org and more")),
    ("links_have_entries", in_guide("https://docs.org/a", "https://docs.org/b")),
    ("years_agree", in_chapter("Gao et al. 2022", "Gao et al. 2023")),
    ("years_agree", in_chapter("(2019)", "(2019b)")),
    ("years_agree", in_chapter("the docs", "the docs of 2019")),
    ("years_agree", in_guide("[Gao et al. 2022]", "[Gao et al. 2023]")),
    ("years_agree", in_module("2022", "2023")),
    ("names_agree", in_chapter("Gao et al.", "Gao")),
    ("names_agree", in_chapter("Kool et al.", "Welling et al.")),
    ("names_agree", in_chapter("Gao et al. 2022", "Laws, 2022")),
    ("names_agree", in_module("Gao et al.", "Gao and Hilton")),
    ("years_are_of_the_first_version", in_guide("2210.10760", "2110.10760")),
    ("entries_name_the_chapters_that_cite_them", in_guide(BY_BOTH, "[two](two.md)")),
    ("entries_name_the_chapters_that_cite_them", in_chapter("https://docs.org/a", "here")),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_sound_book_keeps_rule(rule):
    assert list(rule(SOUND)) == []


@pytest.mark.parametrize("name, book", BREAKS, ids=[f"{n}-{b[0]}" for n, b in enumerate(BREAKS)])
def test_rule_catches(name, book):
    assert name in [rule.__name__ for rule in RULES if list(rule(book))]


def test_every_rule_is_shown_to_catch_something():
    assert {rule.__name__ for rule in RULES} == {name for name, _ in BREAKS}
