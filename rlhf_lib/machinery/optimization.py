"""One optimiser step: gradients of one loss or several, clipped, and refused if not finite.

Chapters: policy-gradients, ratio-and-clip, credit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .processes import sum_gradients

CACHED = 10_000_000  # weights which, with their moments, a processor's cache may hold


def adam(
    model,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-5,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Adam, by default for a policy or a critic: weight decay would pull away from the reference.

    It moves what has a gradient: of a model with an adapter, the adapter.

    Source: Huang et al. 2024, arXiv:2403.17031, for eps 1e-5. Chapter: credit.
    """
    moved = [p for p in model.parameters() if p.requires_grad]
    in_memory = sum(p.numel() for p in moved) > CACHED and moved[0].device.type == "cpu"
    return torch.optim.AdamW(
        moved,
        lr=learning_rate,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        fused=True if in_memory else None,  # one pass over weights and moments, not eight
    )


def descend(model, optimizer, loss: Tensor | Iterable[Tensor], max_grad_norm: float) -> float:
    """One optimiser step, in its plain form; returns the gradient norm before clipping.

    `Machine.descend` does the same in parts, precisions and processes. Given several losses, their
    gradients add up; of several processes each gives its own losses, shares of one.

    Chapter: ratio-and-clip.
    """
    return optimizer_step(model, optimizer, backward(optimizer, loss), max_grad_norm)


def backward(optimizer, loss: Tensor | Iterable[Tensor]) -> float:
    """Put the gradients of one loss or several in place of the old; returns the sum of the losses.

    Each loss is differentiated as it comes, so that an iterator which computes them one by one
    holds the activations of one at a time.

    Chapter: ratio-and-clip.
    """
    optimizer.zero_grad()
    total = 0.0
    for part in [loss] if isinstance(loss, Tensor) else loss:
        part.backward()
        total += part.item()
    return total


def optimizer_step(model, optimizer, loss: float, max_grad_norm: float) -> float:
    """Clip the gradients there are and step along them; returns their norm before clipping.

    `loss` is for the message alone, should a gradient not be finite: then no weight moves.

    Chapter: ratio-and-clip.
    """
    sum_gradients(model)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm).item()
    if not math.isfinite(norm):
        optimizer.zero_grad()
        raise FloatingPointError(
            f"the gradient norm is {norm} at a loss of {loss}; the "
            "update was refused and the weights are those before it"
        )
    optimizer.step()
    return norm
