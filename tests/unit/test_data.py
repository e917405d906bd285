"""Data from files laid out as on the hub. `HH_RLHF_DIR` names a folder of the real hh-rlhf data;
without it, the same tests run on a written-out sample of the same format."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from rlhf_lib.worlds.data import load_demonstrations, load_preferences, load_prompts, load_table
from rlhf_lib.worlds.dialogues import ASSISTANT, split_dialogue, split_messages
from tests.unit.small import tokenizer

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "hh-rlhf"
HH = Path(os.environ.get("HH_RLHF_DIR") or SAMPLE)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Assertions on the real data compare counts and booleans: pytest prints what it compares, and
# nobody should read offensive text in a test report.


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Data that tests load is not left in the user's cache."""
    import datasets

    kept = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    yield
    datasets.config.HF_DATASETS_CACHE = kept


@pytest.fixture(scope="module")
def lines() -> list[dict]:
    """The test split's lines, read without the library."""
    found = []
    for path in sorted(HH.rglob("*test.jsonl*")):
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            found += map(json.loads, file)
    return found


@pytest.fixture(scope="module")
def pairs():
    return load_preferences(HH, split="test")


def write(path: Path, rows: list[dict]) -> Path:
    """JSON lines, packed where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def say(*turns: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


# hh-rlhf, the real data or the sample -----------------------------------------------------------


def test_hh_pairs_are_split_into_prompt_and_replies(pairs, lines):
    assert pairs.column_names == ["chosen", "rejected", "prompt"]
    whole = {(line["chosen"], line["rejected"]) for line in lines}
    for row in pairs:
        prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
        assert prompt.startswith("\n\nHuman:") and prompt.endswith("\n\nAssistant:")
        assert bool(chosen.strip()) and bool(rejected.strip()) and not chosen == rejected
        assert (prompt + chosen, prompt + rejected) in whole  # nothing is lost
        assert (ASSISTANT in chosen) <= (ASSISTANT not in os.path.commonprefix([chosen, rejected]))


def test_hh_counts_and_says_what_it_dropped(lines, caplog):
    if any(HH.rglob("harmless-base-test.jsonl.gz")):
        assert len(lines) == 2312  # as published
    empty = sum(line[reply].rstrip().endswith(ASSISTANT) for line in lines for reply in line)
    with caplog.at_level(logging.WARNING, "rlhf_lib.worlds.data"):
        pairs = load_preferences(HH, split="test")
    assert empty > 0 and len(pairs) == len(lines) - empty
    (record,) = [r for r in caplog.records if r.name == "rlhf_lib.worlds.data"]
    assert (
        f"dropped {empty} of {len(lines)} rows: {empty} with an empty reply (row"
        in record.getMessage()
    )


def test_hh_slices_are_slices(pairs):
    first = load_preferences(HH, split="test[:4]")
    assert len(first) == 4 and all(first[i] == pairs[i] for i in range(4))


def test_hh_gives_demonstrations(pairs):
    demonstrations = load_demonstrations(HH, split="test")
    assert demonstrations.column_names == ["prompt", "completion"]
    assert list(demonstrations["prompt"])[:8] == list(pairs["prompt"])[:8]
    assert list(demonstrations["completion"])[:8] == list(pairs["chosen"])[:8]


def test_hh_tokenizes_as_one_text(pairs):
    """The marker ends the prompt and the reply begins with its space: GPT-2's word boundary."""
    assert sum(row["chosen"].startswith(" ") for row in pairs) > 0.9 * len(pairs)


def test_the_hubs_layout(tmp_path):
    """`data_dir` chooses a folder of the repository, and splits are read off the file names."""
    rows = [
        json.loads(line)
        for line in (SAMPLE / "harmless-base" / "test.jsonl").read_text().splitlines()
    ]
    write(tmp_path / "harmless-base" / "train.jsonl.gz", rows[:3])
    write(tmp_path / "harmless-base" / "test.jsonl.gz", rows[3:5])
    write(tmp_path / "helpful-base" / "train.jsonl.gz", rows[5:7])
    assert len(load_preferences(tmp_path, data_dir="harmless-base")) == 3
    assert len(load_preferences(tmp_path, "test", data_dir="harmless-base")) == 2
    assert len(load_preferences(tmp_path)) == 5


def test_trainers_take_what_was_loaded():
    from rlhf_lib.algorithms.reward_training import RewardConfig, RewardTraining
    from tests.unit.small import reward_model

    pairs = load_preferences(SAMPLE, split="test").select(range(3))  # short ones
    (record,) = RewardTraining(
        reward_model(), tokenizer(), pairs, RewardConfig(max_steps=1, batch_size=3)
    )
    assert 0 < record["loss"] < 10


# Splitting --------------------------------------------------------------------------------------

ASKED = "\n\nHuman: hello\n\nAssistant:"


@pytest.mark.parametrize(
    "chosen, rejected, expected",
    [
        (ASKED + " yes", ASKED + " no", (ASKED, " yes", " no")),
        (
            ASKED + " same start, good",
            ASKED + " same start, bad",
            (ASKED, " same start, good", " same start, bad"),
        ),
        (ASKED + " no", ASKED + " no thanks", (ASKED, " no", " no thanks")),  # one begins the other
        # a marker of which only the beginning is shared is no turn
        (
            ASKED + " a\n\nAssistant: b",
            ASKED + " a\n\nAnd c",
            (ASKED, " a\n\nAssistant: b", " a\n\nAnd c"),
        ),
        (
            ASKED + " a\n\nHuman: b\n\nAssistant: c",
            ASKED + " a\n\nHuman: b\n\nAssistant: d",
            (ASKED + " a\n\nHuman: b\n\nAssistant:", " c", " d"),
        ),
        (
            "\n\nHuman: x\n\nAssistant: a",
            "\n\nHuman: y\n\nAssistant: a",
            ("", "\n\nHuman: x\n\nAssistant: a", "\n\nHuman: y\n\nAssistant: a"),
        ),
    ],
)
def test_dialogues_part_at_the_last_shared_turn(chosen, rejected, expected):
    assert split_dialogue(chosen, rejected) == expected


def test_messages_part_at_the_last_shared_turn():
    one, other = say("hi", "hello", "and?", "so"), say("hi", "hello", "and?", "no")
    assert split_messages(one, other) == (one[:3], one[3:], other[3:])
    assert split_messages(one, one) == (one[:3], one[3:], one[3:])
    longer = say("hi", "hello", "and?", "so", "then?", "this")
    assert split_messages(one, longer) == (one[:3], one[3:], longer[3:])
    asked_otherwise = say("hi", "hello", "what?", "no")
    assert split_messages(one, asked_otherwise) == (one[:1], one[1:], asked_otherwise[1:])
    assert split_messages(one, say("ho", "hello"))[0] == []


# TRL's formats ----------------------------------------------------------------------------------

STANDARD = {"prompt": "the sky is", "chosen": " blue", "rejected": " loud", "score": 2}


@pytest.mark.parametrize(
    "name",
    ["pairs.jsonl", "pairs.json", "pairs.jsonl.gz", "pairs.csv", "pairs.csv.gz", "pairs.parquet"],
)
def test_the_standard_format_passes_through_from_any_file(tmp_path, name):
    rows = [STANDARD, {**STANDARD, "chosen": " wide"}]
    path = tmp_path / name
    if "json" in name:
        write(path, rows)
    elif "csv" in name:
        with (gzip.open if name.endswith("gz") else open)(path, "wt", newline="") as file:
            table = csv.DictWriter(file, list(STANDARD))
            table.writeheader()
            table.writerows(rows)
    else:
        from datasets import Dataset

        Dataset.from_list(rows).to_parquet(path)
    assert load_preferences(path).to_list() == rows
    assert load_preferences(path, split="test").to_list() == rows  # whichever is asked for
    assert load_preferences(tmp_path).to_list() == rows


CHOSEN, REJECTED = say("hi", "hello"), say("hi", "no")


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": CHOSEN, "rejected": REJECTED},  # as in trl-lib/ultrafeedback_binarized
        {"prompt": CHOSEN[:1], "chosen": CHOSEN[1:], "rejected": REJECTED[1:]},
        {"prompt": "hi", "chosen": CHOSEN, "rejected": REJECTED},  # as in HuggingFaceH4's
    ],
)
def test_messages_become_text(tmp_path, row):
    path = write(tmp_path / "train.jsonl", [row])
    (plain,) = load_preferences(path)
    assert plain == {"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": " hello", "rejected": " no"}
    (no_template,) = load_preferences(path, tokenizer=tokenizer())
    assert no_template == plain
    (templated,) = load_preferences(path, tokenizer=speaking(CHATML))
    assert templated == {
        "prompt": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        "chosen": "hello",
        "rejected": "no",
    }


def speaking(template: str, eos: str = "<|im_end|>"):
    from copy import deepcopy

    copied = deepcopy(tokenizer())
    copied.chat_template, copied.eos_token = template, eos
    return copied


def test_a_template_that_opens_replies_in_another_way(tmp_path):
    """Some templates add to the generation prompt what they take out of finished replies."""
    path = write(tmp_path / "train.jsonl", [{"chosen": CHOSEN, "rejected": REJECTED}])
    thinking = CHATML.replace("assistant\n{% endif", "assistant\n<think>{% endif")
    (row,) = load_preferences(path, tokenizer=speaking(thinking))
    assert row["prompt"].endswith("<|im_start|>assistant\n") and row["chosen"] == "hello"


def test_a_system_message_is_part_of_the_prompt(tmp_path):
    system = [{"role": "system", "content": "be kind"}]
    path = write(
        tmp_path / "train.jsonl", [{"chosen": system + CHOSEN, "rejected": system + REJECTED}]
    )
    (row,) = load_preferences(path)
    assert row["prompt"] == "\n\nSystem: be kind\n\nHuman: hi\n\nAssistant:"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "\n\nHuman: hi\n\nAssistant:", "completion": " hello"},
        {"prompt": CHOSEN[:1], "completion": CHOSEN[1:]},
        {"messages": CHOSEN},
        {"messages": say("hi", "hello", "bye")},  # up to the last reply
        {"chosen": CHOSEN, "rejected": REJECTED},
    ],
)
def test_demonstrations(tmp_path, row):
    (loaded,) = load_demonstrations(write(tmp_path / "train.jsonl", [row]))
    assert loaded == {"prompt": "\n\nHuman: hi\n\nAssistant:", "completion": " hello"}


def test_demonstrations_end_at_the_last_reply(tmp_path):
    path = write(tmp_path / "train.jsonl", [{"messages": say("hi", "hello", "and?", "so")}])
    (row,) = load_demonstrations(path)
    assert row == {
        "prompt": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: and?\n\nAssistant:",
        "completion": " so",
    }


# Prompts ----------------------------------------------------------------------------------------

REVIEWS = [{"text": "a fine film , with a lamp in it .", "label": 1}, {"text": "no .", "label": 0}]


def test_reviews_are_opened_as_in_the_sentiment_task(tmp_path):
    """The layout of stanfordnlp/imdb: a folder of parquet files, columns `text` and `label`."""
    from datasets import Dataset

    (tmp_path / "plain_text").mkdir()
    Dataset.from_list(REVIEWS).to_parquet(tmp_path / "plain_text" / "train-00000-of-00001.parquet")
    assert load_prompts(tmp_path, length=3).to_list() == [
        {"label": 1, "prompt": "a fine film"},
        {"label": 0, "prompt": "no ."},
    ]
    counted = load_prompts(tmp_path, tokenizer=tokenizer(), length=4)
    assert [len(tokenizer()(prompt)["input_ids"]) for prompt in counted["prompt"]] == [4, 2]


def test_prompts_come_from_the_column_of_that_name(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "2+2=", "answer": 4, "text": "unused"}])
    assert load_prompts(path).to_list() == [{"prompt": "2+2=", "answer": 4}]
    path = write(tmp_path / "b.jsonl", [{"prompt": say("hi"), "answer": 4}])
    assert load_prompts(path).to_list() == [{"prompt": "\n\nHuman: hi\n\nAssistant:", "answer": 4}]
    (row,) = load_prompts(path, tokenizer=speaking(CHATML))
    assert row["prompt"] == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


# Bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "load, row, message",
    [
        (
            load_preferences,
            {"prompt": "a", "completion": "b"},
            "with the columns prompt, completion; expected chosen, rejected",
        ),
        (
            load_demonstrations,
            {"question": "a", "answer": "b"},
            "with the columns question, answer; "
            "expected completion, prompt or messages or chosen, ",
        ),
        (load_prompts, {"question": "a"}, "with the columns question; expected prompt or text"),
        (
            load_preferences,
            {"prompt": "a", "chosen": CHOSEN[1:], "rejected": "no"},
            "row 0 has str as its prompt and list, str as its replies; expected text, or messages",
        ),
        (load_prompts, {"prompt": 3}, "row 0 has 3 as its prompt; expected text or messages"),
        (load_prompts, {"text": 3}, "row 0 has 3 as its text; expected text"),
        (
            load_demonstrations,
            {"prompt": 3, "completion": 4},
            "row 0 has 3 as its prompt; expected text",
        ),
        (
            load_preferences,
            {
                "prompt": [{"speaker": "human", "says": "hi"}],
                "chosen": CHOSEN[1:],
                "rejected": REJECTED[1:],
            },
            r"row 0 has a message with the keys \['says', 'speaker'\]; expected 'role'",
        ),
        (
            load_preferences,
            {"prompt": CHOSEN[:1], "chosen": CHOSEN, "rejected": REJECTED},
            "does not begin with a message of the role 'assistant'",
        ),
    ],
)
def test_a_table_of_another_shape_is_refused(tmp_path, load, row, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "train.jsonl", [row]))


GOOD = {"prompt": "a", "chosen": "b", "rejected": "c"}


@pytest.mark.parametrize(
    "row, flaw",
    [
        ({**GOOD, "chosen": " \n"}, "1 with an empty reply"),
        ({**GOOD, "rejected": None}, "1 with an empty reply"),
        ({**GOOD, "prompt": ""}, r"1 without a \(shared\) prompt"),
        ({**GOOD, "rejected": "b"}, "1 with two equal replies"),
    ],
)
def test_rows_that_teach_nothing_are_dropped_and_counted(tmp_path, caplog, row, flaw):
    path = write(tmp_path / "train.jsonl", [GOOD, row, GOOD])
    with caplog.at_level(logging.WARNING, "rlhf_lib.worlds.data"):
        assert load_preferences(path).to_list() == [GOOD, GOOD]
    assert "dropped 1 of 3 rows: " + flaw.replace("\\", "") in caplog.text
    with pytest.raises(ValueError, match=f"rows to learn from, .* 1 of 1 rows: {flaw}"):
        load_preferences(write(tmp_path / "alone.jsonl", [row]))


def test_dialogues_that_share_no_prompt_are_dropped(tmp_path):
    text = {"chosen": "\n\nHuman: x\n\nAssistant: a", "rejected": "\n\nHuman: y\n\nAssistant: b"}
    messages = {"chosen": say("x", "a"), "rejected": say("y", "b")}
    for i, row in enumerate((text, messages)):
        with pytest.raises(ValueError, match=r"1 of 1 rows: 1 without a \(shared\) prompt"):
            load_preferences(write(tmp_path / f"{i}.jsonl", [row]))


@pytest.mark.parametrize("asked", [None, ""])
def test_a_dialogue_beside_an_empty_prompt_is_split_all_the_same(tmp_path, asked):
    text = {"chosen": ASKED + " yes", "rejected": ASKED + " no"}
    messages = {"chosen": say("hello", "yes"), "rejected": say("hello", "no")}
    for i, row in enumerate((text, messages)):
        path = write(tmp_path / f"{i}.jsonl", [{"prompt": asked, **row}])
        assert load_preferences(path).to_list() == [
            {"prompt": ASKED, "chosen": " yes", "rejected": " no"}
        ]


def test_empty_demonstrations_and_prompts_are_dropped(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        [{"prompt": "a", "completion": ""}, {"prompt": "a", "completion": "b"}],
    )
    assert load_demonstrations(path).to_list() == [{"prompt": "a", "completion": "b"}]
    path = write(tmp_path / "b.jsonl", [{"text": ""}, {"text": None}, {"text": "a b"}])
    assert load_prompts(path).to_list() == [{"prompt": "a b"}]
    with pytest.raises(ValueError, match="length is 0; expected at least 1"):
        load_prompts(path, length=0)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("train.jsonl", b"", "which has no rows; expected at least 1"),
        (
            "train.csv",
            b"prompt,chosen,rejected\n",
            "expected readable data .* corresponds to no data",
        ),
        ("train.jsonl", b"{not json\n", "expected readable data with a split 'train'"),
        ("train.jsonl.gz", b"not packed", "expected readable data .* BadGzipFile"),
        ("train.parquet", b"not parquet", "expected readable data .* ArrowInvalid"),
        ("train.xlsx", b"", r"expected a file that ends in .json, .jsonl, .csv, .parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"source is '.*{name}'.*{message}"):
        load_preferences(tmp_path / name)


def test_a_folder_without_the_split_or_without_data(tmp_path):
    with pytest.raises(ValueError, match=r"a split 'train', .* Should be one of \['test'\]"):
        load_preferences(SAMPLE)
    with pytest.raises(ValueError, match="expected readable data .* EmptyDatasetError"):
        load_preferences(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a file, a folder or a name on the hub"):
        load_preferences(tmp_path / "nothing")


def test_without_a_network_a_hub_name_points_to_local_files():
    """Tests run offline (conftest.py), so this is what a reader without a network sees."""
    with pytest.raises(
        ConnectionError, match="source is 'Anthropic/hh-rlhf': .* give the path of a local copy"
    ):
        load_preferences("Anthropic/hh-rlhf", data_dir="harmless-base")


def test_a_hub_name_goes_to_the_hub(monkeypatch):
    """The call that a network would answer."""
    import datasets

    asked = {}

    def load_dataset(path, **settings):
        asked.update(path=path, **settings)
        return datasets.Dataset.from_list([GOOD])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_preferences("Anthropic/hh-rlhf", "train[:5%]", "harmless-base").to_list() == [GOOD]
    assert asked == {
        "path": "Anthropic/hh-rlhf",
        "split": "train[:5%]",
        "data_dir": "harmless-base",
    }
    load_table("imdb")
    assert asked == {"path": "imdb", "split": "train", "data_dir": None}


def test_a_folder_here_goes_before_a_name_on_the_hub(tmp_path, monkeypatch):
    shutil.copytree(SAMPLE, tmp_path / "Anthropic" / "hh-rlhf")
    monkeypatch.chdir(tmp_path)
    assert len(load_table("Anthropic/hh-rlhf", "test")) == 9
