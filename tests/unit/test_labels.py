"""The label file, and pairs to be labelled: what counts, in which order, and what is dropped."""

from __future__ import annotations

import json
import logging
import os

import pytest

from rlhf_lib.worlds import labels
from rlhf_lib.worlds.labels import (
    append_label,
    check_pairs,
    load_pairs,
    pair_key,
    read_labels,
    retract,
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "labels.jsonl"


def said(file):
    """Who said what in the labels that count, and the four counts."""
    found = read_labels(file)
    return [(r["annotator"], r["prompt"], r["chosen"], r["rejected"]) for r in found.rows], found[
        1:
    ]


def test_a_label_is_a_line_with_all_that_was_said(file):
    before = append_label(file, "p", "a", "b", "you")
    other = append_label(file, "p", "c", "b")
    assert before != other
    one, two = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert {k: v for k, v in one.items() if k != "time"} == {
        "kind": "label",
        "id": before,
        "annotator": "you",
        "prompt": "p",
        "chosen": "a",
        "rejected": "b",
    }
    assert two["annotator"] == "me" and one["time"] <= two["time"]
    assert read_labels(file).rows == [
        {k: v for k, v in row.items() if k != "kind"} for row in (one, two)
    ]


def test_line_ends_of_other_kinds_are_part_of_a_reply(file):
    reply = "one\u2028two\x0bthree\x85four\nfive"
    append_label(file, "p", reply, "short")
    assert said(file) == ([("me", "p", reply, "short")], (0, 0, 0, 0))
    with pytest.raises(ValueError, match="the same reply"):
        append_label(file, "p", reply, reply)
    assert len(read_labels(file).rows) == 1


def test_a_label_is_on_the_disk_when_its_id_returns(file, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    append_label(file, "p", "a", "b")
    assert synced == [file.stat().st_size]
    retract(file, "x")
    assert synced[1:] == [file.stat().st_size]


def test_writers_take_turns_where_they_can(file, monkeypatch):
    taken = []
    monkeypatch.setattr(labels.fcntl, "flock", lambda file, how: taken.append(how))
    append_label(file, "p", "a", "b")
    assert taken == [labels.fcntl.LOCK_EX]
    monkeypatch.setattr(labels, "fcntl", None)
    append_label(file, "p", "c", "b")
    assert len(read_labels(file).rows) == 2


def test_a_pair_is_the_same_whichever_reply_stands_first():
    assert pair_key("p", "b", "a") == pair_key("p", "a", "b") != pair_key("q", "a", "b")
    assert pair_key("p", "a", "b") != pair_key("p", "a", "c")


def test_the_last_word_of_a_person_counts_and_stands_where_it_was_said(file):
    for prompt, chosen, rejected in [("p", "a", "b"), ("q", "a", "b"), ("p", "b", "a")]:
        append_label(file, prompt, chosen, rejected)
    assert said(file) == ([("me", "q", "a", "b"), ("me", "p", "b", "a")], (0, 1, 0, 0))
    append_label(file, "p", "b", "a")  # the same again: it is the later one that counts
    last = json.loads(file.read_text().splitlines()[-1])["id"]
    assert [row["id"] for row in read_labels(file).rows][1] == last
    assert said(file)[1] == (0, 2, 0, 0)


def test_people_do_not_replace_each_other(file):
    for who, chosen, rejected in [("me", "a", "b"), ("you", "a", "b"), ("me", "c", "d")]:
        append_label(file, "p", chosen, rejected, who)
    assert said(file)[1] == (0, 0, 0, 0) and len(said(file)[0]) == 3  # they agree
    append_label(file, "p", "b", "a", "you")
    rows, counts = said(file)
    assert [row[0] for row in rows] == ["me", "me", "you"] and counts == (0, 1, 0, 1)
    append_label(file, "q", "b", "a", "you")  # of another prompt: nobody is contradicted
    append_label(file, "p", "b", "a", "she")  # one pair, however many say so
    assert said(file)[1] == (0, 1, 0, 1)


def test_retracting_what_was_superseded_changes_no_label(file):
    first = append_label(file, "p", "a", "b")
    append_label(file, "p", "b", "a")
    retract(file, first)
    assert said(file) == ([("me", "p", "b", "a")], (1, 0, 0, 0))
    retract(file, first)  # a second time
    retract(file, "never said")
    assert said(file) == ([("me", "p", "b", "a")], (1, 0, 0, 0))


def test_retracting_the_last_word_brings_back_the_one_before(file):
    append_label(file, "p", "a", "b", "you")
    append_label(file, "p", "a", "b")
    retract(file, append_label(file, "p", "b", "a"))
    assert said(file) == ([("you", "p", "a", "b"), ("me", "p", "a", "b")], (1, 0, 0, 0))


def test_a_retraction_may_stand_before_its_label(file):
    """As where two files were put together."""
    identity = append_label(file, "p", "a", "b")
    line = file.read_text()
    file.unlink()
    retract(file, identity)
    file.write_text(file.read_text() + line)
    assert said(file) == ([], (1, 0, 0, 0))


def test_torn_lines_are_counted_and_told_and_blank_ones_are_not(file, caplog):
    append_label(file, "p", "a", "b")
    with file.open("ab") as out:
        out.write(b'\n  \n{"kind": "label", "id": "1\n{"kin\n\n')
    with caplog.at_level(logging.WARNING):
        assert said(file) == ([("me", "p", "a", "b")], (0, 0, 2, 0))
    assert "labels.jsonl: skipped 2 torn lines" in caplog.text
    caplog.clear()
    file.write_bytes(b"")
    assert said(file) == ([], (0, 0, 0, 0)) and not caplog.records


def test_what_is_appended_to_a_torn_line_is_whole(file):
    file.write_bytes(b'{"kind": "lab')
    append_label(file, "p", "a", "b")
    append_label(file, "q", "a", "b")
    assert file.read_bytes().count(b"\n") == 3
    assert said(file) == ([("me", "p", "a", "b"), ("me", "q", "a", "b")], (0, 0, 1, 0))


def test_a_label_of_a_file_without_names_is_mine(file):
    row = dict(kind="label", id="1", prompt="p", chosen="a", rejected="b")
    file.write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "2", "annotator": "you"}))
    first, second = read_labels(file).rows
    assert (first["annotator"], first["time"], second["annotator"]) == ("me", 0.0, "you")


@pytest.mark.parametrize("field", ["id", "prompt", "chosen", "rejected"])
def test_each_field_of_a_label_is_text(file, field):
    row = dict(kind="label", id="1", prompt="p", chosen="a", rejected="b")
    file.write_text(json.dumps({**row, field: 3}))
    with pytest.raises(
        ValueError, match="line 1 of labels.jsonl is .*; expected a label or a retr"
    ):
        read_labels(file)


# --- pairs ----------------------------------------------------------------------------------------


def pair(prompt, first, second):
    return dict(prompt=prompt, first=first, second=second)


def test_equal_is_to_the_letter_and_first_and_second_go_before():
    spaced = pair("p", " a", "a")
    assert check_pairs([spaced]) == ([spaced], {})
    both = {**pair("p", "a", "b"), "chosen": "c", "rejected": "d"}
    assert check_pairs([both]) == ([pair("p", "a", "b")], {})


def test_the_pairs_that_are_kept_stand_in_their_order_with_their_sides():
    rows = [pair("p", "b", "a"), dict(prompt="q", chosen="a", rejected="b", margin=1)]
    assert check_pairs(rows) == ([pair("p", "b", "a"), pair("q", "a", "b")], {})


@pytest.mark.parametrize(
    "again", [pair("p", "a", "b"), pair("p", "b", "a"), dict(prompt="p", chosen="b", rejected="a")]
)
def test_a_pair_is_seen_before_from_either_side(again):
    kept, dropped = check_pairs([pair("p", "a", "b"), again, again, pair("q", "a", "b")])
    assert kept == [pair("p", "a", "b"), pair("q", "a", "b")] and dropped == {"seen before": 2}


def test_as_many_words_as_there_is_room_for_are_kept():
    rows = [pair("one two three", "a b", "c"), pair("p", "c", "a b"), pair("p", "c", "a b c")]
    assert check_pairs(rows, max_words=2) == (rows[:2], {"with a reply that is too long": 1})
    assert check_pairs(rows[::-1], max_words=3) == (rows[::-1], {})
    assert check_pairs(rows) == (rows, {})
    assert check_pairs([pair("p", "a b c", "d")], max_words=2)[0] == []


@pytest.mark.parametrize("row", [pair("", "a", "b"), pair("p", " \n", "b"), pair("p", "a", "\t")])
def test_white_space_is_empty(row):
    assert check_pairs([row]) == ([], {"with an empty prompt or reply": 1})


def test_a_pair_has_one_flaw_the_first():
    rows = [
        pair("", "a", "a"),
        pair("p", "a b", "a b"),
        pair("p", "a b", "c"),
        pair("p", "c", "a b"),
    ]
    assert check_pairs(rows, max_words=1)[1] == {
        "with an empty prompt or reply": 1,
        "with two equal replies": 1,
        "with a reply that is too long": 1,
        "seen before": 1,
    }


@pytest.mark.parametrize(
    "bad", [dict(prompt="p", first="a"), pair(None, "a", "b"), dict(first="a")]
)
def test_a_pair_without_its_texts_is_named(bad):
    with pytest.raises(
        ValueError, match="pair 2 has the keys .*; expected prompt, first and second"
    ):
        check_pairs([pair("p", "a", "b"), pair("q", "a", "b"), bad])


def test_a_file_of_pairs_keeps_order_and_text(tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [pair("p", "grüße \u2028 x", "b"), dict(prompt="q", chosen="a", rejected="b", n=1)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("\n".join([lines[0], " ", lines[1], ""]), encoding="utf-8")
    assert load_pairs(file) == rows
    file.write_text("")
    assert load_pairs(file) == []


@pytest.mark.parametrize("line", ["[1]", '"text"', "null", "{", "3"])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    file = tmp_path / "pairs.jsonl"
    file.write_text(f'{{"prompt": "p"}}\n\n{line}\n')
    with pytest.raises(ValueError, match="line 3 of pairs.jsonl is .*; expected a JSON object"):
        load_pairs(file)


@pytest.mark.parametrize("who", [["me"], {"name": "me"}])
def test_an_annotator_that_is_no_name_is_refused_by_line(file, who):
    append_label(file, "p", "a", "b")
    append_label(file, "p", "a", "b", who)
    with pytest.raises(ValueError, match="line 2 of labels.jsonl is .*; expected a label"):
        read_labels(file)


def test_an_annotator_may_be_a_number(file):
    append_label(file, "p", "a", "b", 7)
    append_label(file, "p", "a", "b", "7")
    assert [row["annotator"] for row in read_labels(file).rows] == [7, "7"]
