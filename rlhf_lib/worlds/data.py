"""Data in TRL's formats, from the hub or from local files: preferences, prompts, demonstrations.

Everything becomes text: a prompt, and completions that follow it. Messages are written by the
tokenizer's chat template where it has one, and otherwise in a plain format (see `dialogues`).
Columns beside these stay as they are, of whatever type. What a file may be, see `load_table`.

Rows that nothing can be learned from (an empty completion, no shared prompt) are dropped, and a
logged warning says how many, and which; rows are counted from 0 in the split that was asked for,
so in `train[3:]` row 0 is the fourth of `train`. What cannot be read as text is refused by its row.
What it leaves out: streaming; a whole split is held in memory. Real preference data holds offensive
text: look before you print. Chapters: sft, reward-model.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Collection

from .dialogues import Writer, is_blank, messages, parsed, split_dialogue, split_messages
from .files import find
from .files import load_table as load_table  # the table alone: as public as what is made of it
from .lengths import row_lengths

SHOWN = 5  # row numbers that a warning names
BATCH = 1_000  # texts that are tokenized at a time
WRITTEN_OUT = re.compile(r"""\s*\[\s*\{\s*['"](role|content|from|value)['"]\s*:""")
LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}

log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------- what to load


def load_preferences(
    source: str | os.PathLike,
    split: str = "train",
    data_dir: str | None = None,
    tokenizer=None,
    max_length: int | None = None,
):
    """Comparisons, from any preference set in one of TRL's formats.

    Source: the format and the data, Bai et al. 2022, arXiv:2204.05862. Chapter: reward-model.

    Parameters
    ----------
    source, split, data_dir
        See `load_table`.
    tokenizer : PreTrainedTokenizerBase, optional
        Its chat template, if it has one, writes messages as text; the columns `tools` and
        `chat_template_kwargs` are handed to it.
    max_length : int, optional
        Drop pairs whose prompt and longer completion, with its end token, take more tokens than
        this: at most the context of the model. Needs the tokenizer.

    Returns
    -------
    datasets.Dataset
        Columns `prompt`, `chosen`, `rejected`, all text, beside the other columns of the source.
        Pairs without a `prompt` are split by `split_dialogue` (text) or at the last answer up
        to which the messages agree. A pair that is there twice, or both ways round, is kept: people
        may agree, or not. A logged warning says how many.

    Raises
    ------
    FileNotFoundError, ConnectionError, ValueError
        If there is no such source, the hub cannot be reached, or the data cannot be read, lack a
        column, have a row that is neither text nor messages, or no row to learn from.
    """
    rows = _Rows(source, split, data_dir, tokenizer, max_length)
    rows.expect({"chosen", "rejected"})
    rows.read(_pair, ("prompt", "conversations", "chosen", "rejected"))
    rows.drop("with two equal replies", lambda prompt, chosen, rejected: chosen == rejected)
    rows.drop_longer()
    seen = Counter(rows.texts.values())
    again = len(rows.texts) - len(seen)
    both_ways = sum((p, b, a) in seen for p, a, b in seen) // 2
    if again or both_ways:
        log.warning(
            "%s: kept %d repeats of a pair, and %d pairs that are there both ways round",
            source,
            again,
            both_ways,
        )
    return rows.dataset(("prompt", "chosen", "rejected"))


def load_demonstrations(
    source: str | os.PathLike,
    split: str = "train",
    data_dir: str | None = None,
    tokenizer=None,
    max_length: int | None = None,
):
    """Demonstrations for supervised fine-tuning: columns `prompt` and `completion`, all text.

    The source has `prompt` and `completion`, or `messages` or ShareGPT's `conversations` (the last
    answer is the completion), or comparisons, of which the chosen ones are taken. Parameters,
    errors: see `load_preferences`.

    Chapter: sft.
    """
    rows = _Rows(source, split, data_dir, tokenizer, max_length)
    columns = rows.expect(
        {"prompt", "completion"}, {"messages"}, {"chosen", "rejected"}, {"conversations"}
    )
    if "completion" in columns:
        rows.read(_single, columns)
    elif "chosen" in columns:
        rows.read(lambda row: _pair(row)[:2], {*columns, "prompt", "conversations"})
    else:
        rows.read(_last_answer, columns)
    rows.drop_longer()
    return rows.dataset(("prompt", "completion"), without=columns - {"prompt"})


def load_labelled(
    source: str | os.PathLike,
    split: str = "train",
    data_dir: str | None = None,
    tokenizer=None,
    max_length: int | None = None,
):
    """Single completions, each called good or bad: `prompt`, `completion` (text), `label` (bool).

    TRL calls this an unpaired preference; "kto" learns from it. A label is true or false, 1 or 0,
    or such a word in text or as the name of a `ClassLabel`; rows without one are dropped. Pairs are
    read by `load_preferences`, and "kto" takes those apart by itself. Parameters, errors: see
    `load_preferences`.

    Source: Ethayarajh et al. 2024, arXiv:2402.01306. Chapter: dpo.
    """
    rows = _Rows(source, split, data_dir, tokenizer, max_length)
    columns = rows.expect({"prompt", "completion", "label"})
    rows.read(_single, columns)
    rows.drop_longer()
    labels = rows.found.columns(["label"])["label"]
    return rows.dataset(("prompt", "completion"), label=[_label(labels[i]) for i in rows.texts])


def load_prompts(
    source: str | os.PathLike,
    split: str = "train",
    data_dir: str | None = None,
    tokenizer=None,
    length: int = 8,
    max_length: int | None = None,
):
    """Prompts to sample from: the column `prompt`, or the first words of the column `text`.

    The first few tokens of a review in `stanfordnlp/imdb`, to be continued in good spirits, are
    the sentiment task that many RLHF examples use. Other parameters, errors: see
    `load_preferences`.

    Source: continuing reviews, Ziegler et al. 2019, arXiv:1909.08593, section 3.1 (there books,
    with a classifier of reviews as the reward). Chapter: your-own.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase, optional
        Counts tokens of `text`, and writes messages as text.
    length : int
        Tokens of `text` to keep, or words where there is no tokenizer.
    max_length : int, optional
        Drop prompts of more tokens than this: at most the context of the model, less what will be
        sampled. Needs the tokenizer.

    Returns
    -------
    datasets.Dataset
        Column `prompt`, beside the other columns of the source but `text`.
    """
    rows = _Rows(source, split, data_dir, tokenizer, max_length)
    columns = rows.expect({"prompt"}, {"text"})
    if length < 1:
        raise ValueError(f"length is {length}; expected at least 1")
    rows.read(_single, columns)
    if "text" in columns:
        rows.texts = {i: (_first(text, length, tokenizer),) for i, (text,) in rows.texts.items()}
        rows.drop("with an empty prompt", is_blank)
    rows.drop_longer()
    return rows.dataset(("prompt",), without={"text"})


# ---------------------------------------------------------------------------------- one row


def _single(row: dict) -> tuple:
    """The prompt of a row, and its completion if there is one, as text or as messages."""
    if "label" in row and _label(row["label"]) is None:
        raise _Dropped("without a label")
    if "text" in row:
        if not isinstance(row["text"], str | None):
            raise ValueError(f"has {row['text']!r:.60} as its text; expected text")
        return (row["text"],)
    return tuple(_said(row, name) for name in ("prompt", "completion") if name in row)


def _said(row: dict, name: str) -> str | list[dict] | None:
    """What stands in a column: text, messages or nothing."""
    try:
        value = messages(row.get(name))
    except ValueError as error:
        raise ValueError(f"{error} (in its {name})") from None
    if isinstance(value, str) and WRITTEN_OUT.match(value):
        raise ValueError(
            f"has messages written out as text as its {name}; expected the messages themselves, "
            "which JSON and parquet can hold, and CSV cannot"
        )
    if isinstance(value, str | list | None):
        return value
    raise ValueError(f"has {value!r:.60} as its {name}; expected text or messages")


def _last_answer(row: dict) -> tuple:
    """A dialogue up to its last answer, and that answer."""
    (name,) = row.keys() & {"messages", "conversations"}
    dialogue = _said(row, name) or []
    if isinstance(dialogue, str):
        raise ValueError(f"has {dialogue!r:.60} as its {name}; expected a list of messages")
    last = max(
        [i for i, m in enumerate(dialogue) if m["role"] == "assistant"], default=len(dialogue)
    )
    return dialogue[:last], dialogue[last : last + 1]


def _pair(row: dict) -> tuple:
    """Prompt, chosen and rejected completion of a row, as text or as messages."""
    asked = "prompt" if "prompt" in row else "conversations"
    if asked == "conversations" and not isinstance(row["chosen"], dict):
        row.pop(asked, None)  # not a prompt to replies that are one message each
    prompt, chosen, rejected = (_said(row, n) for n in (asked, "chosen", "rejected"))
    if isinstance(chosen, list) and isinstance(rejected, list) and not isinstance(prompt, list):
        if is_blank(prompt) or any(m["role"] != "assistant" for m in (*chosen[:1], *rejected[:1])):
            return split_messages(chosen, rejected)  # a prompt in text repeats the first message
    elif is_blank(prompt) and not (is_blank(chosen) or is_blank(rejected)):
        if not (isinstance(chosen, str) and isinstance(rejected, str)):
            kinds = f"{type(chosen).__name__} and {type(rejected).__name__}"
            raise ValueError(f"has {kinds} as its replies; expected text or messages for both")
        return split_dialogue(chosen, rejected)
    return prompt, chosen, rejected


def _label(value) -> bool | None:
    """A label as a bool, or None where there is none."""
    if value is None or value != value or isinstance(value, str) and is_blank(value):  # or NaN
        return None
    label = LABELS.get(str(value).strip().lower())
    if label is None:
        raise ValueError(f"has the label {value!r:.60}; expected true or false, or 1 or 0")
    return label


def _flaw(prompt, *completions) -> str | None:
    """Why nothing can be learned from a row, or None."""
    if is_blank(prompt):
        return "without a (shared) prompt" if completions else "with an empty prompt"
    return "with an empty reply" if any(map(is_blank, completions)) else None


def _first(text: str, length: int, tokenizer) -> str:
    if tokenizer is None:
        return " ".join(text.split()[:length])
    ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=length)["input_ids"]
    return tokenizer.decode(ids)


def _batches(values: list) -> list[list]:
    return [values[i : i + BATCH] for i in range(0, len(values), BATCH)]


# ---------------------------------------------------------------------------------- all rows


class _Dropped(Exception):
    """A row that nothing can be learned from, and why."""


class _Rows:
    """The rows of a source: the text of those that are kept, and why others are dropped."""

    def __init__(self, source, split: str, data_dir: str | None, tokenizer, max_length: int | None):
        if max_length is not None and tokenizer is None:
            raise ValueError(
                f"max_length is {max_length} and tokenizer is None; expected a tokenizer to "
                "count with"
            )
        self.source, self.tokenizer, self.max_length = source, tokenizer, max_length
        part = {*"[+"} & {*str(split)}  # its rows are not numbered as those of the file
        self.part = f" of the split {split!r}" if part else ""
        self.found = find(source, split, data_dir)
        self.write = Writer(tokenizer)
        self.spoken = 0  # rows of messages
        self.texts: dict[int, tuple[str, ...]] = {}  # of each row that is kept
        self.dropped: dict[str, list[int]] = {}  # row numbers, by what is wrong with them

    def expect(self, *alternatives: set[str]) -> set[str]:
        """The first of some sets of columns that is there."""
        names = self.found.table.column_names
        for columns in alternatives:
            if columns <= set(names):
                return columns
        wanted = set().union(*alternatives)
        alike = {name: name.strip().lower() for name in names if name not in wanted}
        hint = [f"{a!r} is not {b!r}" for a, b in alike.items() if b in wanted]
        if "label" in wanted and {"chosen", "rejected"} <= set(names):
            hint.append("load_preferences reads pairs")
        raise ValueError(
            f"source is {str(self.source)!r} with the columns {', '.join(names)}; expected "
            + " or ".join(", ".join(sorted(columns)) for columns in alternatives)
            + "".join(f" ({text})" for text in hint)
        )

    def read(self, take: Callable[[dict], tuple], names: Collection[str]) -> None:
        """Each row as text, from what `take` finds in it."""
        there = self.found.table.column_names
        names = [n for n in (*names, "tools", "chat_template_kwargs") if n in there]
        columns = self.found.columns(names)
        for i, values in enumerate(zip(*columns.values())):
            row = dict(zip(names, values))
            try:
                self.texts[i] = self._text(take(row), row)
            except _Dropped as flaw:
                self.dropped.setdefault(str(flaw), []).append(i)
            except ValueError as error:
                here = f"source is {str(self.source)!r}; row {i}{self.part}"
                raise ValueError(f"{here} {error}") from error

    def _text(self, parts: tuple, row: dict) -> tuple[str, ...]:
        if flaw := _flaw(*parts):
            raise _Dropped(flaw)
        more = {}
        if isinstance(parts[0], list):
            self.spoken += 1
            kwargs = "chat_template_kwargs"
            more["tools"] = parsed("tools", row.get("tools"), list)
            more["options"] = parsed(kwargs, row.get(kwargs), dict)
        texts = self.write(*parts, **more)
        if flaw := _flaw(*texts):  # a template need not write what a message says
            raise _Dropped(flaw)
        return texts

    def drop(self, flaw: str, is_so: Callable[..., bool]) -> None:
        """Drop the rows whose texts are so."""
        for i in [i for i, texts in self.texts.items() if is_so(*texts)]:
            self.dropped.setdefault(flaw, []).append(i)
            del self.texts[i]

    def drop_longer(self) -> None:
        """Drop the rows of more than `max_length` tokens."""
        if self.max_length is None:
            return
        lengths = [
            length
            for some in _batches(list(self.texts.values()))
            for length in row_lengths(self.tokenizer, *map(list, zip(*some)))
        ]
        long = {texts for texts, n in zip(self.texts.values(), lengths) if n > self.max_length}
        self.drop(f"longer than {self.max_length} tokens", lambda *texts: texts in long)

    def dataset(self, names: tuple[str, ...], without: Collection[str] = (), **more: list):
        """The rows that are kept: their texts in the columns `names`, all others as they were."""
        from datasets import Dataset, DatasetInfo, Features, Value
        from pyarrow import array

        self._tell()
        table = self.found.table
        kept = table.with_format("arrow")[:]  # columns of any type, and nothing of them decoded
        if len(self.texts) < len(table):
            kept = kept.filter(array([i in self.texts for i in range(len(table))]))
        features = {name: kind for name, kind in table.features.items() if name not in without}
        columns = {name: kept[name] for name in features}
        texts = dict(zip(names, map(list, zip(*self.texts.values()))))
        for name, values in (texts | more).items():
            features[name] = Value("bool" if isinstance(values[0], bool) else "string")
            columns[name] = array(values, type=features[name].pa_type)
        features = Features(features)
        kept = type(kept).from_arrays(list(columns.values()), schema=features.arrow_schema)
        return Dataset(kept, info=DatasetInfo(features=features))

    def _tell(self) -> None:
        """Warn of what was dropped, or refuse the source if that was all."""
        number = len(self.found.table)
        flaws = sorted(self.dropped.items(), key=lambda item: min(item[1]))
        told = f"{number - len(self.texts)} of {number} rows{self.part}: " + ", ".join(
            f"{len(rows)} {flaw} ({_numbers(sorted(rows))})" for flaw, rows in flaws
        )
        if not self.texts:
            here = f"source is {str(self.source)!r}"
            raise ValueError(
                f"{here}; expected rows to learn from, and had to drop {told}"
                if self.dropped
                else f"{here}, which has no rows; expected at least 1"
            )
        if self.dropped:
            log.warning("%s: dropped %s", self.source, told)
        if self.spoken and self.write.tokenizer is not None:
            log.info("%s: the chat template writes the messages", self.source)
        elif self.spoken and self.tokenizer is not None:
            log.warning(
                "%s: the tokenizer has no chat template, so messages are written in plain text, as "
                "Human: and Assistant:",
                self.source,
            )
        elif self.write.tokenizer is not None:
            log.info(
                "%s: text stays as it is; the chat template writes nothing but messages",
                self.source,
            )
        if self.write.reopened:
            log.warning(
                "%s: the chat template asks for an answer in another way than it writes one that "
                "is there; in %d rows the prompt ends where the two part",
                self.source,
                self.write.reopened,
            )


def _numbers(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:SHOWN])) + (", ..." if len(rows) > SHOWN else "")
    return f"row{'s' * (len(rows) > 1)} {shown}"
