"""A real language model as an ordinary checkpoint folder: `python -m rlhf_lib model`. ::

    python -m rlhf_lib model smollm2 --out models/smollm2
    python -m rlhf_lib sft --policy models/smollm2 --data dialogues.jsonl --out runs/sft

Chapter: real-model.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ..families.gguf_files import read_gguf
from ..families.smollm2 import Unpacked, load_smollm2
from ..machinery.checkpoints import no_progress_bars


def make_folder(out: str | os.PathLike, source: str = "smollm2", origin: str | None = None):
    """Write a model and its tokenizer as a checkpoint that transformers loads by itself.

    Chapter: real-model.

    Parameters
    ----------
    out : path
        New or empty; it is whole or not there. A README.md in it says what it was made from.
    source : str
        "smollm2", or the path of a GGUF file.
    origin : {"hub", "package"}, optional
        Of "smollm2": that one and no other.

    Returns
    -------
    Unpacked
        The model, its tokenizer, and in words where they came from.

    Raises
    ------
    FileExistsError
        If there is a file of that name, or a folder with anything in it.
    ValueError, OSError, ImportError
        If the model cannot be had (see `load_smollm2`, `read_gguf`); or the disk is too small.
    """
    folder = Path(os.path.abspath(out))
    check_vacant(folder)
    if source == "smollm2":
        unpacked = load_smollm2(origin)
    elif origin is not None:
        raise ValueError(f"origin is {origin!r}; expected it for smollm2 alone, not for {source!r}")
    elif not source.endswith(".gguf") and not os.path.exists(source):
        raise ValueError(f"source is {source!r}; expected 'smollm2', or the path of a GGUF file")
    else:
        unpacked = Unpacked(*read_gguf(source), f"the file {source}")
    write_folder(folder, unpacked)
    return unpacked


def check_vacant(folder: Path) -> None:
    """Refuse a place where anything is. Chapter: real-model."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        kind = "a folder with something in it" if folder.is_dir() else "a file"
        raise FileExistsError(f"out is {str(folder)!r}, {kind}; expected a new or empty folder")


def write_folder(folder: Path, unpacked: Unpacked) -> None:
    """Write the files beside their place, and move them there when they are whole.

    Chapter: real-model.
    """
    weights = sum(p.numel() * p.element_size() for p in unpacked.model.parameters())
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(folder.parent)
        if room.total and room.free < weights:  # some file systems do not say
            raise OSError(f"{weights / 1e6:,.0f} MB are needed, and {room.free / 1e6:,.0f} MB free")
        place = tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent)
        with place as beside, no_progress_bars():
            fresh = Path(beside, "model")
            unpacked.model.save_pretrained(fresh)
            unpacked.tokenizer.save_pretrained(fresh)
            Path(fresh, "README.md").write_text(f"Made from {unpacked.origin}.\n", encoding="utf-8")
            if folder.exists():
                folder.rmdir()  # which fails if it is empty no more
            fresh.rename(folder)
    except Exception as error:  # of the disk, in the words of safetensors or the system
        raise OSError(
            f"out is {str(folder)!r}; expected to write a model there, and writing failed: "
            f"{error}. Nothing is left of it"
        ) from error
