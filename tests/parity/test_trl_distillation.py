"""On-policy distillation against TRL 1.16, values and gradients.

TRL has it in two forms. `IWOPDTrainer` learns from the token that was sampled; without its weights
on positions (`iw_opd_gamma=0`) that is the chapter's loss. `GKDTrainer` and `DistillationTrainer`
compare whole next-token distributions, which is `exact_kl` at every prefix.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from trl.experimental.gkd.gkd_trainer import GKDTrainer
from trl.experimental.iw_opd.iw_opd_trainer import IWOPDTrainer
from trl.trainer.distillation_trainer import _chunked_divergence_loss

from rlhf_lib.mathematics.kl import exact_kl
from rlhf_lib.mathematics.losses import aggregate, reinforce_loss, sft_loss
from rlhf_lib.models.tokens import selected_logprobs
from tests.parity.oracles import assert_same, bare, ragged

V = 5
SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])


def batch_of_logits(seed, dtype=torch.float64):
    """Logits of student (a leaf) and teacher (B, T, V), the tokens, and a ragged mask."""
    mask = ragged(seed, dtype).mask
    generator = torch.Generator().manual_seed(seed + 10)
    shape = (*mask.shape, V)
    student, teacher = (
        2 * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)
    )
    ids = torch.randint(V, mask.shape, generator=generator)
    return SimpleNamespace(
        student=student.requires_grad_(),
        teacher=teacher,
        ids=ids,
        mask=mask,
        labels=torch.where(mask.bool(), ids, -100),
    )


@SEEDS
@pytest.mark.parametrize("rollout", [False, True])
def test_the_loss_of_the_sampled_token(seed, rollout):
    """With the sampler's log-probabilities, as here, and with the student's own."""
    batch = batch_of_logits(seed)
    logprobs = selected_logprobs(batch.student, batch.ids)
    teachers = selected_logprobs(batch.teacher, batch.ids)
    sampled = (logprobs + 0.1 * ragged(seed).advantages[:, None]).detach()
    advantages = teachers - (sampled if rollout else logprobs.detach())
    ours = aggregate(reinforce_loss(logprobs, advantages), batch.mask)
    trainer = bare(IWOPDTrainer, temperature=1.0, iw_opd_gamma=0.0, iw_opd_epsilon=1e-8)
    theirs = trainer._compute_iw_opd_loss(
        batch.student, batch.ids, batch.labels, teachers, sampled if rollout else None
    )
    assert_same(ours, theirs, batch.student)


@SEEDS
@pytest.mark.parametrize("forward", [False, True])
def test_the_kl_over_the_whole_vocabulary(seed, forward):
    """GKD's β is 1 for the reverse KL, of the student from the teacher, and 0 for the forward."""
    batch = batch_of_logits(seed)
    pair = (batch.teacher, batch.student) if forward else (batch.student, batch.teacher)
    ours = aggregate(exact_kl(*pair), batch.mask)
    theirs = GKDTrainer.generalized_jsd_loss(
        batch.student, batch.teacher, batch.labels, beta=0.0 if forward else 1.0
    )
    assert_same(ours, theirs, batch.student)


@SEEDS
@pytest.mark.parametrize("forward", [False, True])
def test_the_same_in_the_stable_trainer(seed, forward):
    """In float32, which is what its kernel computes in: hidden states are logits here."""
    batch = batch_of_logits(seed, torch.float32)
    pair = (batch.teacher, batch.student) if forward else (batch.student, batch.teacher)
    ours = aggregate(exact_kl(*pair), batch.mask)
    theirs, _, count = _chunked_divergence_loss(
        batch.student,
        batch.teacher,
        torch.eye(V),
        torch.eye(V),
        batch.mask,
        beta=0.0 if forward else 1.0,
    )
    assert count == batch.mask.sum()
    assert_same(ours, theirs, batch.student)


@SEEDS
def test_the_mean_over_the_next_token_of_one_is_the_gradient_of_the_other(seed):
    """Each token of the vocabulary in the sampled one's place, by its probability."""
    batch = batch_of_logits(seed)
    trainer = bare(IWOPDTrainer, temperature=1.0, iw_opd_gamma=0.0, iw_opd_epsilon=1e-8)
    probabilities = batch.student.detach().softmax(dim=-1)
    mean = torch.zeros_like(batch.student)
    for token in range(V):
        ids = torch.full_like(batch.ids, token)
        teachers = selected_logprobs(batch.teacher, ids)
        labels = torch.where(batch.mask.bool(), ids, -100)
        loss = trainer._compute_iw_opd_loss(batch.student, ids, labels, teachers)
        (gradient,) = torch.autograd.grad(loss, batch.student)
        mean += probabilities[..., token, None] * gradient
    theirs = GKDTrainer.generalized_jsd_loss(batch.student, batch.teacher, batch.labels, beta=1.0)
    (gradient,) = torch.autograd.grad(theirs, batch.student)
    assert torch.allclose(mean, gradient, atol=1e-10) and gradient.abs().max() > 1e-3


@SEEDS
def test_sft_is_the_forward_kl_from_a_teacher_that_is_sure_of_its_token(seed):
    """What `seq_kd` and a data set of the teacher's samples come to."""
    batch = batch_of_logits(seed)
    sure = torch.nn.functional.one_hot(batch.ids, V).double().mul(200.0)
    theirs = GKDTrainer.generalized_jsd_loss(batch.student, sure, batch.labels, beta=0.0)
    ours = sft_loss(selected_logprobs(batch.student, batch.ids), batch.mask)
    assert_same(ours, theirs, batch.student)
