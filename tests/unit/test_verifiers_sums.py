"""The benchmark of learned verifiers, rehearsed in small: labels, picks, and a run of each kind."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch

from benchmarks import verifiers_sums
from benchmarks.verifiers_sums import (
    assert_floors,
    auc,
    first_mistake,
    paid_by,
    picked,
    readings,
    so_far,
    soon,
    step_ends,
    step_labels,
    targets,
    trained,
    verdicts,
    votes,
)
from rlhf_lib.worlds import sums

PROMPT = "67+45="
WRITTEN = {  # and the labels of its steps, the answer being the last
    "<7+5=12,6+4+1=11>112": [True, True, True],
    "<7+5=12,6+4=10>102": [True, False, False],
    "<7+5=12,6+4=10>112": [True, False, True],
    "<7+5=12>112": [True, True],
    "<7+5=12,6+4+1=11,0+0=0>112": [True, True, False, True],
    "<7+5=12,6+4": [True, False],  # not closed: the last step is the answer
    "<7+5=12,>112": [True, False, True],
    "112": [True],
}


@pytest.fixture(scope="module")
def given():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifiers_sums, "HELD_OUT", 6)
        patch.setattr(verifiers_sums, "LABELLED", {"12": 2, "16": 3})
        patch.setattr(verifiers_sums, "PAID_BY", "12")
        patch.setattr(verifiers_sums, "BATCH", 8)
        small = dict(max_steps=2, batch_size=8, mini_batch_size=8, num_generations=4)
        patch.setattr(verifiers_sums, "PAID", dataclasses.replace(verifiers_sums.PAID, **small))
        yield verifiers_sums.Material(1)


@pytest.mark.parametrize("completion", WRITTEN)
def test_each_step_has_its_end_and_its_label(completion):
    ends, labels = step_ends(completion), step_labels(PROMPT, completion)
    assert labels == WRITTEN[completion] and len(ends) == len(labels)
    assert ends == sorted(set(ends)) and ends[-1] == len(completion)  # there the end token stands
    assert all(completion[end] in ",>" for end in ends[:-1])


def test_the_process_is_supervised_up_to_the_first_mistake():
    assert targets("process", PROMPT, "<7+5=12,6+4=10>112") == {7: 1.0, 14: 0.0}
    assert targets("process", PROMPT, "<7+5=12>102") == {7: 1.0, 11: 0.0}
    assert list(targets("process", PROMPT, "<7+5=12,6+4+1=11>112").values()) == [1.0] * 3


def test_the_outcome_is_the_target_after_every_token():
    for completion, labels in WRITTEN.items():
        wanted = targets("outcome", PROMPT, completion)
        assert list(wanted) == list(range(len(completion) + 1))
        assert set(wanted.values()) == {float(labels[-1])}


def test_probabilities_add_up_to_those_of_a_whole_prefix():
    assert so_far("outcome", [0.9, 0.5]) == [0.9, 0.5]
    assert so_far("process", [0.9, 0.5, 0.5]) == pytest.approx([0.9, 0.45, 0.225])


def test_a_pick_is_the_best_of_its_own_n():
    scores, right = [0.1, 0.9, 0.8, 0.2], [True, False, True, False]
    assert [picked(scores, right, n) for n in (1, 2, 4)] == [0.5, 0.5, 0.0]
    assert picked([1.0, 1.0, 0.0, 0.0], right, 4) == 0.5  # two tied, one of them right


def test_votes_are_counted_within_each_n():
    answers = ["1", "2", "2", "1"]
    assert votes(answers, [1.0] * 4, 4) == [2.0] * 4
    assert votes(answers, [1.0] * 4, 2) == [1.0] * 4
    assert votes(answers, [0.5, 0.1, 0.2, 0.5], 4) == pytest.approx([1.0, 0.3, 0.3, 1.0])


def test_the_area_under_the_curve_counts_pairs():
    assert auc([0.9, 0.8], [0.1, 0.8]) == 0.875
    assert auc([0.0], [1.0]) == 0.0


def test_how_soon_a_mistake_is_seen_is_told_by_place():
    labels = [[True, False, True, False], [True, False, False], [True, True], [True, False, False]]
    rows = [[0.9, 0.2, 0.9, 0.9], [0.4, 0.9, 0.9], [0.9, 0.4], [0.9, 0.9, 0.9]]
    found = soon("process", rows, labels)
    assert found["says_wrong"] == {"before": 1 / 3, "at": 1 / 3, "after": 0.0, "never": 1 / 3}
    assert found["false_alarms"] == 1.0  # the one sound completion was doubted
    assert set(found["auc_after"]) == {"0", "1", "2"}
    assert first_mistake([True, True]) is None and first_mistake([True, False]) == 1


def test_a_prefix_is_judged_without_what_comes_after_it(given):
    model = trained("process", given.base, given.tokenizer, [PROMPT] * 8, [*WRITTEN][:8], 2, 0)
    with torch.no_grad():
        one, two = verdicts(
            model, given.tokenizer, [PROMPT] * 2, ["<7+5=12,6+4=10>102", "<7+5=12,6+4+1=11>112"]
        )
    assert torch.allclose(one[:11], two[:11], atol=1e-5)
    (row,) = readings(model, given.tokenizer, [PROMPT], ["<7+5=12,6+4+1=11>112"])
    expected = two[step_ends("<7+5=12,6+4+1=11>112")].sigmoid()
    assert row == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_verifier_learns_what_it_is_shown(given, monkeypatch):
    monkeypatch.setattr(verifiers_sums, "RATE", 3e-3)
    texts = ["<7+5=12,6+4+1=11>112", "<7+5=12,6+4=10>102"] * 4
    for kind in verifiers_sums.KINDS:
        model = trained(kind, given.base, given.tokenizer, [PROMPT] * 8, texts, 30, 0)
        right, wrong = (
            so_far(kind, row)[-1]
            for row in readings(model, given.tokenizer, [PROMPT] * 2, texts[:2])
        )
        assert right > wrong + 0.2, kind


def test_it_pays_for_the_whole_completion(given):
    model = given.model("process", "12")
    (paid,) = paid_by("process", model, given.tokenizer)([PROMPT + "<"], ["7+5=12,6+4+1=11>112"])
    (row,) = readings(model, given.tokenizer, [PROMPT], ["<7+5=12,6+4+1=11>112"])
    assert paid == pytest.approx(so_far("process", row)[-1])
    assert verifiers_sums.verifier([PROMPT + "<"] * 2, ["7+5=12>112", "7+5=12>1"]) == [1.0, 0.0]


def test_every_run_gives_a_line_that_json_can_hold(given, monkeypatch):
    monkeypatch.setattr(verifiers_sums, "material", lambda seed: given)
    before = copy.deepcopy(given.base)
    for name in verifiers_sums.RUNS:
        line = verifiers_sums.run(1, name)
        json.dumps(line, allow_nan=False)
        if name == "selection":
            assert line["best_of"]["verifier"]["1"] == pytest.approx(line["right"])
            for kinds in line["verifiers"].values():
                for found in kinds.values():
                    assert found["best_of"]["1"] == pytest.approx(line["right"])
                    assert 0 <= found["auc"] <= 1
        else:
            assert [row["step"] for row in line["curve"]] == [1, 2]
            assert {"verifier", "outcome", "process", "sound"} == line["final"].keys()
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), given.base.parameters()))
    assert all(text.startswith("<") for text in given.answers) and len(given.answers) == 96
    assert not {*given.exam} & {*given.asked}
    assert sums.parse(given.exam[0])


def test_floors_can_fail():
    found = {"auc": 0.73, "auc_after": {"0": 0.6, "1": 0.76}, "best_of": {"16": 0.2}}
    line = {
        "seed": 1,
        "run": "selection",
        "right": 0.54,
        "best_of": {"verifier": {"16": 1.0}, "vote": {"16": 0.96}},
        "verifiers": {"4000": {kind: copy.deepcopy(found) for kind in verifiers_sums.KINDS}},
    }
    assert_floors(line)
    for place, worse in (
        (["right"], 0.9),
        (["best_of", "verifier", "16"], 0.9),
        (["best_of", "vote", "16"], 0.5),
        (["verifiers", "4000", "outcome", "auc"], 0.5),
        (["verifiers", "4000", "process", "auc_after", "1"], 0.5),
        (["verifiers", "4000", "process", "best_of", "16"], 0.5),
    ):
        spoilt = copy.deepcopy(line)
        inner = spoilt
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = worse
        with pytest.raises(AssertionError, match="seed 1, selection: not so"):
            assert_floors(spoilt)
    first, last = {"verifier": 0.5, "outcome": 0.5}, {"verifier": 0.3, "outcome": 0.9}
    paid = {"seed": 2, "run": "paid: outcome", "final": {"verifier": 0.3}}
    assert_floors({**paid, "curve": [first, last]})
    with pytest.raises(AssertionError, match="seed 2, paid: outcome: not so: what is paid rises"):
        assert_floors({**paid, "curve": [first, first]})
    with pytest.raises(AssertionError, match="not so: right answers rise by the program"):
        assert_floors({**paid, "curve": [first, last], "final": {"verifier": 0.6}})
