"""Take the pictures of the demos that stand where no JavaScript runs: `make pictures`."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from book.build import ROOT, build, notebooks
from book.without_scripts import PICTURES, stand_ins
from tests.site.browser import find
from tests.site.conftest import FLAGS

COLOURS = 64  # enough for text, lines and two hues; a picture takes 10 to 30 KB


def take(html: Path) -> None:
    """Open each page of a built book that has demos, and keep a picture of each as it opens."""
    PICTURES.mkdir(exist_ok=True)
    kept, chromium = set(), find()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.set_default_timeout(60_000)
        for path in notebooks():
            found = list(stand_ins(path))
            if not found:
                continue
            page.goto((html / path.relative_to(ROOT)).with_suffix(".html").as_uri())
            page.wait_for_function("document.documentElement.dataset.liveWidgets === 'done'")
            for one, place in zip(found, page.locator(".live-widget").all(), strict=True):
                with Image.open(io.BytesIO(place.screenshot())) as picture:
                    small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
                small.save(one.picture, optimize=True)
                kept.add(one.picture)
                print(f"{one.picture.relative_to(ROOT)}: {one.picture.stat().st_size // 1024} KB")
        browser.close()
    for old in set(PICTURES.glob("*.png")) - kept:
        old.unlink()


if __name__ == "__main__":
    if find() is None:
        sys.exit("no Chromium on this machine: run `make test` once, or set CHROMIUM to its path")
    with tempfile.TemporaryDirectory() as folder:
        take(build(output=Path(folder)).parent)
