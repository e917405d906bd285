"""The benchmark of methods at equal compute, in small: what it counts, chooses and records."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from benchmarks import choosing_letters
from benchmarks.choosing_letters import FACTORS, REWARD, RUNS, TUNED_ON, Passes
from rlhf_lib.models.reward_model import reward_scores
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import encode, token_logprobs
from tests.unit.few_pairs import few_pairs
from tests.unit.small import policy, tokenizer, weights

given = pytest.fixture(few_pairs, scope="module")


@pytest.fixture
def small(given, monkeypatch):
    sizes = dict(max_steps=2, batch_size=4, mini_batch_size=4, num_generations=2)
    runs = {}
    for name, config in RUNS.items():
        known = {field.name for field in dataclasses.fields(config)}
        of_this = {key: value for key, value in sizes.items() if key in known}
        if name in ("grpo", "rloo"):
            of_this["num_generations"] = 4
        runs[name] = dataclasses.replace(config, **of_this)
    start = {"step": 0, "passes": 0, "replies": 0, "seconds": 0.0, "gold": 1.0, "kl": 0.0}
    monkeypatch.setattr(choosing_letters, "RUNS", runs)
    monkeypatch.setattr(choosing_letters, "MARKS", (1 / 2, 1))
    monkeypatch.setattr(choosing_letters, "BEST_OF", 4)
    monkeypatch.setattr(choosing_letters, "OF_PROMPTS", 3)
    monkeypatch.setattr(choosing_letters, "material", lambda seed: (given, start))


def test_every_method_gives_a_line_that_json_can_hold(small, given):
    before = weights(given.sft).clone()
    replies = dict.fromkeys(RUNS, 0) | {"rejection": 8, "online dpo": 8}
    replies |= dict.fromkeys(("rloo", "grpo", "ppo"), 4)
    for name in RUNS:
        line = choosing_letters.run(1, name, 1 / 3)
        json.dumps(line, allow_nan=False)
        assert [row["step"] for row in line["curve"]] == [0, 1, 2]
        assert [row["replies"] for row in line["curve"]] == [0, replies[name], 2 * replies[name]]
        passes = [row["passes"] for row in line["curve"]]
        assert 0 < passes[1] < passes[2]
        assert passes[2] == sum(line["read"].values()) + 3 * sum(line["learnt"].values())
        assert line["settings"]["learning_rate"] == pytest.approx(RUNS[name].learning_rate / 3)
        assert line["curve"][-1]["kl"] > 0 and line["learnt"]["policy"] > 0
        assert line["learnt"]["reference"] == line["learnt"]["reward"] == 0
        judged = name in ("rejection", "online dpo", "rloo", "grpo", "ppo")
        assert (line["read"]["reward"] > 0) == judged, name
        anchored = name not in ("sft on chosen", "rejection")
        assert (line["read"]["reference"] > 0) == anchored, name
        assert ("critic" in line["learnt"]) == (name == "ppo")
    assert torch.equal(weights(given.sft), before)


def test_the_tuning_seed_is_measured_at_the_end_alone(small):
    line = choosing_letters.run(TUNED_ON, "grpo", 3)
    assert [row["step"] for row in line["curve"]] == [0, 2]
    assert line["settings"]["learning_rate"] == pytest.approx(3 * RUNS["grpo"].learning_rate)


def test_the_critic_learns_at_a_rate_that_goes_along(small):
    settings = choosing_letters.run(1, "ppo", 3)["settings"]
    assert settings["critic_learning_rate"] == 3 * RUNS["ppo"].critic_learning_rate


def test_passes_by_hand():
    """Sampling reads a prompt once, and then one token at a time; padding counts."""
    model, other = policy(0), policy(1)
    passes = Passes(policy=model, other=other)
    greedy = sample(model, tokenizer(), ["write to ben", "no"], 3, greedy=True)
    assert greedy.lengths.tolist() == [3, 3]  # nobody ended
    read = 2 * (greedy.prompt_ids.shape[1] + 2)
    assert passes.read == {"policy": read, "other": 0} and passes.total() == read
    batch = encode(tokenizer(), ["write to ben", "no"], ["yes", "thank you for it"])
    size = batch.input_ids.numel()
    token_logprobs(other, batch).sum().backward()
    assert passes.learnt == {"policy": 0, "other": size}
    with torch.no_grad():
        token_logprobs(other, batch)
    assert passes.total() == read + 4 * size
    passes.counting = False
    token_logprobs(model, batch)
    assert passes.total() == read + 4 * size
    assert passes.read == {"policy": read, "other": size}


def test_the_reward_models_line(small, given):
    line = choosing_letters.run(1, REWARD, 1)
    json.dumps(line, allow_nan=False)
    assert [row["n"] for row in line["best_of"]] == [1, 2, 4]
    rewards = [row["reward"] for row in line["best_of"]]
    assert rewards == sorted(rewards)
    first = line["best_of"][0]["passes"]
    assert [row["passes"] for row in line["best_of"]] == pytest.approx(
        [first, 2 * first, 4 * first]
    )
    assert line["best_of"][0]["kl"] == 0
    # 130 steps of all the pairs there are, both replies: at most the longest of them each
    batch = encode(given.tokenizer, list(given.pairs["prompt"]), list(given.pairs["chosen"]))
    assert reward_scores(given.reward_model, batch).shape == (len(given.pairs),)
    longest = 2 * 64 * 130 * 3 * 64
    assert 0.2 * longest < line["training_passes"] < longest


def test_a_rate_is_chosen_by_gold_on_the_tuning_seed(monkeypatch):
    lines = [
        {"seed": seed, "run": name, "factor": factor, "curve": [{"gold": 9.0}, {"gold": gold}]}
        for name in RUNS
        for seed, golds in ((TUNED_ON, (1.0, 3.0, 2.0)), (1, (5.0, 1.0, 1.0)))
        for factor, gold in zip(FACTORS[1:-1], golds)
    ]
    monkeypatch.setattr(choosing_letters, "recorded", lambda path: lines)
    assert choosing_letters.chosen_factors() == dict.fromkeys(RUNS, 1)
    del lines[0]
    with pytest.raises(
        ValueError, match="sft on chosen: not all rates were tried; expected --tune"
    ):
        choosing_letters.chosen_factors()


def test_where_the_best_rate_lies_at_the_edge_the_next_one_is_tried():
    low, third, one, three, high = FACTORS
    assert choosing_letters.to_try({}) == [third, one, three]
    assert choosing_letters.to_try({one: 1.0}) == [third, three]
    golds = {third: 3.0, one: 2.0, three: 1.0}
    assert choosing_letters.to_try(golds) == [low]
    assert choosing_letters.to_try({**golds, low: 2.0}) == []
    assert choosing_letters.to_try({**golds, low: 4.0}) == []  # there is no further one
    assert choosing_letters.to_try({**golds, three: 5.0}) == [high]
    assert choosing_letters.to_try({**golds, one: 5.0}) == []


def test_floors_can_fail():
    line = {"run": "ppo", "seed": 1, "factor": 1, "curve": [{"passes": 1_300_000}]}
    choosing_letters.assert_floors(line)
    choosing_letters.assert_floors({**line, "seed": TUNED_ON, "curve": [{"passes": 1_100_000}]})
    for wrong in (1_100_000, 1_500_000):
        with pytest.raises(AssertionError, match="passes; expected about 1,300,000"):
            choosing_letters.assert_floors({**line, "curve": [{"passes": wrong}]})
    best = [{"reward": 0.0, "gold": 3.0}, {"reward": 1.0, "gold": 4.0}]
    line = {"run": REWARD, "seed": 1, "factor": 1, "accuracy": 0.7, "best_of": best}
    choosing_letters.assert_floors(line)
    for change in ({"accuracy": 0.55}, {"best_of": best[::-1]}):
        with pytest.raises(AssertionError):
            choosing_letters.assert_floors({**line, **change})
