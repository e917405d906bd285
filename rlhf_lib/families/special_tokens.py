"""The tokens before, between and behind prompt and completion, as the model's tokenizer has them.

A prompt begins with what its tokenizer puts before every text. A completion ends with one end
token, and chat models know several. Where two texts meet, tokens are those of the whole text, so
far as that leaves the prompt's alone. Chapter: sft.
"""

from __future__ import annotations

import re
from typing import Any

CANARY = "zebra"  # a word that no template writes
DIALOGUES = ((False, False), (False, True), (True, False), (True, True))  # with system, in parts
PADDING, RESERVED, MEDIA = (  # special tokens, by their names
    re.compile(names, re.IGNORECASE)
    for names in ("pad", "reserved|unused|control|extra", "image|video|vision|audio")
)


def add_pad_token(model, tokenizer) -> None:
    """Pad on the left, by a token that ends nothing: where there is none, or it is the end token.

    A special token that the tokenizer has and no text needs is taken first (`spare_token`), so that
    the model's tables keep their size. Where there is none, `<pad>` is added. If that needs a new
    row, the row is the mean of the others, and so is its logit: the same each time, and no likelier
    than a token is on average.

    Chapters: sft, reward-model.
    """
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    spare = spare_token(model, tokenizer)
    if spare is None:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    else:
        tokenizer.pad_token = spare
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.pad_token_id >= rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        tables = (model.get_input_embeddings(), model.get_output_embeddings())
        for table in [x for layer in tables if layer is not None for x in layer.parameters()]:
            table.data[rows:] = table.data[:rows].mean(dim=0)
    for config in (model.config.get_text_config(), getattr(model, "generation_config", None)):
        if config is not None:
            config.pad_token_id = tokenizer.pad_token_id


def spare_token(model, tokenizer) -> str | None:
    """A special token to pad with: one that has a row, and that no text of the model needs.

    Not one that begins or ends a text, stands for unknown words or for pictures and sound, or is
    written by the chat template. Of several, one whose name says that it is for padding, or for
    nothing yet, comes first; else the last in the vocabulary.

    Chapter: your-own.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    needed = {*end_tokens(tokenizer, model), *begin_tokens(tokenizer)}
    needed |= {tokenizer.bos_token_id, tokenizer.unk_token_id}
    template = str(getattr(tokenizer, "chat_template", None) or "")
    spare = [
        (token.content, i)
        for i, token in tokenizer.added_tokens_decoder.items()
        if token.special and i < rows and i not in needed and token.content not in template
    ]
    spare = [each for each in spare if not MEDIA.search(each[0])]
    order = {name: (not PADDING.search(name), not RESERVED.search(name), -i) for name, i in spare}
    return min(order, key=order.__getitem__, default=None)


def begin_tokens(tokenizer) -> list[int]:
    """What the tokenizer puts before a text by itself, such as one `<s>`; mostly nothing.

    Chapter: sft.
    """
    whole, bare = (
        tokenizer(CANARY, add_special_tokens=special)["input_ids"] for special in (True, False)
    )
    starts = [i for i in range(len(whole)) if bare and whole[i : i + len(bare)] == bare]
    return whole[: starts[0]] if starts else []


def with_beginning(tokenizer, rows: list[list[int]]) -> list[list[int]]:
    """Rows of tokens with what the tokenizer puts before a text, where they lack it.

    A row that begins with a special token is left alone: a chat template wrote it, and knows how
    its model's texts begin.

    Chapter: sft.
    """
    start = begin_tokens(tokenizer)
    if not start:
        return rows
    special = _special(tokenizer) - {tokenizer.unk_token_id}  # an unknown word is a word
    return [row if row and row[0] in special else start + row for row in rows]


def turn_end(tokenizer) -> int | None:
    """The special token that the chat template writes right behind an answer, if there is one.

    Chapter: your-own.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    text = next(filter(None, (_written(tokenizer, *how) for how in DIALOGUES)), "")
    behind = text.rpartition(CANARY)[2].strip()
    first = tokenizer(behind, add_special_tokens=False)["input_ids"][:1]
    return first[0] if first and first[0] in _special(tokenizer) else None


def _special(tokenizer) -> set[int]:
    return {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}


def _written(tokenizer, system: bool, parts: bool) -> str | None:
    """A short dialogue as the template writes it; None if it refuses it, or leaves words out."""

    def message(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if parts else text}

    asked = [message("system", "?")] * system + [message("user", "?")]
    try:
        text = tokenizer.apply_chat_template([*asked, message("assistant", CANARY)], tokenize=False)
    except Exception:  # where messages are used, it says what is wrong with them
        return None
    return text if CANARY in text else None


def end_tokens(tokenizer, model=None) -> list[int]:
    """All tokens that end a completion, ascending.

    They are the tokenizer's end token, the one that its chat template writes behind an answer, and,
    given a model, those of its generation config, at which transformers' `generate` stops too.

    Chapter: your-own.
    """
    ends = {tokenizer.eos_token_id, turn_end(tokenizer)}
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        if found := _listed(getattr(config, "eos_token_id", None)):
            ends.update(found)
            break
    return sorted(end for end in ends if end is not None)


def name_special_tokens(model, tokenizer) -> None:
    """Let the configs of a model name the tokens that its tokenizer pads and ends with.

    So that what is saved can be batched, and ends its turns, in transformers alone. A config that
    names them already stays as it is.

    Chapter: your-own.

    Raises
    ------
    ValueError
        If the model has no row for one of them.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if lacks_row(model, token):
            rows = model.get_input_embeddings().weight.shape[0]
            raise ValueError(
                f"tokenizer has {tokenizer.convert_ids_to_tokens(token)!r} as token {token}, and "
                f"the model has rows for {rows}; expected one for each "
                "(model.resize_token_embeddings(len(tokenizer)))"
            )
    ends = end_tokens(tokenizer, model)
    config, generation = model.config.get_text_config(), getattr(model, "generation_config", None)
    if getattr(config, "pad_token_id", None) != tokenizer.pad_token_id:
        config.pad_token_id = tokenizer.pad_token_id
    if generation is not None and ends and ends != _listed(generation.eos_token_id):
        generation.eos_token_id = ends if len(ends) > 1 else ends[0]


def lacks_row(model, token: int | None) -> bool:
    """Whether a token is beyond a model's rows, and its config does not name it all the same.

    Chapter: your-own.
    """
    config = model.config.get_text_config()
    named = (getattr(config, "pad_token_id", None), getattr(config, "eos_token_id", None))
    rows = model.get_input_embeddings().weight.shape[0]
    return token is not None and token >= rows and token not in named


def _listed(tokens: int | list[int] | None) -> list[int]:
    return sorted(
        tokens if isinstance(tokens, list | tuple) else [] if tokens is None else [tokens]
    )


def completion_rows(tokenizer, prompts: list[str], completions: list[str]) -> list[list[int]]:
    """The tokens of each completion behind its prompt, with one end token.

    They are what the tokenizer makes of the whole text after the prompt's own tokens. Where the
    two grow together across the join, so that the prompt would be read otherwise than it is
    sampled from, the completion is read by itself. The end token is that of the prompt's turns,
    where a chat template wrote them, and else the tokenizer's.

    Chapter: sft.
    """
    before, whole, bare = (
        tokenizer(texts, add_special_tokens=False)["input_ids"]
        for texts in (prompts, [p + c for p, c in zip(prompts, completions)], completions)
    )
    if _drops_a_space(tokenizer):  # and puts one before a text that is read by itself
        bare = [_behind(tokenizer, text, own) for text, own in zip(completions, bare)]
    end, rows = turn_end(tokenizer), []
    for asked, both, alone in zip(before, whole, bare):
        row = both[len(asked) :] if both[: len(asked)] == asked else alone
        if not row or row[-1] not in (end, tokenizer.eos_token_id):
            row = [*row, end if end in asked else tokenizer.eos_token_id]
        rows.append(row)
    return rows


def _behind(tokenizer, text: str, own: list[int]) -> list[int]:
    """The tokens of a text where another stands before it, without a space between the two."""
    for anchor in (".", ",", CANARY):
        before, both = tokenizer([anchor, anchor + text], add_special_tokens=False)["input_ids"]
        if both[: len(before)] == before and tokenizer.unk_token_id not in before:
            return both[len(before) :]
    return own


def decoded(tokenizer, prompts: list[list[int]], completions: list[list[int]]) -> list[str]:
    """Completions as text that continues the text of their prompts, special tokens left out.

    Tokenizers that mark the beginnings of words take the space before the first word off whatever
    they decode. Theirs are decoded behind their prompts, so that it stays.

    Chapter: your-own.
    """

    def text(rows: list[list[int]]) -> list[str]:
        return tokenizer.batch_decode(rows, skip_special_tokens=True)

    alone = text(completions)
    if not _drops_a_space(tokenizer):
        return alone
    before, whole = text(prompts), text([p + c for p, c in zip(prompts, completions)])
    return [
        both[len(asked) :] if both.startswith(asked) else by_itself
        for asked, both, by_itself in zip(before, whole, alone)
    ]


def _drops_a_space(tokenizer) -> bool:
    """Whether decoding takes a space off the first word, as SentencePiece's tokenizers do."""
    decoder = repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None))
    if "Metaspace" not in decoder and "Strip" not in decoder:
        return False
    ids = tokenizer(f"{CANARY} {CANARY}", add_special_tokens=False)["input_ids"]
    return not tokenizer.decode(ids[len(ids) // 2 :]).startswith(" ")
