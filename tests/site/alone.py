"""A demo in a built page without a notebook that stores it: the page's own demo, exchanged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

from ipywidgets.embed import dependency_state

from tests.site.render import render

HOST = "book/intro.html"  # a page with one demo
_STATE = re.compile(
    r'(<script type="application/vnd\.jupyter\.widget-state\+json">).*?(</script>)', re.DOTALL
)
_VIEW = re.compile(
    r'(<script type="application/vnd\.jupyter\.widget-view\+json">).*?(</script>)', re.DOTALL
)


def show(page, demo, source: str = "http", width: int = 1280):
    """Open the page from `source`, "http" or "file", and return the started demo as a locator."""
    folder = Path(unquote(urlparse(page.folder).path))
    text = (folder / HOST).read_text(encoding="utf-8")
    saved = json.dumps(dependency_state(demo, drop_defaults=False), allow_nan=False)
    state = {"version_major": 2, "version_minor": 0, "state": json.loads(saved)}
    view = {"version_major": 2, "version_minor": 0, "model_id": demo.model_id}
    for pattern, value in ((_STATE, state), (_VIEW, view)):
        stored = json.dumps(value).replace("</", "<\\/")
        text, found = pattern.subn(lambda m, stored=stored: m[1] + stored + m[2], text)
        assert found == 1, f"{HOST} has {found} demos; expected one"
    address = (page.base if source == "http" else page.folder) + HOST
    page.route(address, lambda route: route.fulfill(body=text, content_type="text/html"))
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(address)
    page.wait_for_function("document.documentElement.dataset.liveWidgets === 'done'")
    root = page.locator(".live-widget")
    assert root.get_attribute("data-state") == "ready", root.text_content()
    return root


def redraw(page, first: dict, then: dict) -> dict:
    """Draw the shown demo anew from its stored state with changes that Python would refuse."""
    return render(page, "_esm", "*", first, then)


def assert_told(page, bad: dict, says: str) -> None:
    """The shown demo says what is wrong with a state, from the start and later, and stays whole."""
    start = redraw(page, bad, {})
    assert says in start["text"] and not start["figure"]
    later = redraw(page, {}, bad)
    assert says in later["text"] and later["figure"] and "NaN" not in later["inside"]
    assert page.errors == []


BEYOND = """(root) => [...root.querySelectorAll("*")]
  .map((e) => [e.outerHTML.slice(0, 90), e.getBoundingClientRect()])
  .filter(([, r]) => r.width > 1 && r.right > root.getBoundingClientRect().right + 1)"""


def assert_fits(page, root, width: int) -> None:
    """Nothing of the demo is wider than it, and the page does not scroll sideways."""
    beyond = root.evaluate(BEYOND)
    assert beyond == [], beyond
    box = root.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width


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


def assert_readable(page, root, theme: str, selectors: list[str]) -> None:
    """Text of each selector stands out from what is behind it, 4.5 to 1, in a theme."""
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    page.wait_for_timeout(400)  # the theme fades its colours
    found = page.evaluate(CONTRAST, [root.element_handle(), selectors])
    assert len({selector for _, selector, _ in found}) == len(selectors)
    assert min(found)[0] >= 4.5, min(found)
