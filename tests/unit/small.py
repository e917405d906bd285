"""Models small enough for unit tests, with prompts of different lengths and rewards for them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf_lib.models.reward_model import new_reward_model
from rlhf_lib.worlds import letters

RAGGED = [
    f"write to ben. {phrase}: the lamp, friday. reply:"
    for phrase in ("ask for a refund", "you want your money back", "confirm", "say no")
]


@lru_cache(maxsize=1)
def tokenizer():
    return letters.tokenizer()


def policy(seed: int = 0, dropout: float = 0.0):
    config = GPT2Config(
        vocab_size=len(tokenizer()),
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=64,
        initializer_range=0.4,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        activation_function="gelu_pytorch_tanh",
        pad_token_id=tokenizer().pad_token_id,
        eos_token_id=tokenizer().eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    return GPT2LMHeadModel(config).eval()


def hasty(seed: int = 0, push: float = 1.7):
    """A policy that ends soon, and at different times; sooner with a larger push."""
    model = policy(seed)
    with torch.no_grad():
        model.transformer.ln_f.bias += push * model.transformer.wte.weight[tokenizer().eos_token_id]
    return model


def reward_model(seed: int = 0):
    return new_reward_model(policy(seed), seed)


def weights(model):
    """All parameters of a model, in one row."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def count_words(prompts, completions, **columns):
    return [float(len(completion.split())) for completion in completions]


def early_letters(prompts, completions, **columns):
    """Words that begin with a letter before m: a reward that a small model learns in seconds."""
    return [
        float(sum("a" <= word[0] < "m" for word in letters.words(completion)))
        for completion in completions
    ]


def in_a_running_loop(cell):
    """What an `async def` returns that runs in an event loop, as a cell of Jupyter does.

    On a thread of its own: where a browser's test came before, its loop still runs on this one.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(cell())).result()
