"""Print the oldest versions that pyproject.toml allows, as pins, and the test runner's pin."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def floors() -> list[str]:
    """Return the package's lower bounds as pins: `torch>=2.11` becomes `torch==2.11.*`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [re.sub(r">=(.*)", r"==\1.*", bound) for bound in project["dependencies"]]


if __name__ == "__main__":
    runner = re.search(r"^pytest==.*$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[0]
    print("\n".join([*floors(), runner]))
