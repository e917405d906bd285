"""A demo on a page, and one in a page without a notebook that stores it, in place of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import unquote, urlparse

from axe_playwright_python.sync_playwright import Axe
from ipywidgets.embed import dependency_state

from tests.site.render import render

HOST = "book/intro.html"  # a light page; its own demos are left out
_STATE = re.compile(
    r'(<script type="application/vnd\.jupyter\.widget-state\+json">).*?(</script>)', re.DOTALL
)
_VIEW = re.compile(
    r'(<script type="application/vnd\.jupyter\.widget-view\+json">).*?(</script>)', re.DOTALL
)


@contextmanager
def case(*named) -> Iterator[None]:
    """Where one page serves several cases: what fails in this one says which it was."""
    try:
        yield
    except Exception as error:
        error.add_note("the case: " + ", ".join(str(name)[:200] for name in named))
        raise


MOVE = """([root], positions) => {
  for (const [name, position] of Object.entries(positions)) {
    const input = root.querySelector(`[data-control="${name}"]`);
    input.value = position;
    input.dispatchEvent(new Event("input"));
  }
}"""
LOOK = "(parts, names) => parts.map((part) => names.map((name) => part.getAttribute(name)))"


class Shown:
    """A demo on a page: its controls and what it says. Each test adds how it is compared.

    Each question to the browser takes milliseconds: what is asked often asks for all at once.
    """

    def __init__(self, root) -> None:
        self.root = root

    def control(self, name: str):
        return self.root.locator(f'[data-control="{name}"]')

    def move(self, name: str, position: float) -> None:
        """Put a slider at one of its positions, as a hand does."""
        self.moves({name: position})

    def moves(self, positions: dict[str, float]) -> None:
        """Put one slider after the other at its position."""
        self.root.evaluate_all(MOVE, positions)

    def number(self, selector: str, attribute: str = "data-value") -> float:
        return float(self.root.locator(selector).get_attribute(attribute))

    def look(self, selector: str, *attributes: str) -> list[list[str | None]]:
        """These attributes of every part that the selector finds."""
        return self.root.locator(selector).evaluate_all(LOOK, attributes)

    def numbers(self, selector: str, attribute: str = "data-value") -> list[float]:
        """The number of every part that the selector finds."""
        return [float(value) for (value,) in self.look(selector, attribute)]

    def values(self, name: str = "data-name") -> dict[str, str]:
        """The value of every part that has one, by its name, which no two have."""
        found = self.look(f"[{name}][data-value]", name, "data-value")
        assert len(dict(found)) == len(found), found
        return dict(found)

    def says(self, name: str = "says") -> str:
        return self.root.locator(f'[data-name="{name}"]').text_content()


def _put(pattern: re.Pattern, value: dict, text: str) -> str:
    """The text with the value in the first place that the pattern finds, and nothing in others."""
    stored, places = json.dumps(value).replace("</", "<\\/"), count()
    found = pattern.sub(lambda m: m[1] + stored + m[2] if next(places) == 0 else "", text)
    assert next(places) > 0, f"{HOST} has no demo; expected one, whose place this takes"
    return found


def show(page, demo, source: str = "http", width: int = 1280):
    """Open the page from `source`, "http" or "file", and return the started demo as a locator."""
    folder = Path(unquote(urlparse(page.folder).path))
    text = (folder / HOST).read_text(encoding="utf-8")
    saved = json.dumps(dependency_state(demo, drop_defaults=False), allow_nan=False)
    state = {"version_major": 2, "version_minor": 0, "state": json.loads(saved)}
    view = {"version_major": 2, "version_minor": 0, "model_id": demo.model_id}
    for pattern, value in ((_STATE, state), (_VIEW, view)):
        text = _put(pattern, value, text)
    address = (page.base if source == "http" else page.folder) + HOST
    page.route(address, lambda route: route.fulfill(body=text, content_type="text/html"))
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(address)
    page.wait_for_function("document.documentElement.dataset.liveWidgets === 'done'")
    root = page.locator(".live-widget")
    assert root.get_attribute("data-state") == "ready", root.text_content()
    return root


def assert_told(page, cases: list[tuple[dict, str]], trait: str = "_esm", drawn: str = "*") -> None:
    """The demo says what is wrong with each state, from the start and later, and stays whole.

    `cases` are changes of its state with what is said of them. The demo is the one whose state has
    `trait`; `drawn` selects parts that its figure is never without.
    """
    for bad, says in cases:
        with case(bad):
            start = render(page, trait, drawn, bad, {})
            assert says in start["text"] and not start["figure"]
            later = render(page, trait, drawn, {}, bad)
            assert says in later["text"] and later["figure"] and later["drawn"]
            assert not re.search("NaN|Infinity", later["inside"])
            assert page.errors == []


BEYOND = """(root) => [...root.querySelectorAll("*")]
  .map((e) => [e.outerHTML.slice(0, 90), e.getBoundingClientRect()])
  .filter(([, r]) => r.width > 1 && r.right > root.getBoundingClientRect().right + 1)"""


FRAMES = """() => new Promise((done) => {
  requestAnimationFrame(() => requestAnimationFrame(() => done(innerWidth)));
})"""
STILL = """() => !document.getAnimations().some(
  (one) => one instanceof CSSTransition && one.playState === "running")"""


def resize(page, width: int) -> None:
    """Make the page as wide, and wait until sidebar and demo have taken on the form for it."""
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate(FRAMES) == width
    page.wait_for_function(STILL)


def assert_fits(page, root, width: int) -> None:
    """At a width nothing is wider than the demo, and the page does not scroll sideways."""
    resize(page, width)
    beyond = root.evaluate(BEYOND)
    assert beyond == [], (width, beyond)
    box = root.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width


SHOW_EACH_ONCE = """() => {
  const clear = "rgba(0, 0, 0, 0)", seen = new Set(), same = [];
  for (const one of document.querySelectorAll("pre *")) {
    if (one.childElementCount || !one.checkVisibility({ visibilityProperty: true })) continue;
    let below = one;
    while (below.parentElement && getComputedStyle(below).backgroundColor === clear)
      below = below.parentElement;
    const { color, opacity, fontSize, fontWeight } = getComputedStyle(one);
    const look = [color, opacity, fontSize, fontWeight, getComputedStyle(below).backgroundColor];
    const known = [one.localName, one.className, ...look].join();
    if (seen.has(known)) same.push(one);
    seen.add(known);
  }
  for (const one of same) one.dataset.same = "";
  const style = document.createElement("style");
  style.id = "same";
  style.textContent = "[data-same] { visibility: hidden; }";
  document.head.append(style);
}"""  # of words of code, whose contrast axe looks at one by one, and they are thousands
SHOW_ALL = """() => {
  document.getElementById("same").remove();
  for (const one of document.querySelectorAll("[data-same]")) delete one.dataset.same;
}"""


def assert_accessible(page, where: str = ".live-widget") -> None:
    """What axe, which tests for the rules of WCAG, finds nothing wrong with.

    Of words of code that look the same the first stands for all.
    """
    options = {"preload": False, "resultTypes": ["violations"]}  # no file is fetched for it
    page.evaluate(SHOW_EACH_ONCE)
    found = Axe().run(page, context=where, options=options)
    page.evaluate(SHOW_ALL)
    assert found.violations_count == 0, found.generate_report()


CONTRAST = """([root, selectors]) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (css) => { // whatever form the browser gives it in
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = css;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((c, i) => a * c + (1 - a) * below[i]);
  const paper = (element) => {
    if (!element) return [255, 255, 255];
    return over(rgba(getComputedStyle(element).backgroundColor), paper(element.parentElement));
  };
  const light = (rgb) => rgb.map((c) => c / 255)
    .map((c) => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((s, c, i) => s + c * [.2126, .7152, .0722][i], 0);
  return selectors.flatMap((selector) => [...root.querySelectorAll(selector)].map((element) => {
    const below = paper(element), style = getComputedStyle(element);
    const ink = over(rgba(style.color), below).map((c, i) =>
      Number(style.opacity) * c + (1 - Number(style.opacity)) * below[i]);
    const [a, b] = [light(ink), light(below)];
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), selector, element.textContent];
  }));
}"""


def set_theme(page, theme: str) -> None:
    """Turn the page to a theme, and wait until its colours have faded over."""
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    page.wait_for_function(STILL)


def assert_readable(page, root, theme: str, selectors: list[str]) -> None:
    """Text of each selector stands out from what is behind it, 4.5 to 1, in a theme."""
    set_theme(page, theme)
    found = page.evaluate(CONTRAST, [root.element_handle(), selectors])
    assert len({selector for _, selector, _ in found}) == len(selectors)
    assert min(found)[0] >= 4.5, min(found)


def assert_fits_and_reads(page, root, selectors: list[str], widths: tuple = (390, 1280)) -> None:
    """In each width, and in both themes there, the demo fits and its text can be read."""
    for width in widths:
        assert_fits(page, root, width)
        for theme in ("light", "dark"):
            with case(width, theme):
                assert_readable(page, root, theme, selectors)
