"""GRPO's family and RLOO against the losses of TRL 1.16, values and gradients.

TRL's `_compute_loss` runs unchanged on a bare trainer; only its forward pass is replaced by the
log-probabilities of the batch. Differences that are on purpose are stated where they appear.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from trl.experimental.gmpo import GMPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.utils import nanstd

from rlhf_lib.mathematics.advantages import group_advantages
from rlhf_lib.mathematics.kl import k3
from rlhf_lib.mathematics.losses import (
    aggregate,
    cispo_loss,
    clipped_policy_loss,
    gmpo_loss,
    gspo_loss,
    policy_ratio,
    rloo_loss,
    sapo_loss,
    surrogate_loss,
)
from tests.parity.oracles import assert_same, bare, ragged

BATCHES = pytest.mark.parametrize(
    "seed, dtype", [(0, torch.float64), (1, torch.float64), (2, torch.float64), (3, torch.float32)]
)
BUDGET = 11  # max_completion_length, longer than any completion of the batch


def trl_grpo(
    batch,
    loss_type,
    level="token",
    epsilon=0.2,
    epsilon_high=0.2,
    delta=None,
    beta=0.0,
    correct=False,
    temperatures=(1.0, 1.05),
    trainer=GRPOTrainer,
):
    trainer = bare(
        trainer,
        loss_type=loss_type,
        importance_sampling_level=level,
        beta=beta,
        epsilon_low=epsilon,
        epsilon_high=epsilon_high,
        max_completion_length=BUDGET,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        args=SimpleNamespace(
            delta=delta,
            use_bias_correction_kl=correct,
            steps_per_generation=1,
            sapo_temperature_pos=temperatures[0],
            sapo_temperature_neg=temperatures[1],
        ),
        _get_per_token_logps_and_entropies=lambda *a, **k: (batch.logprobs, 0 * batch.old, None),
    )
    return trainer._compute_loss(None, trl_inputs(batch))


def trl_rloo(batch, epsilon=0.2):
    trainer = bare(
        RLOOTrainer,
        epsilon_low=epsilon,
        epsilon_high=epsilon,
        _get_per_token_logps_and_entropies=lambda *a, **k: (batch.logprobs, 0 * batch.old, None),
    )
    return trainer._compute_loss(
        None, {**trl_inputs(batch), "old_logps": (batch.old * batch.mask).sum(dim=1)}
    )


def trl_inputs(batch):
    prompt = torch.ones(len(batch.mask), 1, dtype=torch.long)
    return {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": batch.mask,
        "completion_mask": batch.mask,
        "advantages": batch.advantages,
        "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.ref,
        "num_items_in_batch": batch.mask.sum(),
    }


def clipped(batch, epsilon=0.2, epsilon_high=None, **settings):
    return clipped_policy_loss(
        batch.logprobs, batch.old, batch.advantages[:, None], epsilon, epsilon_high, **settings
    )


def some_of_each(batch, epsilon=0.2):
    """The batch reaches both sides of the clip with either sign of the advantage."""
    ratio = (batch.logprobs - batch.old).exp()
    positive = (batch.advantages > 0)[:, None]
    real = batch.mask.bool()
    return all(
        (real & side & sign).any()
        for side in (ratio > 1 + epsilon, ratio < 1 - epsilon)
        for sign in (positive, ~positive)
    )


def test_the_batches_reach_every_case():
    assert all(some_of_each(ragged(seed)) for seed in range(3))


@BATCHES
@pytest.mark.parametrize(
    "loss_type, over, settings",
    [
        ("grpo", "sequences", {}),
        ("bnpo", "tokens", {}),
        ("dapo", "tokens", {}),
        ("dr_grpo", "budget", {"budget": BUDGET}),
    ],
)
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_grpo_and_its_aggregations(seed, dtype, loss_type, over, settings, beta):
    batch = ragged(seed, dtype)
    loss = clipped(batch)
    if beta:
        loss = loss + beta * k3(batch.logprobs - batch.ref)
    assert_same(
        aggregate(loss, batch.mask, over, **settings),
        trl_grpo(batch, loss_type, beta=beta),
        batch.logprobs,
    )


@BATCHES
@pytest.mark.parametrize("kind, level", [("clip", "token"), ("gspo", "sequence")])
def test_the_kl_that_trl_has_by_default(seed, dtype, kind, level):
    """`use_bias_correction_kl`: k3 times the ratio that the policy's loss has."""
    batch = ragged(seed, dtype)
    tables = batch.logprobs, batch.old
    loss = surrogate_loss(kind, *tables, batch.advantages[:, None], batch.mask)
    kl = policy_ratio(kind, *tables, batch.mask) * k3(batch.logprobs - batch.ref)
    assert_same(
        aggregate(loss + 0.3 * kl, batch.mask, "sequences"),
        trl_grpo(batch, "grpo", level, beta=0.3, correct=True),
        batch.logprobs,
    )


@BATCHES
def test_the_asymmetric_clip_of_dapo(seed, dtype):
    batch = ragged(seed, dtype)
    assert_same(
        aggregate(clipped(batch, 0.2, 0.28), batch.mask, "tokens"),
        trl_grpo(batch, "dapo", epsilon_high=0.28),
        batch.logprobs,
    )


@BATCHES
def test_the_dual_clip(seed, dtype):
    """TRL's `delta` caps the ratio itself. For A < 0 that caps the loss at −delta·A, the dual
    clip; for A > 0 the ordinary clip lies lower and decides."""
    batch = ragged(seed, dtype, spread=0.9)
    ratio = (batch.logprobs - batch.old).exp()
    assert ((ratio > 2) & (batch.advantages < 0)[:, None] & batch.mask.bool()).any()
    assert_same(
        aggregate(clipped(batch, dual_clip=2.0), batch.mask, "sequences"),
        trl_grpo(batch, "grpo", delta=2.0),
        batch.logprobs,
    )


@BATCHES
@pytest.mark.parametrize("cap", [0.9, 1.2, 5.0])
def test_cispo(seed, dtype, cap):
    """TRL's `epsilon_high` is the cap itself here, not 1 + ε."""
    batch = ragged(seed, dtype)
    loss = cispo_loss(batch.logprobs, batch.old, batch.advantages[:, None], cap)
    assert_same(
        aggregate(loss, batch.mask, "tokens"),
        trl_grpo(batch, "cispo", epsilon_high=cap),
        batch.logprobs,
    )


@BATCHES
@pytest.mark.parametrize("epsilon, epsilon_high", [(3e-4, 4e-4), (0.05, 0.08)])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_gspo(seed, dtype, epsilon, epsilon_high, beta):
    """One ratio per completion: `importance_sampling_level="sequence"`, published as GRPO."""
    batch = ragged(seed, dtype)
    loss = gspo_loss(
        batch.logprobs, batch.old, batch.advantages[:, None], batch.mask, epsilon, epsilon_high
    )
    if beta:
        loss = loss + beta * k3(batch.logprobs - batch.ref)
    assert_same(
        aggregate(loss, batch.mask, "sequences"),
        trl_grpo(batch, "grpo", "sequence", epsilon, epsilon_high, beta=beta),
        batch.logprobs,
    )


@BATCHES
@pytest.mark.parametrize("epsilon, epsilon_high", [(0.4, 0.4), (0.1, 0.2)])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_gmpo(seed, dtype, epsilon, epsilon_high, beta):
    batch = ragged(seed, dtype)
    loss = gmpo_loss(
        batch.logprobs, batch.old, batch.advantages[:, None], batch.mask, epsilon, epsilon_high
    )
    if beta:
        loss = loss + beta * k3(batch.logprobs - batch.ref)
    theirs = trl_grpo(batch, "grpo", "token", epsilon, epsilon_high, beta=beta, trainer=GMPOTrainer)
    assert_same(aggregate(loss, batch.mask, "sequences"), theirs, batch.logprobs)


@BATCHES
@pytest.mark.parametrize("temperatures", [(1.0, 1.05), (0.5, 3.0)])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_sapo(seed, dtype, temperatures, beta):
    batch = ragged(seed, dtype)
    loss = sapo_loss(batch.logprobs, batch.old, batch.advantages[:, None], temperatures)
    if beta:
        loss = loss + beta * k3(batch.logprobs - batch.ref)
    theirs = trl_grpo(batch, "sapo", beta=beta, temperatures=temperatures)
    assert_same(aggregate(loss, batch.mask, "sequences"), theirs, batch.logprobs)


@BATCHES
def test_rloo(seed, dtype):
    """The ratio of the whole completion, a product over its tokens."""
    batch = ragged(seed, dtype, spread=0.1)
    ratio = ((batch.logprobs - batch.old) * batch.mask).sum(dim=1).exp()
    assert ((ratio - 1).abs() > 0.2).any() and ((ratio - 1).abs() < 0.2).any()
    loss = rloo_loss(batch.logprobs, batch.old, batch.advantages[:, None], batch.mask)
    assert_same(aggregate(loss, batch.mask, "sequences"), trl_rloo(batch), batch.logprobs)


@pytest.mark.parametrize("over", ["tokens", "sequences", "budget"])
def test_not_a_number_in_the_padding_of_a_loss_is_ignored_here_and_not_there(over):
    """TRL multiplies by the mask, so what stands in its padding must be finite."""
    batch = ragged(0)
    settings = {"budget": BUDGET} if over == "budget" else {}
    clean = aggregate(clipped(batch), batch.mask, over, **settings)
    dirty = torch.where(batch.mask.bool(), clipped(batch), float("nan"))
    assert aggregate(dirty, batch.mask, over, **settings).item() == clean.item()
    batch.old = torch.where(batch.mask.bool(), batch.old, float("nan"))
    assert trl_grpo(batch, "grpo").isnan()


# ------------------------------------------------------------------------------------- advantages


def rewards_of(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(12, generator=generator, dtype=torch.float64).to(dtype)
    rewards[4:8] = 0.5  # a group that agrees
    return rewards


def trl_group_advantages(rewards, G, scale):
    """The lines of TRL's `_generate_and_score_completions`, which cannot be called alone, around
    its own `nanstd`."""
    mean = rewards.view(-1, G).mean(dim=1).repeat_interleave(G)
    std = {
        "std": nanstd(rewards.view(-1, G), dim=1).repeat_interleave(G),
        "batch": nanstd(rewards).expand_as(rewards),
        "none": None,
    }[scale]
    return rewards - mean if std is None else (rewards - mean) / (std + 1e-4)


@BATCHES
@pytest.mark.parametrize("G", [2, 4])
@pytest.mark.parametrize("scale", ["std", "batch", "none"])
def test_group_advantages(seed, dtype, G, scale):
    rewards = rewards_of(seed, dtype)
    assert torch.allclose(
        group_advantages(rewards, G, "mean", scale),
        trl_group_advantages(rewards, G, scale),
        rtol=0.0,
        atol=1e-5,
    )


@BATCHES
def test_leave_one_out_advantages(seed, dtype):
    rewards = rewards_of(seed, dtype)
    groups = rewards.view(-1, 4)
    baselines = (groups.sum(dim=1, keepdim=True) - groups) / 3  # as in TRL's RLOO
    assert torch.allclose(
        group_advantages(rewards, 4, "leave_one_out", "none"),
        (groups - baselines).flatten(),
        rtol=0.0,
        atol=1e-5,
    )
