"""Models read from a folder or the hub: their weights in float32, whatever they were saved in.

Nearly all checkpoints of the hub are in bfloat16, and transformers reads them so. A step of
training is mostly smaller than what 8 bits of precision can tell apart: weights would stay where
they are, and nothing would say so (see `machinery.precision`). Chapter: what-a-step-costs.
"""

from __future__ import annotations

import os
import re
from contextlib import nullcontext
from pathlib import Path

import torch

from ..machinery.checkpoints import no_progress_bars
from ..machinery.memory import free_bytes
from .hub import hub_absence, without_hub


def load_model(auto_class, source: str | os.PathLike):
    """A model in float32 and in evaluation mode; `auto_class` says of what kind.

    A folder that peft wrote gives the model that it belongs to, with its adapter ready to be
    trained. Errors: see `load_pretrained`; and a ValueError if some weights are not there, which
    transformers would make up.

    Chapter: what-a-step-costs.
    """
    if (Path(source) / "adapter_config.json").exists():
        return load_adapted(auto_class, source)
    check_memory(source)
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


def check_memory(source: str | os.PathLike) -> None:
    """Refuse a folder whose weights, in float32, are more than the memory that is free.

    Chapter: your-own.
    """
    folder, free = Path(source), free_bytes()
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    config = folder / "config.json"
    if stored and free is not None and config.exists():
        halved = re.search(
            r'"(torch_)?dtype"\s*:\s*"b?float16"', config.read_text(encoding="utf-8")
        )
        needed = stored * (2 if halved else 1)
        if needed > free:
            raise ValueError(
                f"source is {str(source)!r}, whose weights take {needed / 1e6:,.0f} MB in float32; "
                f"expected as much free memory, and {free / 1e6:,.0f} MB are free"
            )


def load_adapted(auto_class, source: str | os.PathLike):
    """A model with the adapter in a folder that peft wrote, ready to be trained. See `load_model`.

    Chapter: your-own.
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

    Chapter: your-own.
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

    Where the hub does not answer, a name is looked for in its cache alone, so that it is known in
    seconds whether it can be had. Chapter: what-a-step-costs.

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
    absence = None if found else hub_absence()
    try:  # these files load in a blink; a bar would stay in the notebook
        with no_progress_bars(), without_hub() if absence else nullcontext():
            return auto_class.from_pretrained(source, **options)
    except Exception as error:  # transformers and safetensors raise many kinds; all mean this
        asked = f" ({absence}, so only what it left in the cache was looked for)" if absence else ""
        raise ValueError(
            f"source is {str(source)!r}; expected a readable checkpoint, and reading "
            f"it failed: {error}{asked}"
        ) from error
