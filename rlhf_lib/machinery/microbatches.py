"""How a minibatch is cut to fit memory without changing what is learnt.

A gradient is a sum over tokens. It may be added up in parts of any size, if each part counts by
its share of what the whole is divided by, and not by 1 / number of parts: a token must weigh the
same wherever it falls. Like lengths go together, so that little is computed on padding.
Chapter: gpt2-on-a-gpu.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.tokens import TokenBatch
from .processes import gather, own_share, sum_over_processes
from .training import follow_back, move


def microbatches(batch: TokenBatch, rows: Tensor, tokens: int | None) -> list[Tensor]:
    """Some rows of a batch in parts of at most `tokens` tokens, padding included.

    Long rows come first: if they fit into memory, so do the others. A row that is too long by
    itself is a part by itself.

    Chapter: gpt2-on-a-gpu.

    Parameters
    ----------
    batch : TokenBatch
    rows : Tensor, shape (N,)
        Row numbers.
    tokens : int or None
        None: all rows at once, in the order given.

    Examples
    --------
    >>> lengths = torch.tensor([1, 8, 2, 7])
    >>> mask = (torch.arange(8) < lengths[:, None]).long()
    >>> batch = TokenBatch(mask[:, :1], mask[:, :1], mask, mask)
    >>> microbatches(batch, torch.arange(4), tokens=18)
    [tensor([1, 3]), tensor([2, 0])]
    """
    if tokens is None:
        return [rows]
    prompts = batch.prompt_mask.sum(dim=1).tolist()
    completions = batch.completion_mask.sum(dim=1).tolist()
    parts, P, T = [], 0, 0  # the widths that the last part is padded to
    for row in sorted(rows.tolist(), key=lambda i: -prompts[i] - completions[i]):
        wider = max(P, prompts[row]), max(T, completions[row])
        if parts and (len(parts[-1]) + 1) * sum(wider) <= tokens:
            parts[-1].append(row)
            P, T = wider
        else:
            parts.append([row])
            P, T = prompts[row], completions[row]
    return [torch.tensor(part, device=rows.device) for part in parts]


@dataclass
class Part:
    """Some rows of a minibatch, without the padding that only longer rows needed.

    Chapter: gpt2-on-a-gpu.
    """

    rows: Tensor  # (n,) row numbers in the batch
    places: Tensor  # (n,) the same, as places in the minibatch
    batch: TokenBatch
    whole: Tensor  # (N, T) completion mask of the minibatch

    @property
    def mask(self) -> Tensor:  # (n, t)
        return self.batch.completion_mask

    def cut(self, x: Tensor) -> Tensor:
        """What belongs to this part in a table of the batch, (B, T) or (B, 1)."""
        return x[self.rows, : self.mask.shape[1]]

    def share(self, over: str = "tokens") -> float:
        """What `aggregate` over this part counts for in the aggregate over its minibatch."""
        return share(self.mask, self.whole, over)


def share(part: Tensor, whole: Tensor, over: str = "tokens") -> float:
    """What `aggregate` of a part counts for in that of the whole, from their masks.

    Chapter: gpt2-on-a-gpu.

    Examples
    --------
    >>> whole = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    >>> share(whole[:1], whole), share(whole[:1], whole, "sequences")
    (0.75, 0.5)
    """
    if over == "tokens":
        return part.sum().item() / whole.sum().item()
    return len(part) / len(whole)


def parts(batch: TokenBatch, rows: Tensor, tokens: int | None) -> Iterator[Part]:
    """The microbatches of a minibatch; of several processes, each gets its own.

    Chapter: gpt2-on-a-gpu.
    """
    place = {row: i for i, row in enumerate(rows.tolist())}
    whole = batch.completion_mask[rows]
    for part in microbatches(batch, own_share(rows), tokens):
        yield Part(
            part, torch.tensor([place[row] for row in part.tolist()]), batch[part].trimmed, whole
        )


@torch.no_grad()
def in_parts(
    score: Callable[[TokenBatch], Tensor], batch: TokenBatch, tokens: int | None
) -> Tensor:
    """`score(batch)`, shape (B, T), computed in microbatches, and each process its own rows.

    Chapter: gpt2-on-a-gpu.
    """
    rows = own_share(torch.arange(len(batch)))
    cut = microbatches(batch, rows, tokens)
    if len(rows) == len(batch) and len(cut) == 1:
        return score(batch)
    scores = None
    for part in cut:
        found = score(batch[part].trimmed)
        if scores is None:
            scores = found.new_zeros(batch.completion_mask.shape)
        scores[part, : found.shape[1]] = found
    return sum_over_processes(scores)


# ---------------------------------------------------------------------------------- out of memory


def descend_in_parts(
    loop, model, optimizer, rollout: TokenBatch, rows: Tensor, losses
) -> dict[str, float]:
    """One optimiser step on some rows of a batch; returns what was measured on the way.

    Out of memory while gradients add up, it begins again with half as many tokens at a time, once
    in the life of a loop. No weight has moved by then.

    Chapter: gpt2-on-a-gpu.

    Parameters
    ----------
    loop : PPO or GRPO
        Its `microbatch_tokens` may be lowered here.
    model, optimizer
    rollout : TokenBatch
    rows : Tensor, shape (N,)
        The minibatch.
    losses : callable
        `losses(part)` yields pairs: a loss, already its share of the minibatch's, and a dict of
        floats, shares too, which are added up over parts and processes; of "ratio_gap" the
        largest is kept.
    """
    measured: list[dict] = []

    def one_by_one() -> Iterator[Tensor]:
        measured.clear()
        for part in parts(rollout, rows, loop.microbatch_tokens):
            for loss, found in losses(part):
                measured.append(found)
                yield loss

    try:
        total = follow_back(optimizer, one_by_one())
    except torch.OutOfMemoryError:
        if loop.microbatch_tokens != loop.config.microbatch_tokens:  # halved before
            raise
        total = None  # go on outside: this error holds on to what was computed
    if total is None:
        before = loop.microbatch_tokens or rollout[rows].attention_mask.numel()
        loop.microbatch_tokens = max(1, before // 2)
        warnings.warn(
            f"out of memory in an update: from here on microbatch_tokens is "
            f"{loop.microbatch_tokens}, half of what it was. What is learnt does not "
            "change",
            RuntimeWarning,
            stacklevel=5,
        )
        total = follow_back(optimizer, one_by_one())
    norm = move(model, optimizer, total, loop.config.max_grad_norm)
    record = {"gradient_norm": norm}
    for found in (found for several in gather(measured) for found in several):
        for name, value in found.items():
            record[name] = (
                max(record.get(name, 0.0), value)
                if name == "ratio_gap"
                else record.get(name, 0.0) + value
            )
    return record


@contextmanager
def memory_advice(loop):
    """Turn out of memory into an error that names what can be turned down.

    Chapter: gpt2-on-a-gpu.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        c = loop.config
        raise RuntimeError(
            f"out of memory in step {loop.step_number + 1}; expected room for microbatch_tokens="
            f"{loop.microbatch_tokens}, batch_size={c.batch_size} and max_new_tokens="
            f"{c.max_new_tokens}. In an update lower microbatch_tokens or set "
            "gradient_checkpointing=True; while sampling lower batch_size or max_new_tokens; "
            f"bf16=True halves activations and cache. PyTorch says: {error}"
        ) from error
