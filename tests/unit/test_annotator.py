"""The label file and the two demos of comparisons, without a browser."""

from __future__ import annotations

import json
import multiprocessing
import re

import numpy as np
import pytest

from rlhf_lib.mathematics import bradley_terry
from rlhf_lib.seeing.widgets import Annotator, BradleyTerryExplorer
from rlhf_lib.seeing.widgets.annotator import LETTERS_FEATURES, plain_features
from rlhf_lib.worlds.labels import append_label, check_pairs, load_pairs, read_labels, retract

LETTER = "write to ben. ask for a refund: the lamp, friday. reply:"
PAIRS = [
    dict(
        prompt=LETTER,
        first="hello ben, i would like a refund for the lamp of friday.",
        second="ok.",
    ),
    dict(prompt=LETTER, first="this is nonsense.", second="hello ben, thank you."),
    dict(prompt=LETTER, first="wonderful! marvellous!", second="maybe later."),
]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "labels.jsonl"


# --- the file -------------------------------------------------------------------------------------


def test_a_file_only_grows(file):
    seen = b""
    ids = []
    for act in (
        lambda: ids.append(append_label(file, "p", "a", "b")),
        lambda: ids.append(append_label(file, "p", "b", "a")),
        lambda: retract(file, ids[1]),
        lambda: file.open("ab").write(b'{"kind": "lab') and None,
        lambda: ids.append(append_label(file, "q", "a", "b")),
    ):
        act()
        now = file.read_bytes()
        assert now.startswith(seen) and len(now) > len(seen)
        seen = now
    found = read_labels(file)
    assert [(r["prompt"], r["chosen"]) for r in found.rows] == [("p", "a"), ("q", "a")]
    assert (found.retracted, found.superseded, found.torn, found.contradicted) == (1, 0, 1, 0)


def test_no_file_yet_is_no_labels(file):
    assert read_labels(file).rows == []


def test_the_last_label_of_one_person_counts_and_people_may_differ(file):
    for who, chosen in (("me", "a"), ("me", "b"), ("you", "a")):
        append_label(file, "p", chosen, "ab".replace(chosen, ""), who)
    found = read_labels(file)
    assert [(r["annotator"], r["chosen"]) for r in found.rows] == [("me", "b"), ("you", "a")]
    assert (found.superseded, found.contradicted) == (1, 1)


def test_a_retraction_brings_the_label_before_back(file):
    append_label(file, "p", "a", "b")
    retract(file, append_label(file, "p", "b", "a"))
    assert [r["chosen"] for r in read_labels(file).rows] == ["a"]


def test_unicode_and_line_ends_survive(file):
    reply = 'grüße,\nzwei zeilen \u2028 und "anführung"'
    append_label(file, "p", reply, "kurz")
    assert read_labels(file).rows[0]["chosen"] == reply


def test_every_prefix_of_a_file_can_be_read(file):
    """Whenever the machine stops: what was whole before is there after."""
    for i in range(3):
        append_label(file, f"prompt {i}", "a", "b")
    content = file.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
    for cut in range(len(content)):
        file.write_bytes(content[:cut])
        whole = sum(end - 1 <= cut for end in ends)  # a line without its end is whole, too
        assert len(read_labels(file).rows) == whole, cut
    file.write_bytes(content[: ends[1] + 20])
    append_label(file, "after the crash", "a", "b")
    assert [r["prompt"] for r in read_labels(file).rows] == [
        "prompt 0",
        "prompt 1",
        "after the crash",
    ]


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "label", "id": "1"}',
        "[1, 2]",
        '"label"',
        '{"kind": "rating", "id": "1"}',
        '{"kind": "retraction"}',
    ],
)
def test_a_whole_line_of_another_format_is_named(file, line):
    append_label(file, "p", "a", "b")
    with file.open("a") as out:
        out.write(line + "\n")
    with pytest.raises(ValueError, match="line 2 of labels.jsonl"):
        read_labels(file)


def test_the_same_reply_twice_is_refused_and_nothing_written(file):
    with pytest.raises(ValueError, match="same reply"):
        append_label(file, "p", "a", "a")
    assert not file.exists()


def _write_many(file, name):
    for i in range(40):
        append_label(file, f"prompt {i} of {name} " + "x" * 3_000, "a", "b", name)


def test_writers_at_the_same_time_lose_nothing(file):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(file, f"w{k}")) for k in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = read_labels(file)
    assert (len(found.rows), found.torn) == (120, 0)


def test_check_pairs_drops_what_cannot_be_labelled():
    swapped = dict(prompt="p", first="b", second="a")
    rows = [
        dict(prompt="p", chosen="a", rejected="b"),
        swapped,
        dict(prompt="p", first="a", second="a"),
        dict(prompt=" ", first="a", second="b"),
        dict(prompt="q", first="a", second=""),
        dict(prompt="q", first="a b c", second="d"),
    ]
    kept, dropped = check_pairs(rows, max_words=2)
    assert kept == [dict(prompt="p", first="a", second="b")]
    assert dropped == {
        "seen before": 1,
        "with two equal replies": 1,
        "with an empty prompt or reply": 2,
        "with a reply that is too long": 1,
    }
    with pytest.raises(ValueError, match="pair 0 has the keys prompt"):
        check_pairs([dict(prompt="p")])
    with pytest.raises(ValueError, match="all text"):
        check_pairs([dict(prompt="p", first="a", second=3)])


def test_a_file_of_pairs_is_read_line_by_line(file):
    file.write_text('{"prompt": "why?", "first": "so", "second": "no"}\n\nnot json\n')
    with pytest.raises(ValueError, match="line 3 of labels.jsonl"):
        load_pairs(file)
    file.write_text('{"prompt": "why?", "first": "so", "second": "no!"}\n')
    demo = Annotator(file)
    assert demo.names == list(plain_features("", "a")) and len(demo.pairs) == 1


# --- the annotator --------------------------------------------------------------------------------


def test_features_are_first_less_second():
    demo = Annotator(PAIRS)
    assert demo.names == list(LETTERS_FEATURES)
    row = dict(zip(demo.names, demo.differences[0]))
    assert row["item"] == row["day"] == row["greets"] == 1 and row["short"] == -1


def test_choices_are_in_the_file_before_they_count(file):
    demo = Annotator(PAIRS, path=file)
    demo.choose(0, "first")
    demo.choose(1, "second")
    assert demo.labels == [[0, "first"], [1, "second"]]
    assert [r["chosen"] for r in read_labels(file).rows] == [PAIRS[0]["first"], PAIRS[1]["second"]]
    demo.undo()
    assert demo.labels == [[0, "first"]] and read_labels(file).retracted == 1
    assert Annotator(PAIRS, path=file).labels == [[0, "first"]]  # resumed


def test_two_demos_on_one_file_see_each_other(file):
    one, other = Annotator(PAIRS, path=file), Annotator(PAIRS, path=file)
    one.choose(0, "first")
    other.choose(1, "first")
    assert other.labels == [[0, "first"], [1, "first"]]
    one.choose(1, "second")
    assert one.labels == [[0, "first"], [1, "second"]]


def test_sides_may_have_been_swapped_since(file):
    Annotator(PAIRS, path=file).choose(0, "first")
    swapped = [dict(prompt=p["prompt"], first=p["second"], second=p["first"]) for p in PAIRS]
    assert Annotator(swapped, path=file).labels == [[0, "second"]]


def test_an_unwritable_file_leaves_the_labels_as_they_were(tmp_path):
    demo = Annotator(PAIRS, path=tmp_path / "no" / "such" / "folder.jsonl")
    said = []
    demo.send = said.append
    demo._heard(demo, {"kind": "label", "pair": 0, "side": "first"}, [])
    assert demo.labels == [] and said[0]["kind"] == "failed"
    assert "FileNotFoundError" in said[0]["text"]


@pytest.mark.parametrize(
    "message",
    [
        {"kind": "label", "pair": 7, "side": "first"},
        {"kind": "label", "pair": 0, "side": "left"},
        {"kind": "label"},
    ],
)
def test_a_bad_message_is_answered_and_writes_nothing(file, message):
    demo, said = Annotator(PAIRS, path=file), []
    demo.send = said.append
    demo._heard(demo, message, [])
    assert said[0]["kind"] == "failed" and not file.exists()


def test_messages_of_the_browser(file):
    demo, said = Annotator(PAIRS, path=file), []
    demo.send = said.append
    for message in (
        {"kind": "hello"},
        {"kind": "label", "pair": 2, "side": "second"},
        {"kind": "undo"},
        {"kind": "undo"},
    ):
        demo._heard(demo, message, [])
    assert said == [{"kind": "done", "saves": True}] * 4 and demo.labels == []


def test_without_a_path_labels_stay_in_memory():
    demo = Annotator(PAIRS)
    demo.choose(1, "second")
    demo.choose(1, "first")
    assert demo.labels == [[1, "first"]]
    demo.undo()
    assert demo.labels == []


def test_numbers_are_the_librarys():
    choices = [(0, "first"), (1, "second"), (2, "first")]
    demo = Annotator(PAIRS, ridge=0.5)
    rows = np.array(demo.differences) * np.array([[1], [-1], [1]])
    expected = bradley_terry.fit_weights(rows, 0.5)
    numbers = demo.numbers(choices)
    assert list(numbers.weights.values()) == pytest.approx(expected.tolist())
    assert numbers.labelled == 3 and numbers.judged <= 2 and numbers.foreseen <= numbers.judged
    likelier = float(demo.fit(choices[:1]) @ demo.differences[1]) < 0
    assert demo.numbers(choices[:2]).foreseen == likelier


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Annotator([]), "pairs has none that can be labelled, of 0"),
        (lambda: Annotator([dict(prompt="p", first="a", second="a")]), "1 with two equal replies"),
        (lambda: Annotator(PAIRS, ridge=0), "ridge is 0; expected a positive number"),
        (lambda: Annotator(PAIRS, recorded=[(9, "first")]), r"recorded\[0\] is \[9, 'first'\]"),
        (lambda: Annotator(PAIRS, recorded=[(0, "left")]), r"recorded\[0\]"),
    ],
)
def test_annotator_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_saved_state_is_plain_json(file):
    demo = Annotator(PAIRS, path=file, recorded=[(0, "first")], recorded_by="a program")
    state = {k: v for k, v in demo.get_state().items() if k != "layout"}
    json.dumps(state, allow_nan=False)
    assert str(file.parent) not in json.dumps(state)  # the name of the file, not its folder
    assert repr(demo) == "Annotator(3 pairs, 0 labelled, recorded session of 1)"


# --- the explorer ---------------------------------------------------------------------------------


def test_explorer_has_the_librarys_numbers():
    demo = BradleyTerryExplorer(scores=[1.0, 0.0, -1.0])
    wins = np.array(demo.wins)
    assert demo.result.surplus == pytest.approx(bradley_terry.surplus(np.array([1, 0, -1.0]), wins))
    assert demo.result.fit == pytest.approx(bradley_terry.fit_scores(wins))
    assert demo.result.fit_loss < demo.result.loss


def test_explorer_without_a_fit():
    demo = BradleyTerryExplorer([[0, 3], [0, 0]])
    assert demo.result.fit is None and "fit none" in repr(demo)
    demo.ridge = 0.5
    assert demo.result.fit is not None
    demo.ridge = 99
    assert demo.ridge == 2
    empty = BradleyTerryExplorer([[0, 0], [0, 0]])
    assert empty.result.loss == 0 and empty.result.fit is None


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"wins": [[0, 1]]}, "wins has shape"),
        ({"wins": [[0, -1], [1, 0]]}, "negative"),
        ({"wins": np.ones((7, 7)) - np.eye(7)}, "wins has 7 items"),
        ({"wins": [[0, 1], [1, 0]], "labels": ["a"]}, "labels has 1 entries; expected 2"),
        ({"scores": [0.0, 0.0, float("nan")]}, "scores is"),
        ({"ridge": float("inf")}, "ridge is inf"),
        ({"presets": {"small": [[0, 1], [1, 0]]}}, "small has 2 entries; expected 3"),
    ],
)
def test_explorer_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        BradleyTerryExplorer(**settings)


# --- both demos -----------------------------------------------------------------------------------


@pytest.mark.parametrize("demo", [Annotator, BradleyTerryExplorer])
def test_browser_code_is_whole_and_its_styles_are_ours(demo):
    code = demo._esm if isinstance(demo._esm, str) else str(demo._esm)
    assert "function slider" in code and "function fitWeights" in code and "export default" in code
    assert not re.search(r"^\s*import\b|\bimport\(|https?://(?!www\.w3\.org)", code, re.MULTILINE)
    rules = re.sub(r"/\*.*?\*/", "", str(demo._css), flags=re.DOTALL)
    selectors = " ".join(re.findall(r"([^{}]*)\{", rules))
    assert {
        name
        for name in re.findall(r"\.([a-zA-Z][\w-]*)", selectors)
        if not name.startswith("rlhf-")
    } <= {"vscode-dark"}
