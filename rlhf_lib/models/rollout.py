"""Sampling: a batch of completions, with the log-probability of every sampled token.

Axes: B batch, P prompt tokens (padded on the left), T completion tokens (padded on the right).

What it leaves out on purpose: top-k and top-p. They would sample from another distribution than
the one that is trained. The temperature is kept, and divides the logits wherever the completions
are scored again. Chapters: ratio-and-clip, ppo-live, grpo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ..families.special_tokens import decoded, end_tokens
from ..families.support import check_context, check_supported
from ..machinery.decoding import (
    Decoder,
    FixedDecoder,
    GPT2Decoder,
    draw,
    log_probabilities,
    plain_layers,
)
from ..machinery.precision import products_are_rounded
from ..machinery.processes import gather, rank_and_count
from .tokens import TokenBatch, encode_prompts, texts


@dataclass
class Rollout(TokenBatch):
    """A batch of samples and what the sampler knew about them.

    Chapter: ratio-and-clip.
    """

    logprobs: Tensor  # (B, T) of the sampling policy at the sampling temperature; 0 on padding
    entropies: Tensor  # (B, T) of the distribution each token was drawn from, nats; 0 on padding
    finished: Tensor  # (B,) whether the completion ended by itself
    prompts: list[str]
    completions: list[str]  # without the end token

    @property
    def lengths(self) -> Tensor:  # (B,) tokens of the policy, the end token included
        return self.completion_mask.sum(dim=1)


def join(rollouts: list[Rollout], pad_token_id: int) -> Rollout:
    """Several rollouts as one batch: prompts padded on the left, completions on the right.

    Chapter: grpo-variants.
    """
    tables = {}
    for name in (field.name for field in fields(Rollout)):
        parts = [getattr(rollout, name) for rollout in rollouts]
        if isinstance(parts[0], list):
            tables[name] = [x for part in parts for x in part]
            continue
        if parts[0].dim() > 1:
            width = max(part.shape[1] for part in parts)
            pad = pad_token_id if name.endswith("ids") else 0
            left = name.startswith("prompt")
            rooms = [width - part.shape[1] for part in parts]
            parts = [
                F.pad(part, (room, 0) if left else (0, room), value=pad)
                for part, room in zip(parts, rooms)
            ]
        tables[name] = torch.cat(parts)
    return Rollout(**tables)


def gather_rollout(rollout: Rollout, scores: Tensor, pad_token_id: int) -> tuple[Rollout, Tensor]:
    """What all processes sampled and scored, as one batch that every one of them holds.

    Chapter: what-a-step-costs.
    """
    if rank_and_count()[1] == 1:
        return rollout, scores
    found = gather((rollout.to("cpu"), scores.cpu()))
    return (
        join([rollout for rollout, _ in found], pad_token_id).to(scores.device),
        torch.cat([scores for _, scores in found]).to(scores.device),
    )


def step_by_step(
    decoder: Decoder,
    rows: Tensor,
    logits: Tensor,
    T: int,
    temperature: float,
    greedy: bool,
    ends: tuple[int, ...],
    pad: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Draw token after token until every row has ended, leaving those behind that have.

    Row i of the batch continues row `rows[i]` of what the decoder has read, after
    `logits[rows[i]]`. Returns tokens, mask, log-probabilities and entropies, each (B, T), and which
    rows ended, (B,).
    Chapter: what-a-step-costs.
    """
    B, device = len(rows), rows.device
    eos = torch.tensor(ends, device=device)
    if B > len(logits):  # a group of completions shares one pass over its prompt
        decoder.keep(rows)
        logits = logits[rows]
    tokens = torch.full((B, T), pad, device=device)
    mask = torch.zeros((B, T), dtype=torch.long, device=device)
    logprobs, entropies = (torch.zeros((B, T), device=device) for _ in range(2))
    running = torch.arange(B, device=device)  # rows that have not ended
    for t in range(T):
        next_logprobs = log_probabilities(logits, temperature)
        probs = next_logprobs.exp()
        token = next_logprobs.argmax(dim=-1) if greedy else draw(probs, running, B, generator)
        tokens[running, t] = token
        logprobs[running, t] = next_logprobs.gather(1, token[:, None])[:, 0]
        entropies[running, t] = -(probs * next_logprobs).sum(dim=-1)
        mask[running, t] = 1
        going = (token[:, None] != eos).all(dim=1)
        running, token = running[going], token[going]
        if not len(running) or t == T - 1:
            break
        logits = decoder.step(token, going)
    finished = torch.ones(B, dtype=torch.bool, device=device)
    finished[running] = False
    used = slice(int(mask.any(dim=0).sum()))
    return tokens[:, used], mask[:, used], logprobs[:, used], entropies[:, used], finished


@torch.no_grad()
def sample(
    policy,
    tokenizer,
    prompts: list[str],
    max_new_tokens: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    greedy: bool = False,
    dtype: torch.dtype | None = None,
) -> Rollout:
    """Sample one completion for each prompt; repeat a prompt to get more of them.

    Chapter: ratio-and-clip.

    Parameters
    ----------
    policy : transformers causal language model
    tokenizer : PreTrainedTokenizerBase
    prompts : list of str
    max_new_tokens : int
        Longest completion, the end token included. It ends at any of `end_tokens`.
    temperature : float
        Divides the logits; 1 samples from the policy itself.
    generator : torch.Generator, optional
        On the policy's device; given one, the samples are a function of its state.
    greedy : bool
        Take the most likely token instead of sampling.
    dtype : torch.dtype, optional
        What to compute in, such as `torch.bfloat16`; the weights' own type if not given. The
        log-probabilities are those of the policy that drew, and float32 in any case.

    Returns
    -------
    Rollout

    Raises
    ------
    ValueError
        If a prompt is empty, the context is too short, temperature is not positive, the
        tokenizer cannot tell padding from the end of a completion, or the policy is of a kind
        that cannot be sampled from as it is scored.
    """
    if not temperature > 0:
        raise ValueError(
            f"temperature is {temperature}; expected a positive number "
            "(greedy=True takes the most likely token)"
        )
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; expected at least 1")

    check_supported("policy", policy)
    prompts = texts("prompts", prompts)
    prompt_ids, prompt_mask = encode_prompts(tokenizer, prompts, policy.device)
    B, P = prompt_ids.shape
    check_context(policy, P + max_new_tokens)
    ends = tuple(end_tokens(tokenizer, policy))
    settings = (max_new_tokens, temperature, greedy, ends, tokenizer.pad_token_id)

    first = {prompt: i for i, prompt in reversed(list(enumerate(prompts)))}
    distinct = sorted(first.values())  # a prompt is read once, whatever it is sampled for
    place = {prompts[i]: k for k, i in enumerate(distinct)}
    rows = torch.tensor([place[prompt] for prompt in prompts], device=policy.device)
    kind = GPT2Decoder if GPT2Decoder.reads(policy) else Decoder
    fixed = kind is GPT2Decoder and FixedDecoder.suits(policy)
    rounded = not fixed and products_are_rounded(dtype, policy.device)
    decoder = kind(policy, 0 if fixed else max_new_tokens, None if rounded else dtype)
    with plain_layers(policy, rounded):
        logits = decoder.start(prompt_ids[distinct], prompt_mask[distinct])
        if isinstance(decoder, GPT2Decoder) and fixed:
            # prompts of about the same length share a recording
            slots = 16 * math.ceil(P / 16)
            tables = FixedDecoder.get(policy, B, slots, *settings, dtype).run(
                decoder, rows, logits, generator
            )
        else:
            tables = step_by_step(decoder, rows, logits, *settings, generator)
    tokens, mask, logprobs, entropies, finished = tables
    asked, written = (
        [row[keep].tolist() for row, keep in zip(ids.cpu(), kept.cpu().bool())]
        for ids, kept in ((prompt_ids, prompt_mask), (tokens, mask))
    )  # one copy, not 2 a row
    written = [row[: len(row) - ended] for row, ended in zip(written, finished.tolist())]
    completions = decoded(tokenizer, asked, written)
    return Rollout(
        prompt_ids, prompt_mask, tokens, mask, logprobs, entropies, finished, prompts, completions
    )
