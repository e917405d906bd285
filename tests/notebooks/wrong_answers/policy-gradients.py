"""Plausible wrong answers to the exercises of policy-gradients; the checks must refuse each."""

from __future__ import annotations

import torch

# --- bandit_gradient ------------------------------------------------------------------------------


def without_the_policy(logits, arms, advantages):
    return (advantages[:, None] * torch.eye(len(logits), dtype=logits.dtype)[arms]).mean(dim=0)


def summed(logits, arms, advantages):
    scores = torch.eye(len(logits), dtype=logits.dtype)[arms] - logits.softmax(dim=0)
    return (advantages[:, None] * scores).sum(dim=0)


def descending(logits, arms, advantages):
    scores = torch.eye(len(logits), dtype=logits.dtype)[arms] - logits.softmax(dim=0)
    return -(advantages[:, None] * scores).mean(dim=0)


def gradient_of_the_probability(logits, arms, advantages):
    pi = logits.softmax(dim=0)
    scores = torch.eye(len(logits), dtype=logits.dtype)[arms] - pi
    return ((advantages * pi[arms])[:, None] * scores).mean(dim=0)


# --- repaired_loss --------------------------------------------------------------------------------


def length_only(logprobs, mask, rewards):
    advantages = rewards - rewards.mean()
    return -(advantages * (logprobs * mask).sum(dim=1)).mean()


def mean_only(logprobs, mask, rewards):
    advantages = (rewards - rewards.mean()) * len(rewards) / (len(rewards) - 1)
    return -(advantages * (logprobs * mask).sum(dim=1) / mask.sum(dim=1)).mean()


def over_all_tokens(logprobs, mask, rewards):
    advantages = (rewards - rewards.mean()) * len(rewards) / (len(rewards) - 1)
    return -(advantages * (logprobs * mask).sum(dim=1)).sum() / mask.sum()


def whitened(logprobs, mask, rewards):
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
    return -(advantages * (logprobs * mask).sum(dim=1)).mean()


def sign_turned(logprobs, mask, rewards):
    advantages = (rewards - rewards.mean()) * len(rewards) / (len(rewards) - 1)
    return (advantages * (logprobs * mask).sum(dim=1)).mean()


# --- repaired_to_go -------------------------------------------------------------------------------


def after_this_token(rewards, mask):
    kept = rewards * mask
    return (kept.flip(1).cumsum(dim=1).flip(1) - kept) * mask


def padding_paid(rewards, mask):
    return rewards.flip(1).cumsum(dim=1).flip(1) * mask


def padding_not_cleared(rewards, mask):
    kept = rewards * mask
    return kept.sum(dim=1, keepdim=True) - kept.cumsum(dim=1) + kept + (1 - mask)


def the_whole_return(rewards, mask):
    return (rewards * mask).sum(dim=1, keepdim=True) * mask


# --- best_baselines -------------------------------------------------------------------------------


def plain_means(states, returns, squared_norms, count):
    above = torch.zeros(count, dtype=returns.dtype).index_add_(0, states, returns)
    number = torch.zeros_like(above).index_add_(0, states, torch.ones_like(returns))
    return above / number.clamp(min=1)


def one_for_all(states, returns, squared_norms, count):
    best = (returns * squared_norms).sum() / squared_norms.sum()
    return best.expand(count)


def by_the_norm(states, returns, squared_norms, count):
    weights = squared_norms.sqrt()
    above = torch.zeros(count, dtype=returns.dtype).index_add_(0, states, returns * weights)
    below = torch.zeros_like(above).index_add_(0, states, weights)
    return torch.where(below > 0, above / below.clamp(min=1e-12), 0.0)


def empty_states_divided(states, returns, squared_norms, count):
    above = torch.zeros(count, dtype=returns.dtype)
    above.index_add_(0, states, returns * squared_norms)
    return above / torch.zeros_like(above).index_add_(0, states, squared_norms)


WRONG = {
    "bandit_gradient": [without_the_policy, summed, descending, gradient_of_the_probability],
    "repaired_loss": [length_only, mean_only, over_all_tokens, whitened, sign_turned],
    "repaired_to_go": [after_this_token, padding_paid, padding_not_cleared, the_whole_return],
    "best_baselines": [plain_means, one_for_all, by_the_norm, empty_states_divided],
}
