"""The benchmark of gold against KL, in small: its lines, its batches, its floors."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from benchmarks import frontier_letters
from rlhf_lib.models.reward_model import new_reward_model
from rlhf_lib.running import artifacts
from tests.unit.small import hasty, tokenizer


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Two steps of a model that writes nonsense, judged by one that has learnt nothing."""
    for name, value in dict(STEPS=2, PROMPTS=6, BEST_OF=4, OF_PROMPTS=2).items():
        monkeypatch.setattr(frontier_letters, name, value)
    monkeypatch.setattr(artifacts, "letters_models", lambda *how: (hasty(), hasty(), tokenizer()))
    monkeypatch.setattr(artifacts, "load", lambda *how: (new_reward_model(hasty()), tokenizer()))


@pytest.mark.parametrize("method", frontier_letters.BETAS)
def test_every_method_gives_a_line_that_json_can_hold(method):
    beta = frontier_letters.BETAS[method][0]
    line = frontier_letters.run(1, method, beta)
    json.dumps(line, allow_nan=False)
    assert (line["seed"], line["method"], line["beta"]) == (1, method, beta)
    if method == "best of n":
        assert [row["n"] for row in line["best_of_n"]] == [1, 2, 4]
        frontier_letters.assert_floors(line)
    else:
        assert len(line["curve"]) == 2 and line["settings"]["beta"] == beta
        assert line["before"]["kl"] == 0 < line["after"]["kl"]
        assert sum(line["after"]["mix"].values()) == pytest.approx(1)


def prompts_of_a_step(monkeypatch, method: str) -> Counter:
    """How often each prompt is answered in the first step of a run."""
    seen: list[list[str]] = []
    loop = frontier_letters.GRPO if method.startswith("grpo") else frontier_letters.PPO
    sample = loop.sample_and_score

    def noted(self, *given, **how):
        rollout, scores = sample(self, *given, **how)
        seen.append(rollout.prompts)
        return rollout, scores

    monkeypatch.setattr(loop, "sample_and_score", noted)
    frontier_letters.run(1, method, frontier_letters.BETAS[method][0])
    return Counter(seen[0])


def test_ppo_on_groups_answers_the_prompts_of_grpo_as_often(monkeypatch):
    groups, grpo, ppo = (
        prompts_of_a_step(monkeypatch, name) for name in ("ppo, 8 prompts", "grpo", "ppo")
    )
    assert groups == grpo and set(groups.values()) == {8}
    assert len(ppo) > 32


def test_the_forms_differ_in_what_their_names_say():
    of = frontier_letters.METHODS
    assert of["ppo"] == of["ppo, 8 prompts"]
    assert (of["grpo"].kl_in, of["grpo, as published"].kl_in) == ("reward", "loss")
    assert (of["grpo"].scale_rewards, of["grpo, undivided"].scale_rewards) == ("std", "none")
    assert of["grpo"].batch_size == of["ppo"].batch_size == 64
    assert of["grpo"].num_generations == frontier_letters.EACH


def test_a_run_that_learns_nothing_does_not_clear_the_floor():
    line = {"seed": 1, "method": "ppo", "beta": 0.1, "before": {"reward": 0.0}}
    frontier_letters.assert_floors({**line, "after": {"reward": 0.2, "kl": 1.0}})
    for after in ({"reward": 0.05, "kl": 1.0}, {"reward": 0.2, "kl": 0.0}):
        with pytest.raises(AssertionError, match="seed 1, ppo at 0.1"):
            frontier_letters.assert_floors({**line, "after": after})
    rows = [{"reward": 0.1}, {"reward": 0.0}]
    with pytest.raises(AssertionError, match="best of n"):
        frontier_letters.assert_floors({**line, "method": "best of n", "best_of_n": rows})
