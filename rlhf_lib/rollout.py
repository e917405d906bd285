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


class Decoder:
    """Next-token logits of any transformers language model, one token a row at a time.

    Rows that have ended are carried along until a quarter is dead; then the cache is copied
    without them. Chapter: gpt2-on-a-gpu.
    """

    def __init__(self, model, max_new_tokens: int):
        self.model, self.max_new_tokens = model, max_new_tokens

    def start(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
        """Read the prompts, (B, P); return the logits of the first new token, (B, V)."""
        self.mask = prompt_mask.bool()  # (rows, slots) what a new token may attend to
        self.even = bool(self.mask.all())
        self.positions = position_ids(prompt_mask)
        self.rows = torch.arange(len(prompt_ids), device=prompt_ids.device)  # not ended yet
        self.open(*prompt_ids.shape)
        return self.forward(prompt_ids, self.positions)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows of the cache, in this order; a row may be taken several times."""
        self.mask, self.positions = self.mask[rows], self.positions[rows, -1:]
        self.reorder(rows)
        self.rows = torch.arange(len(rows), device=rows.device)

    def step(self, token: Tensor, going: Tensor) -> Tensor:
        """The logits after one more token in each row that goes on.

        `going` tells, for the rows of the last logits, which those are; `token` has one for each.
        """
        self.rows = self.rows[going]
        if len(self.rows) <= .75 * len(self.mask):
            self.keep(self.rows)
        ids = token.new_zeros(len(self.mask), 1)
        ids[self.rows, 0] = token
        self.positions = self.positions[:, -1:] + 1
        self.mask = F.pad(self.mask, (0, 1), value=True)
        logits = self.forward(ids, self.positions)
        return logits if len(self.rows) == len(logits) else logits[self.rows]

    def open(self, B: int, P: int) -> None:
        from transformers import DynamicCache

        self.cache = DynamicCache()

    def reorder(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=self.mask.long(), position_ids=positions,
                          past_key_values=self.cache, use_cache=True,
                          logits_to_keep=1).logits[:, -1]


class GPT2Decoder(Decoder):
    """The same for GPT-2, written out: a tenth of the calls, and a cache that never moves.

    Radford et al. 2019; the layers are those of `transformers.GPT2LMHeadModel`, whose weights
    it reads. Chapter: gpt2-on-a-gpu.
    """

    @staticmethod
    def reads(model) -> bool:
        """Whether the model is a plain GPT-2: no other layers, no hooks, no dropout at work."""
        from transformers import GPT2LMHeadModel
        from transformers.pytorch_utils import Conv1D

        if type(model) is not GPT2LMHeadModel:
            return False
        c = model.config
        if (c.add_cross_attention or c.reorder_and_upcast_attn or not c.scale_attn_weights
                or c.scale_attn_by_inverse_layer_idx):
            return False
        for m in model.modules():
            dropout = isinstance(m, torch.nn.Dropout) and m.training and m.p
            if dropout or m._forward_hooks or m._forward_pre_hooks:
                return False
        return all(type(m) is Conv1D for b in model.transformer.h
                   for m in (b.attn.c_attn, b.attn.c_proj, b.mlp.c_fc, b.mlp.c_proj))

    def open(self, B: int, P: int) -> None:
        c = self.model.config
        self.heads, self.used = c.n_head, 0
        self.cache = [self.model.lm_head.weight.new_empty(
            2, B, c.n_head, P + self.max_new_tokens, c.n_embd // c.n_head)
            for _ in range(c.n_layer)]  # keys and values

    def reorder(self, rows: Tensor) -> None:
        for i, old in enumerate(self.cache):
            new = old.new_empty(2, len(rows), *old.shape[2:])
            new[:, :, :, :self.used] = old[:, rows, :, :self.used]
            self.cache[i] = new

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        t, (B, T) = self.model.transformer, ids.shape
        mask = self.mask[:, None, None, :]  # (B, 1, 1, slots)
        if T > 1:  # the prompt: each token sees those before it, and padding sees itself
            past = torch.ones(T, T, dtype=torch.bool, device=ids.device).tril()
            mask = mask & past | torch.eye(T, dtype=torch.bool, device=ids.device)
        elif self.even:  # no padding anywhere: nothing to mask
            mask = None
        start, self.used = self.used, self.used + T
        x = (t.wte(ids) + t.wpe(positions)).flatten(0, 1)  # (B·T, E): one product for all rows
        for block, cache in zip(t.h, self.cache):
            qkv = _linear(block.attn.c_attn, _normalise(block.ln_1, x))
            q, *kv = qkv.view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            cache[0, :, :, start:self.used], cache[1, :, :, start:self.used] = kv
            keys, values = cache[:, :, :, :self.used]
            seen = F.scaled_dot_product_attention(q, keys, values, mask)
            x = x + _linear(block.attn.c_proj, seen.transpose(1, 2).reshape(B * T, -1))
            inner = block.mlp.act(_linear(block.mlp.c_fc, _normalise(block.ln_2, x)))
            x = x + _linear(block.mlp.c_proj, inner)
        last = _normalise(t.ln_f, x.view(B, T, -1)[:, -1])
        return F.linear(last, self.model.lm_head.weight)


def _linear(layer, x: Tensor) -> Tensor:
    return torch.addmm(layer.bias, x, layer.weight)  # transformers' Conv1D


def _normalise(layer, x: Tensor) -> Tensor:
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


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

    prompts = texts("prompts", prompts)
    device = policy.device
    prompt_ids, prompt_mask = encode_prompts(tokenizer, prompts, device)
    check_context(policy, prompt_ids.shape[1] + max_new_tokens)
    B, T = len(prompts), max_new_tokens
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id

    first = {prompt: i for i, prompt in reversed(list(enumerate(prompts)))}
    distinct = sorted(first.values())  # a group of completions shares one pass over its prompt
    decoder = (GPT2Decoder if GPT2Decoder.reads(policy) else Decoder)(policy, T)
    logits = decoder.start(prompt_ids[distinct], prompt_mask[distinct])
    place = {prompts[i]: k for k, i in enumerate(distinct)}
    rows = torch.tensor([place[prompt] for prompt in prompts], device=device)
    if len(distinct) < B:
        decoder.keep(rows)
        logits = logits[rows]

    tokens = torch.full((B, T), pad, device=device)
    mask = torch.zeros((B, T), dtype=torch.long, device=device)
    logprobs, entropies = (torch.zeros((B, T), device=device) for _ in range(2))
    running = torch.arange(B, device=device)  # rows that have not ended
    for t in range(T):
        next_logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
        probabilities = next_logprobs.exp()
        if greedy:
            token = next_logprobs.argmax(dim=-1)
        else:  # the largest p / Exp(1) is a draw from p; finished rows draw too, and drop theirs
            noise = torch.empty((B, logits.shape[-1]), device=device)
            noise.exponential_(generator=generator)
            token = (probabilities / (noise[running] if len(running) < B else noise)).argmax(dim=-1)
        tokens[running, t] = token
        logprobs[running, t] = next_logprobs.gather(1, token[:, None])[:, 0]
        entropies[running, t] = -(probabilities * next_logprobs).sum(dim=-1)
        mask[running, t] = 1
        going = token != eos
        running, token = running[going], token[going]
        if not len(running) or t == T - 1:
            break
        logits = decoder.step(token, going)

    used = t + 1
    tokens, mask = tokens[:, :used], mask[:, :used]
    completions = [tokenizer.decode(row[keep.bool()], skip_special_tokens=True)
                   for row, keep in zip(tokens, mask)]
    finished = torch.ones(B, dtype=torch.bool, device=device)
    finished[running] = False
    return Rollout(prompt_ids, prompt_mask, tokens, mask, logprobs[:, :used],
                   entropies[:, :used], finished, prompts, completions)
