"""The benchmark of distillation on sums, rehearsed in small: who writes, what is learnt."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch

from benchmarks import distillation_sums
from benchmarks.distillation_sums import MARKS, WRITTEN_BY, assert_floors
from rlhf_lib.mathematics.losses import sft_loss
from rlhf_lib.models.tokens import token_logprobs
from rlhf_lib.worlds import sums

TINY = dict(batch_size=8, mini_batch_size=8, num_generations=4)


@pytest.fixture(scope="module")
def given():
    """Material with a teacher of two steps, at a rate at which they show."""
    with pytest.MonkeyPatch.context() as patch:
        teacher = dataclasses.replace(
            distillation_sums.TEACHER, max_steps=2, learning_rate=3e-3, warmup_steps=0, **TINY
        )
        patch.setattr(distillation_sums, "HELD_OUT", 6)
        patch.setattr(distillation_sums, "TEACHER", teacher)
        patch.setattr(distillation_sums, "TEACHER_AT", (1, 2))
        patch.setattr(
            distillation_sums,
            "STUDENT",
            dataclasses.replace(distillation_sums.STUDENT, batch_size=8),
        )
        patch.setattr(
            distillation_sums, "SMALL", dataclasses.replace(distillation_sums.SMALL, **TINY)
        )
        patch.setattr(sums, "strict_verifier", an_even_length_is_right)
        yield distillation_sums.Material(1)


def an_even_length_is_right(prompts, completions, **columns):
    """A verifier that a handful of completions has verdicts of both kinds from."""
    return [float(len(text) % 2 == 0) for text in completions]


def test_every_kind_of_run_gives_a_line_that_json_can_hold(given, monkeypatch):
    monkeypatch.setattr(distillation_sums, "MARKS", (60, 61, 900))
    monkeypatch.setattr(distillation_sums, "material", lambda seed: given)
    starts = []
    for name in distillation_sums.RUNS:
        line = distillation_sums.run(1, name)
        json.dumps(line, allow_nan=False)
        start, *curve = line["curve"]
        tokens = [row["tokens"] for row in curve]
        if name == "teacher":
            assert [row["step"] for row in curve] == [1, 2] and "kl" not in curve[0]
            chances = list(line["base_pass_at"].values())
            assert chances == sorted(chances) and 0 <= chances[0] <= chances[-1] <= 1
        else:
            assert line["written_by"] == WRITTEN_BY[name]
            assert 60 <= tokens[0] and 900 <= tokens[-1] < 900 + 16 * sums.MAX_NEW_TOKENS
            assert len(tokens) == 2  # a step that passes two marks is measured once
            assert curve[-1]["kl"] > 0
        assert {"sampled", "greedy", "working", "length"} <= curve[-1].keys()
        starts.append(start)
    assert all(start == starts[0] for start in starts) and starts[0]["tokens"] == 0


@pytest.mark.parametrize("name", [name for name in WRITTEN_BY if "grpo" not in name])
def test_the_one_who_is_named_has_written_the_batch(given, name):
    loop = given.loop(name)
    if name == "opd, to go":
        rollout, _, _ = loop.collect()
    else:
        (rollout,) = loop.collect()
    for model, wrote in ((loop.policy, "student"), (given.teacher, "teacher")):
        with torch.no_grad():
            gap = (token_logprobs(model, rollout) - rollout.logprobs).abs().max()
        assert (gap < 1e-4) == (WRITTEN_BY[name] == wrote)


@pytest.mark.parametrize("name", ["rejection", "rejection, groups", "sft, right"])
def test_only_what_the_verifier_accepts_is_learnt(given, name):
    loop = given.loop(name)
    (rollout,) = loop.collect()
    lesson = loop.lesson(rollout)
    right = [len(text) % 2 == 0 for text in rollout.completions]
    assert 0 < sum(right) < len(right)
    expected = rollout.completion_ids[torch.tensor(right)]
    assert torch.equal(lesson.completion_ids, expected) and (lesson.advantages == 1).all()
    loss, _ = loop.weighted(lesson)
    logprobs = token_logprobs(loop.policy, lesson)
    assert loss.item() == pytest.approx(sft_loss(logprobs, lesson.completion_mask).item())


def test_a_batch_without_a_right_completion_moves_nothing(given, monkeypatch):
    monkeypatch.setattr(sums, "strict_verifier", distillation_sums.nothing)
    loop = given.loop("rejection")
    record = loop.step()
    assert record["kept"] == 0 and "loss" not in record
    before, after = given.base.parameters(), loop.policy.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after))


def test_on_policy_distillation_learns_from_the_log_ratio_to_the_teacher(given):
    loop = given.loop("opd")
    (rollout,) = loop.collect()
    lesson = loop.lesson(rollout)
    with torch.no_grad():
        ratio = token_logprobs(given.teacher, rollout) - token_logprobs(loop.policy, rollout)
    assert torch.allclose(lesson.advantages, ratio, atol=1e-4) and ratio.abs().max() > 0.1
    loss, _ = loop.weighted(lesson)
    by_hand = -(ratio * token_logprobs(loop.policy, rollout))[rollout.completion_mask == 1].mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-3)


def test_over_the_whole_vocabulary_the_loss_is_the_kl_at_each_prefix(given):
    loop = given.loop("opd, whole")
    (rollout,) = loop.collect()
    loss, _ = loop.whole(loop.lesson(rollout))
    alike, _ = given.loop("opd, whole"), None
    alike.policy = given.teacher
    assert loss.item() > 0.01
    with torch.no_grad():
        assert alike.whole(alike.lesson(rollout))[0].item() == pytest.approx(0, abs=1e-6)


def test_a_run_is_told_by_its_name_how_many_completions_an_update_has(given):
    for name in WRITTEN_BY:
        wanted = 16 if name.endswith("16") else 8
        assert given.loop(name).config.batch_size == wanted
    (alone,), (grouped,) = (given.loop(x).collect() for x in ("rejection", "rejection, groups"))
    assert len(set(alone.prompts)) == len(alone) == len(grouped) == 8
    assert len(set(grouped.prompts)) == 2
    loop = given.loop("grpo, 16")
    assert loop.config.mini_batch_size == 16 and loop.config.num_generations == 4


def test_what_is_still_to_come_is_k1_in_the_reward_of_grpo(given):
    loop = given.loop("opd, to go")
    c = loop.config
    assert loop.reference is given.teacher and c.kl_in == "reward" and c.beta == 1
    assert c.advantage == "return_to_go" and c.num_generations == 1
    assert loop.reward(prompts=["1+1="], completions=["2"]) == [0.0]


def test_floors_can_fail():
    def line(name: str, **end) -> dict:
        start = {"step": 0, "tokens": 0, "sampled": 0.18, "greedy": 0.09, "kl": 3.5}
        usual = {"sampled": 0.87, "greedy": 0.97, "kl": 0.3, "tokens": MARKS[-1] + 500}
        return {"run": name, "seed": 1, "curve": [start, {"step": 20, **usual, **end}]}

    for name in distillation_sums.RUNS:
        assert_floors(line(name))
        with pytest.raises(AssertionError, match=f"{name}, seed 1"):
            assert_floors(line(name, sampled=0.2))
    for worse in ({"kl": 4.0}, {"tokens": MARKS[-1] - 1}):
        with pytest.raises(AssertionError, match="opd, seed 1"):
            assert_floors(line("opd", **worse))
    spoilt = copy.deepcopy(line("teacher"))
    spoilt["curve"][0]["sampled"] = 0.7
    with pytest.raises(AssertionError, match="teacher, seed 1"):
        assert_floors(spoilt)
