"""Settings of how it is computed, and checks of settings.

Chapter: what-a-step-costs.
"""

from __future__ import annotations

from dataclasses import dataclass


def check_positive(config, *names: str) -> None:
    """Refuse settings that are not above 0. Chapter: ppo-live."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}; expected a positive number")


def check_counts(config, *names: str) -> None:
    """Refuse settings that count something and are below 1. Chapter: ppo-live."""
    for name in names:
        if not getattr(config, name) >= 1:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least 1")


def check_choices(config, **choices: tuple[str | None, ...]) -> None:
    """Refuse settings that are none of their choices. Chapter: grpo-variants."""
    for name, names in choices.items():
        if getattr(config, name) not in names:
            *most, last = map(repr, names)
            raise ValueError(
                f"{name} is {getattr(config, name)!r}; expected {', '.join(most)} or {last}"
            )


def check_parts(config) -> None:
    """Refuse a batch that is cut in two ways at once. Chapter: sft."""
    check_counts(config, "gradient_accumulation_steps")
    if config.gradient_accumulation_steps > 1 and config.microbatch_tokens is not None:
        raise ValueError(
            "microbatch_tokens and gradient_accumulation_steps are given; expected one"
        )


@dataclass(frozen=True)
class MachineConfig:
    """How a loop computes its steps, whatever they are. Chapter: what-a-step-costs."""

    max_grad_norm: float = 1.0  # longer gradients are clipped to it
    microbatch_tokens: int | None = None  # with padding, through a model at once; None: no limit
    gradient_checkpointing: bool = False  # compute activations twice instead of keeping them
    torch_compile: bool = False  # fuse the layers of all models; the first step takes longer
    bf16: bool = False  # compute in bfloat16, over weights in float32
    seed: int = 0  # of the order of the data, samples and minibatches

    def __post_init__(self):
        check_positive(self, "max_grad_norm")
        if self.microbatch_tokens is not None:
            check_positive(self, "microbatch_tokens")
