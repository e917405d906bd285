"""Where a recorded number comes from: what every line of `results/` carries."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch


def provenance() -> dict:
    """The command, date, commit, hardware and versions of a recorded run.

    A copy that git knows nothing of is told its commit by the environment: `COMMIT`.
    """

    def shell(*command):
        try:
            return subprocess.run(
                command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    import transformers

    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        processor = next(
            (
                line.split(":")[1].strip()
                for line in open("/proc/cpuinfo")
                if line.startswith("model name")
            ),
            processor,
        )
    return {
        "command": shlex.join(
            ["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
        ),
        "date": date.today().isoformat(),
        "commit": shell("git", "rev-parse", "HEAD") or os.environ.get("COMMIT", ""),
        "processor": processor,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
