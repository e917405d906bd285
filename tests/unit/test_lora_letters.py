"""The benchmark of LoRA on letters, in small: its lines, the choice of a rate, and its bytes."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from benchmarks import lora_letters
from benchmarks.recording import recorded
from rlhf_lib.models.reward_model import new_reward_model
from rlhf_lib.running import artifacts
from tests.unit.small import hasty, tokenizer, weights

pytest.importorskip("peft")


@pytest.fixture
def small(monkeypatch):
    """Two steps of a model that writes nonsense, judged by one that has learnt nothing."""
    monkeypatch.setattr(lora_letters, "STEPS", 2)
    monkeypatch.setattr(lora_letters, "MEASURED_AT", (1, 2))
    monkeypatch.setattr(lora_letters, "PROMPTS", 6)
    monkeypatch.setattr(artifacts, "letters_models", lambda *how: (hasty(), hasty(), tokenizer()))
    monkeypatch.setattr(artifacts, "load", lambda *how: (new_reward_model(hasty()), tokenizer()))


def test_every_arm_gives_a_line_that_json_can_hold(small):
    lines = {arm: lora_letters.run(1, arm, 1e-3) for arm in lora_letters.RANKS}
    for arm, line in lines.items():
        json.dumps(line, allow_nan=False)
        assert [row["step"] for row in line["curve"]] == [0, 1, 2] and line["failed"] is None
        assert line["curve"][0]["kl"] == 0 < line["curve"][2]["kl"]
        assert line["settings"]["learning_rate"] == line["rate"] == 1e-3
        assert line["optimizer_bytes"] == 2 * line["gradient_bytes"] == 8 * line["trained"]
        assert line["gradient_bytes"] < line["checkpoint_bytes"] < line["gradient_bytes"] + 20_000
        assert line["curve"][0] == lines["full"]["curve"][0], arm
    assert lines["full"]["trained"] == lines["full"]["parameters"] == weights(hasty()).numel()
    for rank in (2, 4, 8, 16):
        assert lines[f"rank {rank}"]["trained"] == rank * lines["rank 1"]["trained"]


def test_the_trial_of_a_rate_is_measured_at_its_end(small):
    line = lora_letters.run(lora_letters.TUNED_ON, "rank 2", 3e-3)
    (end,) = line["curve"]
    assert end["step"] == 2
    assert line["objective"] == pytest.approx(end["reward"] - 0.1 * end["kl"])


def test_a_rate_at_which_nothing_is_finite_any_more_is_a_line_too(small, monkeypatch):
    def step(self):
        raise FloatingPointError("the gradient of policy is not finite")

    monkeypatch.setattr(lora_letters.GRPO, "step", step)
    line = lora_letters.run(lora_letters.TUNED_ON, "full", 1.0)
    assert line["failed"] and line["objective"] is None and line["curve"] == []
    json.dumps(line, allow_nan=False)


def test_an_adapter_starts_as_the_model_under_it_and_is_its_own_reference():
    sft = hasty()
    before = weights(sft)
    policy, reference = lora_letters.start(sft, "rank 2", seed=3)
    ids = torch.arange(3, 9)[None]
    assert reference is None and torch.equal(policy(ids).logits, sft(ids).logits)
    whole, reference = lora_letters.start(sft, "full", seed=3)
    assert reference is sft and whole is not sft and torch.equal(weights(sft), before)


def tried(arm: str, objectives: list) -> list[dict]:
    return [
        {"seed": lora_letters.TUNED_ON, "arm": arm, "rate": rate, "objective": objective}
        for rate, objective in zip(lora_letters.rates(arm), objectives, strict=True)
    ]


def test_an_arm_takes_the_rate_that_ended_best_on_a_seed_apart():
    other = {"seed": 1, "arm": "rank 1", "rate": 1e-2, "objective": 9.0}
    lines = [*tried("rank 1", [0.1, 0.4, 0.3, None]), *tried("full", [0.2, 0.1, None]), other]
    assert lora_letters.chosen_rate(lines, "rank 1") == 1e-3
    assert lora_letters.chosen_rate(lines, "full") == 1e-4
    with pytest.raises(ValueError, match=r"rank 1 was not tried at \[0.01\] on seed 0"):
        lora_letters.chosen_rate(lines[:3], "rank 1")
    assert lora_letters.TUNED_ON not in (1, 2, 3, 4, 5)


def test_the_command_tries_the_rates_and_then_makes_the_runs_at_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr(lora_letters, "RESULTS", tmp_path / "lora.jsonl")
    monkeypatch.setattr(lora_letters, "assert_floors", lambda line: None)
    monkeypatch.setattr("sys.argv", ["lora_letters", "--seeds", "1", "2", "--arms", "full"])

    def run(seed, arm, rate):
        return {"seed": seed, "arm": arm, "rate": rate, "objective": -abs(rate - 3e-4)}

    monkeypatch.setattr(lora_letters, "run", run)
    threads = torch.get_num_threads()
    try:
        lora_letters.main()
        lora_letters.main()  # nothing is made twice
    finally:
        torch.set_num_threads(threads)
    lines = recorded(tmp_path / "lora.jsonl")
    assert [(x["seed"], x["rate"]) for x in lines] == [
        (0, 1e-4),
        (0, 3e-4),
        (0, 1e-3),
        (1, 3e-4),
        (2, 3e-4),
    ]


def test_floors_can_fail():
    def line(arm: str, **changed) -> dict:
        trained = 845_696 if arm == "full" else 8_192
        good = {
            "arm": arm,
            "seed": 1,
            "parameters": 845_696 + (0 if arm == "full" else 8_192),
            "trained": trained,
            "gradient_bytes": 4 * trained,
            "optimizer_bytes": 8 * trained,
            "checkpoint_bytes": 4 * trained + 4_000,
            "failed": None,
            "curve": [{"reward": 0.1, "kl": 0.0}, {"reward": 0.8, "kl": 3.0}],
        }
        return good | changed

    for arm in ("rank 1", "full"):
        lora_letters.assert_floors(line(arm))
    for worse in (
        line("full", trained=845_695),
        line("rank 1", trained=8_193),
        line("rank 1", checkpoint_bytes=3_387_816),
        line("rank 1", optimizer_bytes=1),
        line("full", failed="not finite"),
        line("full", curve=[{"reward": 0.1, "kl": 0.0}, {"reward": 0.1, "kl": 3.0}]),
        line("full", curve=[{"reward": 0.1, "kl": 0.0}, {"reward": 0.8, "kl": 21.0}]),
    ):
        before = copy.deepcopy(worse)
        with pytest.raises(AssertionError, match=f"{worse['arm']}, seed 1"):
            lora_letters.assert_floors(worse)
        assert worse == before
