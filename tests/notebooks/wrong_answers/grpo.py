"""Plausible wrong answers to the exercises of grpo; the checks must refuse each of them."""

from __future__ import annotations

import torch

# --- leave_one_out --------------------------------------------------------------------------------


def mean_with_yourself(rewards, group_size):
    groups = rewards.view(-1, group_size)
    return (groups - groups.mean(dim=1, keepdim=True)).flatten()


def divided_by_all(rewards, group_size):
    groups = rewards.view(-1, group_size)
    others = (groups.sum(dim=1, keepdim=True) - groups) / group_size
    return (groups - others).flatten()


def others_of_the_batch(rewards, group_size):
    return rewards - (rewards.sum() - rewards) / (len(rewards) - 1)


# --- token_weights --------------------------------------------------------------------------------


def padding_counts(mask, over, max_tokens):
    if over == "tokens":
        return mask / mask.numel()
    if over == "sequences":
        return mask / mask.sum(dim=1, keepdim=True) / len(mask)
    return mask / (len(mask) * max_tokens)


def replies_not_averaged(mask, over, max_tokens):
    if over == "tokens":
        return mask / mask.sum()
    if over == "sequences":
        return mask / mask.sum(dim=1, keepdim=True)
    return mask / (len(mask) * max_tokens)


def longest_reply_for_the_limit(mask, over, max_tokens):
    if over == "tokens":
        return mask / mask.sum()
    if over == "sequences":
        return mask / mask.sum(dim=1, keepdim=True) / len(mask)
    return mask / (len(mask) * mask.shape[1])


# --- repaired_advantages --------------------------------------------------------------------------


def groups_mended_only(prompts, group_size, score):
    batch = [prompt for prompt in prompts for _ in range(group_size)]
    rewards = score(batch)
    groups = rewards.view(-1, group_size)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    return batch, (advantages / (rewards.std() + 1e-4)).flatten()


def deviation_mended_only(prompts, group_size, score):
    batch = prompts * group_size
    groups = score(batch).view(-1, group_size)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    return batch, (advantages / (groups.std(dim=1, keepdim=True) + 1e-4)).flatten()


def mended_in_another_order(prompts, group_size, score):
    groups = score(prompts * group_size).view(group_size, -1).T
    advantages = groups - groups.mean(dim=1, keepdim=True)
    advantages = advantages / (groups.std(dim=1, keepdim=True) + 1e-4)
    return prompts * group_size, advantages.flatten()  # advantages by prompt, batch in cycles


# --- reverse_kl_loss ------------------------------------------------------------------------------


def k1_in_the_loss(logprobs, ref_logprobs):
    return logprobs - ref_logprobs


def k3_in_the_loss(logprobs, ref_logprobs):
    return torch.expm1(ref_logprobs - logprobs) + logprobs - ref_logprobs


def k2_without_the_half(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs) ** 2


def weight_not_detached(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs) * logprobs


WRONG = {
    "leave_one_out": [mean_with_yourself, divided_by_all, others_of_the_batch],
    "token_weights": [padding_counts, replies_not_averaged, longest_reply_for_the_limit],
    "repaired_advantages": [groups_mended_only, deviation_mended_only, mended_in_another_order],
    "reverse_kl_loss": [k1_in_the_loss, k3_in_the_loss, k2_without_the_half, weight_not_detached],
}
