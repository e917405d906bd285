"""Plausible wrong answers to the exercises of alignment-problem; the checks must refuse each."""

from __future__ import annotations

import numpy as np
import torch

# --- author_posterior -----------------------------------------------------------------------------


def without_the_shares(weights, log_likelihoods):
    joint = np.exp(log_likelihoods - log_likelihoods.max())
    return joint / joint.sum()


def underflows(weights, log_likelihoods):
    joint = weights * np.exp(log_likelihoods)
    return joint / joint.sum()


def not_normalised(weights, log_likelihoods):
    return weights * np.exp(log_likelihoods - log_likelihoods.max())


def logs_clamped(weights, log_likelihoods):
    joint = weights * np.exp(np.maximum(log_likelihoods, -700))
    return joint / joint.sum()


def maximum_of_the_likelihoods(weights, log_likelihoods):
    """An author without texts may have the highest likelihood; then log 0 is added, not skipped."""
    scores = weights + log_likelihoods
    joint = np.exp(scores - scores.max())
    return joint / joint.sum()


# --- standard_error -------------------------------------------------------------------------------


def unbiased_variance_only(rewards):
    return rewards.std(ddof=1) / np.sqrt(rewards.size)


def all_replies_over_the_prompts(rewards):
    return rewards.std(ddof=1) / np.sqrt(len(rewards))


def spread_within_prompts(rewards):
    return rewards.std(axis=1).mean() / np.sqrt(len(rewards))


def means_without_the_root(rewards):
    return rewards.mean(axis=1).std(ddof=1)


def means_over_the_wrong_axis(rewards):
    means = rewards.mean(axis=0)
    return means.std(ddof=1) / np.sqrt(len(means))


# --- drift ----------------------------------------------------------------------------------------


def both_divided(logits, reference_logits, tokens, temperature):
    own = torch.log_softmax(logits / temperature, dim=0)[tokens]
    return (own - torch.log_softmax(reference_logits / temperature, dim=0)[tokens]).mean().item()


def divided_after_normalising(logits, reference_logits, tokens, temperature):
    own = torch.log_softmax(logits, dim=0)[tokens] / temperature
    return (own - torch.log_softmax(reference_logits, dim=0)[tokens]).mean().item()


def absolute_value(logits, reference_logits, tokens, temperature):
    own = torch.log_softmax(logits, dim=0)[tokens]
    return (own - torch.log_softmax(reference_logits, dim=0)[tokens]).mean().abs().item()


def multiplied(logits, reference_logits, tokens, temperature):
    own = torch.log_softmax(logits * temperature, dim=0)[tokens]
    return (own - torch.log_softmax(reference_logits, dim=0)[tokens]).mean().item()


# --- truth_of_the_best ----------------------------------------------------------------------------


def best_truth(truth, proxy, n):
    ranks = np.arange(len(truth) + 1) / len(truth)
    return np.diff(ranks**n) @ np.sort(truth)


def not_sorted(truth, proxy, n):
    ranks = np.arange(len(truth) + 1) / len(truth)
    return np.diff(ranks**n) @ truth


def one_draw_less(truth, proxy, n):
    ranks = np.arange(1, len(truth) + 1) / len(truth)
    weights = ranks ** (n - 1)
    return weights @ truth[np.argsort(proxy)] / weights.sum()


def lowest_wins(truth, proxy, n):
    ranks = np.arange(len(truth) + 1) / len(truth)
    return np.diff(ranks**n) @ truth[np.argsort(-proxy)]


WRONG = {
    "author_posterior": [
        without_the_shares,
        underflows,
        not_normalised,
        logs_clamped,
        maximum_of_the_likelihoods,
    ],
    "standard_error": [
        unbiased_variance_only,
        all_replies_over_the_prompts,
        spread_within_prompts,
        means_without_the_root,
        means_over_the_wrong_axis,
    ],
    "drift": [both_divided, divided_after_normalising, absolute_value, multiplied],
    "truth_of_the_best": [best_truth, not_sorted, one_draw_less, lowest_wins],
}
