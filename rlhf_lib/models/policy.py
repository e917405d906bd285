"""A policy is a causal language model: make one at a scale, or load one.

Chapters: reward-model, ppo-live, what-a-step-costs.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from ..families.loading import load_model, load_pretrained, tokenizer_source
from ..families.special_tokens import add_pad_token
from ..families.support import check_supported

# ---------------------------------------------------------------------------------- scales

SCALES: dict[str, dict[str, Any]] = {
    # about 1M parameters: trains on two CPU cores in a minute
    "tiny": dict(n_embd=128, n_layer=4, n_head=4, n_positions=128, initializer_range=0.06),
    # GPT-2 small, 124M parameters with its 50,257 rows of vocabulary
    "gpt2": dict(n_embd=768, n_layer=12, n_head=12, n_positions=1024, vocab_size=50_257),
    # 0.35M parameters: enough for the sums world, whose tokens are 15 characters
    "mini": dict(n_embd=96, n_layer=3, n_head=4, n_positions=128, initializer_range=0.06),
}


def choose_scale(scale: str | None = None) -> str:
    """The scale to run at: the argument, else `RLHF_SCALE`, else what the hardware carries.

    Returns `"gpt2"` where there is a GPU and `"tiny"` where there is none.

    Chapters: ppo-live, grpo.

    Raises
    ------
    ValueError
        If the argument or `RLHF_SCALE` names no scale.
    """
    source = "scale" if scale is not None else "RLHF_SCALE"
    scale = (
        scale or os.environ.get("RLHF_SCALE") or ("gpt2" if torch.cuda.is_available() else "tiny")
    )
    if scale not in SCALES:
        raise ValueError(f"{source} is {scale!r}; expected one of {', '.join(map(repr, SCALES))}")
    return scale


def new_policy(tokenizer, scale: str = "tiny", seed: int = 0):
    """A GPT-2 with random weights.

    Dropout is zero: the policy that samples has to be the one whose log-probabilities are taken,
    and dropout would make it two. The larger initial standard deviation at `tiny` makes a small
    model learn to copy words from its prompt in a third of the steps.

    Chapter: reward-model.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        Gives the vocabulary size, unless the scale fixes it, and the pad and end tokens.
    scale : {"tiny", "gpt2", "mini"}
    seed : int
        Seeds the weights, and nothing else.

    Returns
    -------
    transformers.GPT2LMHeadModel
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = dict(SCALES[choose_scale(scale)])
    no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(
        vocab_size=sizes.pop("vocab_size", len(tokenizer)),
        activation_function="gelu_pytorch_tanh",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **sizes,
        **no_dropout,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    return model.eval()


def load_policy(source: str | os.PathLike):
    """Load a causal language model and its tokenizer from a folder or, by name, from the hub.

    Chapter: reward-model.

    Returns
    -------
    model : transformers.PreTrainedModel
        In evaluation mode, so that dropout is off, and in float32, so that small steps count. A
        folder with an adapter gives peft's model, with the adapter to be trained.
    tokenizer : transformers.PreTrainedTokenizerBase
        Padding on the left, with a pad token that is not its end token.

    Raises
    ------
    FileNotFoundError
        If `source` looks like a folder and there is none.
    ValueError
        If its weights cannot be read, or it is of a kind that cannot be sampled from as it is
        scored (`families.support`).
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = load_model(AutoModelForCausalLM, source)
    check_supported("source", model)
    tokenizer = load_pretrained(AutoTokenizer, tokenizer_source(source, model))
    add_pad_token(model, tokenizer)
    return model, tokenizer


def count_parameters(model: torch.nn.Module) -> int:
    """Number of distinct parameters; tied weights count once.

    Chapter: what-a-step-costs.
    """
    return sum(parameter.numel() for parameter in model.parameters())
