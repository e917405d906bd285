"""Data in TRL's formats, from the hub or from local files: preferences, prompts, demonstrations.

A dialogue becomes text: the prompt ends with a turn marker of the assistant's, the completion is
what follows it, and `prompt + completion` is the dialogue again. Messages (lists of `role` and
`content`) are written by the tokenizer's chat template where it has one, and otherwise in the plain
format of Anthropic/hh-rlhf::

    \\n\\nHuman: when does the library open?\\n\\nAssistant: at nine.

Rows that nothing can be learned from (an empty completion, no shared prompt) are dropped, and a
logged warning says how many. What it leaves out: streaming; a whole split is held in memory. Real
preference data holds offensive text: look before you print. Chapters: sft, reward-model,
gpt2-on-a-gpu.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from pathlib import Path

from .lengths import pair_lengths

ASSISTANT = "\n\nAssistant:"
SPEAKERS = {"user": "Human", "assistant": "Assistant"}
BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}

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
    source : str or path
        A name on the hub such as `"Anthropic/hh-rlhf"`, a folder laid out like one, or a file
        (json, jsonl or csv, each also as .gz; parquet).
    split : str
        As in `datasets.load_dataset`, such as `"test"` or `"train[:1000]"`. A single file is
        whichever split is asked for.
    data_dir : str, optional
        A folder inside `source`, such as `"harmless-base"`.
    tokenizer : PreTrainedTokenizerBase, optional
        Its chat template, if it has one, writes messages as text.
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
        column, or have no row to learn from.
    """
    if max_length is not None and tokenizer is None:
        raise ValueError(
            f"max_length is {max_length} and tokenizer is None; expected a tokenizer to count with"
        )
    table = load_table(source, split, data_dir)
    _expect(table, source, {"chosen", "rejected"})
    rows, dropped, seen = [], Counter(), Counter()
    for row in table:
        pair = prompt, chosen, rejected = _as_text(*_pair(row), tokenizer=tokenizer)
        flaw = _flaw(*pair) or ("with two equal replies" if chosen == rejected else None)
        if (
            not flaw
            and max_length is not None
            and pair_lengths(tokenizer, *([text] for text in pair))[0] > max_length
        ):
            flaw = f"longer than {max_length} tokens"
        if flaw:
            dropped[flaw] += 1
        else:
            rows.append({**row, "prompt": prompt, "chosen": chosen, "rejected": rejected})
            seen[pair] += 1
    again = len(rows) - len(seen)
    both_ways = sum((p, b, a) in seen for p, a, b in seen) // 2
    if again or both_ways:
        log.warning(
            "%s: kept %d repeats of a pair, and %d pairs that are there both ways round",
            source,
            again,
            both_ways,
        )
    return _dataset(rows, dropped, source)


def load_demonstrations(
    source: str | os.PathLike, split: str = "train", data_dir: str | None = None, tokenizer=None
):
    """Demonstrations for supervised fine-tuning: columns `prompt` and `completion`, all text.

    The source has `prompt` and `completion`, or `messages` (the last answer is the completion), or
    comparisons, of which the chosen ones are taken. Parameters, errors: see `load_preferences`.

    Chapter: sft.
    """
    table = load_table(source, split, data_dir)
    _expect(table, source, {"prompt", "completion"}, {"messages"}, {"chosen", "rejected"})
    rows, dropped = [], Counter()
    for row in table:
        if "completion" in row:
            prompt, completion = row["prompt"], row.pop("completion")
        elif "messages" in row:
            messages = row.pop("messages") or []
            last = max(
                [i for i, m in enumerate(messages) if m.get("role") == "assistant"], default=0
            )
            prompt, completion = messages[:last], messages[last : last + 1]
        else:
            prompt, completion, _ = _pair(row)
            del row["chosen"], row["rejected"]
        prompt, completion = _as_text(prompt, completion, tokenizer=tokenizer)
        flaw = _flaw(prompt, completion)
        if flaw:
            dropped[flaw] += 1
        else:
            rows.append({**row, "prompt": prompt, "completion": completion})
    return _dataset(rows, dropped, source)


def load_labelled(
    source: str | os.PathLike,
    split: str = "train",
    data_dir: str | None = None,
    tokenizer=None,
    max_length: int | None = None,
):
    """Single completions with a label; to be replaced."""
    table = load_table(source, split, data_dir)
    _expect(table, source, {"prompt", "completion", "label"})
    return table


def load_prompts(
    source: str | os.PathLike,
    split: str = "train",
    data_dir: str | None = None,
    tokenizer=None,
    length: int = 8,
):
    """Prompts to sample from: the column `prompt`, or the first words of the column `text`.

    The first few tokens of a review in `stanfordnlp/imdb`, to be continued in good spirits, are
    the sentiment task that many RLHF examples use. Other parameters, errors: see
    `load_preferences`.

    Source: continuing reviews, Ziegler et al. 2019, arXiv:1909.08593, section 3.1 (there books,
    with a classifier of reviews as the reward). Chapter: gpt2-on-a-gpu.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase, optional
        Counts tokens of `text`, and writes messages as text.
    length : int
        Tokens of `text` to keep, or words where there is no tokenizer.

    Returns
    -------
    datasets.Dataset
        Column `prompt`, beside the other columns of the source but `text`.
    """
    table = load_table(source, split, data_dir)
    _expect(table, source, {"prompt"}, {"text"})
    if length < 1:
        raise ValueError(f"length is {length}; expected at least 1")
    rows, dropped = [], Counter()
    for row in table:
        if "prompt" in row:
            (prompt,) = _as_text(row["prompt"], tokenizer=tokenizer)
        else:
            if not isinstance(row["text"], str | None):
                raise ValueError(f"a row has {row['text']!r} as its text; expected text")
            prompt = _first(row["text"] or "", length, tokenizer)
        row.pop("text", None)
        if prompt.strip():
            rows.append({**row, "prompt": prompt})
        else:
            dropped["with an empty prompt"] += 1
    return _dataset(rows, dropped, source)


def load_table(source: str | os.PathLike, split: str = "train", data_dir: str | None = None):
    """The rows of `source` as they are, with an error that says what is wrong with it.

    Parameters and errors: see `load_preferences`.

    Chapter: gpt2-on-a-gpu.
    """
    import datasets

    path, here = Path(source), f"source is {str(source)!r}"
    on_the_hub = False
    if path.is_file():
        builder = BUILDERS.get(Path(path.name.removesuffix(".gz")).suffix)
        if builder is None:
            raise ValueError(
                f"{here}; expected a file that ends in {', '.join(BUILDERS)}, or one "
                "of these with .gz"
            )
        arguments = {"path": builder, "data_files": {split.partition("[")[0]: str(path)}}
    elif path.exists():
        arguments = {"path": str(path), "data_dir": data_dir}
    elif re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(source)):  # NAME or OWNER/NAME
        on_the_hub, arguments = True, {"path": str(source), "data_dir": data_dir}
    else:
        raise FileNotFoundError(
            f"{here}; expected a file, a folder or a name on the hub, and found none there"
        )
    quiet = not on_the_hub and not datasets.are_progress_bars_disabled()
    if quiet:  # local files load in a blink; a bar would stay in the notebook
        datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(**arguments, split=split)
    except ConnectionError as error:
        raise ConnectionError(
            f"{here}: there is no such file or folder here, and the hub could not be reached "
            f"({error}). Without a network, give the path of a local copy: a folder laid out like "
            "the one on the hub, or one of its files"
        ) from error
    except Exception as error:  # datasets, pyarrow and gzip raise many kinds; all mean this
        while error.__cause__ is not None:  # older versions of datasets wrap what went wrong
            error = error.__cause__
        if type(error).__name__ in ("StopIteration", "SchemaInferenceError"):  # an empty file
            raise ValueError(f"{here}, which has no rows; expected at least 1") from None
        raise ValueError(
            f"{here}; expected readable data with a split {split!r}, and reading it "
            f"failed: {type(error).__name__}: {error}"
        ) from error
    finally:
        if quiet:
            datasets.enable_progress_bars()


# ---------------------------------------------------------------------------------- dialogues


def split_dialogue(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Two dialogues in the format of hh-rlhf as prompt, chosen and rejected completion.

    The prompt is the longest common beginning that ends at an assistant's turn, and is empty
    where there is none.

    Chapter: reward-model.

    Examples
    --------
    >>> ask = "\\n\\nHuman: hello\\n\\nAssistant:"
    >>> split_dialogue(ask + " hello, you", ask + " hello")
    ('\\n\\nHuman: hello\\n\\nAssistant:', ' hello, you', ' hello')
    """
    shared = os.path.commonprefix([chosen, rejected])
    turn = shared.rfind(ASSISTANT)
    end = turn + len(ASSISTANT) if turn >= 0 else 0
    return shared[:end], chosen[end:], rejected[end:]


def split_messages(chosen: list[dict], rejected: list[dict]) -> tuple[list, list, list]:
    """Two dialogues in messages as prompt, chosen and rejected completion.

    The prompt is the longest common beginning that an assistant's message follows in both, and
    is empty where there is none.

    Chapter: reward-model.
    """
    end = next(
        (i for i, (a, b) in enumerate(zip(chosen, rejected)) if a != b),
        min(len(chosen), len(rejected)) - 1,
    )
    while end > 0 and not chosen[end].get("role") == rejected[end].get("role") == "assistant":
        end -= 1
    return chosen[:end], chosen[end:], rejected[end:]


def _pair(row: dict) -> tuple:
    """Prompt, chosen and rejected completion of a row, as text or as messages."""
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if isinstance(chosen, list) and isinstance(rejected, list) and not isinstance(prompt, list):
        return split_messages(chosen, rejected)  # a prompt in text repeats the first message
    if "prompt" not in row and chosen and rejected:
        return split_dialogue(chosen, rejected)
    return prompt, chosen, rejected


def _as_text(prompt, *completions, tokenizer) -> tuple:
    """Prompt and completions as text; what is text already stays as it is."""
    if not prompt:
        return ("", *completions)
    if not isinstance(prompt, (str, list)) or not all(
        part is None or isinstance(part, type(prompt)) for part in completions
    ):
        kinds = ", ".join(type(part).__name__ for part in (prompt, *completions))
        raise ValueError(
            f"a row has {kinds}; expected text, or messages, for prompt and replies alike"
        )
    if isinstance(prompt, str):
        return (prompt, *completions)
    completions = [completion or [] for completion in completions]
    for message in [*prompt, *(message for completion in completions for message in completion)]:
        if not {"role", "content"} <= set(message):
            raise ValueError(
                f"a message has the keys {sorted(message)}; expected 'role' and 'content'"
            )
    if any(completion and completion[0]["role"] != "assistant" for completion in completions):
        raise ValueError("a reply does not begin with a message of the role 'assistant'")
    if tokenizer is None or not tokenizer.chat_template:
        opened = _plain(prompt) + ASSISTANT
        return (opened, *(_plain(prompt + completion)[len(opened) :] for completion in completions))
    opened = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    whole = [tokenizer.apply_chat_template(prompt + c, tokenize=False) for c in completions]
    opened = os.path.commonprefix([opened, *whole])  # some open an answer in another way
    return (opened, *(_without_end(text[len(opened) :], tokenizer.eos_token) for text in whole))


def _plain(messages: list[dict]) -> str:
    return "".join(
        f"\n\n{SPEAKERS.get(m['role'], m['role'].capitalize())}: {m['content']}" for m in messages
    )


def _without_end(completion: str, eos: str | None) -> str:
    """Without the template's end token: `encode` adds one to every completion."""
    bare = completion.rstrip()
    return bare.removesuffix(eos) if eos and bare.endswith(eos) else completion


def _first(text: str, length: int, tokenizer) -> str:
    if tokenizer is None:
        return " ".join(text.split()[:length])
    ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=length)["input_ids"]
    return tokenizer.decode(ids)


# ---------------------------------------------------------------------------------- checks


def _expect(table, source, *alternatives: set[str]) -> None:
    if not any(columns <= set(table.column_names) for columns in alternatives):
        wanted = " or ".join(", ".join(sorted(columns)) for columns in alternatives)
        raise ValueError(
            f"source is {str(source)!r} with the columns "
            f"{', '.join(table.column_names)}; expected {wanted}"
        )


def _flaw(prompt: str, *completions: str | None) -> str | None:
    """Why nothing can be learned from a row, or None."""
    if not prompt.strip():
        return "without a (shared) prompt"
    whole = all(text and text.strip() for text in completions)
    return None if whole else "with an empty reply"


def _dataset(rows: list[dict], dropped: Counter, source):
    from datasets import Dataset

    told = f"{sum(dropped.values())} of {len(rows) + sum(dropped.values())} rows: " + ", ".join(
        f"{count} {flaw}" for flaw, count in dropped.items()
    )
    if not rows:
        raise ValueError(
            f"source is {str(source)!r}; expected rows to learn from, and had to drop {told}"
            if dropped
            else f"source is {str(source)!r}, which has no rows; expected at least 1"
        )
    if dropped:
        log.warning("%s: dropped %s", source, told)
    return Dataset.from_list(rows)
