"""The browser of the site tests: find one, or get one.

python tests/site/browser.py    prints its path; installs it first where there is none
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """Return the path of a Chromium that starts: $CHROMIUM, on the PATH, or playwright's own."""
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), playwrights()]
    return next((path for path in candidates if path and starts(path)), None)


def starts(path: str) -> bool:
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def playwrights() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def install() -> None:
    """Install Chromium: from the system's packages as root, else the one that playwright brings."""
    if os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-q"])
        subprocess.run(
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    if find() is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"])


if __name__ == "__main__":
    if find() is None:
        install()
    browser = find()
    if browser is None:
        sys.exit("no Chromium could be installed; install one and set CHROMIUM to its path")
    print(f"browser for the site tests: {browser}")
