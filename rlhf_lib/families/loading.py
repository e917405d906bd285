"""Models read from a folder or the hub: their weights in float32, whatever they were saved in.

Nearly all checkpoints of the hub are in bfloat16, and transformers reads them so. A step of
training is mostly smaller than what 8 bits of precision can tell apart: weights would stay where
they are, and nothing would say so (see `machinery.precision`). Chapter: gpt2-on-a-gpu.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch


def load_model(auto_class, source: str | os.PathLike):
    """A model in float32 and in evaluation mode; `auto_class` says of what kind.

    A folder that peft wrote gives the model that it belongs to, with its adapter ready to be
    trained. Errors: see `load_pretrained`; and a ValueError if some weights are not there, which
    transformers would make up.

    Chapter: gpt2-on-a-gpu.
    """
    if (Path(source) / "adapter_config.json").exists():
        from .adapters import peft, without_warnings

        auto_class = getattr(peft(), f"AutoPeft{auto_class.__name__.removeprefix('Auto')}")
        with without_warnings():
            adapted = load_pretrained(auto_class, source, dtype=torch.float32, is_trainable=True)
        return adapted.eval()
    how = {"dtype": torch.float32, "output_loading_info": True}
    model, found = load_pretrained(auto_class, source, **how)
    if found["missing_keys"]:
        raise ValueError(
            f"source is {str(source)!r}; expected a {type(model).__name__}, and it has no weights "
            f"for {', '.join(sorted(found['missing_keys'])[:4])}"
            + (" (new_reward_model makes a reward model of a policy)" * hasattr(model, "score"))
        )
    return model.eval()


def tokenizer_source(source: str | os.PathLike, model) -> str | os.PathLike:
    """Where a model's tokenizer is: with it; or, of an adapter without one, with its base.

    Chapter: none yet.
    """
    if not hasattr(model, "peft_config") or (Path(source) / "tokenizer_config.json").exists():
        return source
    return model.peft_config[model.active_adapter].base_model_name_or_path


def load_pretrained(auto_class, source: str | os.PathLike, **options):
    """`auto_class.from_pretrained(source)`, with an error that says what is wrong with `source`.

    Chapter: gpt2-on-a-gpu.

    Raises
    ------
    FileNotFoundError
        If `source` looks like a folder, and there is none with a checkpoint.
    ValueError
        If reading it fails.
    """
    folder = Path(source)
    on_the_hub = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(source))  # NAME or OWNER/NAME
    found = any((folder / f"{kind}config.json").exists() for kind in ("", "adapter_"))
    if not found and (folder.exists() or not on_the_hub):
        raise FileNotFoundError(
            f"source is {str(source)!r}; expected a checkpoint folder with "
            "config.json and model.safetensors, and found none there"
        )
    from transformers.utils import logging

    progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # these files load in a blink; a bar would stay in the notebook
    try:
        return auto_class.from_pretrained(source, **options)
    except Exception as error:  # transformers and safetensors raise many kinds; all mean this
        raise ValueError(
            f"source is {str(source)!r}; expected a readable checkpoint, and reading "
            f"it failed: {error}"
        ) from error
    finally:
        if progress:
            logging.enable_progress_bar()
