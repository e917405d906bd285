"""What a run leaves behind: a log in JSON lines, and checkpoints that are whole or not there.

Chapter: ppo-live.
"""
from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Iterator

import torch


class RunLog:
    """Append records to a file, one JSON object a line, each on disk before `write` returns.

    Parameters
    ----------
    path : path
        Created with its folders if missing. An existing log is continued, never overwritten; a
        torn last line, as a crash leaves it, is cut off first.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "log.jsonl"
    >>> with RunLog(path) as log:
    ...     log.write({"step": 0, "reward": .5})
    >>> read_log(path)
    [{'step': 0, 'reward': 0.5}]
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            text = self.path.read_bytes()
            whole = text[:text.rfind(b"\n") + 1]
            if len(whole) < len(text):
                with open(self.path, "r+b") as file:
                    file.truncate(len(whole))
        self.file = open(self.path, "a", encoding="utf-8")

    def write(self, record: dict) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def read_log(path: str | os.PathLike) -> list[dict]:
    """The records of a log, in order; a torn last line is left out.

    Raises
    ------
    ValueError
        If a line before the last is no JSON object.
    """
    return list(_records(Path(path)))


def _records(path: Path) -> Iterator[dict]:
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            if line:
                yield json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path.name}, line {number}: expected a JSON object, got "
                                 f"{line[:60]!r}") from error


def save_checkpoint(folder: str | os.PathLike, models: dict, state: dict) -> None:
    """Write models and loop state into a folder, replacing what it held only when all is written.

    Parameters
    ----------
    folder : path
    models : dict of str to model
        Each is saved by `save_pretrained` in a folder of its own, so that any of them can be used
        without the loop that trained it. A tokenizer may be among them.
    state : dict
        Step number, optimiser and generator state: what `torch.load(weights_only=True)` reads.
    """
    folder = Path(folder)
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for leftover in (fresh, old):
        if leftover.exists() and (leftover == fresh or folder.exists()):
            shutil.rmtree(leftover)
    fresh.mkdir(parents=True)
    for name, model in models.items():
        model.save_pretrained(fresh / name)
    torch.save(state, fresh / "state.pt")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: str | os.PathLike, models: dict) -> dict:
    """Load the models of a checkpoint in place, and return the loop state.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint in the folder.
    ValueError
        If a part of it cannot be read or does not fit the model given.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    if not folder.exists() and folder.with_name(folder.name + ".old").exists():
        folder = folder.with_name(folder.name + ".old")  # died between the two renames
    if not (folder / "state.pt").exists():
        raise FileNotFoundError(f"folder is {str(folder)!r}; expected a checkpoint with state.pt, "
                                "and found none there")
    try:
        state = torch.load(folder / "state.pt", weights_only=True)
        for name, model in models.items():
            weights = load_file(folder / name / "model.safetensors")
            missing, unexpected = model.load_state_dict(weights, strict=False)
            tied = set(getattr(model, "_tied_weights_keys", None) or ())
            if set(missing) - tied or unexpected:
                raise ValueError(f"{name} lacks {missing} and has {unexpected} besides")
    except Exception as error:
        raise ValueError(f"folder is {str(folder)!r}; expected a readable checkpoint, and reading "
                         f"it failed: {error}") from error
    return state
