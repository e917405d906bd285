"""Plausible wrong answers to the exercises of sft; the checks must refuse each."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# --- collate --------------------------------------------------------------------------------------


def padded(rows, value):
    width = max(map(len, rows))
    return [row + [value] * (width - len(row)) for row in rows]


def prompt_counts(prompts, completions, eos, pad):
    rows = [p + c + [eos] for p, c in zip(prompts, completions)]
    return padded(rows, pad), padded(rows, -100)


def end_token_masked(prompts, completions, eos, pad):
    rows = [p + c + [eos] for p, c in zip(prompts, completions)]
    labels = [[-100] * len(p) + c + [-100] for p, c in zip(prompts, completions)]
    return padded(rows, pad), padded(labels, -100)


def padding_counts(prompts, completions, eos, pad):
    rows = [p + c + [eos] for p, c in zip(prompts, completions)]
    labels = [[-100] * len(p) + c + [eos] for p, c in zip(prompts, completions)]
    return padded(rows, pad), padded(labels, pad)


def shifted_already(prompts, completions, eos, pad):
    rows = [p + c + [eos] for p, c in zip(prompts, completions)]
    labels = [[-100] * (len(p) - 1) + c + [eos, -100] for p, c in zip(prompts, completions)]
    return padded(rows, pad), padded(labels, -100)


# --- causal_loss ----------------------------------------------------------------------------------


def shifted_the_other_way(logits, labels):
    return F.cross_entropy(logits[:, 1:].flatten(0, 1), labels[:, :-1].flatten(), ignore_index=-100)


def masked_labels_count(logits, labels):
    labels = labels.clamp(min=0)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def mean_of_rows(logits, labels):
    losses = [
        F.cross_entropy(row[:-1], label[1:], ignore_index=-100)
        for row, label in zip(logits, labels)
    ]
    return sum(losses) / len(losses)


# --- logit_gradient -------------------------------------------------------------------------------


def ascent(logits, ids, mask):
    p = torch.softmax(logits, dim=-1)
    return (F.one_hot(ids, logits.shape[-1]) - p) * mask[..., None] / mask.sum()


def no_mask(logits, ids, mask):
    p = torch.softmax(logits, dim=-1)
    return (p - F.one_hot(ids, logits.shape[-1])) / mask.sum()


def sum_and_not_mean(logits, ids, mask):
    p = torch.softmax(logits, dim=-1)
    return (p - F.one_hot(ids, logits.shape[-1])) * mask[..., None]


def divided_by_all_places(logits, ids, mask):
    p = torch.softmax(logits, dim=-1)
    return (p - F.one_hot(ids, logits.shape[-1])) * mask[..., None] / mask.numel()


# --- accumulated ----------------------------------------------------------------------------------


def sum_of_means(losses, masks):
    return sum((loss * mask).sum() / mask.sum() for loss, mask in zip(losses, masks))


def weighted_by_rows(losses, masks):
    rows = sum(map(len, masks))
    return sum(
        (loss * mask).sum() / mask.sum() * len(mask) / rows for loss, mask in zip(losses, masks)
    )


def padding_in_the_count(losses, masks):
    places = sum(mask.numel() for mask in masks)
    return sum((loss * mask).sum() / places for loss, mask in zip(losses, masks))


# --- completion_mask ------------------------------------------------------------------------------


def end_tokens_left_out(ids, eos, pad):
    return ((ids == eos).long().cumsum(dim=1) == 0).long()


def one_more_always(ids, eos, pad):
    """Right if pad is not eos; else it keeps the padding."""
    return ((ids != pad) | (ids == eos)).long()


def up_to_the_last_end(ids, eos, pad):
    ends = (ids == eos).long()
    return (ends.flip(1).cumsum(dim=1).flip(1) > 0).long()


def length_by_argmax(ids, eos, pad):
    """argmax is 0 in a row without an end token, which then loses all but its first token."""
    first = (ids == eos).long().argmax(dim=1, keepdim=True)
    return (torch.arange(ids.shape[1]) <= first).long()


WRONG = {
    "collate": [prompt_counts, end_token_masked, padding_counts, shifted_already],
    "causal_loss": [shifted_the_other_way, masked_labels_count, mean_of_rows],
    "logit_gradient": [ascent, no_mask, sum_and_not_mean, divided_by_all_places],
    "accumulated": [sum_of_means, weighted_by_rows, padding_in_the_count],
    "completion_mask": [end_tokens_left_out, one_more_always, up_to_the_last_end, length_by_argmax],
}
