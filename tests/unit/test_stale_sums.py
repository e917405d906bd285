"""The benchmark of stale samples on sums, rehearsed in small: its lag, its sampler, its lines."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch

from benchmarks import stale_sums
from rlhf_lib.models.tokens import token_logprobs
from rlhf_lib.running import artifacts
from rlhf_lib.worlds import sums


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(stale_sums, "STEPS", 3)
    monkeypatch.setattr(stale_sums, "PROMPTS", 4)
    monkeypatch.setattr(stale_sums, "MEASURED_AT", (3,))
    few = dict(max_steps=3, batch_size=8, mini_batch_size=8, num_generations=4, max_new_tokens=12)
    monkeypatch.setattr(stale_sums, "PLAIN", dataclasses.replace(stale_sums.PLAIN, **few))


@pytest.mark.parametrize("name", stale_sums.RUNS)
def test_every_run_gives_a_line_that_json_can_hold(small, name):
    line = stale_sums.run(1, name)
    json.dumps(line, allow_nan=False)
    assert [row["step"] for row in line["measured"]] == [0, 3]
    assert [row["step"] for row in line["curve"]] == [1, 2, 3]
    weighs = line["settings"]["importance_sampling"] is not None
    assert ("sampler_kl" in line["curve"][0]) == weighs
    assert line["curve"][0].get("sampler_kl", 0) == pytest.approx(0, abs=0.05)  # before any update
    if "ignored" in name:
        assert all(row["importance_weight"] == pytest.approx(1) for row in line["curve"])


def loop(lag, dtype=None, **settings):
    base, tokenizer = artifacts.load("sums", "base")
    few = dict(batch_size=8, mini_batch_size=8, num_generations=4, max_new_tokens=12)
    config = dataclasses.replace(stale_sums.PLAIN, learning_rate=1e-2, warmup_steps=0, **few)
    config = dataclasses.replace(config, importance_sampling="token_mask", **settings)
    data = sums.prompts(50, seed=3)
    reward = lambda completions, **columns: [float(len(text)) for text in completions]  # noqa: E731
    made = stale_sums.Stale(copy.deepcopy(base), None, tokenizer, reward, data, config)
    made.lag, made.dtype = lag, dtype
    return made


def test_the_sampler_is_the_policy_of_that_many_updates_ago():
    made, policies, drawn = loop(lag=2), [], []
    inner = made.corrected
    made.corrected = lambda policy, rollout: drawn.append(rollout) or inner(policy, rollout)
    for _ in range(5):
        policies.append(copy.deepcopy(made.policy))
        made.step()
    for step, rollout in enumerate(drawn):
        mask = rollout.completion_mask.bool()
        for age, policy in enumerate(reversed(policies[: step + 1])):
            with torch.no_grad():
                gap = (token_logprobs(policy, rollout) - rollout.logprobs)[mask].abs().max()
            assert (gap < 1e-3) == (age == min(2, step)), (step, age)


def test_a_sampler_in_bfloat16_is_not_old_but_rounded():
    made, drawn = loop(lag=0, dtype=torch.bfloat16), []
    inner = made.corrected
    made.corrected = lambda policy, rollout: drawn.append(rollout) or inner(policy, rollout)
    made.step()
    before = loop(lag=0).policy
    mask = drawn[0].completion_mask.bool()
    gap = (token_logprobs(before, drawn[0]) - drawn[0].logprobs)[mask].abs()
    assert 1e-4 < gap.mean() < 0.05


def test_floors_can_fail():
    line = {"seed": 1, "run": "clipped, 2", "curve": [0] * stale_sums.STEPS}
    line["measured"] = [{"step": 0, "sampled": 0.2}, {"step": stale_sums.STEPS, "sampled": 0.9}]
    stale_sums.assert_floors(line)
    for broken in ({"curve": []}, {"measured": [line["measured"][0], line["measured"][0]]}):
        with pytest.raises(AssertionError, match="seed 1, clipped, 2"):
            stale_sums.assert_floors({**line, **broken})
    with pytest.raises(AssertionError, match="seed 1, ignored, 8: sampled 0.9"):
        stale_sums.assert_floors({**line, "run": "ignored, 8"})
    assert stale_sums.FLOORS.keys() <= stale_sums.RUNS.keys()
