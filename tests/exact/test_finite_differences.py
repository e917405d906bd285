"""Every loss against finite differences in float64, and the sides of every kink."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lib.mathematics.advantages import gae, masked_mean, masked_whiten
from rlhf_lib.mathematics.kl import k1, k2, k3
from rlhf_lib.mathematics.losses import (
    aggregate,
    bradley_terry_loss,
    cispo_loss,
    clipped_policy_loss,
    clipped_value_loss,
    dpo_loss,
    gmpo_loss,
    gspo_loss,
    ipo_loss,
    kto_loss,
    reinforce_loss,
    rloo_loss,
    sapo_loss,
    sequence_logprobs,
    sft_loss,
    simpo_loss,
)
from tests.parity.oracles import ragged

OVER = [dict(over="tokens"), dict(over="sequences"), dict(over="budget", budget=9)]


def policy_losses(batch):
    """Loss functions of the log-probabilities alone, by name."""
    old, mask, A = batch.old, batch.mask, batch.advantages[:, None]
    losses = {"sft": lambda x: sft_loss(x, mask)}
    per_token = {
        "reinforce": lambda x: reinforce_loss(x, A),
        "clipped": lambda x: clipped_policy_loss(x, old, A),
        "clipped, upper .28": lambda x: clipped_policy_loss(x, old, A, 0.2, 0.28),
        "dual clip": lambda x: clipped_policy_loss(x, old, A, dual_clip=1.5),
        "gspo": lambda x: gspo_loss(x, old, A, mask),
        "gspo, wide": lambda x: gspo_loss(x, old, A, mask, 0.1, 0.1),
        "gmpo": lambda x: gmpo_loss(x, old, A, mask),
        "gmpo, narrow": lambda x: gmpo_loss(x, old, A, mask, 0.1, 0.2),
        "sapo": lambda x: sapo_loss(x, old, A),
        "sapo, steep": lambda x: sapo_loss(x, old, A, (2.0, 5.0)),
        "rloo": lambda x: rloo_loss(x, old, A, mask, 0.5),
        "k1": lambda x: k1(x - batch.ref),
        "k2": lambda x: k2(x - batch.ref),
        "k3": lambda x: k3(x - batch.ref),
        "grpo": lambda x: clipped_policy_loss(x, old, A) + 0.3 * k3(x - batch.ref),
    }
    for name, loss in per_token.items():
        for how in OVER:
            losses[f"{name}, {how['over']}"] = lambda x, loss=loss, how=how: aggregate(
                loss(x), mask, **how
            )
    return losses


@pytest.mark.parametrize("name", policy_losses(ragged(0)))
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_of_log_probabilities(name, seed):
    batch = ragged(seed, B=4, T=4)
    loss = policy_losses(batch)[name]
    assert torch.autograd.gradcheck(loss, batch.logprobs)
    (slope,) = torch.autograd.grad(loss(batch.logprobs), batch.logprobs)
    assert not slope[batch.mask == 0].any()  # padding learns nothing


@pytest.mark.parametrize("how", OVER, ids=lambda how: how["over"])
def test_cispo_with_its_weight_held_still(how):
    """The weight is a constant to the gradient, so the differences are taken with it fixed."""
    batch = ragged(0, B=4, T=4)
    A = batch.advantages[:, None]
    weight = (batch.logprobs - batch.old).exp().clamp(max=1.3).detach()
    assert (weight == 1.3).any() and (weight < 1.3).any()
    still = lambda x: aggregate(-weight * A * x, batch.mask, **how)
    assert torch.autograd.gradcheck(still, batch.logprobs)
    (ours,) = torch.autograd.grad(
        aggregate(cispo_loss(batch.logprobs, batch.old, A, 1.3), batch.mask, **how), batch.logprobs
    )
    (expected,) = torch.autograd.grad(still(batch.logprobs), batch.logprobs)
    assert torch.allclose(ours, expected, atol=1e-12)


def numbers(seed, n, rows=5):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(rows, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(n)
    ]


LABEL = torch.tensor([True, False, True, True, False])


@pytest.mark.parametrize(
    "loss, leaves",
    [
        (lambda c, r: bradley_terry_loss(c, r), 2),
        (lambda c, r: bradley_terry_loss(c, r, torch.linspace(0, 1, 5), 0.3), 2),
        (lambda c, r, rc, rr: dpo_loss(c, r, rc, rr, 0.5), 4),
        (lambda c, r, rc, rr: dpo_loss(c, r, rc, rr, 0.5, 0.2), 4),
        (lambda c, r, rc, rr: ipo_loss(c, r, rc, rr, 0.4), 4),
        (lambda c, r: simpo_loss(c, r, 2.0, 0.7), 2),
        (lambda x: kto_loss(x, LABEL, 0.3, 0.7, 1.5, 0.5), 1),
    ],
    ids=[
        "bradley-terry",
        "bradley-terry with margin and centring",
        "dpo",
        "dpo, smoothed",
        "ipo",
        "simpo",
        "kto",
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_preference_losses(loss, leaves, seed):
    assert torch.autograd.gradcheck(loss, numbers(seed, leaves))


@pytest.mark.parametrize("epsilon", [0.2, None])
def test_value_loss(epsilon):
    batch = ragged(0, B=4, T=4)
    assert torch.autograd.gradcheck(
        lambda v: aggregate(clipped_value_loss(v, batch.old, batch.ref, epsilon), batch.mask),
        batch.logprobs,
    )


def test_what_losses_are_built_from():
    batch = ragged(1, B=3, T=4)
    x, mask = batch.logprobs, batch.mask
    for function in (
        lambda v: masked_mean(v, mask),
        lambda v: masked_whiten(v, mask).tanh().sum(),
        lambda v: (gae(v, batch.old, mask, 0.9, 0.8)[0] ** 2).sum(),
        lambda v: (gae(batch.old, v, mask, 0.9, 0.8)[0] ** 2).sum(),
        lambda v: sequence_logprobs(v, mask).tanh().sum(),
        lambda v: sequence_logprobs(v, mask, mean=True).tanh().sum(),
    ):
        assert torch.autograd.gradcheck(function, x)


# ---------------------------------------------------------------------------------- at the kinks


def sides(loss, kink, step=1e-7):
    """Slopes just below and just above a kink, by one-sided differences."""
    at, below, above = (
        loss(torch.tensor(kink + d, dtype=torch.float64)).item() for d in (0.0, -step, step)
    )
    return (at - below) / step, (above - at) / step


def autograd_slope(loss, point):
    x = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(loss(x), x)[0].item()


def check_kink(loss, kink, below, above):
    """Differences and autograd agree on either side; at the kink autograd lies between them."""
    assert sides(loss, kink) == pytest.approx((below, above), abs=1e-5)
    for side, expected in ((-1e-9, below), (1e-9, above)):
        assert autograd_slope(loss, kink + side) == pytest.approx(expected, abs=1e-6)
    assert min(below, above) - 1e-9 <= autograd_slope(loss, kink) <= max(below, above) + 1e-9


@pytest.mark.parametrize(
    "ratio, A, below, above",
    [
        (1.2, 3.0, -3.6, 0.0),  # good and already raised: the pull ends
        (0.8, 3.0, -2.4, -2.4),  # good but fallen: no kink, the minimum keeps the bare term
        (1.2, -3.0, 3.6, 3.6),  # bad but risen: no kink either
        (0.8, -3.0, 0.0, 2.4),  # bad and already lowered: the push ends
    ],
)
def test_the_policy_clip_in_its_four_sign_cases(ratio, A, below, above):
    advantage = torch.tensor(A, dtype=torch.float64)
    check_kink(
        lambda x: clipped_policy_loss(x, torch.zeros_like(x), advantage),
        math.log(ratio),
        below,
        above,
    )


def test_the_dual_clip_ends_the_push_on_a_bad_token_that_rose_far():
    advantage = torch.tensor(-3.0, dtype=torch.float64)
    check_kink(
        lambda x: clipped_policy_loss(x, torch.zeros_like(x), advantage, dual_clip=2.0),
        math.log(2.0),
        6.0,
        0.0,
    )


@pytest.mark.parametrize(
    "target, move, below, above",
    [
        (5.0, 0.2, -4.8, 0.0),  # towards the target: past the clip it earns no more
        (5.0, -0.2, -5.2, -5.2),  # away from it: pulled back, however far
        (-5.0, 0.2, 5.2, 5.2),
        (-5.0, -0.2, 0.0, 4.8),
    ],
)
def test_the_value_clip(target, move, below, above):
    old = torch.zeros((), dtype=torch.float64)
    returns = torch.tensor(target, dtype=torch.float64)
    check_kink(lambda v: clipped_value_loss(v, old, returns, 0.2), move, below, above)


# ----------------------------------------------------------------------- what carries no gradient


def test_advantages_and_the_kto_baseline_are_data():
    A = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    assert (
        torch.autograd.grad(
            reinforce_loss(torch.zeros(2, 3, dtype=torch.float64, requires_grad=True), A).sum(),
            A,
            allow_unused=True,
        )[0]
        is None
    )
    x, kl = torch.zeros(5, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    assert torch.autograd.grad(kto_loss(x, LABEL, kl), kl, allow_unused=True)[0] is None
