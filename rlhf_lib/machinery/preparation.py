"""Models made ready for a loop: frozen, without dropout, recomputed, compiled, and apart.

Chapters: ppo-mechanics, gpt2-on-a-gpu.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from .precision import computing_in


def freeze(model) -> None:
    """No gradient, no dropout: how a reference stays what it was.

    Chapter: ppo-mechanics.
    """
    model.eval()
    model.requires_grad_(False)


def train_without_dropout(model) -> None:
    """Gradients on, dropout off: the sampler and the scorer must be one function.

    Chapter: ppo-mechanics.
    """
    model.eval()
    model.requires_grad_(True)


def recompute_activations(model, config) -> None:
    """Activation checkpointing: keep the input of each layer alone, and compute the rest again.

    transformers does so in layers that are in training mode. Only they are put there: what is
    inside them, dropout above all, stays as it is in evaluation. While they sample they leave it,
    as otherwise they would take no cache (`decoding.plain_layers`).

    Source: Chen et al. 2016, arXiv:1604.06174. Chapter: gpt2-on-a-gpu.
    """
    how: dict[str, Any] = {"use_reentrant": False}
    if config.bf16 and model.device.type == "cpu":  # autocast is restored, our own mode is not
        how["context_fn"] = lambda: (nullcontext(), computing_in(config, model.device))
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name since 5.23
    (enable or model.gradient_checkpointing_enable)(how)
    model.disable_input_require_grads()  # a hook that only reentrant checkpoints need
    for layer in layers_of(model):
        layer.training = True


def compile_layers(*models) -> None:
    """Let `torch.compile` fuse what stands between the products of each layer.

    The layers share one compiled program, made at the first call, for any length. All around
    them, and sampling, stays as it is. Needs a C++ compiler on a CPU, Triton on a GPU.

    Source: Ansel et al. 2024, doi:10.1145/3620665.3640366. Chapter: gpt2-on-a-gpu.
    """
    for model in models:
        for layer in layers_of(model) if model is not None else ():
            layer.compile(dynamic=True)


def check_apart(**models) -> None:
    """Refuse one model in two roles, or on two devices.

    A reference that is the policy would move along with it.

    Chapter: ppo-mechanics.
    """
    names = list(models)
    for i, name in enumerate(names):
        for other in names[:i]:
            if models[name] is models[other]:
                raise ValueError(
                    f"{name} and {other} are the same model; expected a copy (copy.deepcopy)"
                )
            if models[name].device != models[other].device:
                raise ValueError(
                    f"{name} is on {models[name].device}; expected "
                    f"{models[other].device}, where {other} is"
                )


def layers_of(model) -> list[torch.nn.Module]:
    """The layers of a transformers model: what can be computed again, or compiled, one by one.

    Chapter: gpt2-on-a-gpu.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
