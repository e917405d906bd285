"""Text as tokens: prompts with their completions, and the log-probability of each token.

Axes: B batch, P prompt tokens (padded on the left), T completion tokens (padded on the right),
V vocabulary. Log-probabilities and entropies are in nats per token.

Three things that published loops get wrong are settled here, once, for every model of the library:

- Prompts are padded on the left, so `position_ids` are counted from the attention mask. Without
  them a model would see a short prompt at other positions than it was sampled at.
- Which completion tokens are real is a mask that is carried along. It is never read off the token
  ids, where padding may look like the end of a sequence.
- A prompt begins, meets its completion and ends as the model's own tokenizer has it
  (`families.special_tokens`).

Chapters: sft, ratio-and-clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from ..families.special_tokens import completion_rows, with_beginning
from ..families.support import check_context
from ..machinery.decoding import position_ids

# ---------------------------------------------------------------------------------- encoding


@dataclass
class TokenBatch:
    """Prompts and completions as tokens, the one layout that every model here reads.

    Chapters: sft, ratio-and-clip.
    """

    prompt_ids: Tensor  # (B, P) padded on the left
    prompt_mask: Tensor  # (B, P) 1 on real tokens
    completion_ids: Tensor  # (B, T) padded on the right
    completion_mask: Tensor  # (B, T) 1 on the policy's: up to and including the first end token

    @property
    def tokens(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tables of the layout, for a record that adds others to them."""
        return self.prompt_ids, self.prompt_mask, self.completion_ids, self.completion_mask

    @property
    def input_ids(self) -> Tensor:  # (B, P + T)
        return torch.cat([self.prompt_ids, self.completion_ids], dim=-1)

    @property
    def read_mask(self) -> Tensor:  # (B, T) 1 also on what is not the policy's, such as a tool's
        return self.completion_mask.flip(-1).cummax(-1).values.flip(-1)

    @property
    def attention_mask(self) -> Tensor:  # (B, P + T)
        return torch.cat([self.prompt_mask, self.read_mask], dim=-1)

    @property
    def model_inputs(self) -> dict[str, Tensor | bool]:
        """What a transformers model is called with."""
        ids, mask = self.input_ids, self.attention_mask
        where = position_ids(mask)
        return dict(input_ids=ids, attention_mask=mask, position_ids=where, use_cache=False)

    @property
    def trimmed(self) -> Self:
        """The same without the columns that are padding in every row."""
        start = int(self.prompt_mask.flatten(0, -2).any(dim=0).int().argmax())
        T = int(self.read_mask.sum(dim=-1).max())

        def cut(name: str, x):
            if not isinstance(x, Tensor) or x.dim() < 2:
                return x
            return x[..., start:] if name.startswith("prompt") else x[..., :T]

        return self._each(cut)

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def __getitem__(self, rows: Tensor | list[int] | slice) -> Self:
        """The same record for some rows."""
        if isinstance(rows, list):
            rows = torch.tensor(rows, dtype=torch.long)

        def some(_, x):
            if isinstance(x, Tensor):
                return x[rows]
            return [x[i] for i in torch.arange(len(self))[rows].tolist()]

        return self._each(some)

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return self._each(lambda _, x: x.to(device) if isinstance(x, Tensor) else x)

    def _each(self, change: Callable) -> Self:
        return replace(
            self, **{f.name: change(f.name, getattr(self, f.name)) for f in fields(self)}
        )


@dataclass
class PairBatch(TokenBatch):
    """Pairs of completions of one prompt: the tables are (B, 2, ·), the chosen one first.

    Chapter: reward-model.
    """

    @property
    def rows(self) -> TokenBatch:
        """All 2B completions as rows: first the chosen ones, then the rejected ones."""
        return TokenBatch(*(x.transpose(0, 1).flatten(0, 1) for x in self.tokens))


def texts(name: str, values: Iterable[str]) -> list[str]:
    """The values as a list, checked: one text alone would be read letter by letter.

    Chapter: sft.
    """
    if isinstance(values, str):
        raise ValueError(f"{name} is the text {values[:60]!r}; expected a list of texts")
    values = list(values)
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"{name}[{i}] is {value!r}; expected text")
    return values


def encode_prompts(tokenizer, prompts: list[str], device="cpu") -> tuple[Tensor, Tensor]:
    """Tokenize prompts and pad them on the left: ids and mask, each (B, P).

    What the tokenizer puts before a text by itself, such as `<s>`, is put there once.

    Chapters: sft, what-a-step-costs.

    Raises
    ------
    ValueError
        If there is no prompt, one has no tokens, or the tokenizer cannot tell padding from the
        end of a completion.
    """
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is None or eos is None or pad == eos:
        raise ValueError(
            f"tokenizer has pad_token_id={pad} and eos_token_id={eos}; expected two "
            "different tokens (load_policy adds a pad token where there is none)"
        )
    prompts = texts("prompts", prompts)
    if not prompts:
        raise ValueError("prompts is empty; expected at least one prompt")
    rows = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    for i, row in enumerate(rows):
        if not row:
            raise ValueError(
                f"prompts[{i}] is {prompts[i]!r}; expected text with at least one token"
            )
    rows = with_beginning(tokenizer, rows)
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def encode(tokenizer, prompts: list[str], completions: list[str], device="cpu") -> TokenBatch:
    """Tokenize prompts with their completions; each completion ends with one end token.

    Chapter: sft.

    Raises
    ------
    ValueError
        If the lists differ in length, or a prompt is empty.
    """
    prompts, completions = texts("prompts", prompts), texts("completions", completions)
    if len(prompts) != len(completions):
        raise ValueError(
            f"completions has {len(completions)} entries; expected one for each of "
            f"the {len(prompts)} prompts"
        )
    prompt_ids, prompt_mask = encode_prompts(tokenizer, prompts, device)
    rows = completion_rows(tokenizer, prompts, completions)
    width = max(map(len, rows))
    ids = [row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return TokenBatch(
        prompt_ids, prompt_mask, torch.tensor(ids, device=device), torch.tensor(mask, device=device)
    )


def encode_pairs(
    tokenizer, prompts: list[str], chosen: list[str], rejected: list[str], device="cpu"
) -> PairBatch:
    """Tokenize prompts with two completions each. Chapter: reward-model."""
    batch = encode(tokenizer, [*prompts, *prompts], [*chosen, *rejected], device)
    return PairBatch(*(x.unflatten(0, (2, -1)).transpose(0, 1) for x in batch.tokens))


# ---------------------------------------------------------------------------------- probabilities


def completion_logits(model, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
    """The logits that predict each completion token, divided by the sampling temperature.

    Chapter: kl-estimators.

    Returns
    -------
    Tensor, shape (B, T, V)
        Row t predicts `completion_ids[:, t]`: it is the output one position earlier. Logits over
        the prompt, which nothing reads, are not computed.
    """
    check_context(model, batch.input_ids.shape[1], batch.attention_mask)
    T = batch.completion_ids.shape[1]
    logits = model(**batch.model_inputs, logits_to_keep=T + 1).logits[:, :-1]
    return logits / temperature if temperature != 1.0 else logits


def selected_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """log softmax(logits) at the given ids: (B, T, V) and (B, T) to (B, T), in nats.

    The table of all log-probabilities, (B, T, V), is never made: forward needs the logarithm of a
    sum for each token, backward one table, its gradient. Chapters: sft, what-a-step-costs.
    """
    return _SelectedLogprobs.apply(logits, ids)


class _SelectedLogprobs(torch.autograd.Function):
    """x[id] − log Σ exp x; its gradient in x is [id] − softmax(x)."""

    @staticmethod
    def forward(ctx, logits: Tensor, ids: Tensor) -> Tensor:
        total = full_precision(logits).logsumexp(dim=-1)
        ctx.save_for_backward(logits, ids, total)
        return logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - total

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, ids, total = ctx.saved_tensors
        weight = gradients[0].unsqueeze(-1)
        gradient = (logits - total.unsqueeze(-1)).exp_().mul_(-weight)
        return gradient.scatter_add_(-1, ids.unsqueeze(-1), weight).to(logits.dtype), None


def full_precision(x: Tensor) -> Tensor:
    """At least float32: 16 bits are too few for a sum over a vocabulary, or for a score.

    Chapter: what-a-step-costs.
    """
    return x if x.dtype == torch.float64 else x.float()


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each next-token distribution: (B, T, V) to (B, T), in nats.

    Chapter: kl-estimators.

    Examples
    --------
    >>> entropy(torch.zeros(1, 1, 4)).exp()
    tensor([[4.]])
    """
    logprobs = torch.log_softmax(full_precision(logits), dim=-1)
    return -(logprobs.exp() * logprobs).sum(dim=-1)


def token_logprobs(model, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
    """log π(y_t | x, y_<t) of every completion token, shape (B, T), in nats; 0 on padding.

    The temperature must be the one that the completions were sampled at: at another one these
    would be the log-probabilities of a different policy.

    Chapters: sft, ratio-and-clip.
    """
    logits = completion_logits(model, batch, temperature)
    return selected_logprobs(logits, batch.completion_ids) * batch.completion_mask
