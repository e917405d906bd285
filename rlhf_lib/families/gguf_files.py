"""A GGUF file as an ordinary model: weights in float32, and the tokenizer that goes with them.

llama.cpp keeps a whole model in one such file, its weights in blocks of a few bits each.
transformers unpacks them, with the optional packages gguf and accelerate. What it does not know it
leaves out, and says nothing of it; so a file is refused here if it is not one of the Llamas whose
every setting and tensor is known to be read.

The tokenizer is made here. transformers makes GPT-2's of all that work on bytes: to one that takes
each digit by itself "\\n\\n1" would have three tokens and not two, and a vocabulary without GPT-2's
`<|endoftext|>` would get it, as a token that the model has no row for.

Source: the format, docs/gguf.md of ggml; splits by their names, src/llama-vocab.cpp of llama.cpp.
Chapter: real-model.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..machinery.checkpoints import no_progress_bars
from ..machinery.memory import free_bytes
from .hub import without_hub

MAGIC = b"GGUF"
# each digit a piece of its own, then the pieces of GPT-2; or these alone
SPLITS = {"smollm": "digits", "starcoder": "digits", "gpt-2": "plain"}
SETTINGS = {  # of a Llama, in the words of the format
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
}
ROLES = {"unk_token": "unknown", "bos_token": "bos", "eos_token": "eos", "pad_token": "padding"}
CONTROL, USER_DEFINED = 3, 4  # kinds of tokens
LAYER = ("attn_k", "attn_norm", "attn_output", "attn_q", "attn_v")
LAYER += ("ffn_down", "ffn_gate", "ffn_norm", "ffn_up")
AROUND = {"output_norm.weight", "token_embd.weight"}  # and output.weight, where it is not tied
SHOWN = 4  # names that a message lists


def gguf():
    """The package, which is optional; an ImportError says how to get it. Chapter: real-model."""
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{' and '.join(missing)} not installed; expected both for a GGUF file "
            f"(pip install {' '.join(missing)})"
        )
    return import_module("gguf")


def read_gguf(source: str | os.PathLike):
    """The model in a GGUF file and its tokenizer, as transformers' ordinary ones.

    Chapter: real-model.

    Parameters
    ----------
    source : path
        Of the architecture `llama`, as SmolLM and SmolLM2 have it, with a byte-level tokenizer
        whose split is among `SPLITS`.

    Returns
    -------
    model : transformers.LlamaForCausalLM
        In float32, in evaluation mode, and saved like any other.
    tokenizer : transformers.PreTrainedTokenizerBase
        With the chat template of the file, if it has one.

    Raises
    ------
    FileNotFoundError, ImportError
        If there is no such file; if gguf or accelerate is not installed.
    ValueError
        If it is no GGUF file, or a damaged one; if it holds what is not known to be read, such as
        another architecture; if the memory is too little.
    """
    path, here = Path(source), f"source is {str(source)!r}"
    check_file(path, here)
    settings, shapes = _contents(path, here)
    _check_settings(settings, here)
    _check_tensors(settings, shapes, here)
    weights = 4 * sum(map(math.prod, shapes.values()))
    free, needed = free_bytes(), weights * 9 // 4  # twice on the way, and a table in blocks
    if free is not None and free < needed:
        raise ValueError(
            f"{here}, whose weights take {weights / 1e6:,.0f} MB in float32; expected about "
            f"{needed / 1e6:,.0f} MB of free memory to unpack it, and {free / 1e6:,.0f} MB are free"
        )
    with _by_itself(path) as (folder, name), without_hub(), no_progress_bars(), _no_bar():
        try:
            return _model(folder, name), _tokenizer(settings)
        except Exception as error:  # transformers and gguf raise many kinds; all mean this
            raise ValueError(
                f"{here}; expected a whole GGUF file, and unpacking it failed: {error}"
            ) from error


@contextmanager
def _no_bar():
    """The bar of this part of transformers heeds no setting, and is a widget in a notebook."""
    from transformers import modeling_gguf_pytorch_utils as unpacking

    bar = unpacking.tqdm
    unpacking.tqdm = lambda tensors, **_: tensors
    try:
        yield
    finally:
        unpacking.tqdm = bar


def check_file(path: Path, here: str) -> None:
    """Refuse what is no GGUF file, by its first bytes. Chapter: real-model."""
    if not path.exists():
        raise FileNotFoundError(f"{here}; expected a GGUF file, and there is none")
    if path.is_dir():
        raise ValueError(f"{here}, a folder; expected a GGUF file, whose name ends in .gguf")
    with open(path, "rb") as file:
        begins = file.read(len(MAGIC))
    if begins != MAGIC:
        found = f"and it begins with {begins!r}" if begins else "and it is empty"
        raise ValueError(f"{here}; expected a GGUF file, which begins with {MAGIC!r}, {found}")


# ------------------------------------------------------------------ what the file says


def _contents(path: Path, here: str) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The settings of a file, and the shape of each of its tensors, rows first."""
    reader_of = gguf().GGUFReader
    try:
        reader = reader_of(path)
        settings = {name: field.contents() for name, field in reader.fields.items()}
        shapes = {t.name: tuple(map(int, reversed(t.shape.tolist()))) for t in reader.tensors}
    except Exception as error:  # it raises what it runs into
        raise ValueError(
            f"{here}, of {path.stat().st_size:,} bytes; expected a whole GGUF file, and it is cut "
            f"off or damaged: {error}"
        ) from error
    return settings, shapes


def _check_settings(settings: dict[str, Any], here: str) -> None:
    kind = settings.get("general.architecture")
    if kind != "llama":
        raise ValueError(
            f"{here}, of the architecture {kind!r}; expected 'llama', the one whose tensors are "
            "known to be read"
        )
    own = {name.partition(".")[2] for name in settings if name.startswith("llama.")}
    if strange := sorted(own - SETTINGS):
        raise ValueError(
            f"{here}, with the settings {', '.join(strange[:SHOWN])}; expected a Llama without "
            "them, as transformers would leave them out"
        )
    kind, split = (settings.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != "gpt2" or split not in SPLITS:
        raise ValueError(
            f"{here}, with a tokenizer of the kind {kind!r} that splits text as {split!r} does; "
            f"expected 'gpt2' and one of {', '.join(map(repr, SPLITS))}, which are known to be read"
        )


def _check_tensors(settings: dict[str, Any], shapes: dict[str, tuple], here: str) -> None:
    layers = range(int(settings.get("llama.block_count", 0)))
    expected = AROUND | {f"blk.{i}.{name}.weight" for i in layers for name in LAYER}
    lacking = sorted(expected - shapes.keys())
    strange = sorted(shapes.keys() - expected - {"output.weight"})
    if lacking or strange:
        flaw = "without the tensors" if lacking else "with the tensors"
        raise ValueError(
            f"{here}, {flaw} {', '.join((lacking or strange)[:SHOWN])}; expected those of a Llama "
            f"of {len(layers)} layers and no others"
        )
    tokens, rows = len(settings.get("tokenizer.ggml.tokens", ())), shapes["token_embd.weight"][0]
    if tokens != rows:
        raise ValueError(f"{here}, with {tokens} tokens and rows for {rows}; expected as many")


# ------------------------------------------------------------------ what is made of it


@contextmanager
def _by_itself(path: Path) -> Iterator[tuple[str, str]]:
    """The file in a folder where nothing else lies that could be taken for a part of its model."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        name = "model.gguf"
        try:
            os.symlink(path.resolve(), Path(folder, name))
        except OSError:  # where not everybody may
            shutil.copyfile(path, Path(folder, name))
        yield folder, name


def _model(folder: str, name: str):
    """The weights in a model that knows nothing of blocks, so that it is saved like any other."""
    from transformers import AutoModelForCausalLM

    unpacked = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    config = unpacked.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    config["rms_norm_eps"] = float(f"{config['rms_norm_eps']:.6g}")  # as in float32: 9.99999975e-06
    model = type(unpacked)(type(unpacked.config).from_dict(config)).float()
    model.load_state_dict(unpacked.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = unpacked.generation_config
    if odd := [key for key, x in model.state_dict().items() if not torch.isfinite(x).all()]:
        raise ValueError(f"{', '.join(odd[:SHOWN])} have entries that are not finite")
    return model.eval()


def _tokenizer(settings: dict[str, Any]):
    """Byte-level BPE of the tokens and merges of a file, which splits text by the rule it names."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    own = {name.removeprefix("tokenizer.ggml."): value for name, value in settings.items()}
    tokens, pieces = own["tokens"], pre_tokenizers.ByteLevel(add_prefix_space=False)
    merges = [tuple(merge.split(" ")) for merge in own["merges"]]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    if SPLITS[own["pre"]] == "digits":
        pieces = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pieces])
    backend.pre_tokenizer, backend.decoder = pieces, decoders.ByteLevel()
    for token, kind in zip(tokens, own.get("token_type", ())):
        add = {CONTROL: backend.add_special_tokens, USER_DEFINED: backend.add_tokens}.get(kind)
        if add:  # found in any text, and never cut into pieces
            add([AddedToken(token, normalized=False)])
    ids = {role: own.get(f"{name}_token_id") for role, name in ROLES.items()}
    names = {role: tokens[i] for role, i in ids.items() if i is not None}
    begins = [names["bos_token"]] if own.get("add_bos_token") else []
    ends = [names["eos_token"]] if own.get("add_eos_token") else []
    if begins or ends:
        backend.post_processor = processors.TemplateProcessing(
            single=[*begins, "$A", *ends],
            special_tokens=[(token, tokens.index(token)) for token in begins + ends],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=int(settings["llama.context_length"]),
        chat_template=settings.get("tokenizer.chat_template"),
        **names,
    )
