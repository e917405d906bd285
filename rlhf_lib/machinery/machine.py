"""How a loop computes, apart from what: precision, microbatches, several processes, memory.

An algorithm says which loss a batch has. `Machine.descend` takes one optimiser step on it: in parts
that fit into memory, each counted by its share of the whole; in the precision of the settings; on
the rows of this process, with gradients added up over all. Whatever it does, the step is that of
the plain loss on the whole batch. From a loss to a moved weight: `descend`, which calls it;
`backward`, which adds up gradients; `optimizer_step`, which moves. Chapter: what-a-step-costs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from .memory import free_bytes, short_of_memory
from .microbatches import Batch, microbatches, share
from .optimization import backward, optimizer_step
from .precision import check_precision, computing_in, sampling_dtype
from .preparation import (
    check_apart,
    compile_layers,
    freeze,
    layers_of,
    recompute_activations,
    train_without_dropout,
)
from .processes import broadcast, gather, local_generator, local_rows, sum_over_processes

BatchT = TypeVar("BatchT", bound=Batch)
LARGEST = ("ratio_gap",)  # of what is seen: the largest over all parts, and not the mean
UNSAID = ". The system may end this process without a word; an adapter (LoRA) takes less"


class Machine:
    """Makes models ready for a loop, and computes its tables and its optimiser steps.

    Chapter: what-a-step-costs.

    Parameters
    ----------
    config : Config
        Its settings `microbatch_tokens`, `gradient_checkpointing`, `torch_compile`, `bf16`,
        `max_grad_norm`, `seed`, and where it has one `gradient_accumulation_steps`.
    trained, frozen : dict of str to model or None
        By their roles, for messages. None is left out.
    """

    def __init__(self, config, trained: dict, frozen: dict):
        frozen = {role: model for role, model in frozen.items() if model is not None}
        check_apart(**trained, **frozen)
        self.config, self.microbatch_tokens, self.halved = config, config.microbatch_tokens, False
        self.device = next(iter(trained.values())).device
        check_precision(config, self.device)
        self.trained, self.frozen = list(trained.values()), list(frozen.values())
        for model in frozen.values():
            freeze(model)
        for role, model in trained.items():
            train_without_dropout(role, model)
            if config.gradient_checkpointing:
                recompute_activations(model, config)
            broadcast(model)
        if config.torch_compile:
            compile_layers(*trained.values(), *frozen.values())
        if self.device.type == "cpu" and (short := short_of_memory(trained, free_bytes())):
            warnings.warn(short + UNSAID, RuntimeWarning, stacklevel=3)
        self.sampler = local_generator(self.device, config.seed)
        self.sampling_dtype = sampling_dtype(config)

    @torch.no_grad()
    def table(self, function: Callable[[BatchT], Tensor], batch: BatchT) -> Tensor:
        """`function(batch)`, a number for each token, (B, T), without gradients."""
        rows = local_rows(torch.arange(len(batch)))
        cut = microbatches(batch, rows, self.microbatch_tokens)
        if len(rows) == len(batch) and len(cut) == 1:
            with computing_in(self.config, self.device):
                return function(batch)
        with computing_in(self.config, self.device):
            tables = [function(batch[part].trimmed) for part in cut]
        whole = tables[0].new_zeros(batch.completion_mask.shape)
        for part, table in zip(cut, tables):
            whole[part, : table.shape[1]] = table
        return sum_over_processes(whole)

    def settle(self) -> None:
        """Dropout off everywhere, and layers that recompute set to do so, whoever changed it."""
        for model in (*self.trained, *self.frozen):
            if isinstance(model, torch.nn.Module):
                model.eval()
        if self.config.gradient_checkpointing:
            for layer in (layer for model in self.trained for layer in layers_of(model)):
                layer.training = True

    def exact(self, model) -> bool:
        """Whether the model computes in float32 or better, when it samples and when it learns."""
        weights = (p for p in model.parameters() if p.is_floating_point())
        return not self.config.bf16 and all(p.element_size() >= 4 for p in weights)

    def descend(
        self,
        model,
        optimizer,
        losses: dict[str, tuple],
        over: str = "tokens",
        seen_over: str = "tokens",
    ) -> dict[str, float]:
        """One optimiser step on a sum of losses; returns them, and what was seen on the way.

        Out of memory while gradients add up, it begins again with half as many tokens at a time,
        once in the life of a machine. No weight has moved by then.

        Parameters
        ----------
        model, optimizer
            What is moved, and by what.
        losses : dict of str to (function, batch) or (function, batch, weight)
            By their names. `function(batch)` returns the loss of a batch and a dict of what to
            see: means over what it is averaged over, or pairs of a mean and its own count. It is
            called on parts of the batch, as if each were all there is.
        over, seen_over : {"tokens", "sequences", "budget"}
            What a loss is averaged over, as in `losses.aggregate`; and what is seen.

        Raises
        ------
        FloatingPointError
            If the gradient is not finite. The weights are those before.
        """
        records: list[dict] = []
        kept: dict = {}  # weights rounded, which stand still until the end
        largest = 0

        def one_by_one() -> Iterator[Tensor]:
            """Losses, each computed when `backward` asks: one part's activations live at a time."""
            nonlocal largest
            records.clear()  # of an attempt that ran out of memory
            for name, (function, batch, *weight) in losses.items():
                for part in self._cut(batch):
                    largest = max(largest, part.attention_mask.numel())
                    with computing_in(self.config, self.device, kept):
                        loss, seen = function(part)
                    masks = part.completion_mask, batch.completion_mask
                    of_loss = share(*masks, over)  # in what the whole is averaged over
                    of_seen = of_loss if seen_over == over else share(*masks, seen_over)
                    loss = loss * of_loss
                    seen = {key: _shared(key, x, of_seen) for key, x in seen.items()}
                    records.append({name: loss.item()} | seen)
                    yield loss * weight[0] if weight else loss

        try:
            total = backward(optimizer, one_by_one())
        except torch.OutOfMemoryError:
            if self.halved:
                raise
            total = None  # go on outside: this error holds on to what was computed
        if total is None:
            self.halved = True
            self.microbatch_tokens = max(1, min(self.microbatch_tokens or largest, largest) // 2)
            warnings.warn(
                f"out of memory in an update: from here on microbatch_tokens is "
                f"{self.microbatch_tokens}, half of what it was. What is learnt does not change",
                RuntimeWarning,
                stacklevel=5,
            )
            total = backward(optimizer, one_by_one())
        kept.clear()
        norm = optimizer_step(model, optimizer, total, self.config.max_grad_norm)
        parts: dict[str, list] = {}
        for record in (record for several in gather(records) for record in several):
            for name, x in record.items():
                parts.setdefault(name, []).append(x)
        return {"gradient_norm": norm} | {name: _joined(name, xs) for name, xs in parts.items()}

    def _cut(self, batch: BatchT) -> Iterator[BatchT]:
        rows = local_rows(torch.arange(len(batch)))
        if self.microbatch_tokens is None:
            steps = getattr(self.config, "gradient_accumulation_steps", 1)
            cut = rows.split(max(1, -(-len(rows) // steps)))
        else:
            cut = microbatches(batch, rows, self.microbatch_tokens)
        for part in cut:
            if len(part):  # of many processes, one may have none
                yield (batch if len(part) == len(batch) and len(cut) == 1 else batch[part]).trimmed

    @contextmanager
    def advice(self, step: int) -> Iterator[None]:
        """Turn out of memory into an error that names what can be turned down."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            sizes = [f"microbatch_tokens={self.microbatch_tokens}"] + [
                f"{name}={getattr(self.config, name)}"
                for name in ("batch_size", "max_new_tokens")
                if hasattr(self.config, name)
            ]
            sampling = "while sampling lower batch_size or max_new_tokens; "
            raise RuntimeError(
                f"out of memory in step {step}; expected room for {', '.join(sizes[:-1])} and "
                f"{sizes[-1]}. In an update lower microbatch_tokens or set "
                f"gradient_checkpointing=True; {sampling if len(sizes) > 2 else ''}"
                f"bf16=True halves activations and cache. PyTorch says: {error}"
            ) from error


def _shared(name: str, x, share: float):
    """What is seen of a part, as its share of the whole; a mean of its own count stays as it is."""
    return x if name in LARGEST or isinstance(x, tuple) else x * share


def _joined(name: str, parts: list) -> float:
    """What is seen of the whole, from its parts: the largest, a mean over counts, or the sum."""
    if name in LARGEST:
        return max(parts)
    if isinstance(parts[0], tuple):
        total = sum(count for _, count in parts)
        if not total:
            return math.nan
        return sum(mean * (count / total) for mean, count in parts if count)
    return sum(parts)
