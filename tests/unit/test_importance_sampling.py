"""Samples of another policy: their weights by hand, a whole step by hand, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch

from rlhf_lib.algorithms.grpo import GRPO, GRPOConfig
from rlhf_lib.algorithms.ppo import PPO, PPOConfig
from rlhf_lib.mathematics.advantages import group_advantages
from rlhf_lib.mathematics.kl import k3
from rlhf_lib.mathematics.losses import IMPORTANCE_SAMPLING, importance_weights
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import token_logprobs
from tests.unit.loops import PROMPTS, grpo, ppo
from tests.unit.small import hasty, policy, tokenizer, weights

MODES = pytest.mark.parametrize("mode", IMPORTANCE_SAMPLING)
LOOPS = pytest.mark.parametrize("make", [ppo, grpo])
RATIOS = torch.tensor([[2.0, 0.25, 7.0], [4.0, 0.5, 3.0]])  # π/μ; the last token is padding
MASK = torch.tensor([[1, 1, 0], [1, 1, 0]])

# ---------------------------------------------------------------------------------- the weights


@pytest.mark.parametrize(
    "mode, bounds, expected",
    [
        ("token_truncate", (0.0, 3.0), [[2.0, 0.25], [3.0, 0.5]]),
        ("token_truncate", (0.5, 3.0), [[2.0, 0.5], [3.0, 0.5]]),
        ("token_mask", (0.0, 3.0), [[2.0, 0.25], [0.0, 0.5]]),
        ("token_mask", (0.5, 5.0), [[2.0, 0.0], [4.0, 0.5]]),
        ("token_truncate", (1.0, 1.0), [[1.0, 1.0], [1.0, 1.0]]),
        ("sequence_truncate", (0.0, 3.0), [[0.5], [2.0]]),
        ("sequence_truncate", (0.75, 1.5), [[0.75], [1.5]]),
        ("sequence_mask", (0.0, 1.5), [[0.5], [0.0]]),
        ("sequence_mask", (0.75, math.inf), [[0.0], [2.0]]),
    ],
)
def test_weights_by_hand(mode, bounds, expected):
    found = importance_weights(RATIOS.log(), torch.zeros(2, 3), MASK, mode, bounds)
    assert torch.allclose(found[:, :2], torch.tensor(expected))
    assert found.shape == ((2, 3) if mode.startswith("token") else (2, 1))


@MODES
def test_what_padding_holds_is_not_read(mode):
    odd = torch.zeros(2, 3).masked_fill(MASK == 0, math.nan)
    found = importance_weights(RATIOS.log(), odd, MASK, mode)
    assert torch.equal(
        found[:, :2], importance_weights(RATIOS.log(), torch.zeros(2, 3), MASK, mode)[:, :2]
    )


@MODES
def test_weights_are_data(mode):
    logprobs = RATIOS.log().requires_grad_()
    assert not importance_weights(logprobs, torch.zeros(2, 3), MASK, mode).requires_grad


def test_a_ratio_beyond_all_numbers_is_dropped_or_moved_to_the_bound():
    far, near = torch.full((1, 2), 500.0), torch.zeros(1, 2)
    mask = torch.ones(1, 2)
    assert importance_weights(far, near, mask, "sequence_mask").tolist() == [[0.0]]
    assert importance_weights(far, near, mask, "sequence_truncate").tolist() == [[3.0]]


def test_unknown_modes_and_shapes_that_differ_are_refused():
    one = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="mode is 'mask'; expected one of token_truncate, "):
        importance_weights(one, one, one, "mask")
    with pytest.raises(ValueError, match="sampler_logprobs"):
        importance_weights(one, torch.zeros(1, 3), one, "token_mask")


# ---------------------------------------------------------------------------------- in the loops


def stale(make, sampler, **settings):
    """A loop whose samples another policy draws."""
    kind = {ppo: PPO, grpo: GRPO}[make]

    class Stale(kind):
        def sample(self, policy, prompts):
            c = self.config
            how = (c.max_new_tokens, c.temperature, self.sampler)
            return sample(sampler, self.tokenizer, prompts, *how)

    loop = make(**settings)
    loop.__class__ = Stale
    return loop


@LOOPS
@MODES
def test_for_the_policys_own_samples_nothing_changes(make, mode):
    plain, corrected = make(max_steps=2), make(max_steps=2, importance_sampling=mode)
    for one, other in zip(plain, corrected):
        assert other["importance_weight"] == pytest.approx(1, abs=1e-5)
        assert other["sampler_kl"] == pytest.approx(0, abs=1e-5)
        for name in one.keys() - {"seconds", "ratio_gap"}:
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name
    assert torch.allclose(weights(plain.policy), weights(corrected.policy), atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@MODES
def test_a_step_of_grpo_by_hand(mode, temperature):
    """Ratios, the KL and its price are the learner's own; only the weight knows the sampler."""
    settings = dict(
        num_iterations=1,
        mini_batch_size=8,
        warmup_steps=0,
        beta=0.3,
        temperature=temperature,
        importance_sampling=mode,
        importance_sampling_clip_min=0.3,
        importance_sampling_clip_max=1.4,
    )
    loop, hand = (stale(grpo, hasty(0, 0.7), **settings) for _ in range(2))
    for one in (loop, hand):
        with torch.no_grad():  # so that the reference's term counts
            one.reference.transformer.wte.weight.mul_(1.1)
    record = loop.step()
    rollout, c = loop.rollout, hand.config

    drawn = sample(
        hasty(0, 0.7),
        tokenizer(),
        rollout.prompts,
        c.max_new_tokens,
        temperature,
        torch.Generator().manual_seed(c.seed),
    )
    assert drawn.completions == rollout.completions
    mask = drawn.completion_mask
    new = token_logprobs(hand.policy, drawn, temperature)
    old = new.detach()
    ratio = (old - drawn.logprobs).exp()
    if mode.startswith("sequence"):
        ratio = ratio.where(mask.bool(), 1.0).prod(dim=1, keepdim=True)
    weight = ratio.clamp(0.3, 1.4)
    if mode.endswith("mask"):
        weight = torch.where(weight == ratio, ratio, 0.0)
    assert len(weight.unique()) > 2 and (weight != ratio).any()  # some are bounded, not all
    scores = torch.tensor([float(len(text.split())) for text in drawn.completions])
    scores -= 1.0 * ~drawn.finished
    advantages = group_advantages(scores, c.num_generations, c.baseline, c.scale_rewards)[:, None]
    with torch.no_grad():
        ref = token_logprobs(hand.reference, drawn, temperature)
    per_token = -weight * advantages * (new - old).exp() + 0.3 * k3(new - ref)
    loss = ((per_token * mask).sum(dim=1) / mask.sum(dim=1)).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(hand.policy.parameters(), math.inf)
    assert record["policy_loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert record["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert record["kl"] == pytest.approx(((old - ref) * mask).sum(dim=1).mean().item(), abs=1e-4)
    gap = ((drawn.logprobs - old) * mask).sum() / mask.sum()
    assert record["sampler_kl"] == pytest.approx(gap.item(), abs=1e-5)
    assert record["ratio_gap"] < 1e-4


def test_ppo_weighs_the_whitened_advantages():
    settings = dict(num_ppo_epochs=1, mini_batch_size=8, importance_sampling="token_truncate")
    loop = stale(ppo, hasty(0, 1.5), **settings)
    seen = {}
    inner = loop.update
    loop.update = lambda batch: seen.setdefault("batch", batch) and inner(batch)
    loop.step()
    plain = stale(ppo, hasty(0, 1.5), **{**settings, "importance_sampling_clip_max": 1e9})
    heavy = {}
    outer = plain.update
    plain.update = lambda batch: heavy.setdefault("batch", batch) and outer(batch)
    plain.step()
    batch, mask = seen["batch"], seen["batch"].completion_mask.bool()
    free = heavy["batch"].advantages / batch.advantages
    assert torch.allclose(free[mask].clamp(max=1.0), torch.ones(int(mask.sum())), atol=1e-4)
    assert (free[mask] > 1.01).any()  # those that the bound of 3 held
    assert torch.equal(batch.logprobs, heavy["batch"].logprobs)


@LOOPS
def test_another_policys_samples_are_refused_unless_they_are_weighted(make):
    with pytest.raises(ValueError, match="importance_sampling weighs them"):
        stale(make, hasty(0, 1.5)).step()
    record = stale(make, hasty(0, 1.5), importance_sampling="sequence_mask").step()
    assert record["sampler_kl"] > 0.05 and record["importance_weight"] != 1


def long_ones(prompts, completions, **columns):
    return [float(len(completion.split()) > 6) for completion in completions]


def test_with_dynamic_sampling_every_kept_row_has_its_own_weight():
    """Draws of different widths are joined first; a row's weights are those of the row alone."""
    settings = dict(dynamic_sampling=True, max_draws=3, importance_sampling="token_truncate")
    loop = stale(grpo, hasty(), reward=long_ones, **settings)
    given, inner = [], loop.corrected
    loop.corrected = lambda policy, rollout: given.append(rollout) or inner(policy, rollout)
    record = loop.step()
    (rollout,) = given
    assert record["drawn"] > len(rollout)
    before = policy()
    _, together, _ = grpo(importance_sampling="token_truncate").corrected(before, rollout)
    for i in range(len(rollout)):
        row = rollout[[i]].trimmed
        apart = importance_weights(
            token_logprobs(before, row), row.logprobs, row.completion_mask, "token_truncate"
        )
        kept = row.completion_mask.bool()
        assert torch.allclose(together[i : i + 1, : kept.shape[1]][kept], apart[kept], atol=1e-4)


@LOOPS
def test_a_resumed_run_goes_on_with_the_same_numbers(make, tmp_path):
    settings = dict(max_steps=3, importance_sampling="sequence_truncate")
    whole = stale(make, hasty(0, 1.5), **settings)
    records = list(whole)
    half = stale(make, hasty(0, 1.5), **settings)
    half.step()
    half.save(tmp_path)
    again = stale(make, hasty(0, 1.5), **settings)
    again.resume(tmp_path)
    for expected, found in zip(records[1:], again, strict=True):
        for name in expected.keys() - {"seconds"}:
            assert found[name] == expected[name], name


# ---------------------------------------------------------------------------------- bad input


@LOOPS
@pytest.mark.parametrize("mode", [None, "token_mask"])
@pytest.mark.parametrize(
    "broken, message",
    [
        (lambda table: None, "logprobs of the rollout is None; expected one number a token"),
        (lambda table: table[:, :1], r"logprobs of the rollout is of shape \(8, 1\)"),
        (
            lambda table: table.index_fill(0, torch.tensor([2]), math.nan),
            "no finite number for|log-probabilities that are not finite",
        ),
    ],
    ids=["none", "one a completion", "NaN"],
)
def test_a_sampler_without_log_probabilities_is_refused(make, mode, broken, message):
    loop = make(importance_sampling=mode)
    drawn = loop.sample
    loop.sample = lambda *args: replace(drawn(*args), logprobs=broken(drawn(*args).logprobs))
    with pytest.raises((ValueError, FloatingPointError), match=message):
        loop.step()


@pytest.mark.parametrize("Config", [PPOConfig, GRPOConfig])
@pytest.mark.parametrize(
    "settings, message",
    [
        (
            dict(importance_sampling="token"),
            "importance_sampling is 'token'; expected None, 'token_truncate', ",
        ),
        (
            dict(importance_sampling_clip_max=0.5, importance_sampling_clip_min=0.6),
            "importance_sampling_clip_min is 0.6 and importance_sampling_clip_max 0.5; expected",
        ),
        (dict(importance_sampling_clip_max=0), "importance_sampling_clip_max 0; expected"),
        (dict(importance_sampling_clip_min=-1), "importance_sampling_clip_min is -1 and "),
        (dict(importance_sampling_clip_max=math.nan), "importance_sampling_clip_max nan"),
    ],
)
def test_odd_settings_are_refused(Config, settings, message):
    with pytest.raises(ValueError, match=message):
        Config(**settings)


@pytest.mark.parametrize("loss", ["gspo", "rloo"])
def test_a_ratio_of_completions_is_not_weighted_by_tokens(loss):
    with pytest.raises(ValueError, match="importance_sampling is 'token_mask'; expected one of"):
        GRPOConfig(loss=loss, importance_sampling="token_mask")
    assert GRPOConfig(loss=loss, importance_sampling="sequence_mask").loss == loss


def test_the_sampler_of_these_tests_is_another_policy_and_its_replies_differ_in_length():
    drawn = sample(hasty(0, 1.5), tokenizer(), PROMPTS["prompt"][:32], 8)
    assert len(set(drawn.lengths.tolist())) > 2
    assert (token_logprobs(policy(), drawn) - drawn.logprobs).abs().max() > 0.5
