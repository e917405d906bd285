"""Notes before and after, shown blind: sides and order are drawn, and answers are counted right."""

from __future__ import annotations

import json

import pytest

from benchmarks import blind_reading
from benchmarks.blind_reading import assert_floors, line, pairs, read


def shown(what: str) -> dict:
    return {"shown": [{"asked": f"request {i}", "note": f"{what} {i}"} for i in range(12)]}


RUN = {"kind": "grpo", "seed": 1, "before": shown("early"), "after": shown("late")}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """One recorded run, and no reading."""
    (tmp_path / "runs.jsonl").write_text(json.dumps(RUN) + "\n")
    monkeypatch.setattr(blind_reading, "RUNS", tmp_path / "runs.jsonl")
    monkeypatch.setattr(blind_reading, "RESULTS", tmp_path / "readings.jsonl")
    return tmp_path / "readings.jsonl"


@pytest.mark.parametrize("order", range(5))
def test_each_pair_has_both_notes_of_one_request_and_says_which_is_late(order):
    seen = pairs(RUN, order)
    assert sorted(x["asked"] for x in seen) == sorted(f"request {i}" for i in range(12))
    for x in seen:
        number = x["asked"].split()[1]
        other = "AB".replace(x["after"], "")
        assert x[x["after"]] == f"late {number}" and x[other] == f"early {number}"
    assert seen == pairs(RUN, order) and seen != pairs(RUN, order + 1)


def test_sides_are_drawn_evenly():
    sides = [x["after"] for order in range(100) for x in pairs(RUN, order)]
    assert 0.45 < sides.count("A") / len(sides) < 0.55


def test_an_answer_that_is_none_is_asked_for_again(capsys):
    said = iter(["c", "", " a", "b "])
    assert read(pairs(RUN, 1)[:2], lambda _: next(said)) == ["A", "B"]
    assert "late" in capsys.readouterr().out


def answered(monkeypatch, place, *words: str, reader: str = "me"):
    monkeypatch.setattr("sys.argv", ["blind_reading", "--reader", reader, *words])
    blind_reading.main()


def test_a_reading_is_recorded_and_counted(place, monkeypatch):
    right = iter([x["after"] for x in pairs(RUN, 3)])
    monkeypatch.setattr("builtins.input", lambda _: next(right))
    answered(monkeypatch, place, "--order", "3")
    (found,) = map(json.loads, place.read_text().splitlines())
    assert (found["right"], found["pairs"], found["reader"]) == (12, 12, "me")
    with pytest.raises(AssertionError, match="me, grpo 1"):
        assert_floors(found | {"right": 11})
    with pytest.raises(SystemExit):  # the same reader in the same order
        answered(monkeypatch, place, "--order", "3")
    assert len(place.read_text().splitlines()) == 1


def test_always_the_same_side_is_right_about_half_the_time():
    found = [line(RUN, order, "me", ["A"] * 12)["right"] for order in range(50)]
    assert 5 < sum(found) / len(found) < 7


def test_a_run_that_is_not_recorded_is_told(place, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        answered(monkeypatch, place, "--run", "ppo", "1")
    assert "expected a recorded one: grpo 1" in capsys.readouterr().err
