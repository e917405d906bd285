"""DPO, IPO, SimPO, KTO and the reward model's loss against TRL 1.16, values and gradients.

The trainers' `_compute_loss` runs unchanged. Where it would call a transformer it is handed the
per-token log-probabilities of the batch, so that sums, means and masks are compared as well.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from trl.experimental.cpo import CPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.reward_trainer import RewardTrainer

from rlhf_lib.mathematics.losses import (
    bradley_terry_loss,
    dpo_loss,
    ipo_loss,
    kto_loss,
    sequence_logprobs,
    simpo_loss,
)
from tests.parity.oracles import assert_same, bare, ragged

BATCHES = pytest.mark.parametrize(
    "seed, dtype", [(0, torch.float64), (1, torch.float64), (2, torch.float64), (3, torch.float32)]
)


def with_a_prompt(x, fill=0):
    """TRL drops the first position, which nothing predicts: put one there."""
    return torch.cat([torch.full_like(x[:, :1], fill), x], dim=1)


def answers(logprobs):
    """A model's call in TRL: the log-probabilities instead of a forward pass. TRL's own forward
    returns 0 on padding."""
    zeros = torch.zeros_like(logprobs)
    return lambda **inputs: SimpleNamespace(
        log_probs=logprobs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )


def trl_dpo(batch, loss_type, beta, label_smoothing=0.0):
    """The first half of the batch is chosen, the second rejected."""
    mask = batch.mask
    trainer = bare(
        DPOTrainer,
        ld_alpha=None,
        precompute_ref_logps=True,
        beta=beta,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        label_smoothing=label_smoothing,
        use_weighting=False,
    )
    ref = (batch.ref * mask).sum(dim=1).chunk(2)
    inputs = {
        "input_ids": with_a_prompt(mask),
        "attention_mask": with_a_prompt(mask, 1),
        "completion_mask": with_a_prompt(mask),
        "ref_chosen_logps": ref[0],
        "ref_rejected_logps": ref[1],
    }
    return trainer._compute_loss(answers(batch.logprobs * mask), inputs, False)


def four(batch, mean=False):
    """Chosen, rejected, and both under the reference."""
    return [
        *sequence_logprobs(batch.logprobs, batch.mask, mean).chunk(2),
        *sequence_logprobs(batch.ref, batch.mask, mean).chunk(2),
    ]


@BATCHES
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_dpo(seed, dtype, beta):
    batch = ragged(seed, dtype)
    assert_same(dpo_loss(*four(batch), beta), trl_dpo(batch, "sigmoid", beta), batch.logprobs)


@BATCHES
@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_dpo_with_label_smoothing(seed, dtype, smoothing):
    """The conservative loss, (1 − ε)·loss + ε·loss with the pair turned. TRL 1.16 keeps it as
    `aot_unpaired`, which on a single pair has nothing to sort. Its `robust` divides by 1 − 2ε
    and turns the second sign, another estimator."""
    batch = ragged(seed, dtype, B=2)
    assert_same(
        dpo_loss(*four(batch), 0.5, smoothing),
        trl_dpo(batch, "aot_unpaired", 0.5, smoothing),
        batch.logprobs,
    )


@BATCHES
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_ipo(seed, dtype, beta):
    """On means over tokens, as TRL computes it on the advice of IPO's authors. Its mean counts
    the tokens of the completion mask, the same as here. (test_trl_loops.py has the sums too.)"""
    batch = ragged(seed, dtype)
    assert_same(
        ipo_loss(*four(batch, mean=True), beta), trl_dpo(batch, "ipo", beta), batch.logprobs
    )


@BATCHES
@pytest.mark.parametrize("beta, margin", [(2.0, 1.0), (2.5, 0.5), (10.0, 0.0)])
def test_simpo(seed, dtype, beta, margin):
    batch = ragged(seed, dtype)
    chosen, rejected = sequence_logprobs(batch.logprobs, batch.mask, mean=True).chunk(2)
    trainer = bare(
        CPOTrainer, loss_type="simpo", beta=beta, simpo_gamma=margin, alpha=0.0, label_smoothing=0.0
    )
    sums, lengths = (batch.logprobs * batch.mask).sum(dim=1), batch.mask.sum(dim=1)
    losses, _, _ = trainer.cpo_loss(*(sums / lengths).chunk(2))
    assert_same(simpo_loss(chosen, rejected, beta, margin), losses.mean(), batch.logprobs)


@BATCHES
@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.5)])
@pytest.mark.parametrize("baseline", [0.8, -0.8])
def test_kto(seed, dtype, beta, weights, baseline):
    """The reference point is the mean log-ratio of mismatched pairs, at least 0 and detached.
    TRL estimates and clips it inside its loss; here it is an argument, clipped where it is
    estimated, so both are given the same."""
    batch = ragged(seed, dtype)
    mask, label = batch.mask, torch.tensor([1, 0, 1, 1, 0, 0, 0, 1] * 2)
    trainer = bare(
        KTOTrainer,
        loss_type="kto",
        calculate_KL=True,
        precompute_ref_logps=True,
        beta=beta,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
        _compute_kl_logps=lambda *a: torch.full((16,), baseline, dtype=dtype),
    )
    inputs = {
        "input_ids": with_a_prompt(mask),
        "attention_mask": with_a_prompt(mask, 1),
        "completion_mask": with_a_prompt(mask),
        "label": label,
        "ref_logps": (batch.ref * mask).sum(dim=1),
        "ref_KL_logps": torch.zeros(16, dtype=dtype),
    }
    theirs = trainer._compute_loss(answers(batch.logprobs * mask), inputs, False)
    log_ratio = sequence_logprobs(batch.logprobs, mask) - sequence_logprobs(batch.ref, mask)
    ours = kto_loss(
        log_ratio, label.bool(), torch.tensor(max(baseline, 0.0), dtype=dtype), beta, *weights
    )
    assert_same(ours, theirs, batch.logprobs)


@BATCHES
@pytest.mark.parametrize("margin", [None, [0.5, 0.0, 1.5]])
@pytest.mark.parametrize("centering", [None, 0.01, 0.3])
def test_the_reward_models_loss(seed, dtype, margin, centering):
    generator = torch.Generator().manual_seed(seed)
    scores = (2 * torch.randn(6, 1, generator=generator, dtype=torch.float64)).to(dtype)
    scores.requires_grad_()
    trainer = bare(
        RewardTrainer,
        args=SimpleNamespace(center_rewards_coefficient=centering),
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    inputs = {"attention_mask": torch.ones(6, 1)}
    if margin is not None:
        inputs["margin"] = torch.tensor(margin, dtype=dtype)
    theirs = trainer.compute_loss(
        lambda use_cache, attention_mask, **more: SimpleNamespace(logits=scores), inputs
    )
    chosen, rejected = scores[:, 0].chunk(2)
    ours = bradley_terry_loss(chosen, rejected, inputs.get("margin", 0.0), centering or 0.0)
    assert_same(ours, theirs, scores)
