"""Sampling: batched, through a key-value cache, with the log-probability of every sampled token.

Axes: B batch, P prompt tokens (padded on the left), T completion tokens (padded on the right).

What it leaves out on purpose: top-k and top-p. They would sample from another distribution than
the one that is trained. The temperature is kept, and divides the logits wherever the completions
are scored again. Chapters: ppo-live, grpo.
"""
from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from .policy import TokenBatch, check_context, encode_prompts, position_ids, texts


@dataclass
class Rollout(TokenBatch):
    """A batch of samples and what the sampler knew about them.

    Chapter: ppo-mechanics.
    """

    logprobs: Tensor  # (B, T) of the sampling policy at the sampling temperature; 0 on padding
    entropies: Tensor  # (B, T) of the distribution each token was drawn from, nats; 0 on padding
    finished: Tensor  # (B,) whether the completion ended by itself
    prompts: list[str]
    completions: list[str]  # without the end token

    @property
    def lengths(self) -> Tensor:  # (B,) tokens, the end token included
        return self.completion_mask.sum(dim=1)

    def select(self, rows: list[int]) -> Rollout:
        """The rollout of some rows; `rollout[rows]` gives only their tokens."""
        tensors = {f.name: getattr(self, f.name)[rows] for f in fields(self)
                   if f.name not in ("prompts", "completions")}
        return Rollout(**tensors, prompts=[self.prompts[i] for i in rows],
                       completions=[self.completions[i] for i in rows])


def join(rollouts: list[Rollout], pad_token_id: int) -> Rollout:
    """Several rollouts as one batch: prompts padded on the left, completions on the right.

    Chapter: grpo-variants.
    """
    P = max(r.prompt_ids.shape[1] for r in rollouts)
    T = max(r.completion_ids.shape[1] for r in rollouts)

    def together(name: str) -> Tensor:
        rows, is_prompt = [], name.startswith("prompt")
        for rollout in rollouts:
            x = getattr(rollout, name)
            room = (P if is_prompt else T) - x.shape[1] if x.dim() == 2 else 0
            rows.append(F.pad(x, (room, 0) if is_prompt else (0, room),
                              value=pad_token_id if name.endswith("ids") else 0))
        return torch.cat(rows)

    tensors = {f.name: together(f.name) for f in fields(Rollout)
               if f.name not in ("prompts", "completions")}
    return Rollout(**tensors, prompts=[p for r in rollouts for p in r.prompts],
                   completions=[c for r in rollouts for c in r.completions])


@torch.no_grad()
def sample(policy, tokenizer, prompts: list[str], max_new_tokens: int, temperature: float = 1.,
           generator: torch.Generator | None = None, greedy: bool = False) -> Rollout:
    """Sample one completion for each prompt; repeat a prompt to get more of them.

    Chapter: ppo-mechanics.

    Parameters
    ----------
    policy : transformers causal language model
    tokenizer : PreTrainedTokenizerBase
    prompts : list of str
    max_new_tokens : int
        Longest completion, the end token included.
    temperature : float
        Divides the logits; 1 samples from the policy itself.
    generator : torch.Generator, optional
        On the policy's device; given one, the samples are a function of its state.
    greedy : bool
        Take the most likely token instead of sampling.

    Returns
    -------
    Rollout

    Raises
    ------
    ValueError
        If a prompt is empty, the context is too short, temperature is not positive, or the
        tokenizer cannot tell padding from the end of a completion.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a positive number "
                         "(greedy=True takes the most likely token)")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; expected at least 1")
    from transformers import DynamicCache

    prompts = texts("prompts", prompts)
    device = policy.device
    prompt_ids, prompt_mask = encode_prompts(tokenizer, prompts, device)
    check_context(policy, prompt_ids.shape[1] + max_new_tokens)
    B = len(prompts)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id

    cache = DynamicCache()
    attention_mask = prompt_mask
    ids, positions = prompt_ids, position_ids(prompt_mask)  # first call: the whole prompt
    running = torch.ones(B, dtype=torch.bool, device=device)
    tokens, logprobs, entropies, mask = [], [], [], []
    for _ in range(max_new_tokens):
        logits = policy(input_ids=ids, attention_mask=attention_mask, position_ids=positions,
                        past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        next_logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)  # (B, V)
        if greedy:
            token = next_logprobs.argmax(dim=-1)
        else:
            token = torch.multinomial(next_logprobs.exp(), 1, generator=generator)[:, 0]
        token = torch.where(running, token, pad)
        chosen = next_logprobs.gather(1, token[:, None])[:, 0]
        tokens.append(token)
        logprobs.append(torch.where(running, chosen, 0.))
        entropy = -(next_logprobs.exp() * next_logprobs).sum(dim=-1)
        entropies.append(torch.where(running, entropy, 0.))
        mask.append(running.long())
        running = running & (token != eos)
        if not running.any():
            break
        # from the second call on, one token a row; its position follows the last real one
        ids, positions = token[:, None], positions[:, -1:] + 1
        attention_mask = torch.cat([attention_mask, mask[-1][:, None]], dim=1)

    completion_ids, completion_mask = torch.stack(tokens, 1), torch.stack(mask, 1)
    completions = [tokenizer.decode(row[keep.bool()], skip_special_tokens=True)
                   for row, keep in zip(completion_ids, completion_mask)]
    return Rollout(prompt_ids, prompt_mask, completion_ids, completion_mask,
                   torch.stack(logprobs, 1), torch.stack(entropies, 1), ~running, prompts,
                   completions)
