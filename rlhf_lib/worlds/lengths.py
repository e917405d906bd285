"""Which rows fit: their tokens against the context and the rows of the models that read them.

A loop draws its rows over many steps, so a row that is too long would stop it long after it began.
Every loop therefore looks at all rows when it is made, and refuses those that do not fit by their
numbers; `fitting` leaves them out. A row that is clearly short is not tokenized for it: a token
covers at least one byte of text. Chapters: sft, reward-model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..families.special_tokens import completion_rows, with_beginning
from ..families.support import context_of
from ..models.rewards import LearnedReward

COMPLETIONS = ("completion", "chosen", "rejected")  # the columns that a prompt is followed by
AT_ONCE = 1_000  # texts tokenized in one call: memory is bounded by it
GROWTH = 11  # by how much normal forms of Unicode lengthen a text in UTF-8, at most
BEGINS = 40  # characters of a prompt that a message shows
MARKS = 8  # tokens that a tokenizer may put around a text, generously

log = logging.getLogger(__name__)


class Misfit(NamedTuple):
    """A row that cannot be read, and why. Chapter: reward-model."""

    row: int
    why: str
    prompt: str = ""


def row_lengths(tokenizer, prompts: list[str], *completions: list[str]) -> list[int]:
    """Tokens that each row needs: its prompt and, if there are any, its longest completion.

    They are those that `encode` makes: what begins a text and what ends it are counted.

    Chapter: reward-model.
    """
    sizes = []
    for i in range(0, len(prompts), AT_ONCE):
        asked, *answers = (texts[i : i + AT_ONCE] for texts in (prompts, *completions))
        ids = tokenizer(asked, add_special_tokens=False, verbose=False)["input_ids"]
        read = [map(len, completion_rows(tokenizer, asked, texts)) for texts in answers]
        before = map(len, with_beginning(tokenizer, ids))
        sizes += [first + max(rest, default=0) for first, *rest in zip(before, *read, strict=True)]
    return sizes


def misfits(
    models: dict,
    tokenizer,
    texts: Sequence[Sequence[str]],
    max_new_tokens: int | None = None,
    reward=None,
    max_length: int | None = None,
) -> list[Misfit]:
    """The rows that some model could not read, in their order, each with the reason.

    Chapter: reward-model.

    Parameters
    ----------
    models : dict of str to model or None
        Those that read prompt and completion in the tokens of `tokenizer`, by their names.
    texts : list of lists of str
        The prompts; then, if nothing is sampled, the completions, in one list or several. A row
        needs room for its prompt, the longest of its completions and an end token.
    max_new_tokens : int, optional
        If completions are sampled: what a row needs beside its prompt.
    reward : callable, optional
        If it is, or combines, learned rewards: they read the samples in tokens of their own. How
        many those will be is not known yet; as many as were sampled, and the end token, are
        counted.
    max_length : int, optional
        A limit in tokens beside the contexts.
    """
    prompts, extra = texts[0], max_new_tokens or 0
    new = f" with {max_new_tokens} new ones" if max_new_tokens else ""
    limits = [
        (context_of(model), f"the context of the {name}", tokenizer, extra, new)
        for name, model in models.items()
        if model is not None
    ]
    limits.append((max_length, "max_length", tokenizer, extra, new))
    if max_new_tokens is not None:
        new = f" of the reward model with {max_new_tokens} new ones and an end token"
        limits += [
            (context_of(part.model), "its context", part.tokenizer, extra + 1, new)
            for part in _learned(reward)
        ]
    shortest: dict = {}  # of those that count the same tokens
    for limit in sorted((x for x in limits if x[0] is not None), key=lambda x: x[0]):
        shortest.setdefault((id(limit[2]), limit[3]), limit)
    found: dict[int, str] = {}
    for limit, whose, reader, extra, new in shortest.values():
        sizes = _at_most(reader, texts, extra)
        far = [row for row, size in enumerate(sizes) if size > limit and row not in found]
        needed = row_lengths(reader, *([column[row] for row in far] for column in texts))
        for row, length in zip(far, needed):
            length += extra
            if length > limit:
                found[row] = f"takes {length} tokens{new}; expected at most {limit}, {whose}"
    for name, model in models.items():
        for row, token, rows in _without_row(model, tokenizer, texts):
            said = f"has {tokenizer.convert_ids_to_tokens(token)!r}, token {token} of the tokenizer"
            found.setdefault(
                row, f"{said}; expected one of the {rows} that the {name} has rows for"
            )
    blank = [row for row, prompt in enumerate(prompts) if not prompt.strip()]
    bare = tokenizer([prompts[row] for row in blank], add_special_tokens=False) if blank else {}
    for row, ids in zip(blank, bare.get("input_ids", ())):
        if not ids:
            found[row] = f"has the prompt {prompts[row]!r}; expected text with at least one token"
    return [Misfit(row, found[row], prompts[row]) for row in sorted(found)]


def check_lengths(
    models: dict, tokenizer, texts: Sequence[Sequence[str]], max_new_tokens=None, reward=None
) -> None:
    """Refuse, before the first step, the rows that would stop a later one. Arguments: `misfits`.

    Chapter: reward-model.

    Raises
    ------
    ValueError
        If there are such rows: it names them, the length and the limit of the first, and the call
        that leaves them out. Or if there are no rows at all.
    """
    if not texts[0]:
        raise ValueError("the dataset has 0 rows; expected at least 1")
    found = misfits(models, tokenizer, texts, max_new_tokens, reward)
    if found:
        names = ", ".join(name for name, model in models.items() if model is not None)
        call = f"{f'[{names}]' if ', ' in names else names}, tokenizer, dataset"
        if max_new_tokens is not None:
            call += f", max_new_tokens={max_new_tokens}"
            call += ", reward=reward" if _learned(reward) else ""
        raise ValueError(
            f"{told(found, len(texts[0]))} (rlhf_lib.worlds.lengths.fitting({call}) leaves such "
            "rows out)"
        )


def fitting(
    model,
    tokenizer,
    dataset,
    max_new_tokens: int | None = None,
    reward=None,
    max_length: int | None = None,
):
    """The rows of a dataset that every model can read; a logged warning says which are left out.

    Chapter: reward-model.

    Parameters
    ----------
    model : transformers model, or list of them
        All that will read the rows: the policy, and a reference or critic with a context of its
        own.
    tokenizer : PreTrainedTokenizerBase
    dataset : datasets.Dataset
        Column `prompt`, and any of `completion`, `chosen` and `rejected`.
    max_new_tokens, reward, max_length
        As for `misfits`. Given `max_new_tokens`, completions in the dataset are not counted.

    Raises
    ------
    ValueError
        If no row fits.
    """
    models = {"model": model}
    if isinstance(model, list | tuple):
        models = {f"model {i}": each for i, each in enumerate(model)}
    columns = ["prompt", *(c for c in COMPLETIONS if c in dataset.column_names)]
    texts = [list(dataset[name]) for name in columns[: None if max_new_tokens is None else 1]]
    found = misfits(models, tokenizer, texts, max_new_tokens, reward, max_length)
    if not found:
        return dataset
    log.warning("left out: %s", told(found, len(dataset)))
    return without(dataset, found)


def without(dataset, found: list[Misfit]):
    """The rows of a dataset that are not among the misfits; a ValueError if there are none.

    Chapter: reward-model.
    """
    gone = {misfit.row for misfit in found}
    if len(gone) == len(dataset):
        raise ValueError(f"no row fits: {told(found, len(dataset))}")
    return dataset.select([row for row in range(len(dataset)) if row not in gone])


def told(found: list[Misfit], total: int, most: int = 10) -> str:
    """The misfits in words: how many of how many, the first row numbers, and one reason.

    The numbers are those of the dataset at hand. A loader may have dropped rows of the file, so the
    words with which the first one begins say where to look there.

    Chapter: reward-model.

    Examples
    --------
    >>> told([Misfit(1, "takes 9 tokens"), Misfit(4, "takes 12 tokens")], 6)
    '2 of 6 rows do not fit: 1 and 4. Row 1 takes 9 tokens. Rows are counted from 0 among these 6'
    >>> told([Misfit(row, "is long", "say hello") for row in range(3)], 3, most=2).split(". ")[1:]
    ['Row 0 is long', "It begins 'say hello'", 'Rows are counted from 0 among these 3']
    """
    numbers = [str(misfit.row) for misfit in found]
    if len(numbers) > most:
        numbers = [*numbers[:most], f"{len(numbers) - most:,} more"]
    listed = " and ".join(filter(None, [", ".join(numbers[:-1]), numbers[-1]]))
    fit = f"row{'s do' if total != 1 else ' does'} not fit"
    first = found[0]
    begins = f". It begins {first.prompt[:BEGINS]!r}" if first.prompt.strip() else ""
    return (
        f"{len(found):,} of {total:,} {fit}: {listed}. Row {first.row} {first.why}{begins}. Rows "
        f"are counted from 0 among these {total:,}"
    )


# ---------------------------------------------------------------------------------- counting


def _at_most(tokenizer, texts: Sequence[Sequence[str]], extra: int) -> Iterable[int]:
    """More than `row_lengths` and `extra`, or as many, without a look at the tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    growth = 1 if backend is not None and backend.normalizer is None else GROWTH
    for prompt, *rest in zip(*texts, strict=True):
        size = _bytes(prompt) + max(map(_bytes, rest), default=0)
        yield growth * size + 2 * MARKS + extra


def _without_row(model, tokenizer, texts: Sequence[Sequence[str]]) -> Iterable[tuple]:
    """Rows of the data with a token that a model has no row for: (row, token, rows of the model).

    Nothing is tokenized for it where the model has a row for whatever the tokenizer has.
    """
    table = getattr(model, "get_input_embeddings", lambda: None)()  # a view of a model has none
    rows = len(tokenizer) if table is None else table.weight.shape[0]
    for column in texts if rows < len(tokenizer) else ():
        for i in range(0, len(column), AT_ONCE):
            ids = tokenizer(column[i : i + AT_ONCE], add_special_tokens=False)["input_ids"]
            for row, tokens in enumerate(ids, start=i):
                if tokens and max(tokens) >= rows:
                    yield row, max(tokens), rows


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _learned(reward) -> list[LearnedReward]:
    """The learned rewards of a reward function that combines others, or is one."""
    if isinstance(reward, LearnedReward):
        return [reward]
    return [part for each in getattr(reward, "rewards", ()) for part in _learned(each)]
