"""The built book in a real browser. Every request to another host is stopped and written down."""

from __future__ import annotations

import functools
import http.server
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import sync_playwright

from book.build import build
from tests.site.browser import find

pytest.register_assert_rewrite("tests.site.alone")  # what fails there says with which values
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
HEAVY = re.compile(r"_static/.*(?:mathjax|fontawesome).*\.js")


@pytest.fixture(scope="session")
def html(tmp_path_factory) -> Path:
    """The folder of the built book; BOOK_HTML names one that is already there.

    Where several processes share the tests, the first that comes here builds for all of them.
    """
    if given := os.environ.get("BOOK_HTML"):
        return Path(given).resolve()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return build(output=tmp_path_factory.mktemp("book")).parent
    shared = tmp_path_factory.getbasetemp().parent
    with FileLock(shared / "book.lock"):
        told = shared / "book.txt"
        if not told.exists():
            told.write_text(str(build(output=shared / "book").parent), encoding="utf-8")
    return Path(told.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def site(html) -> Iterator[str]:
    """The address at which the book is served on this machine."""
    with serve(html) as address:
        yield address


class serve:
    """Serve a folder on this machine while the block runs."""

    def __init__(self, folder: Path) -> None:
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args) -> None:
                pass

        handler = functools.partial(Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/"

    def __exit__(self, *error) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="session")
def browser():
    path = find()
    if path is None:  # not a skip: `make test` installs one
        pytest.fail("no Chromium on this machine: run `make test`, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def context(browser):
    """The profile in which all pages are opened, one after another: it stays warm."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.keeper = context.new_page()  # with the last page its processes would go
    context.devtools = context.new_cdp_session(context.keeper)
    yield context
    context.close()


@pytest.fixture
def page(context, site, html):
    """A new browser page, 1280 pixels wide, in a browser that has nothing stored.

    `page.base` is where the book is served, `page.folder` the same from disk. `page.outside` are
    the requests to anywhere else (stopped), `page.errors` what went wrong. Mathematics and icons,
    which take most of a page's time and which no demo has, are left out unless `page.whole`.
    """
    for origin in (site.rstrip("/"), "file://"):
        context.devtools.send(
            "Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"}
        )
    page = context.new_page()
    page.set_default_timeout(60_000)  # against a hang: a machine that does other things is slow
    page.base, page.folder = site, html.as_uri() + "/"
    page.outside, page.errors, page.whole = [], [], False

    def gate(route) -> None:
        url = route.request.url
        if not page.whole and HEAVY.search(url):
            route.fulfill(body="", content_type="text/javascript")
        elif url.startswith((page.base, page.folder, "blob:", "data:")):
            route.continue_()
        else:
            page.outside.append(url)
            route.abort()

    context.route("**/*", gate)
    page.on("pageerror", lambda error: page.errors.append(f"exception: {error}"))
    page.on(
        "console",
        lambda message: (
            page.errors.append(f"console: {message.text}") if message.type == "error" else None
        ),
    )
    page.on("requestfailed", lambda request: page.errors.append(f"failed: {request.url}"))
    page.on(
        "response",
        lambda response: (
            page.errors.append(f"{response.status}: {response.url}")
            if response.status >= 400
            else None
        ),
    )
    yield page
    page.close()
    context.unroute_all(behavior="ignoreErrors")  # what is still on its way ends with the page
