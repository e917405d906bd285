"""A GGUF file is read as what it is, or refused with a word for what is wrong with it."""

from __future__ import annotations

import json
import os

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_lib.families import gguf_files
from rlhf_lib.families.gguf_files import read_gguf
from rlhf_lib.families.smollm2 import Unpacked
from rlhf_lib.families.special_tokens import begin_tokens
from rlhf_lib.models.tokens import encode_prompts
from rlhf_lib.running.model_folder import write_folder
from tests.unit import ggufs

TEXTS = [
    "what is 12 and 30?",
    "\n\n1. twelve\n\n 2.  42",
    "a   7  b 1234",
    "it's IT'S they're\t'tis",
    "naïve café, 日本 🙂 ½",
    "<|begin|>user\nhi<|end|>\n",
    "not <|a special|> token, <|end",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a file, for tests that write them anew."""
    return ggufs.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture
def path(tmp_path, whole):
    (tmp_path / "tiny.gguf").write_bytes(whole)
    return tmp_path / "tiny.gguf"


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(5, 45)[None]).logits


# ---------------------------------------------------------------------------------- what it gives


def test_the_model_is_the_one_that_was_written(path):
    model, _ = read_gguf(path)
    assert not model.training and model.dtype == torch.float32
    assert torch.equal(logits(model), logits(ggufs.source().model))
    for name in ("max_position_embeddings", "rms_norm_eps", "rope_parameters", "head_dim"):
        assert getattr(model.config, name) == getattr(ggufs.source().model.config, name)


@pytest.mark.parametrize("bits", ["Q8_0", "Q4_1"])
def test_blocks_of_few_bits_are_unpacked(tmp_path, bits):
    """Each weight is the number that its block stands for, in its own row."""
    model, _ = read_gguf(ggufs.write(tmp_path / "few.gguf", bits))
    kind = gguf.GGMLQuantizationType[bits]
    for name, weight in ggufs.source().model.state_dict().items():
        few = weight.numpy()
        few = dequantize(quantize(few, kind), kind) if few.ndim == 2 else few
        assert np.array_equal(model.state_dict()[name].numpy(), few), name


def test_text_has_the_tokens_that_it_had(path):
    """Of tokenizers that take each digit by itself; white space before a digit tells them apart."""
    _, tokenizer = read_gguf(path)
    theirs = ggufs.source().tokenizer
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == theirs(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert tokenizer.model_max_length == 256


def test_special_tokens_and_template_are_those_of_the_file(path):
    _, tokenizer = read_gguf(path)
    names = (tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    assert names == ("<|unknown|>", "<|begin|>", "<|end|>", "<|end|>")
    assert [x.content for x in tokenizer.added_tokens_decoder.values()] == ggufs.SPECIAL
    assert tokenizer.chat_template == ggufs.TEMPLATE and begin_tokens(tokenizer) == []
    assert len(tokenizer) == len(ggufs.source().tokenizer)


def test_a_beginning_that_tokenizer_and_template_both_put_is_there_once(tmp_path):
    _, tokenizer = read_gguf(ggufs.write(tmp_path / "tiny.gguf", add_bos=True))
    assert begin_tokens(tokenizer) == [1]
    asked = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    tokenizer.pad_token = "<|nothing|>"
    ids = encode_prompts(tokenizer, [text, "plain"])[0].tolist()
    assert ids[0][0] == 1 != ids[0][1] and ids[1].count(1) == 1


def test_a_file_without_a_template_gives_none(tmp_path):
    _, tokenizer = read_gguf(ggufs.write(tmp_path / "tiny.gguf", template=None))
    assert not tokenizer.chat_template


def test_what_is_saved_is_an_ordinary_checkpoint(path, tmp_path):
    model, tokenizer = read_gguf(path)
    write_folder(tmp_path / "folder", Unpacked(model, tokenizer, "a test"))
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["tie_word_embeddings"]
    assert not {"quantization_config", "_name_or_path", "_model_name_or_path"} & config.keys()
    read, found = AutoModelForCausalLM.from_pretrained(
        tmp_path / "folder", output_loading_info=True
    )
    assert not any(found.values()) and read.dtype == torch.float32
    assert torch.equal(logits(read), logits(ggufs.source().model))
    assert read.lm_head.weight is read.model.embed_tokens.weight
    own = AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert own.chat_template == ggufs.TEMPLATE
    assert all(own(text)["input_ids"] == tokenizer(text)["input_ids"] for text in TEXTS)
    assert "Made from a test" in (tmp_path / "folder" / "README.md").read_text()


def test_what_lies_beside_a_file_is_no_part_of_its_model(path):
    (path.parent / "config.json").write_text('{"model_type": "gpt2", "n_layer": 1}')
    (path.parent / "chat_template.jinja").write_text("another template")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "nobody/nothing"}
    (path.parent / "adapter_config.json").write_text(json.dumps(adapter))
    (path.parent / "tokenizer_config.json").write_text('{"eos_token": "<|begin|>"}')
    model, tokenizer = read_gguf(path)
    assert model.config.model_type == "llama" and tokenizer.eos_token == "<|end|>"
    assert tokenizer.chat_template == ggufs.TEMPLATE


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_a_file_is_copied_where_it_cannot_be_linked(path, monkeypatch):
    def refuse(*arguments):
        raise OSError("not everybody may")

    monkeypatch.setattr(os, "symlink", refuse)
    model, _ = read_gguf(path)
    assert torch.equal(logits(model), logits(ggufs.source().model))


# ---------------------------------------------------------------------------------- what it refuses


def cut(share: float):
    return lambda content: content[: int(share * len(content))]


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda content: b"", "expected a GGUF file.*and it is empty"),
        (lambda content: b"PK\3\4" + content[4:], r"and it begins with b'PK\\x03\\x04'"),
        (lambda content: content[:4], "of 4 bytes; expected a whole GGUF file, and it is cut off"),
        (cut(0.02), "is cut off or damaged"),
        (cut(0.1), "is cut off or damaged"),
        (cut(0.5), "is cut off or damaged"),
        (lambda content: content[:-1], "is cut off or damaged"),
        (lambda content: content[:4] + b"\x63" + content[5:], "is cut off or damaged: .*version"),
        (
            lambda content: content.replace(b"llama.block_count", b"llama.xxxxx_count"),
            "xxxxx_count",
        ),
    ],
)
def test_a_damaged_file_is_told(path, whole, damage, said):
    path.write_bytes(damage(whole))
    with pytest.raises(ValueError, match=rf"(?s)source is '.*tiny\.gguf'.*{said}"):
        read_gguf(path)


def test_weights_that_are_no_numbers_are_told(tmp_path):
    odd = ggufs.tensors()["blk.1.ffn_up.weight"].copy()
    odd[3, 4] = np.nan
    made = ggufs.write(tmp_path / "odd.gguf", more={"blk.1.ffn_up.weight": odd})
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj\.weight have entries that are"):
        read_gguf(made)


@pytest.mark.parametrize(
    "odd, said",
    [
        ({"without": "blk.1.attn_k.weight"}, "without the tensors blk.1.attn_k.weight; expected"),
        ({"without": "token_embd.weight"}, "without the tensors token_embd.weight"),
        ({"more": {"rope_freqs.weight": np.ones(4)}}, "with the tensors rope_freqs.weight; expe"),
        ({"more": {"blk.2.attn_k.weight": np.ones(4)}}, "of a Llama of 2 layers and no others"),
        ({"architecture": "qwen2"}, "of the architecture 'qwen2'; expected 'llama'"),
        ({"settings": {"llama.rope.scaling.type": "yarn"}}, "the settings rope.scaling.type; exp"),
        ({"split": "tekken"}, "that splits text as 'tekken' does; expected 'gpt2' and one of 'smo"),
        ({"tokens": 270}, "with 270 tokens and rows for [23][0-9]+; expected as many"),
        ({"more": {"blk.0.attn_v.weight": np.ones((5, 32))}}, "unpacking it failed"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(tmp_path, odd, said):
    made = ggufs.write(tmp_path / "odd.gguf", **odd)
    with pytest.raises(ValueError, match=rf"source is '.*odd\.gguf'.*{said}"):
        read_gguf(made)


def test_a_file_that_is_none_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a GGUF file, and there is none"):
        read_gguf(tmp_path / "no.gguf")
    with pytest.raises(
        ValueError, match="a folder; expected a GGUF file, whose name ends in .gguf"
    ):
        read_gguf(tmp_path)


def test_too_little_memory_is_told_before_it_is_used(path, monkeypatch):
    monkeypatch.setattr(gguf_files, "free_bytes", lambda: 10)
    with pytest.raises(ValueError, match=r"take 0 MB in float32; expected about .* 0 MB are free"):
        read_gguf(path)
    monkeypatch.setattr(gguf_files, "free_bytes", lambda: None)  # where the system does not tell
    read_gguf(path)


@pytest.mark.parametrize("missing", [["gguf"], ["accelerate"], ["gguf", "accelerate"]])
def test_a_package_that_is_missing_is_named(path, monkeypatch, missing):
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None if name in missing else name)
    told = rf"{' and '.join(missing)} not installed; .*\(pip install {' '.join(missing)}\)"
    with pytest.raises(ImportError, match=told):
        read_gguf(path)


def test_nothing_is_shown_while_a_file_is_unpacked(tmp_path, monkeypatch):
    """Not even the bar of transformers, which is a widget in a notebook; and it is put back."""
    from transformers import modeling_gguf_pytorch_utils as unpacking

    def bar(*args, **kwargs):
        raise AssertionError("a bar is shown")

    monkeypatch.setattr(unpacking, "tqdm", bar)
    read_gguf(ggufs.write(tmp_path / "small.gguf"))
    assert unpacking.tqdm is bar
