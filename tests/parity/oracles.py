"""TRL's trainers without their machinery, and random ragged batches to feed both sides.

`bare(Trainer, **attributes)` is a trainer that was never initialised: it has the attributes that
its loss reads and nothing else, so that what is compared is the published loss function itself.
Log-probabilities are handed over where TRL would have run a transformer.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class OneProcess:
    """accelerate's Accelerator on one process: everything gathers to itself."""

    device = torch.device("cpu")
    num_processes, process_index, is_main_process, sync_gradients = 1, 0, True, True

    def gather(self, x, *args, **kwargs):
        return x

    gather_for_metrics = reduce = unwrap_model = gather

    def autocast(self):
        return nullcontext()


def bare(trainer, **attributes):
    """An instance whose __init__ did not run, with `attributes` and a place for its metrics."""
    instance = object.__new__(trainer)
    defaults = dict(
        accelerator=OneProcess(),
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    for name, value in {**defaults, **attributes}.items():
        instance.__dict__[name] = value
    return instance


def ragged(seed: int, dtype=torch.float64, B: int = 16, T: int = 7, spread: float = 0.4):
    """A random batch: completions of 1 to T tokens, and finite garbage where the padding is.

    Returns a namespace of `logprobs` (a leaf), `old`, `ref` of shape (B, T), `advantages` (B,),
    `rewards` (B,) and `mask` (B, T). Ratios lie on both sides of the usual clips, advantages on
    both sides of zero.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    lengths[0], lengths[1] = T, 1
    mask = (torch.arange(T) < lengths[:, None]).long()
    garbage = 5 * normal(B, T)
    policy = -1.5 + 0.5 * normal(B, T)
    old, ref = policy + spread * normal(B, T), policy + 0.5 * normal(B, T)
    fill = [
        torch.where(mask.bool(), x, garbage * scale)
        for x, scale in ((policy, 1.0), (old, 0.9), (ref, 0.8))
    ]
    return SimpleNamespace(
        logprobs=fill[0].requires_grad_(),
        old=fill[1],
        ref=fill[2],
        advantages=normal(B),
        rewards=normal(B),
        mask=mask,
    )


def value_and_gradient(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def assert_same(ours: Tensor, theirs: Tensor, *leaves: Tensor) -> None:
    """Two losses of the same leaves: equal in value and in gradient."""
    tolerance = TOLERANCE[leaves[0].dtype]
    for a, b in zip(value_and_gradient(ours, *leaves), value_and_gradient(theirs, *leaves)):
        assert torch.isfinite(b).all()
        assert torch.allclose(a, b, rtol=0.0, atol=tolerance), (a - b).abs().max()
