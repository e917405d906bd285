"""Samples of another policy, on a language small enough to enumerate: which weights leave the
policy gradient unbiased, and what the others follow instead."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lib.mathematics.losses import importance_weights, reinforce_loss
from tests.exact.tabular import Language, gradient

LANGUAGE = Language(3, 3, end=0)  # replies of 1, 2 and 3 tokens
REWARDS = torch.randn(
    len(LANGUAGE.replies), generator=torch.Generator().manual_seed(3), dtype=torch.float64
)
FREE = (0.0, math.inf)


@pytest.fixture
def table():
    return LANGUAGE.table(seed=5).requires_grad_()


@pytest.fixture
def sampler(table):
    """The same policy, some updates ago."""
    return table.detach() + LANGUAGE.table(seed=6, scale=0.5)


def exact_gradient(table, rewards=REWARDS):
    return gradient((LANGUAGE.logprobs(table).sum(dim=1).exp() * rewards).sum(), table)


def expected_gradient(table, sampler, mode, bounds=FREE, rewards=REWARDS):
    """The update that samples of the sampler give on average: every reply, by its probability
    under the sampler, with a reply's loss summed over its tokens."""
    logprobs, drawn = LANGUAGE.logprobs(table), LANGUAGE.logprobs(sampler)
    weights = 1.0
    if mode is not None:
        weights = importance_weights(logprobs, drawn, LANGUAGE.mask, mode, bounds)
    loss = reinforce_loss(logprobs, (rewards[:, None] * weights).expand_as(logprobs))
    per_reply = (loss * LANGUAGE.mask).sum(dim=1)
    return -gradient((LANGUAGE.probabilities(sampler) * per_reply).sum(), table)


def off(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("mode", ["sequence_truncate", "sequence_mask"])
def test_the_weight_of_the_whole_reply_leaves_no_bias(table, sampler, mode):
    assert off(expected_gradient(table, sampler, mode), exact_gradient(table)) < 1e-12


@pytest.mark.parametrize("mode", [None, "token_truncate", "token_mask"])
def test_no_weight_and_a_tokens_own_leave_one(table, sampler, mode):
    assert off(expected_gradient(table, sampler, mode), exact_gradient(table)) > 0.1


def test_a_tokens_own_weight_follows_the_policy_at_the_prefixes_of_the_sampler(table, sampler):
    """What it corrects is the choice at a prefix; how often a prefix is met, and what the sampler
    writes after the choice, stay the sampler's: Σ_s μ(s) Σ_a ∇π(a | s) Q_μ(s, a)."""
    policy, drawn = table.softmax(dim=-1), LANGUAGE.probabilities(sampler)
    flat = LANGUAGE.states * LANGUAGE.V + LANGUAGE.ids  # (N, T), the cell of the table
    kept = LANGUAGE.mask.bool()
    count = torch.zeros(policy.numel(), dtype=torch.float64)
    value = torch.zeros_like(count)
    count.index_add_(0, flat[kept], drawn[:, None].expand(flat.shape)[kept])
    value.index_add_(0, flat[kept], (drawn * REWARDS)[:, None].expand(flat.shape)[kept])
    Q = torch.where(count > 0, value / count, 0.0).view_as(policy)
    visits = torch.zeros(len(policy), dtype=torch.float64)
    visits.index_add_(0, LANGUAGE.states[kept], drawn[:, None].expand(flat.shape)[kept])
    followed = gradient((visits[:, None] * policy * Q).sum(), table)
    assert off(expected_gradient(table, sampler, "token_truncate"), followed) < 1e-12


def test_for_a_reply_of_one_token_the_two_are_one(table):
    one = Language(4, 1)
    policy, sampler = one.table(seed=1).requires_grad_(), one.table(seed=2)
    logprobs, drawn = one.logprobs(policy), one.logprobs(sampler)
    weights = [
        importance_weights(logprobs, drawn, one.mask, mode, FREE)
        for mode in ("token_truncate", "sequence_truncate")
    ]
    assert torch.allclose(*weights, atol=1e-15)


@pytest.mark.parametrize("mode", ["sequence_truncate", "sequence_mask", "token_mask"])
def test_a_bound_costs_a_bias_that_falls_as_it_rises(table, sampler, mode):
    unbounded = expected_gradient(table, sampler, mode)
    biases = [
        off(expected_gradient(table, sampler, mode, (0.0, bound)), unbounded)
        for bound in (1.05, 2.0, 4.0, 64.0)
    ]
    assert biases[0] > 0.05 and biases[-1] < 1e-12
    if mode == "sequence_truncate":
        assert biases == sorted(biases, reverse=True)


def test_ignoring_a_stale_sampler_follows_a_weighted_reward(table, sampler):
    """Without weights it is the policy gradient of another reward, r μ/π, taken as fixed."""
    ratio = LANGUAGE.probabilities(sampler) / LANGUAGE.probabilities(table)
    followed = exact_gradient(table, REWARDS * ratio)
    assert off(expected_gradient(table, sampler, None), followed) < 1e-12


def test_a_fresh_sampler_needs_no_weight(table):
    for mode in (None, "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"):
        found = expected_gradient(table, table.detach(), mode, (0.0, 3.0))
        assert off(found, exact_gradient(table)) < 1e-12
