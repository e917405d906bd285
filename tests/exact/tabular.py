"""A language small enough to enumerate, and a policy on it whose logits are a table.

Axes: N replies (all of them), V vocabulary, T tokens, S prefixes. Everything is float64 and exact:
an expectation is a sum over replies, weighted by their probability. The library's own losses are
called on all replies at once; only the weighting is written here.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor


class Language:
    """All replies of at most T tokens over V symbols, in the order of their ids.

    Parameters
    ----------
    V, T : int
    end : int, optional
        A token after which a reply stops, so that lengths differ. None: every reply has T tokens.
    """

    def __init__(self, V: int, T: int, end: int | None = None):
        prefixes: dict[tuple[int, ...], int] = {}
        replies = []
        for ids in product(range(V), repeat=T):
            length = ids.index(end) + 1 if end in ids else T
            if ids[:length] not in replies:
                replies.append(ids[:length])
        for reply in replies:
            for t in range(len(reply)):
                prefixes.setdefault(reply[:t], len(prefixes))
        self.V, self.T, self.replies, self.prefixes = V, T, replies, prefixes
        self.mask = torch.tensor([[int(t < len(r)) for t in range(T)] for r in replies])  # (N, T)
        self.ids = torch.tensor([list(r) + [0] * (T - len(r)) for r in replies])  # (N, T)
        self.states = torch.tensor(
            [[prefixes[r[:t]] if t < len(r) else 0 for t in range(T)] for r in replies]
        )  # (N, T), the prefix before each token

    def table(self, seed: int, scale: float = 1.0) -> Tensor:
        """Random logits of a policy, (S, V)."""
        generator = torch.Generator().manual_seed(seed)
        return scale * torch.randn(
            len(self.prefixes), self.V, generator=generator, dtype=torch.float64
        )

    def logprobs(self, table: Tensor) -> Tensor:
        """log π of every token of every reply, (N, T); 0 on padding."""
        return table.log_softmax(-1)[self.states, self.ids] * self.mask

    def probabilities(self, table: Tensor) -> Tensor:
        """The policy's probability of every reply, (N,), without a gradient: the sampler's."""
        return self.logprobs(table).sum(dim=1).exp().detach()

    def reach(self, table: Tensor) -> Tensor:
        """Probability of seeing each prefix and then each token, (S, V): the policy's Fisher
        information in these coordinates, up to a shift of a prefix's logits."""
        weight = self.probabilities(table)[:, None] * self.mask
        return torch.zeros_like(table).index_put((self.states, self.ids), weight, accumulate=True)


def gradient(scalar: Tensor, table: Tensor) -> Tensor:
    return torch.autograd.grad(scalar, table)[0]


def groups(N: int, G: int) -> Tensor:
    """Every ordered group of G replies, (N^G, G)."""
    return torch.cartesian_prod(*[torch.arange(N)] * G)
