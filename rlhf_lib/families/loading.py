"""Models read from a folder or the hub: their weights in float32, whatever they were saved in.

Nearly all checkpoints of the hub are in bfloat16, and transformers reads them so. A step of
training is mostly smaller than what 8 bits of precision can tell apart: weights would stay where
they are, and nothing would say so (see `machinery.precision`). Chapter: what-a-step-costs.
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

    Chapter: what-a-step-costs.
    """
    if (Path(source) / "adapter_config.json").exists():
        return load_adapted(auto_class, source)
    how = {"dtype": torch.float32, "output_loading_info": True}
    model, found = load_pretrained(auto_class, source, **how)
    here, kind = f"source is {str(source)!r}", type(model).__name__
    made = next(iter(getattr(model.config, "architectures", None) or ()), "")
    if made.endswith("Classification") and not hasattr(model, "score"):
        raise ValueError(f"{here}, a {made}: a reward model; expected a policy, as sft leaves it")
    if found["missing_keys"]:
        raise ValueError(
            f"{here}; expected a {kind}, and it has no weights for "
            + ", ".join(sorted(found["missing_keys"])[:4])
            + (" (new_reward_model makes a reward model of a policy)" * hasattr(model, "score"))
        )
    layers = {name for name, layer in model.named_modules() if hasattr(layer, "weight")}
    odd = [key for key in found["unexpected_keys"] if key.rpartition(".")[0] in layers]
    if odd:
        raise ValueError(
            f"{here}; expected a {kind} as its config has it, and there are weights that this has "
            f"no place for: {', '.join(sorted(odd)[:4])}"
        )
    return model.eval()


def load_adapted(auto_class, source: str | os.PathLike):
    """A model with the adapter in a folder that peft wrote, ready to be trained. See `load_model`.

    Chapter: none yet.
    """
    from .adapters import peft, without_warnings

    try:
        with without_warnings():
            config = peft().PeftConfig.from_pretrained(source)
            weights = peft().load_peft_weights(str(source), device="cpu")
    except Exception as error:  # many kinds, as in load_pretrained
        raise ValueError(
            f"source is {str(source)!r}; expected a readable adapter, and reading it failed: "
            f"{error}"
        ) from error
    base = str(config.base_model_name_or_path)
    try:
        model = load_model(auto_class, base)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"source is {str(source)!r}, an adapter of the model {base!r}; expected that model "
            f"there: {error}"
        ) from error
    table = model.get_input_embeddings().weight
    for key, stored in weights.items():  # a token was added, and the table saved with the adapter
        grown = "lora_" not in key and stored.dim() == 2 and stored.shape[1] == table.shape[1]
        embeds = "embed" in key or "wte" in key
        if grown and embeds and stored.shape[0] > table.shape[0]:
            model.resize_token_embeddings(stored.shape[0])
            break
    with without_warnings():
        return peft().PeftModel.from_pretrained(model, source, is_trainable=True).eval()


def tokenizer_source(source: str | os.PathLike, model) -> str | os.PathLike:
    """Where a model's tokenizer is: with it; beside it, in a checkpoint of a run; or with the base.

    Chapter: none yet.
    """
    beside = Path(source).parent / "tokenizer"
    if (Path(source) / "tokenizer_config.json").exists():
        return source
    if Path(source).exists() and (beside / "tokenizer_config.json").exists():
        return beside
    if not hasattr(model, "peft_config"):
        return source
    return model.peft_config[model.active_adapter].base_model_name_or_path


def load_pretrained(auto_class, source: str | os.PathLike, **options):
    """`auto_class.from_pretrained(source)`, with an error that says what is wrong with `source`.

    Chapter: what-a-step-costs.

    Raises
    ------
    FileNotFoundError
        If `source` looks like a folder, and there is none with a checkpoint.
    ValueError
        If reading it fails.
    """
    folder = Path(source)
    on_the_hub = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(source))  # NAME or OWNER/NAME
    kinds = ("", "adapter_") + ("tokenizer_",) * (auto_class.__name__ == "AutoTokenizer")
    found = any((folder / f"{kind}config.json").exists() for kind in kinds)
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
