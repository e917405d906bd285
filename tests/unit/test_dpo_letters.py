"""The benchmark of DPO on letters, rehearsed in small: its pairs, its labels, its lines."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch

from benchmarks import dpo_letters
from rlhf_lib.algorithms import DPOConfig, PPOConfig
from tests.unit.few_pairs import few_pairs

given = pytest.fixture(few_pairs, scope="module")


@pytest.fixture
def small(given, monkeypatch):
    sizes = {
        DPOConfig: dict(max_steps=2, batch_size=4),
        PPOConfig: dict(max_steps=2, batch_size=4, mini_batch_size=4),
    }
    runs = {
        name: dataclasses.replace(config, **sizes[type(config)])
        for name, config in dpo_letters.RUNS.items()
    }
    monkeypatch.setattr(dpo_letters, "RUNS", runs)
    monkeypatch.setattr(dpo_letters, "MEASURED_AT", {DPOConfig: (1, 2), PPOConfig: (2,)})
    monkeypatch.setattr(dpo_letters, "material", lambda seed: given)
    return runs


def test_every_kind_of_run_gives_a_line_that_json_can_hold(small):
    for name, config in small.items():
        line = dpo_letters.run(1, name)
        json.dumps(line, allow_nan=False)
        steps = [row["step"] for row in line["curve"]]
        assert steps == [0, *dpo_letters.MEASURED_AT[type(config)]]
        start, *_, end = line["curve"]
        assert start["kl"] == start["chosen"] == start["rejected"] == 0 != end["chosen"]
        assert {"gold", "gold_se", "kl", "length", "accuracy", "mix"} <= end.keys()
        assert sum(end["mix"].values()) == pytest.approx(1)


def test_a_fifth_of_the_labels_is_flipped_and_the_rest_stays(given, monkeypatch):
    monkeypatch.setattr(dpo_letters, "FLIPPED", 0.5)
    before, after = given.pairs, given.flipped()
    turned = [old["chosen"] == new["rejected"] for old, new in zip(before, after)]
    assert 0.2 < sum(turned) / len(turned) < 0.8
    for old, new, flipped in zip(before, after, turned):
        sides = ("rejected", "chosen") if flipped else ("chosen", "rejected")
        assert (new["chosen"], new["rejected"]) == tuple(old[side] for side in sides)
        assert new["prompt"] == old["prompt"]
    monkeypatch.setattr(dpo_letters, "FLIPPED", 0.0)
    assert given.flipped().to_list() == before.to_list()


def test_online_pairs_are_fresh_and_ranked_by_the_reward(given):
    """A reward that likes the letter e: of each pair the reply with more of them is chosen."""

    def likes_e(prompts, completions, **columns):
        return [float(text.count("e")) for text in completions]

    config = DPOConfig(max_steps=3, batch_size=6, seed=3)
    how = (copy.deepcopy(given.sft), given.sft, given.tokenizer, given.pairs, config)
    loop = dpo_letters.OnlineDPO(*how, asked=list(given.asked["prompt"]), reward=likes_e)
    drawn = []
    for _ in range(2):
        (batch,) = loop.collect()
        chosen, rejected = loop.completions[:6], loop.completions[6:]
        assert all(a >= b for a, b in zip(likes_e([], chosen), likes_e([], rejected)))
        assert chosen != rejected and loop.prompts[:6] == loop.prompts[6:]
        assert set(loop.prompts) <= set(given.asked["prompt"])
        ids = batch.completion_ids[:, 0]
        assert len(ids) == 6 and torch.isfinite(batch.ref_logprobs).all()
        drawn.append(loop.completions)
        loop.step_number += 1
    assert drawn[0] != drawn[1]


def test_floors_can_fail():
    def line(name: str, **end) -> dict:
        start = {"step": 0, "gold": 3.0, "kl": 0.0, "chosen": 0.0, "rejected": 0.0, "accuracy": 0.0}
        usual = {"gold": 4.0, "kl": 1.0, "chosen": -0.5, "rejected": -2.0, "accuracy": 0.7}
        return {"run": name, "seed": 1, "curve": [start, {"step": 100, **usual, **end}]}

    dpo_letters.assert_floors(line("dpo"))
    for worse in ({"gold": 3.7}, {"chosen": 0.1}, {"rejected": -0.4}, {"kl": 30.0}):
        with pytest.raises(AssertionError, match="dpo, seed 1"):
            dpo_letters.assert_floors(line("dpo", **worse))
    fast = line("dpo, fast", kl=6.0)
    fast["curve"][1:] = [
        {**fast["curve"][1], "step": step, "gold": gold, "accuracy": accuracy}
        for step, gold, accuracy in ((25, 3.8, 0.65), (50, 3.2, 0.7), (100, 3.5, 0.72))
    ]
    dpo_letters.assert_floors(fast)
    for name, value in (("gold", 3.9), ("accuracy", 0.6), ("kl", 2.0)):
        spoilt = copy.deepcopy(fast)
        spoilt["curve"][2][name] = value
        with pytest.raises(AssertionError, match="dpo, fast, seed 1"):
            dpo_letters.assert_floors(spoilt)
