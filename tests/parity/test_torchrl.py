"""GAE, returns, the value clip, k3 and the adaptive β against torchrl 0.14."""

from __future__ import annotations

import warnings

import pytest
import torch

from tests.parity.oracles import assert_same, ragged

with warnings.catch_warnings():  # torchrl looks for simulators and says what it does not find
    warnings.simplefilter("ignore")
    from torchrl.data.llm.utils import AdaptiveKLController
    from torchrl.objectives.llm.distillation import k3_kl_token_estimate
    from torchrl.objectives.utils import _clip_value_loss
    from torchrl.objectives.value.functional import generalized_advantage_estimate, reward2go

from rlhf_lib.mathematics.advantages import gae, returns_to_go
from rlhf_lib.mathematics.kl import AdaptiveKL, k3
from rlhf_lib.mathematics.losses import clipped_value_loss

SEEDS = pytest.mark.parametrize("seed", range(3))


def ends(mask):
    """torchrl's done: true on the last token of each completion. What follows is padding."""
    return torch.zeros_like(mask, dtype=torch.bool).scatter(1, mask.sum(1, keepdim=True) - 1, True)


def weighted(tensors, mask):
    """One number that depends on every real entry in its own way, so its gradient shows all."""
    weights = torch.linspace(-1.0, 2.0, mask.numel(), dtype=torch.float64).view(mask.shape)
    return sum(
        (w * torch.where(mask.bool(), x, 0.0) * weights).sum() for w, x in zip((1.0, 0.3), tensors)
    )


@SEEDS
@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (1.0, 1.0), (0.9, 0.0), (0.97, 0.8)])
def test_gae_on_ragged_completions(seed, gamma, lam):
    """Advantages, returns, and their gradients with respect to rewards and values; finite
    garbage stands in the padding."""
    batch = ragged(seed)
    rewards, values = batch.logprobs, batch.old.clone().requires_grad_()
    done = ends(batch.mask)[..., None]
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    double = [torch.tensor(x, dtype=torch.float64) for x in (gamma, lam)]  # a float would be fp32
    theirs = generalized_advantage_estimate(
        *double, values[..., None], following[..., None], rewards[..., None], done
    )
    ours = gae(rewards, values, batch.mask, gamma, lam)
    for a, b in zip(ours, theirs):
        assert torch.allclose(a, torch.where(batch.mask.bool(), b[..., 0], 0.0), atol=1e-10)
    assert_same(
        weighted(ours, batch.mask),
        weighted([b[..., 0] for b in theirs], batch.mask),
        rewards,
        values,
    )


@SEEDS
def test_returns_to_go(seed):
    batch = ragged(seed)
    last = ends(batch.mask)
    last[:, -1] = True  # torchrl wants every row to end; what it makes of the padding is not read
    theirs = reward2go(batch.old[..., None], last[..., None], 1.0)[..., 0]
    assert torch.allclose(
        returns_to_go(batch.old, batch.mask),
        torch.where(batch.mask.bool(), theirs, 0.0),
        atol=1e-10,
    )


@SEEDS
def test_the_value_clip(seed):
    """torchrl's squared error is not halved, ours is."""
    batch = ragged(seed)
    values, old, returns = batch.logprobs, batch.old, batch.ref
    assert ((values - old).abs() > 0.2).any() and ((values - old).abs() < 0.2).any()
    theirs, _ = _clip_value_loss(
        old, values, torch.tensor(0.2, dtype=torch.float64), returns, (values - returns) ** 2, "l2"
    )
    weights = torch.linspace(-1.0, 2.0, values.numel(), dtype=torch.float64).view(values.shape)
    assert_same(
        (weights * clipped_value_loss(values, old, returns, 0.2)).sum(),
        (weights * theirs / 2).sum(),
        values,
    )


@SEEDS
def test_k3(seed):
    batch = ragged(seed)
    weights = torch.linspace(-1.0, 2.0, batch.old.numel(), dtype=torch.float64).view(
        batch.old.shape
    )
    assert_same(
        (weights * k3(batch.logprobs - batch.ref)).sum(),
        (weights * k3_kl_token_estimate(batch.ref, batch.logprobs)).sum(),
        batch.logprobs,
    )


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("kl", [0.0, 5.9, 6.0, 6.6, 40.0])
def test_the_adaptive_coefficient(kl):
    """torchrl is handed penalties, −β·KL of each completion, and divides the sign and β out."""
    theirs = AdaptiveKLController(init_kl_coef=0.1, target=6.0, horizon=640)
    theirs.update([-0.1 * kl] * 64)
    assert AdaptiveKL(target=6.0, horizon=640)(0.1, kl, completions=64) == pytest.approx(
        float(theirs.coef), abs=1e-7
    )
