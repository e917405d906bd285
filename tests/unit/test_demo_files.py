"""What holds for the browser files of every demo."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "rlhf_lib" / "seeing" / "widgets"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.js")), ids=lambda path: path.name)
def test_code_needs_no_other_file_and_no_network(path):
    code = path.read_text(encoding="utf-8")
    assert not re.search(
        r"^\s*import\b|\bimport\(|\bfetch\(|https?://(?!www\.w3\.org)", code, re.MULTILINE
    )


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.css")), ids=lambda path: path.name)
def test_every_style_is_ours(path):
    """A class without the prefix would change the theme, or be changed by it."""
    rules = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    selectors = " ".join(re.findall(r"([^{}]*)\{", rules))
    assert {
        name
        for name in re.findall(r"\.([a-zA-Z][\w-]*)", selectors)
        if not name.startswith("rlhf-")
    } <= {"vscode-dark"}  # set by VS Code on the body
