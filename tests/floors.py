"""Print the oldest versions that pyproject.toml allows, as pins, and the test runner's pin."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def floors() -> list[str]:
    """Return all lower bounds as pins, optional ones too: `torch>=2.11` becomes `torch==2.11.*`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [bound for some in project["optional-dependencies"].values() for bound in some]
    return [re.sub(r">=(.*)", r"==\1.*", bound) for bound in project["dependencies"] + optional]


if __name__ == "__main__":
    runner = re.search(r"^pytest==.*$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[0]
    print("\n".join([*floors(), runner]))
