"""Whose token is it: the mask that the chapter makes by hand, transformers' and TRL's.

The tokenizer is SmolLM2's own, from the package that `make test` installs.
"""

from __future__ import annotations

import copy
import textwrap
from functools import cache
from pathlib import Path

import nbformat
import pytest
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from rlhf_lib.families.smollm2 import packaged_file
from rlhf_lib.models.tokens import encode
from rlhf_lib.worlds.dialogues import Writer

CHAPTER = Path(__file__).resolve().parents[2] / "book" / "practice" / "real-model.ipynb"
IGNORED = -100


def says(*texts: str, system: str | None = None) -> list[dict]:
    """A dialogue in which user and assistant take turns."""
    said = [{"role": ("user", "assistant")[k % 2], "content": x} for k, x in enumerate(texts)]
    return [{"role": "system", "content": system}, *said] if system else said


DIALOGUES = [
    says("Tell Ruth.", "Hi Ruth.\nTom"),
    says("Tell Ruth.", "Hi Ruth.", "Shorter!", "Ruth."),
    says("Tell Ruth.", "Hi Ruth.", system="Be brief."),
    says("Say assistant.", "assistant\nassistant", "Again.", "\nassistant"),
]


@cache
def tokenizer():
    file = packaged_file()
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


@cache
def chapter() -> dict:
    """What the chapter's cells on templates define: they run here as they stand there."""
    names: dict = {"tokenizer": tokenizer(), "textwrap": textwrap}
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        wanted = ("def written(", "def assistant_mask(", "MARKED = ")
        if cell.cell_type == "code" and any(x in cell.source for x in wanted):
            exec(cell.source, names)
    return names


@cache
def by_hand(number: int) -> tuple[list[int], list[int]]:
    """A dialogue's tokens, and the chapter's mask of them."""
    names = chapter()
    ids = names["ids_of"](names["written"](DIALOGUES[number]))
    return ids, names["assistant_mask"](ids)


NUMBERS = range(len(DIALOGUES))


@pytest.mark.parametrize("number", NUMBERS)
def test_the_mask_by_hand_is_that_of_transformers(number):
    ids, mask = by_hand(number)
    found = tokenizer().apply_chat_template(
        DIALOGUES[number],
        chat_template=chapter()["MARKED"],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert found["input_ids"] == ids and found["assistant_masks"] == mask
    assert 0 < sum(mask) < len(ids)


def test_the_mask_by_hand_is_what_trl_learns_from(tmp_path):
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    marked = copy.deepcopy(tokenizer())
    marked.chat_template = chapter()["MARKED"]
    trainer = SFTTrainer(
        LlamaForCausalLM(LlamaConfig(vocab_size=len(marked), **sizes)),
        args=SFTConfig(str(tmp_path), assistant_only_loss=True, report_to=[], use_cpu=True),
        train_dataset=Dataset.from_dict({"messages": DIALOGUES}),
        processing_class=marked,
    )
    assert len(trainer.train_dataset) == len(DIALOGUES)
    for number, row in enumerate(trainer.train_dataset):
        ids, mask = by_hand(number)
        assert row["input_ids"] == ids
        assert [int(label != IGNORED) for label in row["labels"]] == mask


@pytest.mark.parametrize("number", NUMBERS)
def test_the_librarys_mask_of_an_answer_is_that_of_the_last_message(number):
    dialogue, (_, mask) = DIALOGUES[number], by_hand(number)
    padding = copy.deepcopy(tokenizer())
    padding.pad_token, padding.padding_side = "<empty_output>", "left"  # as `add_pad_token` does
    prompt, completion = Writer(padding)(dialogue[:-1], dialogue[-1:])
    batch = encode(padding, [prompt], [completion])
    ours = batch.completion_mask[0].tolist()
    assert all(ours) and ours == mask[batch.prompt_ids.shape[1] : -1]
