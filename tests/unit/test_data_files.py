"""Files as people have them: any columns beside ours, odd cells, and any characters in a path."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import json
import logging
import os
from pathlib import Path

import pytest

from rlhf_lib.worlds.data import (
    load_demonstrations,
    load_labelled,
    load_preferences,
    load_prompts,
    load_table,
)
from tests.unit.small import tokenizer

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
MANY_TYPES = pytest.mark.skipif(
    "not hasattr(__import__('datasets'), 'Json')", reason="these datasets do not read such JSON"
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(path: Path, content: str | bytes | list[dict]) -> Path:
    """A file of text, of bytes or of JSON lines, packed where its name says so."""
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = path.name.lower().endswith(".gz")
    with (gzip.open if packed else open)(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return path


def prompts(source, *arguments) -> list[str]:
    return list(load_prompts(source, *arguments)["prompt"])


# columns beside ours ------------------------------------------------------------------------------

BESIDE = {
    "objects of other keys": [{"votes": 1}, {"votes": "many", "tags": ["a", 1]}, None],
    "a number and text": [1, "high", None],
    "lists of mixed type": [[1, 2], ["a", None], []],
    "an object and text": [{"a": {"b": 1}}, "none", {"c": []}],
}


@MANY_TYPES
@pytest.mark.parametrize("values", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("load", [load_preferences, load_prompts, load_demonstrations])
def test_a_column_of_many_types_is_kept_as_it_is(tmp_path, load, values):
    """With a row dropped between, its values are those that `datasets` gives."""
    rows = [{**PAIR, "chosen": f"b{i}", "beside": value} for i, value in enumerate(values)]
    rows.insert(1, {**PAIR, "prompt": "", "beside": values[0]})
    path = write(tmp_path / "rows.jsonl", rows)
    loaded = load(path)
    assert [row["beside"] for row in loaded] == values
    assert loaded.features["beside"] == load_table(path).features["beside"]


@MANY_TYPES
def test_a_column_may_have_the_name_of_one_of_ours(tmp_path):
    rows = [{**PAIR, "chosen": str(i), "messages": x} for i, x in enumerate(["none", 4, [PAIR]])]
    path = write(tmp_path / "rows.jsonl", rows)
    assert load_preferences(path).to_list() == rows


def test_columns_of_every_type_are_kept_with_their_features(tmp_path):
    from datasets import Array2D, Audio, ClassLabel, Dataset, Features, Image, Value

    kinds = {
        "time": Value("timestamp[us, tz=UTC]"),
        "price": Value("decimal128(10, 2)"),
        "nothing": Value("null"),
        "named": ClassLabel(names=["no", "yes"]),
        "table": Array2D((2, 2), "float32"),
        "bytes": Value("binary"),
        "lasting": Value("duration[s]"),
        "picture": Image(decode=False),
        "sound": Audio(decode=False),
    }
    row = {
        "time": datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC),
        "price": decimal.Decimal("1.50"),
        "nothing": None,
        "named": 1,
        "table": [[1.0, 2.0], [3.0, 4.0]],
        "bytes": b"\xff",
        "lasting": datetime.timedelta(seconds=3),
        "picture": {"bytes": b"png", "path": None},
        "sound": None,  # writing one takes another package
    }
    ours = Features(dict.fromkeys(PAIR, Value("large_string")))
    rows = [{**PAIR, **row}, {**PAIR, **row, "chosen": ""}, {**PAIR, **row, "chosen": "d"}]
    Dataset.from_list(rows, features=Features({**ours, **kinds})).to_parquet(tmp_path / "a.parquet")
    for load in (load_preferences, load_demonstrations, load_prompts):
        loaded = load(tmp_path / "a.parquet")
        assert {name: loaded.features[name] for name in kinds} == kinds
        assert {name: loaded[0][name] for name in row} == row
        assert loaded.features["prompt"] == Value("string")
        assert loaded.map(lambda _: {"more": 1})[0]["more"] == 1  # a dataset like any other


def test_pictures_beside_a_prompt_are_not_opened(tmp_path):
    """What is no picture at all would stop whoever opens it."""
    from datasets import Dataset, Features, Image, Value

    features = Features({"prompt": Value("string"), "picture": Image()})
    rows = {"prompt": ["a", ""], "picture": [{"bytes": b"no picture", "path": None}] * 2}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    loaded = load_prompts(tmp_path / "a.parquet")
    assert len(loaded) == 1 and loaded.features == features


# JSON ---------------------------------------------------------------------------------------------


def test_text_that_looks_like_a_time_stays_text(tmp_path):
    """`datasets` takes it for a time, and does so in other columns still."""
    rows = [{"prompt": f"2024-05-0{i}", "day": f"2024-05-0{i}"} for i in (1, 2, 3)]
    path = write(tmp_path / "rows.jsonl", rows)
    assert prompts(path) == ["2024-05-01", "2024-05-02", "2024-05-03"]
    assert prompts(path, "train[1:]") == ["2024-05-02", "2024-05-03"]
    assert load_prompts(path)[0]["day"] == datetime.datetime(2024, 5, 1)
    said = [{"role": "user", "content": "2024-05-01"}, {"role": "assistant", "content": "12:30"}]
    write(tmp_path / "two" / "test.jsonl", [{"messages": said}])
    write(tmp_path / "two" / "train.jsonl", [{"messages": said[:1] * 2}])
    (row,) = load_demonstrations(tmp_path / "two", "test")
    assert row == {"prompt": "\n\nHuman: 2024-05-01\n\nAssistant:", "completion": " 12:30"}


@MANY_TYPES
def test_text_beside_messages_stays_text(tmp_path):
    """Where a column holds both, `datasets` reads the text "12" as a number."""
    rows = [{"prompt": x} for x in ("12", "true", [{"role": "user", "content": "12"}])]
    path = write(tmp_path / "rows.jsonl", rows)
    assert prompts(path) == ["12", "true", "\n\nHuman: 12\n\nAssistant:"]


@MANY_TYPES
@pytest.mark.parametrize(
    "load, row, told",
    [
        (load_prompts, {"prompt": 12}, "12 as its prompt"),
        (load_prompts, {"prompt": True}, "True as its prompt"),
        (load_demonstrations, {"prompt": "a", "completion": 1.5}, "1.5 as its completion"),
        (load_preferences, {**PAIR, "rejected": 0}, "0 as its rejected"),
        (load_labelled, {"prompt": "a", "completion": 3, "label": True}, "3 as its completion"),
    ],
)
def test_a_number_in_place_of_text_is_refused_by_row_and_column(tmp_path, load, row, told):
    good = {**dict.fromkeys(row, "text"), **({"label": True} if "label" in row else {})}
    path = write(tmp_path / "rows.jsonl", [{**good, **PAIR} if "chosen" in row else good, row])
    with pytest.raises(ValueError, match=f"row 1 has {told}; expected text or messages"):
        load(path)


FORMS = {
    "a list": '[{"prompt": "007"}, {"prompt": "2024-05-06"}]',
    "a list on many lines": '\n [\n{"prompt": "007"},\n\n{"prompt": "2024-05-06"}\n]\n',
    "a list inside": '{"version": 1, "data": [{"prompt": "007"}, {"prompt": "2024-05-06"}]}',
    "blank lines": '\n{"prompt": "007"}\n\n  \n{"prompt": "2024-05-06"}\n\n',
    "Windows' lines": '{"prompt": "007"}\r\n{"prompt": "2024-05-06"}\r\n',
    "on many lines": '{\n "prompt": "007"\n}\n{\n "prompt":\n "2024-05-06"\n}\n',
    "a byte order mark": '\ufeff{"prompt": "007"}\n{"prompt": "2024-05-06"}\n',
    "no end of the last line": '{"prompt": "007"}\n{"prompt": "2024-05-06"}',
}


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl.gz"])
def test_json_in_every_form_gives_its_rows(tmp_path, name, content):
    path = write(tmp_path / name, content)
    assert prompts(path) == ["007", "2024-05-06"]
    assert prompts(path, "train[1:]") == ["2024-05-06"]


@MANY_TYPES
def test_blank_lines_and_mixed_columns_are_read_together(tmp_path):
    content = '{"prompt": "a", "x": {"y": 1}}\n\n{"prompt": "b", "x": 2, "z": "2024-05-06"}\n'
    assert load_prompts(write(tmp_path / "rows.jsonl", content)).to_list() == [
        {"prompt": "a", "x": {"y": 1}, "z": None},
        {"prompt": "b", "x": 2, "z": "2024-05-06"},
    ]


@pytest.mark.parametrize(
    "content, told",
    [
        ('{"prompt": "a"}\n\n{"prompt": "b', "line 3 of rows.jsonl is not JSON: Unterminated"),
        ('{"prompt": "a"}\n{"prompt": "b"\n{"prompt": "c"}\n', "line 2 of rows.jsonl is not JSON"),
        ('{"prompt": "a"}\n"b"\n', "line 2 of rows.jsonl is 'b'; expected an object"),
        ('{"prompt": "a"}\nnull\n', "line 2 of rows.jsonl is null; expected an object"),
        ("null\n", "line 1 of rows.jsonl is null; expected an object"),
        ('[{"prompt": "a"}, null]', "entry 1 of rows.jsonl is None; expected an object"),
        (
            '{"prompt": "a", "prompt": "b"}\n',
            "line 1 of rows.jsonl: an object names 'prompt' twice",
        ),
        ('{"prompt": "a"}\n{"prompt": "\\ud83d"}\n', "line 2 of rows.jsonl has half a character"),
        (
            '{"prompt": "a"}\n{"prompt": "ä"}\n'.encode("cp1252"),
            "line 2 of rows.jsonl is not UTF-8",
        ),
        ('{"prompt": "a"}\n'.encode("utf-16"), "rows.jsonl is UTF-16; expected UTF-8"),
        ('{"prompt": "a"}\n'.encode("utf-16-le"), "rows.jsonl is UTF-16; expected UTF-8"),
    ],
)
def test_broken_json_is_told_by_its_line(tmp_path, content, told):
    path = write(tmp_path / "rows.jsonl", content)
    with pytest.raises(ValueError, match="expected readable data with a split 'train', .*" + told):
        load_prompts(path)


@pytest.mark.parametrize("content", ["", "\n\n", "[]"])
def test_json_without_rows_says_so(tmp_path, content):
    with pytest.raises(ValueError, match="which has no rows; expected at least 1"):
        load_prompts(write(tmp_path / "rows.json", content))


# CSV ----------------------------------------------------------------------------------------------

CELLS = ["null", "NA", "None", "007", "3.50", "TRUE", "1e5", "nan", " spaced ", "2024-05-06"]
CELLS += ["a, b; c", 'she said "no"', "two\nlines", "ä, 語"]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "ROWS.CSV", "rows.csv.gz", "ROWS.TSV.GZ"])
@pytest.mark.parametrize("inside", [False, True], ids=["the file", "its folder"])
def test_a_cell_of_text_is_that_text(tmp_path, name, inside):
    path = tmp_path / "data" / name
    path.parent.mkdir()
    with (gzip.open if "gz" in name.lower() else open)(path, "wt", newline="") as file:
        table = csv.writer(file, delimiter="\t" if "tsv" in name.lower() else ",")
        table.writerows([["prompt", "n"], *zip(CELLS, ["", "NA", *range(2, len(CELLS))])])
    loaded = load_prompts(path.parent if inside else path)
    assert list(loaded["prompt"]) == CELLS
    assert list(loaded["n"]) == [None, None, *range(2, len(CELLS))]  # numbers stay numbers


def test_a_column_of_numbers_is_read_as_text_where_it_is_ours(tmp_path):
    content = "prompt,completion,label,score\n2+2=,4,1,0.5\n1+1=,02,0,1.5\n"
    rows = [
        {"prompt": "2+2=", "completion": "4", "label": True, "score": 0.5},
        {"prompt": "1+1=", "completion": "02", "label": False, "score": 1.5},
    ]
    assert load_labelled(write(tmp_path / "rows.csv", content)).to_list() == rows
    numbers = "prompt\n" + "".join(f"{i}\n" for i in range(10_001)) + "text\n"
    assert prompts(write(tmp_path / "many.csv", numbers))[-2:] == ["10000", "text"]


def test_an_empty_cell_is_nothing(tmp_path, caplog):
    content = "prompt,chosen,rejected\na,b,c\n,b,c\na,,c\n\nnull,NA,\nnull,NA,None\n"
    path = write(tmp_path / "rows.csv", content)
    assert load_preferences(path).to_list() == [
        PAIR,
        {"prompt": "null", "chosen": "NA", "rejected": "None"},
    ]
    told = "3 of 5 rows: 1 without a (shared) prompt (row 1), 2 with an empty reply (rows 2, 3)"
    assert told in caplog.text
    assert load_table(path)[1] == {**PAIR, "prompt": None}


def test_excel_writes_a_mark_before_the_first_column(tmp_path):
    for header in ("prompt,n", '"prompt","n"'):
        path = write(tmp_path / "rows.csv", f"{header}\r\nnull,NA\r\n".encode("utf-8-sig"))
        assert load_prompts(path).to_list() == [{"prompt": "null", "n": None}]


def test_columns_without_a_name_or_with_one_twice(tmp_path):
    path = write(tmp_path / "rows.csv", ",prompt,n,n\n0,a,NA,\n1,b,1,2\n")
    assert load_prompts(path).to_list() == [
        {"Unnamed: 0": 0, "prompt": "a", "n": None, "n.1": None},
        {"Unnamed: 0": 1, "prompt": "b", "n": 1.0, "n.1": 2.0},
    ]


@pytest.mark.parametrize(
    "name, content, told",
    [
        (
            "a.csv",
            "prompt;n\na, b;1\n",
            "a.csv has one column, 'prompt;n', .* expected ',' between",
        ),
        ("a.csv", "sep=;\nprompt;n\na;1\n", "one column, 'sep=;'"),
        ("a.tsv", "prompt,n\na,1\n", r"one column, 'prompt,n', .* expected '\\t' between columns"),
        (
            "a.csv",
            "prompt,n\na,1,\nb,2,\n",
            r"more cells than its header, prompt, n \(.* in line 2 of a.csv\); expected a name",
        ),
        (
            "a.tsv",
            "prompt\tn\n\na\t1\t\nb\t2\t\n",
            r"its header, prompt, n \(.* in line 3 of a.tsv\); expected a name",
        ),
        ("a.csv", "prompt,n\0\na,1\n", "line 1 of a.csv has a NUL byte in it; expected text"),
        ("a.csv", "prompt,n\na\0b,1\n", "line 2 of a.csv has a NUL byte in it; expected text"),
        ("a.csv", "prompt,n\na,1\nb,2,3\n", "Expected 2 fields in line 3, saw 3"),
        ("a.csv", 'prompt,n\n"a,1\n', "EOF inside string"),
        ("a.csv", "prompt,n\na,1\nä,2\n".encode("cp1252"), r"line 3 of a.csv is not UTF-8 .*0xe4"),
        ("a.csv", "prompt,n\na,1\n".encode("utf-16"), "a.csv is UTF-16; expected UTF-8"),
    ],
)
def test_a_csv_that_would_be_read_wrongly_is_refused(tmp_path, name, content, told):
    with pytest.raises(ValueError, match=f"source is .*{name}'; expected readable .*{told}"):
        load_prompts(write(tmp_path / name, content))


def test_a_column_named_almost_like_one_of_ours_is_pointed_out(tmp_path):
    path = write(tmp_path / "rows.csv", "Prompt, n\na,1\n")
    with pytest.raises(ValueError, match=r"expected prompt or text \('Prompt' is not 'prompt'\)"):
        load_prompts(path)


def test_a_csv_that_datasets_finds_by_itself_is_read_as_text_too(tmp_path):
    """As on the hub: a card says which files there are."""
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
    write(tmp_path / "README.md", card + "    path: some/*.csv\n---\n")
    write(tmp_path / "some" / "rows.csv", "prompt,n\nnull,NA\n007,3\n")
    assert load_prompts(tmp_path).to_list() == [
        {"prompt": "null", "n": None},
        {"prompt": "007", "n": 3.0},
    ]


# labels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "good, bad", [(True, False), (1, 0), (1.0, 0.0), ("True", "false"), ("1", " FALSE ")]
)
def test_labels_are_true_or_false_in_any_spelling(tmp_path, good, bad):
    rows = [{"prompt": "a", "completion": "b", "label": x, "who": 3} for x in (good, bad, bad)]
    loaded = load_labelled(write(tmp_path / "rows.jsonl", rows))
    assert loaded.to_list() == [{**row, "label": x} for row, x in zip(rows, (True, False, False))]
    assert loaded.features["label"].dtype == "bool"


@pytest.mark.parametrize("form", ["json", "csv"])
def test_rows_without_a_label_are_dropped_and_counted(tmp_path, caplog, form):
    rows = [{"prompt": f"a{i}", "completion": "b", "label": x} for i, x in enumerate((1, None, 0))]
    rows.append({**rows[0], "completion": ""})
    lines = [",".join("" if x is None else str(x) for x in row.values()) for row in rows]
    content = rows if form == "json" else "\n".join(["prompt,completion,label", *lines])
    loaded = load_labelled(write(tmp_path / f"rows.{form}", content))
    assert loaded.to_list() == [{**rows[0], "label": True}, {**rows[2], "label": False}]
    assert (
        "dropped 2 of 4 rows: 1 without a label (row 1), 1 with an empty reply (row 3)"
        in caplog.text
    )


@pytest.mark.parametrize("label", [2, -1, 0.5, "good", "yes"])
def test_another_label_is_refused_by_its_row(tmp_path, label):
    rows = [{"prompt": "a", "completion": "b", "label": x} for x in (type(label)(1), label)]
    with pytest.raises(ValueError, match=f"row 1 has the label {label!r}; expected true or false"):
        load_labelled(write(tmp_path / "rows.jsonl", rows))


def classes(folder: Path, names: list[str], values: list[int | None]) -> Path:
    """A file whose labels are numbers, which the names of a `ClassLabel` belong to."""
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features(
        {"prompt": Value("string"), "completion": Value("string"), "label": ClassLabel(names=names)}
    )
    rows = [{"prompt": "p", "completion": f"c{i}", "label": x} for i, x in enumerate(values)]
    Dataset.from_list(rows, features=features).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


@pytest.mark.parametrize("names", [["1", "0"], ["True", "False"], ["true", "false"]])
def test_the_label_of_a_class_is_its_name_and_not_its_number(tmp_path, names):
    assert load_labelled(classes(tmp_path, names, [0, 1, 0]))["label"][:] == [True, False, True]
    names = names[::-1]
    assert load_labelled(classes(tmp_path, names, [0, 1, 0]))["label"][:] == [False, True, False]


def test_a_class_with_another_name_is_refused_by_its_row(tmp_path):
    for names, values, told in (
        (["good", "bad"], [0, 1], "row 0 has the label 'good'"),
        (["true", "bad"], [0, 1, 1], "row 1 has the label 'bad'"),
    ):
        with pytest.raises(ValueError, match=f"{told}; expected true or false"):
            load_labelled(classes(tmp_path, names, values))


def test_a_row_without_a_class_is_dropped(tmp_path, caplog):
    """-1 is how a test split is written whose labels are not given out."""
    loaded = load_labelled(classes(tmp_path, ["0", "1"], [-1, 1, None, 0]))
    assert loaded["completion"][:] == ["c1", "c3"] and loaded["label"][:] == [True, False]
    assert "dropped 2 of 4 rows: 2 without a label (rows 0, 2)" in caplog.text


def test_labelled_messages_and_pairs(tmp_path):
    said = {"prompt": [{"role": "user", "content": "hi"}], "label": True}
    said["completion"] = [{"role": "assistant", "content": "hello"}]
    (row,) = load_labelled(write(tmp_path / "rows.jsonl", [said]))
    assert row == {"prompt": "\n\nHuman: hi\n\nAssistant:", "label": True, "completion": " hello"}
    path = write(tmp_path / "pairs.jsonl", [PAIR])
    with pytest.raises(ValueError, match="expected completion, label, prompt .*load_preferences"):
        load_labelled(path)


# lengths and row numbers --------------------------------------------------------------------------


def test_rows_over_max_length_are_dropped_whatever_is_loaded(tmp_path, caplog):
    """The prompt has 2 tokens; a completion has its own and the end token."""
    texts = ["no.", "no. no."]
    assert [len(tokenizer()(text)["input_ids"]) for text in (texts[0], texts[1])] == [2, 4]
    rows = [
        {"prompt": "no.", "completion": text, "chosen": text, "rejected": "no", "label": True}
        for text in texts
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    for load in (load_demonstrations, load_labelled, load_preferences):
        assert len(load(path, tokenizer=tokenizer(), max_length=7)) == 2
        caplog.clear()
        assert len(load(path, tokenizer=tokenizer(), max_length=6)) == 1
        assert "dropped 1 of 2 rows: 1 longer than 6 tokens (row 1)" in caplog.text
    path = write(tmp_path / "prompts.jsonl", [{"prompt": text} for text in texts])
    assert prompts(path, "train", None, tokenizer(), 8, 4) == texts
    assert prompts(path, "train", None, tokenizer(), 8, 3) == texts[:1]
    for load in (load_demonstrations, load_labelled, load_prompts):
        with pytest.raises(ValueError, match="max_length is 6 and tokenizer is None"):
            load(path, max_length=6)


def test_lengths_are_right_beyond_one_batch(tmp_path, monkeypatch):
    from rlhf_lib.worlds import data

    monkeypatch.setattr(data, "BATCH", 3)
    texts = ["no. " * (1 + i % 4) for i in range(10)]
    path = write(tmp_path / "prompts.jsonl", [{"prompt": text} for text in texts])
    lengths = [len(tokenizer()(text)["input_ids"]) for text in texts]
    longest = sorted(lengths)[5]
    kept = [text for text, n in zip(texts, lengths) if n <= longest]
    assert prompts(path, "train", None, tokenizer(), 8, longest) == kept and len(kept) < 10


def test_a_warning_names_the_first_rows(tmp_path, caplog):
    rows = [PAIR, *[{**PAIR, "prompt": ""}] * 7, {**PAIR, "chosen": ""}]
    path = write(tmp_path / "rows.jsonl", rows)
    with caplog.at_level(logging.WARNING, "rlhf_lib.worlds.data"):
        load_preferences(path)
    assert caplog.messages == [
        f"{path}: dropped 8 of 9 rows: 7 without a (shared) prompt (rows 1, 2, 3, 4, 5, ...), "
        "1 with an empty reply (row 8)"
    ]


# paths --------------------------------------------------------------------------------------------

NAMES = ["pairs [v2]", "a*", "a?", "[!a]", "with spaces", "a#b", "50%20", "größe", "a::b", "~a"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_or_folder_of_any_name_is_read_and_no_other(tmp_path, name):
    for other in ("pairs v", "a", "ab", "b"):
        write(tmp_path / f"{other}.jsonl", [{"prompt": "another"}])
        write(tmp_path / other / "train.jsonl", [{"prompt": "another"}])
    assert prompts(write(tmp_path / f"{name}.jsonl", [{"prompt": name}])) == [name]
    if "::" in name:
        with pytest.raises(ValueError, match="'::' in a path .* rename it"):
            load_prompts(write(tmp_path / name / "train.jsonl", [PAIR]).parent)
        return
    write(tmp_path / name / "train-1.jsonl", [{"prompt": "1"}])
    write(tmp_path / name / "train-2.jsonl", [{"prompt": "2"}])
    write(tmp_path / name / name / "test.jsonl", [{"prompt": "inside"}])
    assert prompts(tmp_path / name) == ["1", "2"]
    assert prompts(str(tmp_path / name), "test", name) == ["inside"]


def test_paths_in_every_way_of_writing_them(tmp_path, monkeypatch):
    write(tmp_path / "home" / "pairs.jsonl", [PAIR])
    write(tmp_path / "pairs.jsonl" / "train.jsonl", [PAIR])  # a folder named like a file
    write(tmp_path / "json" / "TRAIN.JSONL", [PAIR])  # and like one of the readers of datasets
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "home" / "pairs.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for source in (
        "home/pairs.jsonl", "./home/pairs.jsonl", f"../{tmp_path.name}/home/pairs.jsonl", "home",
        Path("home"), "home/", "~/pairs.jsonl", "~", "pairs.jsonl", "json", "link.jsonl",
    ):  # fmt: skip
        assert load_preferences(source).to_list() == [PAIR], source


@pytest.mark.parametrize(
    "source",
    [
        r"C:\data\pairs.jsonl", "pairs.jsonl", "data/pairs.CSV.gz", "./foo/bar", "~/nothing.csv",
        "foo/bar/baz", "json", "csv", "text", "", "https://example.org/pairs.jsonl",
    ],  # fmt: skip
)  # fmt: skip
def test_what_is_no_file_is_not_asked_of_the_hub(tmp_path, monkeypatch, source):
    import datasets

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.jsonl", [PAIR])  # nor is what lies here read in its place
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("it was asked"))
    with pytest.raises(FileNotFoundError, match="expected a file, a folder or a name on the hub"):
        load_prompts(source)


def test_a_link_to_nothing_and_an_empty_folder(tmp_path):
    (tmp_path / "pairs.jsonl").symlink_to("/nowhere/pairs.jsonl")
    with pytest.raises(FileNotFoundError, match="a link to '/nowhere/pairs.jsonl', and nothing"):
        load_prompts(tmp_path / "pairs.jsonl")
    (tmp_path / "empty [1]").mkdir()
    with pytest.raises(ValueError, match=r"empty \[1\] doesn't contain any data files"):
        load_prompts(tmp_path / "empty [1]")
    with pytest.raises(ValueError, match="expected a file that ends in .json, "):
        load_prompts(write(tmp_path / "pairs", [PAIR]))


def test_a_folder_of_several_kinds_says_what_it_leaves_out(tmp_path, caplog):
    for name in ("a.jsonl", "b.json", "c.csv", "notes.txt"):
        write(tmp_path / name, [PAIR] if "js" in name else "prompt\nother\n")
    assert prompts(tmp_path) == ["a", "a"]
    assert "read the 2 files of the kind json, and left out 1 of the kind csv" in caplog.text


def test_what_save_to_disk_wrote_is_read(tmp_path):
    from datasets import Dataset, DatasetDict

    table = Dataset.from_list([PAIR, {**PAIR, "prompt": "z"}])
    table.save_to_disk(tmp_path / "one [1]")
    DatasetDict(test=table).save_to_disk(tmp_path / "many")
    assert prompts(tmp_path / "one [1]") == prompts(tmp_path / "many", "test") == ["a", "z"]
    assert prompts(tmp_path / "one [1]", "test[1:]") == ["z"]
    with pytest.raises(ValueError, match=r'Unknown split "train". Should be one of \[\'test\'\]'):
        load_prompts(tmp_path / "many")


def test_rows_of_a_part_are_told_as_those_of_the_part(tmp_path, caplog):
    path = write(tmp_path / "rows.jsonl", [{"prompt": text} for text in ("a", "b", "", "c")])
    assert len(load_prompts(path, "train[1:]")) == 2
    told = "dropped 1 of 3 rows of the split 'train[1:]': 1 with an empty prompt (row 1)"
    assert caplog.messages == [f"{path}: {told}"]
    caplog.clear()
    assert len(load_prompts(path)) == 3
    assert caplog.messages == [f"{path}: dropped 1 of 4 rows: 1 with an empty prompt (row 2)"]
    pairs = [{"prompt": "p", "chosen": "a", "rejected": {"b": 1}}] * 2
    for split, where in (("train", "row 0"), ("train[1:]", r"row 0 of the split 'train\[1:\]'")):
        with pytest.raises(ValueError, match=f"; {where} has "):
            load_preferences(write(tmp_path / "pairs.jsonl", pairs), split)


def test_a_folder_inside_a_file_is_refused(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "a"}])
    with pytest.raises(ValueError, match="rows.jsonl', a file, and data_dir is 'b'; expected the"):
        load_prompts(path, "train", "b")
    assert len(load_prompts(path, "train", "")) == len(load_prompts(path)) == 1


def test_packed_parquet_is_no_file_that_can_be_read(tmp_path):
    path = write(tmp_path / "rows.parquet.gz", b"PAR1")
    with pytest.raises(ValueError, match="expected a file that ends in .*, or one of these but .p"):
        load_prompts(path)


def test_a_folder_outside_the_source_is_refused(tmp_path):
    write(tmp_path / "train.jsonl", [PAIR])
    with pytest.raises(ValueError, match="data_dir is '/tmp'; expected a folder inside"):
        load_prompts(tmp_path, data_dir=os.sep + "tmp")
