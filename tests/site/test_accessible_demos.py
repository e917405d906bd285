"""What axe finds in the demos once they were moved, and when they say that something is wrong.

As they open, `test_pages` looks at them with the rest of their page.
"""

from __future__ import annotations

import pytest

from book.build import ROOT, notebooks
from rlhf_lib.seeing.widgets import TiltExplorer
from tests.site.alone import assert_accessible, case, set_theme, show

WITH_DEMOS = [path for path in notebooks() if 'anywidget"' in path.read_text(encoding="utf-8")]
THEMES = ("light", "dark")
MOVE = """(root) => {
  for (const fold of root.querySelectorAll("details:not([open])")) fold.open = true;
  const seen = (e) => e.isConnected && !e.disabled && e.getBoundingClientRect().width > 0;
  const sliders = [...root.querySelectorAll('input[type="range"]')].filter(seen);
  for (const one of sliders) {
    one.value = Number(one.min) + 0.8 * (Number(one.max) - Number(one.min));
    one.dispatchEvent(new Event("input", { bubbles: true }));
  }
  const choices = [...root.querySelectorAll('button[aria-pressed="false"]')].filter(seen);
  for (const one of choices) if (seen(one)) one.click();
  const lists = [...root.querySelectorAll("select")].filter(seen);
  for (const one of lists) {
    one.selectedIndex = one.options.length - 1;
    one.dispatchEvent(new Event("change", { bubbles: true }));
  }
  return sliders.length + choices.length + lists.length;
}"""


def assert_accessible_in_both_themes(page, *where) -> None:
    for theme in THEMES:
        with case(*where, theme):
            set_theme(page, theme)
            assert_accessible(page)


@pytest.mark.parametrize("path", WITH_DEMOS, ids=lambda path: path.stem)
def test_demos_that_were_moved_are_as_accessible_as_they_opened(page, path):
    page.goto(page.base + str(path.relative_to(ROOT).with_suffix(".html")))
    page.wait_for_function("document.documentElement.dataset.liveWidgets === 'done'")
    for root in page.locator(".live-widget").all():
        root.evaluate(MOVE)
    assert page.errors == []
    assert_accessible_in_both_themes(page, path.stem)


def test_a_demo_that_says_what_is_wrong_is_accessible(page):
    root = show(page, TiltExplorer())
    field = root.locator('[data-control="beta-field"]')
    field.fill("-1")
    field.press("Enter")
    assert "expected a positive number" in root.locator(".rlhf-message").text_content()
    assert_accessible_in_both_themes(page)
