"""A small random Llama in a GGUF file, as llama.cpp's converter writes one; with a template."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|unknown|>", "<|begin|>", "<|end|>", "<|issue|>", "<|nothing|>"]
TEXTS = ["what is 12 and 30?\n\n1. twelve\n2.  42 in all", "it's the answer, isn't it? yes!"] * 20
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|begin|>system\nBe brief.<|end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|begin|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|begin|>assistant\n' }}{% endif %}"
)
NAMES = {  # of transformers, and of the format
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class Source(NamedTuple):
    """What a file was written from."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast


@cache
def source() -> Source:
    """A model whose head is its embedding, and a tokenizer that takes each digit by itself."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS,
        BpeTrainer(
            vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[2],
        additional_special_tokens=SPECIAL[3:],
        chat_template=TEMPLATE,
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 50_000.0},
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    return Source(LlamaForCausalLM(config).eval(), tokenizer)


def tensors() -> dict[str, np.ndarray]:
    """The weights by the names of the format, with queries and keys in its order."""
    model, _ = source()
    config, found = model.config, {}
    for name, weight in model.state_dict().items():
        array = weight.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_" in name else config.num_key_value_heads
            halves = array.reshape(heads, 2, -1, array.shape[1])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            found[f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"] = array
    found["token_embd.weight"] = model.model.embed_tokens.weight.detach().numpy()
    found["output_norm.weight"] = model.model.norm.weight.detach().numpy()
    return found


def write(
    path: Path,
    bits: str = "F32",
    architecture: str = "llama",
    split: str = "smollm",
    template: str | None = TEMPLATE,
    without: str = "",
    more: dict[str, np.ndarray] | None = None,
    settings: dict[str, str] | None = None,
    tokens: int | None = None,
    add_bos: bool = False,
) -> Path:
    """Write the file; matrices in `bits`, such as Q4_1. The rest is for files that are odd."""
    model, tokenizer = source()
    config = model.config
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)[:tokens]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(vocabulary)
    writer.add_token_types([control if token in SPECIAL else normal for token in vocabulary])
    writer.add_token_merges(merges())
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(add_bos)
    writer.add_add_space_prefix(False)
    if template is not None:
        writer.add_chat_template(template)
    for name, value in (settings or {}).items():
        writer.add_string(name, value)
    kind = gguf.GGMLQuantizationType[bits]
    for name, array in {**tensors(), **(more or {})}.items():
        if name == without:
            continue
        if array.ndim == 2 and bits != "F32":
            writer.add_tensor(name, quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merges() -> list[str]:
    _, tokenizer = source()
    found = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in found]
