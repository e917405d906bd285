"""The loops: one step re-computed by hand, learning, stopping, resuming, and bad input."""

import dataclasses

import pytest
import torch

from rlhf_lib.algorithms.grpo import GRPO, GRPOConfig
from rlhf_lib.algorithms.ppo import PPO, PPOConfig, token_rewards
from rlhf_lib.mathematics.advantages import gae, group_advantages, masked_whiten
from rlhf_lib.mathematics.kl import k3
from rlhf_lib.models.reward_model import state_values
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import token_logprobs
from rlhf_lib.running.log import RunLog, read_log
from tests.unit.loops import PROMPTS, grpo, ppo
from tests.unit.small import (
    RAGGED,
    count_words,
    early_letters,
    policy,
    reward_model,
    tokenizer,
    weights,
)

LOOPS = pytest.mark.parametrize("make", [ppo, grpo])


# ---------------------------------------------------------------------------------- what a step is


def test_the_first_ppo_update_by_hand():
    """Every tensor of one step again, from the definitions, and the same new weights."""
    settings = dict(num_ppo_epochs=1, mini_batch_size=8, warmup_steps=0, beta=0.3)
    loop, hand = ppo(**settings), ppo(**settings)
    record = loop.step()

    c, rollout = hand.config, loop.rollout
    again = sample(
        hand.policy, tokenizer(), rollout.prompts, 8, generator=torch.Generator().manual_seed(0)
    )
    assert again.completions == rollout.completions
    scores = torch.tensor([float(len(text.split())) for text in rollout.completions])
    scores = scores - 1.0 * ~rollout.finished
    mask = rollout.completion_mask
    with torch.no_grad():
        logprobs, ref_logprobs = (token_logprobs(m, rollout) for m in (hand.policy, hand.reference))
        values = state_values(hand.critic, rollout) * mask
    rewards = -0.3 * (logprobs - ref_logprobs) * mask
    for i in range(8):
        rewards[i, mask[i].sum() - 1] += scores[i]
    advantages, returns = gae(rewards, values, mask, 1.0, 0.95)
    advantages = masked_whiten(advantages, mask)
    new = token_logprobs(hand.policy, rollout)
    ratio = torch.exp(new - rollout.logprobs)
    loss = (
        -(torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages) * mask).sum()
        / mask.sum()
    )
    optimizer = torch.optim.AdamW(
        hand.policy.parameters(), lr=c.learning_rate, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0
    )
    loss.backward()
    torch.nn.utils.clip_grad_norm_(hand.policy.parameters(), 1.0)
    optimizer.step()
    assert record["policy_loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert record["reward"] == pytest.approx(scores.mean().item())
    assert torch.allclose(weights(loop.policy), weights(hand.policy), atol=2e-5)
    assert not torch.allclose(weights(loop.policy), weights(hand.reference), atol=1e-4)
    assert record["value_loss"] == pytest.approx(
        (((values - returns) ** 2 / 2 * mask).sum() / mask.sum()).item(), rel=1e-4
    )


def test_the_first_grpo_update_by_hand():
    settings = dict(num_iterations=1, mini_batch_size=8, warmup_steps=0, beta=0.3)
    loop, hand = grpo(**settings), grpo(**settings)
    with torch.no_grad():  # a reference that differs, so that its term counts
        for model in (loop.reference, hand.reference):
            model.transformer.wte.weight.mul_(1.1)
    record = loop.step()

    rollout = loop.rollout
    mask = rollout.completion_mask
    scores = torch.tensor([float(len(text.split())) for text in rollout.completions])
    scores = scores - 1.0 * ~rollout.finished
    assert rollout.prompts[0] == rollout.prompts[3] != rollout.prompts[4]
    advantages = group_advantages(scores, 4)[:, None]
    with torch.no_grad():
        ref_logprobs = token_logprobs(hand.reference, rollout)
    new = token_logprobs(hand.policy, rollout)
    per_token = -torch.exp(new - rollout.logprobs) * advantages + 0.3 * k3(new - ref_logprobs)
    loss = ((per_token * mask).sum(1) / mask.sum(1)).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(hand.policy.parameters(), 1.0)
    torch.optim.AdamW(
        hand.policy.parameters(),
        lr=hand.config.learning_rate,
        betas=(0.9, 0.95),
        eps=1e-5,
        weight_decay=0.0,
    ).step()
    assert record["policy_loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert record["kl"] == pytest.approx(
        ((rollout.logprobs - ref_logprobs) * mask).sum(1).mean().item(), abs=1e-4
    )
    assert torch.allclose(weights(loop.policy), weights(hand.policy), atol=2e-5)


def test_token_rewards_are_part_of_the_reward_and_not_of_the_graph():
    log_ratio = torch.tensor([[1.0, 2.0, 0.0]], requires_grad=True)
    rewards = token_rewards(torch.tensor([5.0]), log_ratio, torch.tensor([[1, 1, 0]]), beta=0.5)
    assert rewards.tolist() == [[-0.5, 4.0, 0.0]] and not rewards.requires_grad


@LOOPS
def test_the_sampler_and_the_scorer_agree_on_the_first_minibatch(make):
    # dropout stands in the configuration; the loop switches it off
    for record in make(model=lambda seed: policy(seed, dropout=0.1)):
        assert record["ratio_gap"] < 1e-5


@LOOPS
def test_the_reference_does_not_move(make):
    loop = make()
    before = weights(loop.reference)
    first = weights(loop.policy)
    list(loop)
    assert torch.equal(weights(loop.reference), before)
    assert not torch.equal(weights(loop.policy), first)


@LOOPS
def test_the_reward_goes_up(make):
    records = list(
        make(
            reward=early_letters,
            max_steps=40,
            batch_size=32,
            mini_batch_size=16,
            learning_rate=3e-3,
            beta=0.0,
        )
    )
    gain = sum(r["reward"] for r in records[-5:]) / 5 - sum(r["reward"] for r in records[:5]) / 5
    assert gain > 1.0


@LOOPS
def test_a_larger_beta_keeps_the_policy_nearer(make):
    def distance(beta):
        records = list(
            make(
                reward=early_letters,
                max_steps=25,
                batch_size=32,
                mini_batch_size=16,
                learning_rate=3e-3,
                beta=beta,
            )
        )
        return sum(r["kl"] for r in records[-5:]) / 5

    assert distance(0.0) > 2 * distance(5.0)


# ------------------------------------------------------------------------- steering and stopping


@LOOPS
def test_beta_can_be_turned_while_the_loop_runs(make):
    loop, betas = make(), []
    for record in loop:
        betas.append(record["beta"])
        loop.beta = record["beta"] / 2
    assert betas == pytest.approx([loop.config.beta / 2**i for i in range(4)])


def test_beta_adapts_to_a_target():
    loop = ppo(target_kl=1e-6, kl_horizon=80, max_steps=3)
    with torch.no_grad():
        loop.reference.transformer.wte.weight.mul_(1.2)
    betas = [record["beta"] for record in loop]
    assert betas[1] == pytest.approx(0.1 * 1.02) and betas[2] == pytest.approx(0.1 * 1.02**2)


@LOOPS
def test_a_resumed_run_gives_the_same_numbers(make, tmp_path):
    whole = make()
    whole_records = list(whole)
    first = make()
    records = [first.step(), first.step()]
    first.beta = 0.05
    first.save(tmp_path / "checkpoint")
    first.save(tmp_path / "checkpoint")  # replacing the one before
    second = make(model_seed=1)  # other weights, to be replaced
    second.reference = first.reference
    second.resume(tmp_path / "checkpoint")
    assert second.beta == 0.05 and second.step_number == 2
    second.beta = first.config.beta
    records += list(second)
    for record, expected in zip(records, whole_records, strict=True):
        assert {**record, "seconds": 0} == {**expected, "seconds": 0}
    assert torch.equal(weights(second.policy), weights(whole.policy))


@LOOPS
def test_an_interrupted_run_leaves_its_log_and_last_checkpoint_usable(make, tmp_path):
    """Ctrl-C in the middle of a step; a torn line in the log, as a power cut would leave it."""
    loop = make()

    def interrupting(prompts, completions):
        if loop.step_number == 2:
            raise KeyboardInterrupt
        return count_words(prompts, completions)

    loop.reward = interrupting
    with pytest.raises(KeyboardInterrupt), RunLog(tmp_path / "log.jsonl") as log:
        for record in loop:
            log.write(record)
            loop.save(tmp_path / "last")
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 3, "rew')
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [1, 2]

    again = make()
    again.resume(tmp_path / "last")
    with RunLog(tmp_path / "log.jsonl") as log:
        for record in again:
            log.write(record)
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4]


def test_a_checkpoint_is_an_ordinary_model_folder(tmp_path):
    loop = ppo()
    loop.step()
    loop.save(tmp_path / "c")
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "c" / "policy")
    assert torch.equal(weights(loaded), weights(loop.policy))


# -------------------------------------------------------------------------------------- bad input


@LOOPS
def test_a_missing_checkpoint_is_named(make, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a checkpoint with state.pt"):
        make().resume(tmp_path / "none")


@LOOPS
@pytest.mark.parametrize("part", ["state.pt", "policy/model.safetensors"])
def test_a_corrupt_checkpoint_is_named(make, tmp_path, part):
    loop = make()
    loop.save(tmp_path / "c")
    file = tmp_path / "c" / part
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match="expected a readable checkpoint"):
        make().resume(tmp_path / "c")


@LOOPS
@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(batch_size=9), "batch_size is 9; expected a multiple of mini_batch_size=4"),
        (dict(temperature=0.0), "temperature is 0.0; expected a positive number"),
        (dict(beta=-0.1), "beta is -0.1; expected 0 or more"),
        (dict(learning_rate=float("nan")), "learning_rate is nan"),
        (dict(max_new_tokens=0), "max_new_tokens is 0"),
        (dict(max_grad_norm=0.0), "max_grad_norm is 0.0"),
        (dict(warmup_steps=-1), "warmup_steps is -1; expected 0 or more"),
    ],
)
def test_bad_settings_are_named(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(num_ppo_epochs=0), "num_ppo_epochs is 0; expected at least 1"),
        (dict(critic_learning_rate=-1.0), "critic_learning_rate is -1.0; expected a positive"),
        (dict(gamma=1.1), "gamma is 1.1; expected 0 to 1"),
        (dict(lam=float("nan")), "lam is nan; expected 0 to 1"),
        (dict(epsilon_value=0.0), "epsilon_value is 0.0; expected a positive number"),
        (dict(target_kl=-1.0), "target is -1.0; expected a positive number"),
        (dict(target_kl=6.0, kl_horizon=0), "horizon is 0; expected a positive number"),
        (dict(dual_clip=1.2), "dual_clip is 1.2; expected more than 1.2"),
        (dict(target_kl=6.0, beta=0.0), "beta is 0, and target_kl would multiply it"),
        (dict(target_kl=float("inf")), "target is inf; expected a positive number"),
    ],
)
def test_settings_of_ppo_are_refused_before_a_model_moves(settings, message):
    with pytest.raises(ValueError, match=message):
        ppo(**settings)
    ppo(epsilon_value=None, dual_clip=1.3, target_kl=6.0, gamma=0.0, lam=1.0)


@pytest.mark.parametrize("shared", [False, True])
def test_ppo_needs_a_reference(shared):
    with pytest.raises(ValueError, match="reference .*is None; expected"):
        ppo(reference=lambda model: None, shared=shared)


def test_groups_must_fit_the_batch():
    with pytest.raises(ValueError, match="num_generations is 3; .* divisor of batch_size=8"):
        grpo(num_generations=3)


@LOOPS
def test_one_model_in_two_roles_is_refused(make):
    model = policy()
    with pytest.raises(ValueError, match="are the same model; expected a copy"):
        if make is ppo:
            PPO(model, model, reward_model(), tokenizer(), count_words, PROMPTS, PPOConfig())
        else:
            GRPO(model, model, tokenizer(), count_words, PROMPTS, GRPOConfig())


@LOOPS
@pytest.mark.parametrize(
    "reward, error, message",
    [
        (lambda prompts, completions: [1.0], ValueError, "returned 1 rewards; expected 8"),
        (
            lambda prompts, completions: [float("nan")] * 8,
            ValueError,
            "returned nan for completion 0",
        ),
        (lambda prompts, completions: 1 / 0, RuntimeError, "raised ZeroDivisionError"),
    ],
)
def test_a_bad_reward_stops_the_run_and_changes_nothing(make, reward, error, message):
    loop = make(reward=reward)
    before = weights(loop.policy)
    with pytest.raises(error, match=message):
        loop.step()
    assert torch.equal(weights(loop.policy), before) and loop.step_number == 0


@LOOPS
def test_a_gradient_that_is_not_finite_is_refused(make):
    loop = make()
    with torch.no_grad():
        loop.reference.transformer.wte.weight.fill_(float("nan"))
    before = weights(loop.policy)
    with pytest.raises(FloatingPointError, match="the update was refused"):
        loop.step()
    assert torch.equal(weights(loop.policy), before)


@LOOPS
def test_empty_and_overlong_prompts_are_named(make):
    from datasets import Dataset

    with pytest.raises(ValueError, match="Row 0 has the prompt ''; expected text"):
        make(dataset=Dataset.from_dict({"prompt": [""]}))
    with pytest.raises(ValueError, match="expected at most 64, the context of the policy"):
        make(dataset=Dataset.from_dict({"prompt": [RAGGED[0] * 4]}))


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PPOConfig().beta = 1.0
