"""Steps of PPO and GRPO written out from the definitions: several passes, several minibatches, a
temperature, a reference that differs, completions that end early. And where scores are read."""

from __future__ import annotations

import copy

import pytest
import torch

from rlhf_lib.models.reward_model import reward_scores, state_values
from rlhf_lib.models.tokens import encode, token_logprobs
from tests.unit import loops
from tests.unit.loops import with_settings
from tests.unit.small import RAGGED, policy, reward_model, tokenizer, weights

# a rate at which the second pass meets the clip, and a norm that every gradient exceeds
SETTINGS = dict(
    max_steps=1,
    batch_size=8,
    mini_batch_size=4,
    max_new_tokens=8,
    temperature=0.7,
    beta=0.4,
    learning_rate=1e-2,
    warmup_steps=0,
    max_grad_norm=0.05,
    missing_eos_penalty=3.0,
)


def start(seed=0, dropout=0.0):
    """A policy whose completions often end within a few tokens."""
    model = policy(seed, dropout)
    with torch.no_grad():
        embedding, eos = model.transformer.wte.weight, tokenizer().eos_token_id
        embedding[eos] = 1.5 * model.transformer.ln_f(embedding.mean(dim=0))
    return model


def another(model):
    """A reference that differs from the policy."""
    reference = copy.deepcopy(model)
    with torch.no_grad():
        reference.transformer.wte.weight.mul_(1.2)
    return reference


ppo, grpo = (
    with_settings(make, model=start, reference=another, **SETTINGS)
    for make in (loops.ppo, loops.grpo)
)


def scores_of(rollout):
    """One point a word, less three for a completion that was cut off."""
    words = torch.tensor([float(len(text.split())) for text in rollout.completions])
    cut_off = [
        mask.all() and row[-1] != tokenizer().eos_token_id
        for row, mask in zip(rollout.completion_ids, rollout.completion_mask)
    ]
    return words - 3.0 * torch.tensor(cut_off)


def adam(model, rate):
    return torch.optim.AdamW(
        model.parameters(), lr=rate, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0
    )


def climb(model, optimizer, loss):
    model.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    assert norm > 0.05  # or the bound would not be seen
    optimizer.step()


def minibatches():
    """Two passes of two minibatches, in the order that the loop's seed gives."""
    shuffler = torch.Generator().manual_seed(0)
    for _ in range(2):
        yield from torch.randperm(8, generator=shuffler).split(4)


def surrogate(new, old, advantages, high=0.2):
    ratio = torch.exp(new - old)
    outside = ((ratio > 1 + high) | (ratio < 0.8)).any()
    return -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1 + high) * advantages), outside


def ragged(rollout):
    """Several lengths, some completions that ended and some that were cut off."""
    return len(set(rollout.lengths.tolist())) > 2 and 0 < rollout.finished.sum() < 8


def test_a_ppo_step_by_hand():
    loop, hand = ppo(), ppo()
    record, rollout, mask = loop.step(), loop.rollout, loop.rollout.completion_mask
    assert ragged(rollout)
    scores, lengths = scores_of(rollout), mask.sum(dim=1)
    with torch.no_grad():
        old = token_logprobs(hand.policy, rollout, 0.7)
        log_ratio = old - token_logprobs(hand.reference, rollout, 0.7)
        old_values = state_values(hand.critic, rollout)
    assert record["kl"] == pytest.approx((log_ratio * mask).sum(1).mean().item(), abs=1e-4)
    advantages = torch.zeros_like(old)
    for i, n in enumerate(lengths.tolist()):  # the definition, one completion at a time
        rewards = -0.4 * log_ratio[i, :n]
        rewards[-1] += scores[i]
        following = torch.cat([old_values[i, 1:n], torch.zeros(1)])
        delta = rewards + following - old_values[i, :n]
        for t in range(n):
            advantages[i, t] = sum(0.95 ** (s - t) * delta[s] for s in range(t, n))
    returns = advantages + old_values
    real = advantages[mask.bool()]
    advantages = (advantages - real.mean()) / real.std(correction=0)

    optimizers = adam(hand.policy, 1e-2), adam(hand.critic, 5e-4)
    acted = False
    for rows in minibatches():
        part, m = rollout[rows], mask[rows]
        loss, outside = surrogate(
            token_logprobs(hand.policy, part, 0.7), old[rows], advantages[rows]
        )
        acted |= bool(outside)
        climb(hand.policy, optimizers[0], (loss * m).sum() / m.sum())
        values = state_values(hand.critic, part)
        clipped = old_values[rows] + (values - old_values[rows]).clamp(-0.2, 0.2)
        error = torch.maximum((values - returns[rows]) ** 2, (clipped - returns[rows]) ** 2) / 2
        climb(hand.critic, optimizers[1], (error * m).sum() / m.sum())
    assert acted
    assert torch.allclose(weights(loop.policy), weights(hand.policy), atol=2e-4)
    assert torch.allclose(weights(loop.critic), weights(hand.critic), atol=2e-4)
    assert not torch.allclose(weights(loop.policy), weights(ppo().policy), atol=1e-2)


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(kl_in="reward", baseline="leave_one_out", scale_rewards="none"),
        dict(scale_rewards="none", epsilon_high=1.5),
        dict(aggregate_over="budget", scale_rewards="none", max_new_tokens=40),
        dict(use_bias_correction_kl=True),
    ],
    ids=["k3 in the loss", "k1 in the reward", "a high upper clip", "a budget", "ratio times k3"],
)
def test_a_grpo_step_by_hand(settings):
    loop, hand = grpo(**settings), grpo(**settings)
    record = loop.step()
    rollout, mask = loop.rollout, loop.rollout.completion_mask
    budget = settings.get("max_new_tokens")
    assert mask.shape[1] < budget if budget else ragged(rollout)
    with torch.no_grad():
        old = token_logprobs(hand.policy, rollout, 0.7)
        ref = token_logprobs(hand.reference, rollout, 0.7)
    scores = scores_of(rollout)
    in_reward = settings.get("kl_in") == "reward"
    if in_reward:
        scores = scores - 0.4 * ((old - ref) * mask).sum(dim=1)
    groups = scores.view(2, 4)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if settings.get("baseline"):
        advantages = groups - (groups.sum(dim=1, keepdim=True) - groups) / 3
    if not settings.get("scale_rewards"):
        advantages = advantages / (groups.std(dim=1, keepdim=True) + 1e-4)
    advantages = advantages.view(8, 1)

    optimizer, losses, acted = adam(hand.policy, 1e-2), [], False
    for rows in minibatches():
        m, new = mask[rows], token_logprobs(hand.policy, rollout[rows], 0.7)
        loss, outside = surrogate(
            new, old[rows], advantages[rows], settings.get("epsilon_high", 0.2)
        )
        acted |= bool(outside)
        if not in_reward:
            x = new - ref[rows]
            weight = torch.exp(new - old[rows]) if "use_bias_correction_kl" in settings else 1.0
            loss = loss + 0.4 * weight * (torch.exp(-x) - 1 + x)
        total = (loss * m).sum(dim=1)
        loss = total.sum() / (4 * budget) if budget else (total / m.sum(dim=1)).mean()
        climb(hand.policy, optimizer, loss)
        losses.append(loss.item())  # Adam's steps would hide the loss's scale
    assert acted
    assert record["policy_loss"] == pytest.approx(sum(losses) / 4, rel=1e-4, abs=1e-4)
    assert torch.allclose(weights(loop.policy), weights(hand.policy), atol=2e-4)
    assert not torch.allclose(weights(loop.policy), weights(grpo().policy), atol=1e-2)


@pytest.mark.parametrize("make", [ppo, grpo])
def test_the_reference_is_frozen(make):
    assert not any(p.requires_grad for p in make().reference.parameters())


@pytest.mark.parametrize("make", [ppo, grpo])
def test_a_reference_with_dropout_in_its_configuration_has_none(make):
    """A copy of the policy is at distance 0 from it, which noise in either would hide."""
    loop = make(
        model=lambda seed: start(seed, dropout=0.3),
        reference=lambda model: copy.deepcopy(model).train(),
    )
    assert abs(loop.step()["kl"]) < 1e-4


# ------------------------------------------------------------------------------- where scores are


def padded_batch():
    completions = ["ok.", "hello ben, thank you.", "no, thank you.", "yes."]
    batch = encode(tokenizer(), RAGGED, completions)
    rows = [tokenizer()(prompt, add_special_tokens=False)["input_ids"] for prompt in RAGGED]
    ends = [
        tokenizer()(c, add_special_tokens=False)["input_ids"] + [tokenizer().eos_token_id]
        for c in completions
    ]
    return batch, rows, ends


def test_the_reward_is_read_at_the_end_token_as_transformers_reads_it():
    batch, prompts, completions = padded_batch()
    model = reward_model()
    with torch.no_grad():
        ours = reward_scores(model, batch)
        theirs = [model(torch.tensor([p + c])).logits.item() for p, c in zip(prompts, completions)]
    assert torch.allclose(ours, torch.tensor(theirs), atol=1e-5)
    assert len({round(x, 4) for x in theirs}) == 4


def test_a_value_has_not_seen_the_token_that_follows_it():
    batch, prompts, completions = padded_batch()
    critic = reward_model()
    with torch.no_grad():
        values = state_values(critic, batch)
        for i, (prompt, completion) in enumerate(zip(prompts, completions)):
            for t in range(len(completion)):
                seen = torch.tensor([prompt + completion[:t]])
                alone = critic.score(critic.base_model(seen).last_hidden_state[0, -1])
                assert values[i, t].item() == pytest.approx(alone.item(), abs=1e-5)
