"""How long a page may be, and how much of it code and print, measured where it is drawn."""

from __future__ import annotations

DESK = {"width": 1280, "height": 900}
SCREENS = 24  # of `DESK`, before the exercises
WORDS = 4_000  # of prose there
PRINT = (
    0.4  # share of the height there that is code or printed text; tables and figures may be more
)

_MEASURE = r"""() => {
  const article = document.querySelector("article");
  const frame = article.getBoundingClientRect();
  const exercises = [...article.querySelectorAll("h2")]
    .find((h) => /^Exercises/.test(h.textContent.trim()));
  const end = exercises ? exercises.getBoundingClientRect().top : frame.bottom;
  const height = (e) => (e.closest("details:not([open])") ? 0 : e.getBoundingClientRect().height);
  const before = (selector) => [...article.querySelectorAll(selector)]
    .filter((e) => e.getBoundingClientRect().top < end && height(e) > 0);
  const sum = (all, of) => all.reduce((total, e) => total + of(e), 0);
  const prose = before("p, li, td")
    .filter((e) => !e.closest(".cell_input, .cell_output") && !e.querySelector("p, li"));
  return {
    height: end - frame.top,
    print: sum(before(".cell_input, .cell_output pre"), height),
    words: sum(prose, (e) => e.textContent.trim().split(/\s+/).length),
  };
}"""
_BESIDE = """() => [...document.querySelectorAll(".cell_input pre")]
  .filter((e) => !e.closest("details") && e.scrollWidth > e.clientWidth + 1)
  .map((e) => e.textContent.trim().slice(0, 60))"""
_OUTPUTS = """() => [...document.querySelectorAll(".cell_output pre, .cell_output .output")]
  .filter((e) => !e.closest("details:not([open])") && e.scrollWidth > e.clientWidth + 1)
  .map((e) => e.textContent.trim().slice(0, 60))"""


def over_budget(page) -> list[str]:
    """What is too long or too wide on a chapter that is open at a desk, in words."""
    found = page.evaluate(_MEASURE)
    screens, share = found["height"] / DESK["height"], found["print"] / found["height"]
    said = [f"code scrolls sideways: {code!r}" for code in page.evaluate(_BESIDE)]
    if screens > SCREENS:
        said.append(f"{screens:.1f} screens before the exercises; expected at most {SCREENS}")
    if found["words"] > WORDS:
        said.append(f"{found['words']} words before the exercises; expected at most {WORDS}")
    if share > PRINT:
        said.append(f"{share:.0%} of the height is code and print; expected at most {PRINT:.0%}")
    return said


def beside_a_phone(page) -> list[str]:
    """The outputs that scroll sideways on a page that is open on a phone."""
    return page.evaluate(_OUTPUTS)
