"""Plausible wrong answers to the exercises of ppo-live; the checks must refuse each of them."""

from __future__ import annotations

import torch

# --- gae_by_sum -----------------------------------------------------------------------------------


def _by_sum(rewards, values, next_values, decay, gamma):
    delta = rewards + gamma * next_values - values
    T = rewards.shape[1]
    return torch.stack(
        [sum(decay**k * delta[:, t + k] for k in range(T - t)) for t in range(T)], dim=1
    )


def _shifted(values):
    return torch.cat([values[:, 1:], torch.zeros(len(values), 1)], dim=1)


def gae_without_the_mask(rewards, values, mask, gamma, lam):
    return _by_sum(rewards, values, _shifted(values), gamma * lam, gamma)


def lambda_alone(rewards, values, mask, gamma, lam):
    rewards, values = rewards * mask, values * mask
    return _by_sum(rewards, values, _shifted(values), lam, gamma) * mask


def no_bootstrap(rewards, values, mask, gamma, lam):
    rewards, values = rewards * mask, values * mask
    return _by_sum(rewards, values, torch.zeros_like(values), gamma * lam, gamma) * mask


def returns_instead(rewards, values, mask, gamma, lam):
    rewards, values = rewards * mask, values * mask
    return (_by_sum(rewards, values, _shifted(values), gamma * lam, gamma) + values) * mask


# --- next_beta ------------------------------------------------------------------------------------


def not_clipped(beta, kl, target):
    return beta * (1 + 0.1 * (kl / target - 1))


def wrong_direction(beta, kl, target):
    return beta * (1 - 0.1 * max(-0.2, min(0.2, kl / target - 1)))


def absolute_error(beta, kl, target):
    return beta * (1 + 0.1 * max(-0.2, min(0.2, kl - target)))


# --- repaired_loss --------------------------------------------------------------------------------


def maximum_for_bad_tokens(logprobs, old_logprobs, advantages, epsilon=0.2):
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    good, bad = (
        torch.min(ratio * advantages, clipped * advantages),
        torch.max(ratio * advantages, clipped * advantages),
    )
    return -torch.where(advantages > 0, good, bad)


def no_clip(logprobs, old_logprobs, advantages, epsilon=0.2):
    return -torch.exp(logprobs - old_logprobs) * advantages


def right_value_no_gradient(logprobs, old_logprobs, advantages, epsilon=0.2):
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return -torch.min(ratio * advantages, clipped * advantages).detach() + 0 * logprobs


def the_sampler_forgotten(logprobs, old_logprobs, advantages, epsilon=0.2):
    ratio = torch.exp(logprobs)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return -torch.min(ratio * advantages, clipped * advantages)


def a_range_of_its_own(logprobs, old_logprobs, advantages, epsilon=0.2):
    ratio = torch.exp(logprobs - old_logprobs)
    return -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)


def averaged(logprobs, old_logprobs, advantages, epsilon=0.2):
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return -torch.min(ratio * advantages, clipped * advantages).mean()


# --- charged_rewards ------------------------------------------------------------------------------


def _at_the_end(rewards, scores, mask):
    return rewards.scatter_add(1, mask.sum(dim=1, keepdim=True).long() - 1, scores[:, None])


def sign_alone(scores, log_ratio, mask, beta):
    rewards = -beta * log_ratio.detach() * mask
    rewards[:, -1] += scores
    return rewards


def place_alone(scores, log_ratio, mask, beta):
    return _at_the_end(beta * log_ratio.detach() * mask, scores, mask)


def with_a_gradient(scores, log_ratio, mask, beta):
    return _at_the_end(-beta * log_ratio * mask, scores, mask)


def without_the_mask(scores, log_ratio, mask, beta):
    return _at_the_end(-beta * log_ratio.detach(), scores, mask)


def the_last_token_pays_nothing(scores, log_ratio, mask, beta):
    rewards = -beta * log_ratio.detach() * mask
    rewards[torch.arange(len(scores)), mask.sum(dim=1).long() - 1] = scores
    return rewards


WRONG = {
    "gae_by_sum": [gae_without_the_mask, lambda_alone, no_bootstrap, returns_instead],
    "next_beta": [not_clipped, wrong_direction, absolute_error],
    "repaired_loss": [
        maximum_for_bad_tokens,
        no_clip,
        right_value_no_gradient,
        the_sampler_forgotten,
        a_range_of_its_own,
        averaged,
    ],
    "charged_rewards": [
        sign_alone,
        place_alone,
        with_a_gradient,
        without_the_mask,
        the_last_token_pays_nothing,
    ],
}
