"""Checkpoints that are whole or not there. Chapter: ppo-live."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection
from contextlib import contextmanager
from pathlib import Path

import torch

NOT_THE_ADAPTERS = {  # of peft's configs: where a model is, and how it was read
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "init_lora_weights",
    "lora_dropout",
    "peft_version",
    "revision",
}


def check_writable(folder: str | os.PathLike) -> None:
    """Raise an OSError that names the folder if nothing can be written in it; make it if missing.

    For the folder that will hold a run's log and checkpoints, before training starts: when the
    first checkpoint fails it is late.

    Chapter: ppo-live.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        raise type(error)(
            f"folder is {str(folder)!r}; expected one to write to, and writing failed: {error}"
        ) from error


def save_checkpoint(folder: str | os.PathLike, models: dict, state: dict) -> None:
    """Write models and loop state into a folder, replacing what it held only when all is written.

    All of it goes to NAME.new and is forced to the disk. Then NAME becomes NAME.old, NAME.new
    becomes NAME, and NAME.old is deleted. Whenever the process dies, `load_checkpoint` finds the
    one before or the new one, whole; and the next save clears away what was left.

    Chapter: ppo-live.

    Parameters
    ----------
    folder : path
    models : dict of str to model
        Each is saved by `save_pretrained` in a folder of its own, so that any of them can be used
        without the loop that trained it; of a model with an adapter that is the adapter. A
        tokenizer may be among them.
    state : dict
        Step number, optimiser and generator state: what `torch.load(weights_only=True)` reads.

    Raises
    ------
    OSError
        If it cannot be written, as on a full disk. The checkpoint before is as it was.
    FloatingPointError
        If a weight is not finite. The checkpoint before, which can still be used, is as it was.
    FileExistsError
        If the folder holds anything that is not part of a checkpoint, which replacing it would
        delete.
    """
    for name, model in models.items():
        weights = model.state_dict() if hasattr(model, "state_dict") else {}  # a tokenizer has none
        for key, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(
                    f"{name} has {key} with entries that are not finite; "
                    "expected numbers. Nothing was written: a checkpoint "
                    "that was there before is as it was"
                )
    folder = Path(os.path.abspath(folder))
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    strangers = set(os.listdir(folder)) - {*models, "state.pt"} if folder.exists() else set()
    if strangers:
        raise FileExistsError(
            f"folder is {str(folder)!r}; expected an earlier checkpoint, an "
            f"empty folder or none, and it holds {', '.join(sorted(strangers))}"
        )
    try:
        if fresh.exists():  # a save that died half-way
            shutil.rmtree(fresh)
        if folder.exists() and old.exists():  # one that died before it could tidy up
            shutil.rmtree(old)
        fresh.mkdir(parents=True)
        with no_progress_bars():  # one for each checkpoint would drown the log of the run
            for name, model in models.items():
                model.save_pretrained(fresh / name)
        under = {name: _under(model) for name, model in _adapted(models).items()}
        torch.save(state | ({"under": under} if under else {}), fresh / "state.pt")
        for path in [*fresh.rglob("*"), fresh]:
            _force_to_disk(path)
    except BaseException as error:  # a Ctrl-C too: do not leave half a checkpoint on a full disk
        shutil.rmtree(fresh, ignore_errors=True)
        if not isinstance(error, Exception):
            raise
        raise OSError(
            f"folder is {str(folder)!r}; expected to write a checkpoint there, and "
            f"writing failed: {error}. A checkpoint that was there before is as it was"
        ) from error
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    _force_to_disk(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def no_progress_bars():
    """Of transformers: they would stay in a notebook and in a log. Chapter: your-own."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _force_to_disk(path: Path) -> None:
    """Without it, a power cut may leave a renamed folder with empty files."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load_checkpoint(folder: str | os.PathLike, models: dict, needed: Collection[str] = ()) -> dict:
    """Load the models of a checkpoint in place, and return the loop state, with all that is needed.

    No model is touched before all of the checkpoint has been read and found to fit. transformers
    reads the weights, since for some architectures it writes them under other names than they have.

    Chapter: ppo-live.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint in the folder.
    ValueError
        If a part of it cannot be read or does not fit the model given.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.exists() and folder.with_name(folder.name + ".old").exists():
        folder = folder.with_name(folder.name + ".old")  # died between the two renames
    if not (folder / "state.pt").exists():
        raise FileNotFoundError(
            f"folder is {str(folder)!r}; expected a checkpoint with state.pt, and found none there"
        )
    try:
        state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
        weights = {name: _read(folder / name, model) for name, model in models.items()}
        for name, model in models.items():
            _check_fit(name, _kept(model), weights[name])
        for name, model in _adapted(models).items():
            sums = state.get("under", {}).get(name, [])
            if not all(abs(a - b) <= 1e-6 * (1 + abs(b)) for a, b in zip(sums, _under(model))):
                raise ValueError(f"{name} has an adapter over another model than it was trained on")
        if missing := sorted(set(needed) - state.keys()):
            raise ValueError(f"state.pt lacks {', '.join(missing)}")
    except Exception as error:
        raise ValueError(
            f"folder is {str(folder)!r}; expected a readable checkpoint, and reading "
            f"it failed: {error}"
        ) from error
    for name, model in models.items():
        own = _kept(model)
        with torch.no_grad():
            for key, tensor in weights[name].items():
                own[key].copy_(tensor)
    return state


def _sorted(value):
    return sorted(value) if isinstance(value, set | list | tuple) else value


def _under(model) -> list[float]:
    """Two sums over the weights that an adapter lies over: a checkpoint holds the adapter alone."""
    frozen = [p.detach().double() for p in model.parameters() if not p.requires_grad]
    return [sum(x.sum().item() for x in frozen), sum(x.square().sum().item() for x in frozen)]


def _is_adapted(model) -> bool:
    return hasattr(model, "peft_config")


def _adapted(models: dict) -> dict:
    return {name: model for name, model in models.items() if _is_adapted(model)}


def _kept(model) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint of the model holds: all, or those of its adapter."""
    if not _is_adapted(model):
        return model.state_dict()
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model)


def _read(folder: Path, model) -> dict[str, torch.Tensor]:
    """What `save_pretrained` wrote of a model, under the names that the model has."""
    if _is_adapted(model):
        from peft import PeftConfig, load_peft_weights

        saved = PeftConfig.from_pretrained(str(folder)).to_dict()
        own = model.peft_config[model.active_adapter].to_dict()
        for name in sorted((own.keys() & saved.keys()) - NOT_THE_ADAPTERS):
            said, given = (_sorted(config[name]) for config in (saved, own))
            if said != given:
                raise ValueError(f"the adapter was saved with {name}={said}; expected {given}")
        return load_peft_weights(str(folder), device="cpu")
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} has no config.json")
    with no_progress_bars():
        fresh, found = type(model).from_pretrained(folder, output_loading_info=True)
    odd = {kind: sorted(map(str, names)) for kind, names in found.items() if names}
    if odd:
        raise ValueError(f"{folder.name} has {odd}; expected the weights of {type(model).__name__}")
    return fresh.state_dict()


def _check_fit(name: str, own: dict, weights: dict) -> None:
    missing, unexpected = own.keys() - weights.keys(), weights.keys() - own.keys()
    if missing or unexpected:
        raise ValueError(f"{name} lacks {sorted(missing)} and has {sorted(unexpected)} besides")
    for key, tensor in weights.items():
        if tensor.shape != own[key].shape:
            raise ValueError(
                f"{name} has {key} of shape {tuple(tensor.shape)}; expected {tuple(own[key].shape)}"
            )
