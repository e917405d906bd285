"""Where each algorithm ends, on languages whose optimum is known: exact gradients, run to rest.

The library's losses see every reply (every group of G replies), weighted by its probability. The
step is preconditioned by the Fisher information of the table, which changes the path and not its
end: the run stops when the gradient itself is zero. Each end is then computed a second time,
without any loss or gradient, from the condition that holds at rest.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlhf_lib.mathematics import tilt
from rlhf_lib.mathematics.advantages import gae, group_advantages, token_rewards
from rlhf_lib.mathematics.kl import k1, k3
from rlhf_lib.mathematics.losses import clipped_policy_loss, rloo_loss
from tests.exact.tabular import Language, gradient, groups

# The eight replies of the alignment chapter, and its price of a nat
REFERENCE = tilt.softmax([1.2, 0.5, 1.0, 0.3, 1.5, 1.1, 0.8, 0.9])
REWARDS = np.array([8.0, -6.0, 7.0, -3.0, 1.0, 6.0, -2.0, -5.0])
BETA = 1.0
EIGHT = Language(8, 1)
OPTIMUM = tilt.tilt(REFERENCE, REWARDS, BETA)
CLIP = 0.2


def run(language, start, loss_of_batch, rate=0.1, epochs=2, tolerance=1e-11):
    """Batches of exact samples, a few epochs on each, until the first gradient of a batch is 0.

    `loss_of_batch(table)` looks at the policy as a sampler would and returns the expected loss
    as a function of the table that is being updated.
    """
    table = start.clone().requires_grad_()
    for _ in range(3000):
        loss = loss_of_batch(table.detach())
        reach = language.reach(table)
        for epoch in range(epochs):
            slope = gradient(loss(table), table)
            if epoch == 0 and slope.abs().max() < tolerance:
                return table.detach()
            with torch.no_grad():
                table -= rate * slope / reach
                table -= table.mean(dim=1, keepdim=True)
    raise AssertionError(f"no rest after 3000 batches: the gradient is {slope.abs().max():.1e}")


def log_table(distribution):
    return torch.from_numpy(np.log(distribution))[None]


def distance(p, q):
    """Total variation."""
    return np.abs(np.asarray(p) - np.asarray(q)).sum() / 2


def group_loss(
    language,
    scores,
    reference,
    G,
    baseline,
    scale,
    kl_in,
    policy_loss="token",
    beta=BETA,
    eps=1e-12,
):
    """The expected loss of GRPO or RLOO over every group of G replies."""
    rows, mask = groups(len(language.replies), G), language.mask

    def loss_of_batch(old):
        old_logprobs = language.logprobs(old)
        compared = scores
        if kl_in == "reward":
            compared = scores - beta * k1(old_logprobs - language.logprobs(reference)).sum(dim=1)
        weights = language.probabilities(old)[rows].prod(dim=1)
        advantages = group_advantages(compared[rows].flatten(), G, baseline, scale, eps)
        flat = rows.flatten()

        def loss(table):
            logprobs = language.logprobs(table)
            if policy_loss == "sequence":
                per_token = rloo_loss(
                    logprobs[flat], old_logprobs[flat], advantages[:, None], mask[flat], CLIP
                )
            else:
                per_token = clipped_policy_loss(
                    logprobs[flat], old_logprobs[flat], advantages[:, None], CLIP
                )
            if kl_in == "loss":
                per_token = per_token + beta * k3(logprobs - language.logprobs(reference))[flat]
            if policy_loss == "sequence":  # every token carries its completion's loss
                per_row = per_token[:, 0]
            else:
                per_row = (per_token * mask[flat]).sum(dim=1)
            return (weights * per_row.view(-1, G).mean(dim=1)).sum()

        return loss

    return loss_of_batch


def ppo_loss(language, scores, reference, lam, beta=BETA):
    """The expected loss of PPO with k1 in the reward and a critic that is exactly right."""
    mask = language.mask

    def loss_of_batch(old):
        old_logprobs = language.logprobs(old)
        log_ratio = old_logprobs - language.logprobs(reference)
        rewards = token_rewards(scores, log_ratio, mask, beta)
        to_go = rewards.flip(1).cumsum(1).flip(1)
        weight = language.probabilities(old)[:, None] * mask
        zeros = torch.zeros(len(language.prefixes), dtype=torch.float64)
        values = (
            zeros.index_put((language.states,), weight * to_go, True)
            / zeros.index_put((language.states,), weight, True)
        )[language.states] * mask
        advantages, _ = gae(rewards, values, mask, gamma=1.0, lam=lam)

        def loss(table):
            per_token = clipped_policy_loss(
                language.logprobs(table), old_logprobs, advantages, CLIP
            )
            return (language.probabilities(old)[:, None] * per_token * mask).sum()

        return loss

    return loss_of_batch


def rest_on_eight(loss_of_batch, rate=0.1):
    table = run(EIGHT, log_table(REFERENCE), loss_of_batch, rate)
    return EIGHT.probabilities(table).numpy()


def eight(G, baseline, scale, kl_in, policy_loss="token", **settings):
    return group_loss(
        EIGHT,
        torch.from_numpy(REWARDS),
        log_table(REFERENCE),
        G,
        baseline,
        scale,
        kl_in,
        policy_loss,
        **settings,
    )


# -------------------------------------------------------------------- what lands on the optimum


@pytest.mark.parametrize(
    "loss_of_batch",
    [
        pytest.param(
            ppo_loss(EIGHT, torch.from_numpy(REWARDS), log_table(REFERENCE), 1.0), id="PPO"
        ),
        pytest.param(eight(2, "leave_one_out", "none", "reward", "sequence"), id="RLOO"),
        pytest.param(eight(2, "leave_one_out", "none", "reward"), id="leave one out, token ratio"),
        pytest.param(eight(2, "mean", "none", "reward"), id="GRPO without std, G=2"),
        pytest.param(eight(3, "mean", "none", "reward"), id="GRPO without std, G=3"),
    ],
)
def test_k1_in_the_reward_without_std_lands_on_the_optimum(loss_of_batch):
    policy = rest_on_eight(loss_of_batch)
    assert np.abs(policy - OPTIMUM).max() < 1e-9
    assert policy @ REWARDS == pytest.approx(7.610, abs=5e-4)


LETTERS = Language(3, 2)


@pytest.fixture
def letters_world():
    reference = LETTERS.table(seed=11)
    scores = 2 * torch.randn(9, generator=torch.Generator().manual_seed(12), dtype=torch.float64)
    joint = LETTERS.probabilities(reference).view(3, 3).numpy()
    return reference, scores, tilt.soft_bellman(joint, scores.view(3, 3).numpy(), 0.5)


@pytest.mark.parametrize("lam", [1.0, 0.95])
def test_ppo_on_sequences_lands_on_the_soft_bellman_policy(letters_world, lam):
    """Token by token, for GAE's λ of 1 and below it: with exact values no λ is biased."""
    reference, scores, optimum = letters_world
    table = run(LETTERS, reference, ppo_loss(LETTERS, scores, reference, lam, beta=0.5))
    rows = [LETTERS.prefixes[prefix] for prefix in [(), (0,), (1,), (2,)]]
    policy = table.softmax(-1)[rows].numpy()
    assert np.abs(policy[0] - optimum.policies[0]).max() < 1e-8
    assert np.abs(policy[1:] - optimum.policies[1]).max() < 1e-8
    assert distance(optimum.policies[0], reference[0].softmax(-1)) > 0.05


def test_rloo_on_sequences_lands_on_the_tilt(letters_world):
    reference, scores, optimum = letters_world
    table = run(
        LETTERS,
        reference,
        group_loss(
            LETTERS, scores, reference, 2, "leave_one_out", "none", "reward", "sequence", beta=0.5
        ),
    )
    joint = tilt.tilt(LETTERS.probabilities(reference).numpy(), scores.numpy(), 0.5)
    assert np.abs(LETTERS.probabilities(table).numpy() - joint).max() < 1e-9


# ------------------------------------------------------- what lands elsewhere, and exactly where


def bisect(f, low, high):
    """The zero of a function that changes sign once between low and high."""
    rising = f(high) > 0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if (f(middle) > 0) == rising else (middle, high)
    return (low + high) / 2


def k3_rest(scaled):
    """Where π A = β (π − π_ref) holds with A = scaled − its mean under π: the mean is the one
    number for which π = π_ref β / (β − A) sums to 1."""

    def policy(mean):
        return REFERENCE * BETA / (BETA - (scaled - mean))

    floor = scaled.max() - BETA
    return policy(bisect(lambda mean: policy(mean).sum() - 1, floor + 1e-12, floor + 1e3))


def std_rest():
    """The same with A divided by the standard deviation that π itself has."""

    def gap(std):
        policy = k3_rest(REWARDS / std)
        return np.sqrt(policy @ (REWARDS - policy @ REWARDS) ** 2) - std

    return k3_rest(REWARDS / bisect(gap, 0.5, 8.0))


def pair_rest():
    """The same for pairs with std, where A(y) = (P(below y) − P(above y))/√2: from the lowest
    reward up, each probability is the root of a quadratic."""
    policy, below = np.zeros(8), 0.0
    for y in np.argsort(REWARDS):
        # π (β − (2 below + π − 1)/√2) = β π_ref
        b = BETA - (2 * below - 1) / np.sqrt(2)
        policy[y] = (b - np.sqrt(b**2 - 4 * BETA * REFERENCE[y] / np.sqrt(2))) * np.sqrt(2) / 2
        below += policy[y]
    return policy


def test_k3_in_the_loss_rests_elsewhere_even_without_std():
    """k3 as a loss pulls along the forward KL: π (r − E r) = β (π − π_ref)."""
    policy = rest_on_eight(eight(2, "leave_one_out", "none", "loss"), rate=0.02)
    expected = k3_rest(REWARDS)
    assert np.abs(policy - expected).max() < 1e-9
    assert policy @ REWARDS == pytest.approx(7.203, abs=5e-4)
    assert distance(policy, OPTIMUM) == pytest.approx(0.127, abs=5e-4)


def test_grpo_with_pairs_std_and_k3_rests_at_a_point_of_its_own():
    policy, expected = rest_on_eight(eight(2, "mean", "std", "loss"), 0.05), pair_rest()
    assert expected.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.abs(policy - expected).max() < 1e-9
    assert distance(policy, OPTIMUM) > 0.4 and policy @ REWARDS < 0.5 * (OPTIMUM @ REWARDS)


def test_grpo_with_very_large_groups_std_and_k3_rests_at_a_point_of_its_own():
    """The limit of many samples: the group's mean and std are the policy's own."""
    scores, reference = torch.from_numpy(REWARDS), log_table(REFERENCE)

    def loss_of_batch(old):
        p, old_logprobs = EIGHT.probabilities(old), EIGHT.logprobs(old)
        centred = scores - p @ scores
        advantages = (centred / (p @ centred**2).sqrt())[:, None]

        def loss(table):
            logprobs = EIGHT.logprobs(table)
            per_token = clipped_policy_loss(logprobs, old_logprobs, advantages, CLIP) + BETA * k3(
                logprobs - EIGHT.logprobs(reference)
            )
            return (p * per_token[:, 0]).sum()

        return loss

    policy, expected = rest_on_eight(loss_of_batch), std_rest()
    assert np.abs(policy - expected).max() < 1e-9
    assert policy @ REWARDS == pytest.approx(5.568, abs=5e-4)
    assert distance(policy, OPTIMUM) == pytest.approx(0.274, abs=5e-4)


@pytest.mark.parametrize("G", [2, 3])
def test_larger_groups_with_std_still_do_not_rest_on_the_optimum(G):
    """And the end depends on the size of the group, which the optimum does not."""
    policy = rest_on_eight(eight(G, "mean", "std", "loss"), 0.05)
    assert distance(policy, OPTIMUM) > 0.2
    if G == 3:
        assert distance(policy, pair_rest()) > 0.01


def test_with_std_and_k1_in_the_reward_the_optimum_is_a_rest_that_is_not_approached():
    """At π* every compared reward is equal, so nothing moves. But std divides whatever is left:
    nearer to π* the push stays as large, where without std it fades with the distance."""

    def push(scale, shift):
        start = log_table(OPTIMUM) + shift * EIGHT.table(seed=3)
        table = start.clone().requires_grad_()
        loss = eight(2, "mean", scale, "reward", eps=1e-8)(start)
        return (gradient(loss(table), table) / EIGHT.reach(start)).abs().max().item()

    assert push("std", 0.0) < 1e-6 and push("none", 0.0) < 1e-12
    assert push("none", 1e-4) == pytest.approx(push("none", 1e-3) / 10, rel=0.01)
    assert push("std", 1e-4) == pytest.approx(push("std", 1e-3), rel=0.01)
