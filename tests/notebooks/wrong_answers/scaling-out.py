"""Plausible wrong answers to the exercises of scaling-out; the checks must refuse each."""

from __future__ import annotations

# --- local_loss -----------------------------------------------------------------------------------


def mean_of_its_own_tokens(losses, mask, tokens_all, processes):
    return (losses * mask).sum() / mask.sum()


def guarded_mean_of_its_own_tokens(losses, mask, tokens_all, processes):
    return (losses * mask).sum() / mask.sum().clamp(min=1)


def share_of_a_sum(losses, mask, tokens_all, processes):
    """Right where gradients are added up, as here; wrong where they are averaged."""
    return (losses * mask).sum() / tokens_all


def a_mere_number(losses, mask, tokens_all, processes):
    """The right value, which nothing can be differentiated through."""
    return float((losses * mask).sum()) * processes / tokens_all


def detached(losses, mask, tokens_all, processes):
    return (losses.detach() * mask).sum() * processes / tokens_all


def padding_counts(losses, mask, tokens_all, processes):
    return losses.sum() * processes / tokens_all


def divided_twice(losses, mask, tokens_all, processes):
    return (losses * mask).sum() / tokens_all / processes


def means_of_rows(losses, mask, tokens_all, processes):
    return ((losses * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


# --- held_bytes -----------------------------------------------------------------------------------


def frozen_weights_forgotten(shapes, rank):
    if rank is None:
        return 16 * sum(a * b for a, b in shapes)
    return 16 * sum(rank * (a + b) for a, b in shapes)


def frozen_weights_kept_in_full(shapes, rank):
    weights = sum(a * b for a, b in shapes)
    if rank is None:
        return 16 * weights
    return 16 * weights + 16 * sum(rank * (a + b) for a, b in shapes)


def one_thin_matrix(shapes, rank):
    weights = sum(a * b for a, b in shapes)
    return 16 * weights if rank is None else 2 * weights + 16 * sum(rank * a for a, _ in shapes)


def rank_squared(shapes, rank):
    weights = sum(a * b for a, b in shapes)
    if rank is None:
        return 16 * weights
    return 2 * weights + 16 * sum(rank * rank * (a + b) for a, b in shapes)


def both_lengths_multiplied(shapes, rank):
    weights = sum(a * b for a, b in shapes)
    return 16 * weights if rank is None else 2 * weights + 16 * rank * weights


def frozen_copy_even_when_all_is_trained(shapes, rank):
    weights = sum(a * b for a, b in shapes)
    if rank is None:
        return 18 * weights
    return 2 * weights + 16 * sum(rank * (a + b) for a, b in shapes)


# --- take_up --------------------------------------------------------------------------------------


def never_transposed(W, A, B, lora_alpha, transposed):
    return W + lora_alpha / A.shape[0] * (B @ A)


def always_transposed(W, A, B, lora_alpha, transposed):
    return W + lora_alpha / A.shape[0] * (B @ A).T


def without_the_scale(W, A, B, lora_alpha, transposed):
    return W + ((B @ A).T if transposed else B @ A)


def alpha_as_the_scale(W, A, B, lora_alpha, transposed):
    return W + lora_alpha * ((B @ A).T if transposed else B @ A)


def rank_read_off_the_wrong_side(W, A, B, lora_alpha, transposed):
    return W + lora_alpha / A.shape[1] * ((B @ A).T if transposed else B @ A)


def in_place(W, A, B, lora_alpha, transposed):
    return W.add_(lora_alpha / A.shape[0] * ((B @ A).T if transposed else B @ A))


WRONG = {
    "local_loss": [
        mean_of_its_own_tokens,
        guarded_mean_of_its_own_tokens,
        share_of_a_sum,
        a_mere_number,
        detached,
        padding_counts,
        divided_twice,
        means_of_rows,
    ],
    "held_bytes": [
        frozen_weights_forgotten,
        frozen_weights_kept_in_full,
        one_thin_matrix,
        rank_squared,
        both_lengths_multiplied,
        frozen_copy_even_when_all_is_trained,
    ],
    "take_up": [
        never_transposed,
        always_transposed,
        without_the_scale,
        alpha_as_the_scale,
        rank_read_off_the_wrong_side,
        in_place,
    ],
}
