"""Which advantages and which means leave the policy gradient unbiased: every group, enumerated.

The exact gradient of E[r] is the yardstick. What is biased is not only shown to differ: what it
follows instead is computed, and equals it.
"""

from __future__ import annotations

import pytest
import torch

from rlhf_lib.mathematics.advantages import gae, group_advantages, returns_to_go
from rlhf_lib.mathematics.losses import aggregate, clipped_policy_loss, reinforce_loss
from tests.exact.tabular import Language, gradient, groups

LANGUAGE = Language(2, 3, end=0)  # replies of 1, 2 and 3 tokens
REWARDS = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
SIZES = pytest.mark.parametrize("G", [2, 3, 4])


@pytest.fixture
def table():
    return LANGUAGE.table(seed=5).requires_grad_()


def exact_gradient(table, rewards=REWARDS):
    """∇ E[r], straight from the probabilities."""
    return gradient((LANGUAGE.logprobs(table).sum(dim=1).exp() * rewards).sum(), table)


def expected_gradient(table, G, baseline, scale, eps=1e-4, rewards=REWARDS):
    """The gradient that groups of G samples give on average: every group, weighted by its
    probability; each completion's loss is the sum over its tokens, as in REINFORCE."""
    rows = groups(len(rewards), G)
    advantages = group_advantages(rewards[rows].flatten(), G, baseline, scale, eps)
    loss = reinforce_loss(LANGUAGE.logprobs(table)[rows.flatten()], advantages[:, None])
    per_group = (loss * LANGUAGE.mask[rows.flatten()]).sum(dim=1).view(-1, G).mean(dim=1)
    weights = LANGUAGE.probabilities(table)[rows].prod(dim=1)
    return -gradient((weights * per_group).sum(), table)


@SIZES
@pytest.mark.parametrize("baseline", ["none", "leave_one_out"])
def test_unbiased_without_a_baseline_and_with_the_mean_of_the_others(table, G, baseline):
    assert torch.allclose(
        expected_gradient(table, G, baseline, "none"), exact_gradient(table), atol=1e-12
    )


@SIZES
def test_the_group_mean_shrinks_the_gradient_and_keeps_its_direction(table, G):
    assert torch.allclose(
        expected_gradient(table, G, "mean", "none"), exact_gradient(table) * (G - 1) / G, atol=1e-12
    )


def test_dividing_by_the_std_of_a_pair_follows_the_chance_of_winning(table):
    """Of two samples, (r − mean)/std is ±1/√2 whatever the rewards are: the size of a reward no
    longer counts, only its rank."""
    taught = expected_gradient(table, 2, "mean", "std", eps=1e-12)
    p = LANGUAGE.logprobs(table).sum(dim=1).exp()
    wins = torch.sign(REWARDS[:, None] - REWARDS[None, :])
    chance = (p[:, None] * p.detach()[None, :] * wins).sum() / 2**0.5
    assert torch.allclose(taught, gradient(chance, table), atol=1e-10)
    tenfold = torch.where(REWARDS == 3.0, 30.0, REWARDS)
    assert torch.allclose(
        expected_gradient(table, 2, "mean", "std", 1e-12, tenfold), taught, atol=1e-10
    )
    assert (exact_gradient(table, tenfold) - exact_gradient(table)).abs().max() > 0.5


@SIZES
def test_the_bias_of_the_std_is_not_a_matter_of_scale(table, G):
    """The expected gradient points elsewhere, where the group mean alone only shortens it."""

    def cosine(scale):
        return torch.cosine_similarity(
            expected_gradient(table, G, "mean", scale).flatten(),
            exact_gradient(table).flatten(),
            dim=0,
        ).item()

    assert cosine("none") == pytest.approx(1.0, abs=1e-12)
    assert cosine("std") < 0.99


@SIZES
def test_dividing_by_the_std_of_the_batch_keeps_a_pair_of_rewards_apart(table, G):
    """One prompt's group is then its own batch; over a batch of two prompts the divisor is
    shared, so a spread group keeps its larger say."""
    two = torch.cat(
        [
            torch.linspace(0.0, 1.0, G, dtype=torch.float64),
            torch.linspace(0.0, 10.0, G, dtype=torch.float64),
        ]
    )
    by_group = group_advantages(two, G, "mean", "std", eps=1e-12).view(2, G)
    by_batch = group_advantages(two, G, "mean", "batch", eps=1e-12).view(2, G)
    assert torch.allclose(by_group[0], by_group[1])
    assert torch.allclose(by_batch[0] * 10, by_batch[1])


# ------------------------------------------------------------------------------- what is averaged


def batch_gradient(table, over, **settings):
    """The mean gradient over every batch of two replies, with their rewards as advantages."""
    logprobs, mask = LANGUAGE.logprobs(table), LANGUAGE.mask
    p, total = LANGUAGE.probabilities(table), 0.0
    for i, j in groups(len(REWARDS), 2).tolist():
        rows = [i, j]
        loss = reinforce_loss(logprobs[rows], REWARDS[rows, None])
        total = total + p[i] * p[j] * aggregate(loss, mask[rows], over, **settings)
    return -gradient(total, table)


def test_a_fixed_budget_is_the_unbiased_mean(table):
    """Σ over tokens, divided by a length that does not depend on the sample."""
    assert torch.allclose(
        batch_gradient(table, "budget", budget=3) * 3, exact_gradient(table), atol=1e-12
    )


def test_the_mean_within_a_reply_weighs_it_by_one_over_its_length(table):
    """GRPO as published: Σ_y π(y) r(y)/|y| ∇log π(y), the gradient for another reward, r/|y|."""
    lengths = LANGUAGE.mask.sum(dim=1)
    taught = batch_gradient(table, "sequences")
    assert torch.allclose(taught, exact_gradient(table, REWARDS / lengths), atol=1e-12)
    assert (taught * lengths.double().mean() - exact_gradient(table)).abs().max() > 0.05


def test_the_mean_over_all_tokens_weighs_a_reply_by_what_it_was_drawn_with(table):
    """DAPO's mean: a reply counts 2/(|y| + |y'|), which depends on its neighbour in the batch."""
    lengths = LANGUAGE.mask.sum(dim=1).double()
    p = LANGUAGE.probabilities(table)
    weight = (p[None, :] * 2 / (lengths[:, None] + lengths[None, :])).sum(dim=1)
    taught = batch_gradient(table, "tokens")
    assert torch.allclose(taught, exact_gradient(table, REWARDS * weight), atol=1e-12)
    assert (taught / weight.mean() - exact_gradient(table)).abs().max() > 0.05


# --------------------------------------------------------------------------- credit within a reply


def test_the_return_to_go_has_the_gradient_of_the_whole_return(table):
    """A token cannot change what came before it: leaving that out changes no expectation."""
    generator = torch.Generator().manual_seed(2)
    per_token = torch.randn(LANGUAGE.mask.shape, generator=generator, dtype=torch.float64)
    # a reward per prefix and token, so that equal beginnings have equal rewards
    per_token = per_token.flatten()[(LANGUAGE.states * 2 + LANGUAGE.ids) % per_token.numel()]
    per_token = per_token * LANGUAGE.mask
    p = LANGUAGE.probabilities(table)[:, None]
    expected = exact_gradient(table, per_token.sum(dim=1))
    for advantages in (per_token.sum(dim=1, keepdim=True), returns_to_go(per_token, LANGUAGE.mask)):
        loss = reinforce_loss(LANGUAGE.logprobs(table), advantages)
        assert torch.allclose(
            -gradient((p * loss * LANGUAGE.mask).sum(), table), expected, atol=1e-12
        )


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_with_exact_values_gae_is_unbiased_for_every_lambda(table, lam):
    p, mask = LANGUAGE.probabilities(table), LANGUAGE.mask
    rewards = torch.zeros_like(mask, dtype=torch.float64).scatter(
        1, mask.sum(dim=1, keepdim=True) - 1, REWARDS[:, None]
    )
    values = exact_values(table, rewards)
    advantages, _ = gae(rewards, values, mask, gamma=1.0, lam=lam)
    logprobs = LANGUAGE.logprobs(table)
    loss = clipped_policy_loss(logprobs, logprobs.detach(), advantages)
    assert torch.allclose(
        -gradient((p[:, None] * loss * mask).sum(), table), exact_gradient(table), atol=1e-12
    )


def test_with_wrong_values_only_lambda_one_stays_unbiased(table):
    p, mask = LANGUAGE.probabilities(table), LANGUAGE.mask
    rewards = torch.zeros_like(mask, dtype=torch.float64).scatter(
        1, mask.sum(dim=1, keepdim=True) - 1, REWARDS[:, None]
    )
    wrong = exact_values(table, rewards) + LANGUAGE.table(seed=9)[:, 0][LANGUAGE.states]
    for lam, unbiased in ((1.0, True), (0.5, False)):
        advantages, _ = gae(rewards, wrong, mask, gamma=1.0, lam=lam)
        logprobs = LANGUAGE.logprobs(table)
        loss = clipped_policy_loss(logprobs, logprobs.detach(), advantages)
        error = -gradient((p[:, None] * loss * mask).sum(), table) - exact_gradient(table)
        assert (error.abs().max() < 1e-12) == unbiased
        assert unbiased or error.abs().max() > 0.05


def exact_values(table, rewards):
    """E[what is still to come | prefix] under the policy, laid out as (N, T)."""
    to_go = (rewards * LANGUAGE.mask).flip(1).cumsum(1).flip(1)
    weight = LANGUAGE.probabilities(table)[:, None] * LANGUAGE.mask
    states = len(LANGUAGE.prefixes)
    mass = torch.zeros(states, dtype=torch.float64).index_put((LANGUAGE.states,), weight, True)
    total = torch.zeros_like(mass).index_put((LANGUAGE.states,), weight * to_go, True)
    return (total / mass)[LANGUAGE.states] * LANGUAGE.mask
