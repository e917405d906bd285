"""What the settings of PPO and GRPO change: shared critic, ptx, dual clip, every GRPO variant."""

import copy

import pytest
import torch
from datasets import Dataset

from rlhf_lib.algorithms.grpo import advantages_of, all_equal
from rlhf_lib.algorithms.variants import VARIANTS
from rlhf_lib.mathematics.advantages import (
    group_advantages,
    masked_whiten,
    returns_to_go,
    token_rewards,
)
from rlhf_lib.models.reward_model import SharedCritic, reward_scores, state_values
from rlhf_lib.models.rollout import join, sample
from rlhf_lib.models.tokens import encode, token_logprobs
from rlhf_lib.worlds import letters
from tests.unit import loops
from tests.unit.loops import PROMPTS, with_settings
from tests.unit.small import (
    RAGGED,
    count_words,
    early_letters,
    policy,
    reward_model,
    tokenizer,
    weights,
)

ppo, grpo = (with_settings(make, max_steps=3) for make in (loops.ppo, loops.grpo))
PTX = letters.corpus(40, seed=1)


def timeless(records):
    return [{**record, "seconds": 0} for record in records]


# ---------------------------------------------------------------------------------- shared critic


def test_one_forward_pass_gives_what_two_give():
    model = policy()
    critic = SharedCritic(model)
    batch = encode(tokenizer(), RAGGED, ["yes", "thank you for it", "no", ""])
    logprobs, values = critic.logprobs_and_values(batch, temperature=0.7)
    assert torch.allclose(logprobs, token_logprobs(model, batch, 0.7), atol=1e-5)
    assert torch.equal(values, torch.zeros_like(values))  # initialised at zero
    torch.nn.init.normal_(critic.score.weight)
    _, values = critic.logprobs_and_values(batch)
    assert values.abs().max() > 0.1
    assert torch.allclose(values, state_values(critic, batch), atol=1e-5)


@pytest.mark.parametrize(
    "dtype, expected",
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_a_head_in_float64_keeps_its_digits_and_16_bits_are_widened(dtype, expected):
    batch = encode(tokenizer(), RAGGED, ["yes", "thank you for it", "no", ""])
    shared = SharedCritic(policy().to(dtype))
    torch.nn.init.normal_(shared.score.weight)
    logprobs, values = shared.logprobs_and_values(batch)
    model = reward_model().to(dtype)
    assert {x.dtype for x in (values, logprobs, reward_scores(model, batch))} == {expected}
    if dtype == torch.float64:
        hidden = model.base_model(**batch.model_inputs).last_hidden_state
        last = batch.prompt_ids.shape[1] - 1 + batch.completion_mask.sum(dim=1)
        exact = model.score(hidden[torch.arange(4), last])[:, 0]
        assert torch.allclose(reward_scores(model, batch), exact, rtol=0.0, atol=1e-12)


def test_a_shared_critic_is_one_optimiser_over_both_losses():
    """The first update again by hand: policy loss plus a tenth of the value loss, one Adam step."""
    settings = dict(num_ppo_epochs=1, mini_batch_size=8, warmup_steps=0)
    loop, hand = ppo(shared=True, **settings), ppo(shared=True, **settings)
    assert list(loop.optimizers) == ["policy"]
    record = loop.step()
    rollout, mask = loop.rollout, loop.rollout.completion_mask
    scores = (
        torch.tensor(count_words(rollout.prompts, rollout.completions)) - 1.0 * ~rollout.finished
    )
    returns = (
        scores[:, None].expand_as(mask)
        * 0.95 ** (mask.sum(1, keepdim=True) - 1 - torch.arange(mask.shape[1]))
        * mask
    )
    advantages = masked_whiten(returns, mask)  # V is 0, and so is the KL, on the first step
    logprobs, values = hand.critic.logprobs_and_values(rollout)
    policy_loss = -(torch.exp(logprobs - rollout.logprobs) * advantages * mask).sum() / mask.sum()
    value_loss = ((values - returns) ** 2 / 2 * mask).sum() / mask.sum()
    # the value clip acts on the value's move from 0, which is 0 here
    (policy_loss + 0.1 * value_loss).backward()
    torch.nn.utils.clip_grad_norm_(hand.critic.parameters(), 1.0)
    torch.optim.AdamW(
        hand.critic.parameters(),
        lr=hand.config.learning_rate,
        betas=(0.9, 0.95),
        eps=1e-5,
        weight_decay=0.0,
    ).step()
    assert record["value_loss"] == pytest.approx(value_loss.item(), rel=1e-4)
    assert torch.allclose(weights(loop.critic), weights(hand.critic), atol=2e-5)
    assert loop.critic.score.weight.abs().max() > 0


def test_a_shared_critic_learns():
    records = list(
        ppo(
            shared=True,
            reward=early_letters,
            max_steps=40,
            batch_size=32,
            mini_batch_size=16,
            learning_rate=3e-3,
            beta=0.0,
        )
    )
    assert sum(r["reward"] for r in records[-5:]) > sum(r["reward"] for r in records[:5]) + 5.0


# ---------------------------------------------------------------------------------- ptx, dual clip


def test_the_ptx_mix_adds_its_gradient():
    settings = dict(num_ppo_epochs=1, mini_batch_size=8, warmup_steps=0, max_grad_norm=1e9)
    gradients = []
    for coefficient in (0.0, 0.5):
        loop = ppo(ptx=PTX, ptx_coefficient=coefficient, **settings)
        before = copy.deepcopy(loop.policy)
        record = loop.step()
        gradients.append(torch.cat([p.grad.flatten() for p in loop.policy.parameters()]))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()[:8]
    batch = encode(
        tokenizer(), [PTX["prompt"][i] for i in order], [PTX["completion"][i] for i in order]
    )
    loss = (
        -(token_logprobs(before, batch) * batch.completion_mask).sum() / batch.completion_mask.sum()
    )
    before.zero_grad()
    before.requires_grad_(True)
    loss.backward()
    expected = 0.5 * torch.cat([p.grad.flatten() for p in before.parameters()])
    assert torch.allclose(gradients[1] - gradients[0], expected, atol=1e-5)
    assert record["ptx_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_the_ptx_mix_keeps_the_corpus_likely():
    def corpus_loss(coefficient):
        loop = ppo(
            ptx=PTX,
            ptx_coefficient=coefficient,
            max_steps=15,
            learning_rate=3e-3,
            beta=0.0,
            reward=early_letters,
        )
        list(loop)
        batch = encode(tokenizer(), PTX["prompt"][:20], PTX["completion"][:20])
        with torch.no_grad():
            return -(token_logprobs(loop.policy, batch).sum() / batch.completion_mask.sum()).item()

    assert corpus_loss(1.0) < corpus_loss(0.0) - 0.5


def test_a_ptx_coefficient_without_data_is_named():
    with pytest.raises(ValueError, match="ptx is None at ptx_coefficient=0.1"):
        ppo(ptx_coefficient=0.1)
    with pytest.raises(ValueError, match="expected 'completion' among them"):
        ppo(ptx=PROMPTS, ptx_coefficient=0.1)
    with pytest.raises(ValueError, match="ptx is empty at ptx_coefficient=0.1; expected a dataset"):
        ppo(ptx=PTX.select(range(0)), ptx_coefficient=0.1)


def test_the_dual_clip_is_visible_when_it_acts():
    assert "dual_clip_fraction" not in ppo().step()
    calm = ppo(dual_clip=3.0).step()
    assert calm["dual_clip_fraction"] == 0.0
    wild = ppo(dual_clip=1.21, num_ppo_epochs=8, learning_rate=3e-2, warmup_steps=0).step()
    assert 0 < wild["dual_clip_fraction"] < 1
    with pytest.raises(ValueError, match="dual_clip is 1.1; expected more than 1.2"):
        ppo(dual_clip=1.1).step()


# ---------------------------------------------------------------------------------- variants


def hand_loss(name, rollout, scores, logprobs, G):
    """The loss of the table of variants, written out, on the first pass: every ratio is 1."""
    mask = rollout.completion_mask
    r = torch.exp(logprobs - rollout.logprobs)
    lengths = mask.sum(dim=1)
    groups = scores.view(-1, G)
    centred = (groups - groups.mean(1, keepdim=True)).flatten()
    divided = centred / (groups.std(1) + 1e-4).repeat_interleave(G) if G > 1 else None
    token_sum = lambda x: (x * mask).sum(dim=1)
    if name == "grpo":
        return -(token_sum(r * divided[:, None]) / lengths).mean()
    if name == "dr_grpo":
        return -token_sum(r * centred[:, None]).sum() / (len(mask) * 8)
    if name == "dapo":
        return -token_sum(r * divided[:, None]).sum() / mask.sum()
    if name == "gspo":
        ratio = torch.exp(token_sum(logprobs - rollout.logprobs) / lengths)
        return -(ratio * divided).mean()
    if name == "sapo":  # 4σ(τ(r − 1))/τ
        tau = torch.where(divided[:, None] > 0, 1.0, 1.05)
        return -(
            token_sum(4 / tau * torch.sigmoid(tau * (r - 1)) * divided[:, None]) / lengths
        ).mean()
    if name == "gmpo":
        ratio = torch.exp(token_sum((logprobs - rollout.logprobs).clamp(-0.4, 0.4)) / lengths)
        return -(ratio * divided).mean()
    if name == "cispo":
        return -token_sum(r.detach() * divided[:, None] * logprobs).sum() / mask.sum()
    if name == "rloo":
        ratio = torch.exp(token_sum(logprobs - rollout.logprobs))
        return -(ratio * centred * G / (G - 1)).mean()
    if name == "reinforce++":
        rewards = token_rewards(scores, torch.zeros_like(logprobs), mask, 0.0)
        return -token_sum(r * masked_whiten(returns_to_go(rewards, mask), mask)).sum() / mask.sum()


@pytest.mark.parametrize("name", list(VARIANTS))
def test_the_first_update_of_each_variant_by_hand(name):
    settings = dict(
        num_iterations=1,
        mini_batch_size=8,
        warmup_steps=0,
        max_grad_norm=1e9,
        dynamic_sampling=False,
    )
    loop = grpo(name, **settings)
    before = copy.deepcopy(loop.policy)
    record = loop.step()
    rollout = loop.rollout
    scores = (
        torch.tensor(count_words(rollout.prompts, rollout.completions)) - 1.0 * ~rollout.finished
    )
    logprobs = token_logprobs(before, rollout)  # the KL to the reference is 0, and so its gradient
    loss = hand_loss(name, rollout, scores, logprobs, loop.config.num_generations)
    before.zero_grad()
    loss.backward()
    for (key, p), q in zip(loop.policy.named_parameters(), before.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, atol=2e-5), key
    assert record["policy_loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert record["ratio_gap"] < 1e-5 and record["clip_fraction"] == 0.0


@pytest.mark.parametrize("name", list(VARIANTS))
def test_each_variant_learns(name):
    loop = grpo(
        name,
        reward=early_letters,
        max_steps=30,
        batch_size=32,
        mini_batch_size=16,
        learning_rate=3e-3,
        beta=0.0,
    )
    records = list(loop)
    assert (
        sum(r["reward"] for r in records[-5:]) / 5 > sum(r["reward"] for r in records[:5]) / 5 + 1
    )


@pytest.mark.parametrize("name", ["gspo", "gmpo", "sapo", "rloo", "cispo"])
def test_the_clip_of_a_variant_is_measured_where_it_acts(name):
    record = grpo(name, num_iterations=6, learning_rate=3e-2, warmup_steps=0).step()
    assert 0 < record["clip_fraction"] <= 1


def test_advantages_price_the_kl_before_the_comparison():
    loop = grpo("rloo", beta=0.5)
    loop.step()
    log_ratio = (
        torch.linspace(-1, 1, loop.rollout.logprobs.numel()).view_as(loop.rollout.logprobs)
        * loop.rollout.completion_mask
    )
    scores = torch.arange(8.0)
    mask = loop.rollout.completion_mask
    got = advantages_of(loop.config, scores, log_ratio, mask, loop.beta)
    assert torch.allclose(
        got[:, 0], group_advantages(scores - 0.5 * log_ratio.sum(1), 4, "leave_one_out", "none")
    )


def test_reinforce_prices_the_kl_token_by_token():
    loop = grpo("reinforce++", beta=0.5)
    loop.step()
    rollout, mask = loop.rollout, loop.rollout.completion_mask
    log_ratio = torch.ones_like(rollout.logprobs) * mask
    got = advantages_of(loop.config, torch.zeros(8), log_ratio, mask, loop.beta)
    to_go = -0.5 * (mask.sum(1, keepdim=True) - torch.arange(mask.shape[1])) * mask
    assert torch.allclose(got, masked_whiten(to_go, mask), atol=1e-5)


# --------------------------------------------------------------------------------- dynamic sampling


def mostly_equal(prompts, completions, **columns):
    """Rewards that differ inside a group only for prompts about refunds."""
    return [
        float(len(c)) if "refund" in p or "money" in p else 1.0
        for p, c in zip(prompts, completions)
    ]


def test_dynamic_sampling_fills_the_batch_with_groups_that_teach():
    plain, dynamic = (
        grpo(
            reward=mostly_equal,
            batch_size=16,
            mini_batch_size=8,
            max_draws=40,
            missing_eos_penalty=0.0,
            dynamic_sampling=d,
        )
        for d in (False, True)
    )
    assert plain.step()["zero_variance_groups"] > 0.3
    record = dynamic.step()
    scores = torch.tensor(mostly_equal(dynamic.rollout.prompts, dynamic.rollout.completions))
    assert len(scores) == 16 and not all_equal(scores.view(-1, 4)).any()
    for group in range(4):  # groups stay whole
        assert len(set(dynamic.rollout.prompts[4 * group : 4 * group + 4])) == 1
    assert record["drawn"] > 16 and record["drawn"] == 16 * dynamic.draws
    assert record["zero_variance_groups"] > 0.3  # among all that were drawn
    assert record["ratio_gap"] < 1e-5  # joined rollouts are scored as they were sampled


def test_dynamic_sampling_gives_up_after_max_draws():
    loop = grpo(
        reward=lambda prompts, completions: [1.0] * len(prompts),
        dynamic_sampling=True,
        max_draws=2,
        missing_eos_penalty=0.0,
        beta=0.0,
    )
    before = weights(loop.policy)
    record = loop.step()
    assert record["drawn"] == 16 and record["zero_variance_groups"] == 1.0
    assert torch.equal(weights(loop.policy), before)  # nothing was taught, and nothing broke


def test_joined_rollouts_are_the_same_samples():
    model, generator = policy(), torch.Generator().manual_seed(0)
    first = sample(model, tokenizer(), RAGGED[:2], 4, generator=generator)
    second = sample(model, tokenizer(), RAGGED[2:], 9, generator=generator)
    both = join([first, second[[1, 0]]], tokenizer().pad_token_id)
    assert both.prompts == [RAGGED[0], RAGGED[1], RAGGED[3], RAGGED[2]]
    assert both.completions == first.completions + second.completions[::-1]
    assert torch.allclose(token_logprobs(model, both), both.logprobs, atol=1e-5)
    assert both.lengths.tolist() == first.lengths.tolist() + second.lengths.tolist()[::-1]


# ---------------------------------------------------------------------------------- and the rest


@pytest.mark.parametrize(
    "make",
    [
        lambda seed=0: ppo(shared=True, model_seed=seed),
        lambda seed=0: ppo(ptx=PTX, ptx_coefficient=0.3, model_seed=seed),
        lambda seed=0: grpo("dapo", reward=mostly_equal, model_seed=seed),
        lambda seed=0: grpo("reinforce++", model_seed=seed),
    ],
)
@pytest.mark.parametrize("stop", [1, 2])
def test_resuming_gives_the_same_numbers(make, stop, tmp_path):
    expected = list(make())
    first = make()
    records = [first.step() for _ in range(stop)]
    first.save(tmp_path / "checkpoint")
    second = make(seed=1)
    if second.reference is not None:
        second.reference = first.reference
    second.sampler.manual_seed(99)
    second.resume(tmp_path / "checkpoint")
    object.__setattr__(second, "config", first.config)
    records += list(second)
    assert timeless(records) == timeless(expected)


@pytest.mark.parametrize("make", [ppo, grpo])
def test_the_reward_gets_the_columns_of_the_dataset(make):
    rows = {"prompt": list(PROMPTS["prompt"][:16]), "answer": [f"answer {i}" for i in range(16)]}
    seen = []

    def reward(prompts, completions, answer):
        seen.extend(zip(prompts, answer, strict=True))
        return [0.0 for _ in prompts]

    make(reward=reward, dataset=Dataset.from_dict(rows)).step()
    assert len(seen) == 8
    assert set(seen) <= set(zip(rows["prompt"], rows["answer"]))


def test_no_reference_is_needed_without_a_penalty():
    alone = with_settings(grpo, reference=lambda model: None)
    loop = alone(beta=0.0)
    assert "kl" not in loop.step()
    loop.beta = 0.1
    with pytest.raises(ValueError, match="beta is 0.1 without a reference"):
        loop.step()
    with pytest.raises(
        ValueError, match="reference is None; expected a model to stay near.*, or beta=0"
    ):
        alone(beta=0.1)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(kl_in="nowhere"), "kl_in is 'nowhere'; expected 'loss' or 'reward'"),
        (dict(loss="max"), "loss is 'max'; expected 'clip', 'cispo', 'sapo', 'gspo', 'gmpo' or"),
        (dict(aggregate_over="all"), "aggregate_over is 'all'"),
        (dict(advantage="mine"), "advantage is 'mine'"),
        (dict(loss="cispo", epsilon_high=0.2), "epsilon_high is 0.2; expected more than 1"),
        (dict(num_generations=1), "num_generations is 1; expected at least 2"),
        (dict(baseline="median"), "baseline is 'median'"),
        (dict(scale_rewards="yes"), "scale_rewards is 'yes'"),
        (dict(num_iterations=0), "num_iterations is 0; expected at least 1"),
        (dict(loss="rloo", epsilon_high=0.3), "epsilon_high is 0.3; expected None.*one clip"),
        (dict(loss="sapo", epsilon_high=0.3), "epsilon_high is 0.3; expected None.*a gate"),
        (
            dict(loss="gmpo", importance_sampling="token_mask"),
            "expected one of sequences, as loss='gmpo' has one ratio a completion",
        ),
        (dict(dynamic_sampling=True, max_draws=0), "max_draws=0; expected groups of 2"),
        (
            dict(kl_in="reward", use_bias_correction_kl=True),
            "use_bias_correction_kl is True and kl_in 'reward'; expected 'loss'",
        ),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        grpo(**settings)


def test_models_on_two_devices_are_refused():
    with pytest.raises(ValueError, match="reference is on meta; expected cpu, where policy is"):
        grpo(reference=lambda model: copy.deepcopy(model).to("meta"))


@pytest.mark.parametrize("change", [dict(pad_token=None), dict(pad_token="<eos>")])
def test_a_tokenizer_that_cannot_tell_padding_from_the_end_is_named(change):
    broken = copy.deepcopy(tokenizer())
    broken.pad_token = None if change["pad_token"] is None else broken.eos_token
    with pytest.raises(ValueError, match="expected two different tokens"):
        encode(broken, ["a"], ["b"])
    with pytest.raises(ValueError, match="expected two different tokens"):
        sample(policy(), broken, RAGGED, 4)


def test_the_kl_is_priced_once_in_the_loss_or_in_the_reward():
    """As `return_to_go` reads rewards token by token, it could take the KL a second time."""
    given = dict(advantage="return_to_go", beta=0.5)
    found = {}
    for kl_in in ("loss", "reward"):
        loop = grpo(**given, kl_in=kl_in)
        rollout = loop.collect()[0]
        scores, mask = torch.arange(len(rollout), dtype=torch.float), rollout.completion_mask
        found[kl_in] = [
            advantages_of(loop.config, scores, k * rollout.logprobs, mask, loop.beta)
            for k in (0, 1)
        ]
    assert torch.equal(*found["loss"]) and not torch.equal(*found["reward"])
