"""The engine of the page: the book's small language models sample and learn in a reader's browser.

The mathematics of a GPT-2 is in C (`kernel.h` says in which order to read it), compiled to
`kernel.wasm` by `make engine`. What trains it is in JavaScript, under the names of the Python that
it repeats: `policy.js`, `rollout.js`, `reward_model.js`, `losses.js`, `advantages.js`,
`optimization.js`, `machine.js`, `loop.js`, `critic.js`, `ppo.js`, `grpo.js`; the worlds are
`letters.js` and `sums.js`.
`worker.js` runs them beside a page, and `elsewhere.js` some of it in a second worker. Tests hold
every number of it against PyTorch's.

This file makes of them what a demo stores; `weights.py` is what a page fetches.

Chapters: rlvr, ppo-live.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

from .weights import MODELS, flat_weights, packed, shape, weights_script

HERE = Path(__file__).parent
MODULES = (  # each after those that it imports
    "random",
    "policy",
    "rollout",
    "optimization",
    "losses",
    "advantages",
    "weights",
    "sums",
    "letters",
    "machine",
    "loop",
    "grpo",
    "critic",
    "ppo",
    "reward_model",
    "lab",
    "elsewhere",
    "worker",
)
_IMPORT = re.compile(r'^import (?:\* as (\w+)|(\{.*?\})) from "\./(\w+)\.js";$', re.M | re.DOTALL)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|class|const) (\w+))", re.MULTILINE)


def letters_lists() -> dict:
    """The word lists of the letters world, as `Letters` of letters.js takes them."""
    from ...worlds import letters

    return {
        "names": letters.NAMES,
        "days": letters.DAYS,
        "intents": {
            name: {"items": one.items, "phrases": one.phrases, "keywords": one.keywords}
            for name, one in letters.INTENTS.items()
        },
        "gush": letters.GUSH,
        "rude": letters.RUDE,
        "evasive": letters.EVASIVE,
        "offTopic": letters.OFF_TOPIC,
        "courtesy": sorted(letters.COURTESY),
        "formal": sorted(letters.FORMAL),
        "weights": letters.WEIGHTS,
        "range": letters.UTILITY_RANGE,
        "maxNewTokens": letters.MAX_NEW_TOKENS,
        "vocabulary": letters.vocabulary(),
    }


def worker_code() -> str:
    """The modules as one script, which a worker can run that was made from a text.

    A page from a file cannot import modules, so each becomes a function that returns what it
    exports.
    """
    return "\n".join(["const modules = {};", *map(_as_function, MODULES)])


def _as_function(name: str) -> str:
    text = (HERE / f"{name}.js").read_text(encoding="utf-8")
    text = re.sub(r"/\*.*?\*/|^\s*//.*?$|(?<=[;,{]) +// .*?$", "", text, flags=re.DOTALL | re.M)
    text = _IMPORT.sub(lambda m: f"const {m[1] or ' '.join(m[2].split())} = modules.{m[3]};", text)
    exported = ", ".join(m[2] for m in _EXPORT.finditer(text))
    lines = [line.strip() for line in _EXPORT.sub(r"\1", text).splitlines() if line.strip()]
    return "\n".join([f"modules.{name} = (() => {{", *lines, f"return {{ {exported} }};", "})();"])


def kernel() -> bytes:
    """The compiled kernel."""
    return (HERE / "kernel.wasm").read_bytes()


def constants() -> str:
    """What a demo's module begins with: `WORKER`, its script, and `KERNEL`, base64 of its bytes."""
    kernel_text = base64.b64encode(kernel()).decode()
    return f"const WORKER = {json.dumps(worker_code())};\nconst KERNEL = {json.dumps(kernel_text)};"
