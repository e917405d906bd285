"""The benchmark of lost abilities on letters, in small: its losses, its averages, its lines."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch

from benchmarks import ptx_letters
from rlhf_lib.models.tokens import encode, token_logprobs
from rlhf_lib.worlds import letters
from tests.unit.few_pairs import few_pairs
from tests.unit.small import policy, weights

given = pytest.fixture(few_pairs, scope="module")


@pytest.fixture
def small(given, monkeypatch):
    sizes = dict(max_steps=2, batch_size=4, mini_batch_size=4)
    runs = {name: dataclasses.replace(x, **sizes) for name, x in ptx_letters.RUNS.items()}
    monkeypatch.setattr(ptx_letters, "RUNS", runs)
    monkeypatch.setattr(ptx_letters, "MEASURED_AT", (1, 2))
    monkeypatch.setattr(ptx_letters, "AVERAGED", (0.5,))
    monkeypatch.setattr(ptx_letters, "TEXTS", 30)
    monkeypatch.setattr(ptx_letters, "material", lambda seed: given)
    monkeypatch.setattr(ptx_letters, "corpus", lambda: letters.corpus(20, seed=0))


def test_every_kind_of_run_gives_a_line_that_json_can_hold(small):
    ends = {}
    for name in ptx_letters.RUNS:
        line = ptx_letters.run(1, name)
        json.dumps(line, allow_nan=False)
        assert [row["step"] for row in line["curve"]] == [0, 1, 2]
        start, end = line["curve"][0], line["end"]
        assert start["kl"] == start["kl_from_sft"] == 0 < min(end["kl"], end["kl_from_sft"])
        assert len(end["gold_values"]) == len(end["lengths"]) == 6
        assert end["gold"] == pytest.approx(sum(end["gold_values"]) / 6, abs=1e-4)
        assert [x["share"] for x in line["averages"]] == ([0.5] if name == "ppo" else [])
        assert "gold_values" not in line["curve"][-1] and line["curve"][-1]["web"] == end["web"]
        ends[name] = end["web"]
    assert len(set(ends.values())) == len(ends)  # each setting acts


def test_the_loss_on_the_web_is_a_mean_over_tokens(given):
    texts = letters.corpus(250, seed=3)
    found = ptx_letters.web_loss(given.sft, given.tokenizer, texts)
    with torch.no_grad():
        batch = encode(given.tokenizer, list(texts["prompt"]), list(texts["completion"]))
        nats = -token_logprobs(given.sft, batch) * batch.completion_mask
    assert found["web"] == pytest.approx(
        (nats.sum() / batch.completion_mask.sum()).item(), rel=1e-4
    )
    lazy = [row for row, style in enumerate(texts["style"]) if style == "lazy"]
    expected = nats[lazy].sum() / batch.completion_mask[lazy].sum()
    assert found["web_by_style"]["lazy"] == pytest.approx(expected.item(), rel=1e-4)
    assert set(found["web_by_style"]) == set(letters.STYLES)


def test_an_average_lies_between_and_leaves_both_as_they_were():
    one, other = policy(0), policy(1)
    before = [weights(one), weights(other)]
    found = ptx_letters.averaged(one, other, 0.25)
    assert torch.allclose(weights(found), 0.75 * before[0] + 0.25 * before[1])
    assert torch.equal(weights(one), before[0]) and torch.equal(weights(other), before[1])


def test_floors_can_fail():
    def line(name: str, averaged: float = 0.6, better: float = 4.5, **end) -> dict:
        usual = {"gold": 4.0, "web": 0.9 if name == "ppo" else 0.6}
        average = {"share": 0.3, "web": averaged, "gold": better}
        averages = [average] if name == "ppo" else []
        start = {"gold": 3.0, "web": 0.52}
        return {"run": name, "seed": 1, "sft": start, "end": {**usual, **end}, "averages": averages}

    for name in ("ppo", "ptx 0.5"):
        ptx_letters.assert_floors(line(name))
    for worse in (
        line("ppo", gold=2.9),
        line("ppo", web=0.6),
        line("ppo", averaged=0.95),
        line("ppo", better=3.9),
        line("ptx 0.5", web=0.7),
    ):
        before = copy.deepcopy(worse)
        with pytest.raises(AssertionError, match=f"{worse['run']}, seed 1"):
            ptx_letters.assert_floors(worse)
        assert worse == before
