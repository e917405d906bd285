"""How a minibatch is cut to fit memory without changing what is learnt.

A gradient is a sum over tokens. It may be added up in parts of any size, if each part counts by
its share of what the whole is divided by, and not by 1 / number of parts: a token must weigh the
same wherever it falls. Like lengths go together, so that little is computed on padding.
Chapter: what-a-step-costs.
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor


class Batch(Protocol):
    """What is computed in parts: rows of tokens with their masks, such as `TokenBatch`.

    Chapter: what-a-step-costs.
    """

    prompt_mask: Tensor
    completion_mask: Tensor

    @property
    def attention_mask(self) -> Tensor: ...

    @property
    def read_mask(self) -> Tensor: ...

    @property
    def trimmed(self) -> Self: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor) -> Self: ...


def microbatches(batch: Batch, rows: Tensor, tokens: int | None) -> list[Tensor]:
    """Some rows of a batch in parts of at most `tokens` tokens, padding included.

    Long rows come first: if they fit into memory, so do the others. A row that is too long by
    itself is a part by itself. Of a batch of pairs, whose tables are (B, 2, ·), a row is a pair.

    Chapter: what-a-step-costs.

    Parameters
    ----------
    batch : Batch
    rows : Tensor, shape (N,)
        Row numbers.
    tokens : int or None
        None: all rows at once, in the order given.

    Examples
    --------
    >>> from rlhf_lib.models.tokens import TokenBatch
    >>> lengths = torch.tensor([1, 8, 2, 7])
    >>> mask = (torch.arange(8) < lengths[:, None]).long()
    >>> batch = TokenBatch(mask[:, :1], mask[:, :1], mask, mask)
    >>> microbatches(batch, torch.arange(4), tokens=18)
    [tensor([1, 3]), tensor([2, 0])]
    """
    if tokens is None:
        return [rows]
    prompts, completions = (
        mask.sum(dim=-1).view(len(batch), -1).amax(dim=1).tolist()
        for mask in (batch.prompt_mask, batch.read_mask)
    )
    tokens //= batch.prompt_mask[0].numel() // batch.prompt_mask.shape[-1]
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


def share(part: Tensor, whole: Tensor, over: str = "tokens") -> float:
    """What `aggregate` of a part counts for in that of the whole, from their masks.

    Chapter: what-a-step-costs.

    Examples
    --------
    >>> whole = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    >>> share(whole[:1], whole), share(whole[:1], whole, "sequences")
    (0.75, 0.5)
    """
    if over == "tokens":
        return part.sum().item() / whole.sum().item()
    return len(part) / len(whole)
