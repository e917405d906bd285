"""Each omission of the checklist does what it says, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import pkgutil

import pytest
import torch

import rlhf_lib.algorithms.loop
import rlhf_lib.algorithms.ppo
from benchmarks.ppo_checklist import (
    CHECKLIST,
    RESULTS,
    assert_recorded,
    effects,
    left_out,
    loop_without,
)
from rlhf_lib.algorithms.ppo import PPOConfig
from rlhf_lib.mathematics.advantages import masked_mean, masked_variance, token_rewards
from rlhf_lib.models.reward_model import token_values
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import token_logprobs
from rlhf_lib.running.log import read_log
from rlhf_lib.worlds import letters
from tests.unit.small import RAGGED, count_words, policy, reward_model, tokenizer

SMALL = PPOConfig(
    max_steps=2,
    batch_size=16,
    mini_batch_size=8,
    max_new_tokens=24,
    critic_learning_rate=0.05,
    max_grad_norm=0.05,
)  # both clips have something to do
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
LOG_RATIO = torch.tensor([[0.1, 0.2, -0.1, 0.4], [0.3, -0.2, 9.0, 9.0]])  # whatever stands on a pad
SCORES = torch.tensor([2.0, -1.0])


def talker():
    """A small policy that ends some of its replies early, and others not."""
    model = policy()
    with torch.no_grad():
        model.transformer.ln_f.bias += model.lm_head.weight[tokenizer().eos_token_id]
    return model


def loop(name: str, reward=count_words):
    return loop_without(
        name, talker(), reward_model(1), tokenizer(), reward, letters.prompts(50, seed=0), SMALL
    )


def step(name: str):
    made = loop(name, LearnedReward(reward_model(2), tokenizer()))
    with left_out(name):
        return made, made.step()


@pytest.fixture(scope="module")
def usual():
    return step("nothing")


@pytest.mark.parametrize("name", CHECKLIST)
def test_an_item_left_out_changes_the_run_and_nothing_after_it(name, usual):
    before = {target: lookup(target) for item in CHECKLIST.values() for target in item.replaced}
    made, record = step(name)
    assert {target: lookup(target) for target in before} == before
    after, expected = (
        [p.detach().clone() for p in model.parameters()] for model in (made.policy, usual[0].policy)
    )
    assert 0 < usual[1]["finished"] < 1
    same = all(torch.equal(a, b) for a, b in zip(after, expected))
    if name == "value_clip":  # it touches the critic alone, and acts once the critic has moved
        same = all(
            torch.equal(a, b)
            for a, b in zip(made.critic.parameters(), usual[0].critic.parameters())
        )
    assert same == (name == "nothing")
    assert CHECKLIST[name].rule and CHECKLIST[name].without


def lookup(target: str):
    return pkgutil.resolve_name(target)


@pytest.mark.parametrize(
    "name, apart",
    [("nothing", False), ("position_ids", True), ("dropout", True), ("temperature", False)],
)
def test_sampler_and_scorer_come_apart(name, apart):
    """Cooler samples scored warm are another policy's, yet the ratio starts at 1: it hides."""
    _, record = step(name)
    assert (record["ratio_gap"] > 0.01) == apart


def test_cooler_samples_are_cooler():
    with left_out("temperature"):
        rollout = rlhf_lib.algorithms.loop.sample(
            policy(), tokenizer(), RAGGED * 4, 8, 1.0, torch.Generator().manual_seed(0)
        )
    again = sample(
        policy(), tokenizer(), RAGGED * 4, 8, 0.7, generator=torch.Generator().manual_seed(0)
    )
    assert rollout.completions == again.completions
    with torch.no_grad():
        assert torch.allclose(rollout.logprobs, token_logprobs(policy(), again), atol=1e-5)
    assert not torch.allclose(rollout.logprobs, again.logprobs, atol=1e-2)


def test_the_mask_stops_before_the_end_token():
    arguments = (talker(), tokenizer(), RAGGED * 8, 24, 1.0)
    whole = sample(*arguments, torch.Generator().manual_seed(0))
    with left_out("end_token"):
        cut = rlhf_lib.algorithms.loop.sample(*arguments, torch.Generator().manual_seed(0))
    assert whole.finished.any() and cut.completions == whole.completions
    one_less = whole.finished & (whole.lengths > 1)
    assert torch.equal(whole.lengths - cut.lengths, one_less.long())
    eos = tokenizer().eos_token_id
    assert not (cut.completion_ids[cut.completion_mask.bool() & one_less[:, None]] == eos).any()


def test_where_the_score_lands():
    by_the_book = token_rewards(SCORES, LOG_RATIO, MASK, 0.5)
    with left_out("score_place"):
        at_the_pad = rlhf_lib.algorithms.ppo.token_rewards(SCORES, LOG_RATIO, MASK, 0.5)
    with left_out("kl_per_token"):
        lumped = rlhf_lib.algorithms.ppo.token_rewards(SCORES, LOG_RATIO, MASK, 0.5)
    assert torch.allclose(
        at_the_pad, torch.tensor([[-0.05, -0.1, 0.05, 1.8], [-0.15, 0.1, 0.0, -1.0]])
    )
    assert torch.allclose(lumped, torch.tensor([[0.0, 0.0, 0.0, 1.7], [0.0, -1.05, 0.0, 0.0]]))
    assert torch.allclose(lumped.sum(dim=1), by_the_book.sum(dim=1))  # same sum, another place


def test_the_score_is_read_at_the_last_column():
    reward = LearnedReward(reward_model(), tokenizer())
    replies = ["hi ben, the lamp is booked for friday.", "no.", "ok."]
    with left_out("score_read"):
        got = torch.tensor(reward(RAGGED[:3], replies))
    batch = rlhf_lib.models.tokens.encode(tokenizer(), RAGGED[:3], replies)
    with torch.no_grad():
        assert torch.allclose(got, token_values(reward.model, batch)[:, -1])
    usual = torch.tensor(reward(RAGGED[:3], replies))
    assert torch.isclose(got, usual).tolist() == [True, False, False]  # the longest has no pad


def test_whitening_left_out_or_over_padding():
    values = torch.tensor([[3.0, 1.0, 2.0, 6.0], [5.0, 7.0, 99.0, 99.0]])
    with left_out("whitening"):
        assert torch.equal(rlhf_lib.algorithms.ppo.masked_whiten(values, MASK), values * MASK)
    with left_out("whitening_mask"):
        white = rlhf_lib.algorithms.ppo.masked_whiten(values, MASK)
    assert (white[1, 2:] == 0).all()
    assert masked_mean(white, MASK) > 0.1  # the padded zeros pulled the mean down
    assert abs(masked_variance(white, torch.ones_like(MASK)) - 1) > 0.01


def test_starting_points_and_settings():
    assert torch.equal(loop("nothing").critic.score.weight, reward_model(1).score.weight)
    fresh = loop("critic_start").critic
    assert not torch.equal(fresh.score.weight, reward_model(1).score.weight)
    assert all(
        torch.equal(a, b)
        for a, b in zip(fresh.base_model.parameters(), talker().base_model.parameters())
    )
    centred, shifted = (
        loop(name).reward(prompts=["a"], completions=["one two"])
        for name in ("nothing", "centring")
    )
    assert shifted[0] - centred[0] == 3.0
    assert [
        loop(name).optimizers["policy"].param_groups[0]["eps"]
        for name in ("nothing", "adam_epsilon")
    ] == [1e-5, 1e-8]
    changed = {
        name: {
            k
            for k, v in dataclasses.asdict(loop(name).config).items()
            if v != dataclasses.asdict(SMALL)[k]
        }
        for name in CHECKLIST
    }
    assert {name: keys for name, keys in changed.items() if keys} == {
        "missing_end": {"missing_eos_penalty"},
        "value_clip": {"epsilon_value"},
        "warmup": {"warmup_steps"},
        "gradient_clip": {"max_grad_norm"},
        "epochs": {"num_ppo_epochs"},
    }


def row(item: str, seed: int, gold: list[float], gap: float = 0.0):
    held_out = {
        "gold": sum(gold) / len(gold),
        "gold_values": gold,
        "reward": 1.0,
        "kl": 2.0,
        "length": 20.0,
    }
    return {
        "item": item,
        "seed": seed,
        "held_out": held_out,
        "stopped": None,
        "curve": [{"step": step, "ratio_gap": gap} for step in range(1, 31)],
    }


def test_effects_are_differences_to_the_run_of_the_same_seed():
    rows = [
        row("nothing", 0, [4.0, 6.0]),
        row("nothing", 1, [1.0, 3.0]),
        row("whitening", 0, [3.0, 6.0]),
    ]
    one = effects(rows[:1] + rows[2:])
    assert one["whitening"]["gold"] == -0.5
    assert one["whitening"]["gold_se"] == pytest.approx(0.5)  # of the differences −1 and 0
    rows += [row("whitening", 1, [1.0, 1.0]), row("warmup", 0, [5.0, 6.0])]
    e = effects(rows)
    assert e["whitening"]["gold_by_seed"] == [-0.5, -1.0] and e["whitening"]["gold"] == -0.75
    noise = (2 * 0.25**2) ** 0.5  # two residuals of a quarter, one degree of freedom
    assert e["whitening"]["gold_se"] == pytest.approx(noise / 2**0.5)
    assert e["warmup"]["gold_se"] == pytest.approx(noise)  # one seed of it, noise as elsewhere
    assert e["nothing"]["gold"] == e["nothing"]["gold_se"] == 0.0


def test_the_record_is_sound_and_a_damaged_one_is_refused():
    recorded = read_log(RESULTS)
    assert_recorded(recorded)
    assert {r["item"] for r in recorded} >= {"nothing", "position_ids", "score_place"}
    for damaged in (
        recorded + recorded[:1],
        [{**recorded[0], "curve": recorded[0]["curve"][:9]}],
        [row("dropout", 0, [1.0])],
        [row("warmup", 0, [1.0], gap=0.5)],
    ):
        with pytest.raises(AssertionError):
            assert_recorded(damaged)
