"""Models made ready for a loop: frozen, without dropout, recomputed, compiled, and apart.

Chapters: credit, what-a-step-costs.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from .precision import computing_in


def freeze(model) -> None:
    """No gradient, no dropout: how a reference stays what it was.

    A view of another model, such as a policy with its adapter off, has no weights to freeze.

    Chapter: credit.
    """
    if isinstance(model, torch.nn.Module):
        model.eval()
        model.requires_grad_(False)


def train_without_dropout(role: str, model) -> None:
    """Gradients on, dropout off: the sampler and the scorer must be one function.

    Weights that were frozen beside others stay frozen, as those under an adapter are. A model that
    is frozen throughout has been a reference: all of it is trained.

    Chapter: ratio-and-clip.

    Raises
    ------
    ValueError
        If a weight to be trained has 16 bits or fewer: most steps would be rounded away.
    """
    model.eval()
    if not any(p.requires_grad for p in model.parameters()):
        model.requires_grad_(True)
    for name, p in model.named_parameters():
        if p.requires_grad and p.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{role} has {name} in {p.dtype}, and it is to be trained; expected torch.float32 "
                f"({role}.float(); bf16=True computes in bfloat16 all the same)"
            )


def recompute_activations(model, config) -> None:
    """Activation checkpointing: keep the input of each layer alone, and compute the rest again.

    transformers does so in layers that are in training mode. Only they are put there, and only
    while it asks: what they compute, dropout above all, stays as it is in evaluation. While they
    sample they leave it, as otherwise they would take no cache (`decoding.plain_layers`).

    Source: Chen et al. 2016, arXiv:1604.06174. Chapter: what-a-step-costs.
    """
    how: dict[str, Any] = {"use_reentrant": False}
    if config.bf16 and not config.torch_compile:  # autocast is restored, what else we set is not
        how["context_fn"] = lambda: (nullcontext(), computing_in(config, model.device))
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name since 5.23
    (enable or model.gradient_checkpointing_enable)(how)
    model.disable_input_require_grads()  # a hook that only reentrant checkpoints need
    for layer in layers_of(model):
        layer.training = True
        checkpoint = partial(_in_evaluation, layer, layer._gradient_checkpointing_func)
        vars(layer)["_gradient_checkpointing_func"] = checkpoint


def _in_evaluation(layer, checkpoint, function, *arguments, **options):
    """A checkpoint of what the layer computes out of training mode, then and when it is repeated.

    A layer such as OPT's or Falcon's asks of itself whether dropout is on.
    """

    def quiet(*inputs, **named):
        layer.training = False
        try:
            return function(*inputs, **named)
        finally:
            layer.training = True

    return checkpoint(quiet, *arguments, **options)


def compile_layers(*models) -> None:
    """Let `torch.compile` fuse what stands between the products of each layer.

    The layers share one compiled program, made at the first call, for any length. All around
    them, and sampling, stays as it is. Needs a C++ compiler on a CPU, Triton on a GPU.

    Source: Ansel et al. 2024, doi:10.1145/3620665.3640366. Chapter: what-a-step-costs.
    """
    for model in models:
        for layer in layers_of(model) if model is not None else ():
            layer.compile(dynamic=True)


def check_apart(**models) -> None:
    """Refuse one model in two roles, or on two devices.

    A reference that is the policy would move along with it.

    Chapter: credit.
    """
    names = list(models)
    weights = {name: {id(p) for p in parameters_of(model)} for name, model in models.items()}
    for i, name in enumerate(names):
        for other in names[:i]:
            if models[name] is models[other]:
                raise ValueError(
                    f"{name} and {other} are the same model; expected a copy (copy.deepcopy)"
                )
            if weights[name] & weights[other]:
                raise ValueError(
                    f"{name} and {other} share weights; expected a copy (copy.deepcopy), made "
                    "before an adapter is put in"
                )
            if models[name].device != models[other].device:
                raise ValueError(
                    f"{name} is on {models[name].device}; expected "
                    f"{models[other].device}, where {other} is"
                )


def parameters_of(model) -> list[torch.nn.Parameter]:
    """The weights of a model, none of a view of another model. Chapter: what-a-step-costs."""
    return list(model.parameters()) if isinstance(model, torch.nn.Module) else []


def layers_of(model) -> list[torch.nn.Module]:
    """The layers of a transformers model: what can be computed again, or compiled, one by one.

    Chapter: what-a-step-costs.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    modules = model.modules() if isinstance(model, torch.nn.Module) else ()
    return [module for module in modules if isinstance(module, GradientCheckpointingLayer)]
