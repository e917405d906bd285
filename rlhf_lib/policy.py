"""A policy is a causal language model: make one at a scale, encode text for it, score its tokens.

Axes: B batch, P prompt tokens (padded on the left), T completion tokens (padded on the right),
V vocabulary. Log-probabilities and entropies are in nats per token.

Two things that published loops get wrong are settled here, once, for every model of the library:

- Prompts are padded on the left, so `position_ids` are counted from the attention mask. Without
  them a short prompt would be scored at other positions than it was sampled at.
- Which completion tokens are real is a mask that is carried along. It is never read off the token
  ids, where padding may look like the end of a sequence.

Chapters: ppo-live, grpo.
"""
from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable

import torch
from torch import Tensor

# ---------------------------------------------------------------------------------- scales

SCALES = {
    # about 1M parameters: trains on two CPU cores in a minute
    "tiny": dict(n_embd=128, n_layer=4, n_head=4, n_positions=128, init_std=.06),
    # GPT-2 small, 124M parameters with its 50,257 rows of vocabulary
    "gpt2": dict(n_embd=768, n_layer=12, n_head=12, n_positions=1024, init_std=.02,
                 vocab_size=50_257),
    # 0.35M parameters: enough for the sums world, whose tokens are 15 characters
    "mini": dict(n_embd=96, n_layer=3, n_head=4, n_positions=128, init_std=.06),
}


def choose_scale(scale: str | None = None) -> str:
    """The scale to run at: the argument, else `RLHF_SCALE`, else what the hardware carries.

    Returns `"gpt2"` where there is a GPU and `"tiny"` where there is none.

    Chapter: gpt2-on-a-gpu.

    Raises
    ------
    ValueError
        If the argument or `RLHF_SCALE` names no scale.
    """
    source = "scale" if scale is not None else "RLHF_SCALE"
    scale = scale or os.environ.get("RLHF_SCALE") or ("gpt2" if torch.cuda.is_available()
                                                      else "tiny")
    if scale not in SCALES:
        raise ValueError(f"{source} is {scale!r}; expected one of {', '.join(map(repr, SCALES))}")
    return scale


def new_policy(tokenizer, scale: str = "tiny", seed: int = 0):
    """A GPT-2 with random weights.

    Dropout is zero: a policy is sampled and scored by the same function, and dropout would make
    it two. The larger initial standard deviation at `tiny` makes a small model learn to copy
    words from its prompt in a third of the steps.

    Chapter: sft.

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

    size = dict(SCALES[choose_scale(scale)])
    std = size.pop("init_std")
    config = GPT2Config(
        vocab_size=size.pop("vocab_size", len(tokenizer)), initializer_range=std,
        activation_function="gelu_pytorch_tanh", resid_pdrop=0., embd_pdrop=0., attn_pdrop=0.,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, **size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    return model.eval()


def load_policy(source: str | os.PathLike):
    """Load a causal language model and its tokenizer from a folder or, by name, from the hub.

    Chapter: scaling-out.

    Returns
    -------
    model : transformers.PreTrainedModel
        In evaluation mode, so that dropout is off.
    tokenizer : transformers.PreTrainedTokenizerBase
        Padding on the left, with a pad token that is not its end token.

    Raises
    ------
    FileNotFoundError
        If `source` looks like a folder and there is none.
    ValueError
        If its weights cannot be read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = load_pretrained(AutoModelForCausalLM, source)
    tokenizer = load_pretrained(AutoTokenizer, source)
    add_pad_token(model, tokenizer)
    return model.eval(), tokenizer


def add_pad_token(model, tokenizer) -> None:
    """Pad on the left, by a token of its own: where there is none, or it is the end token, add it.

    Chapter: scaling-out.
    """
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
        model.resize_token_embeddings(max(len(tokenizer), model.config.vocab_size))
        model.config.pad_token_id = tokenizer.pad_token_id


def load_pretrained(auto_class, source: str | os.PathLike, **options):
    """`auto_class.from_pretrained(source)`, with an error that says what is wrong with `source`.

    Chapter: scaling-out.
    """
    folder = Path(source)
    on_the_hub = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(source))  # NAME or OWNER/NAME
    if not (folder / "config.json").exists() and (folder.exists() or not on_the_hub):
        raise FileNotFoundError(f"source is {str(source)!r}; expected a checkpoint folder with "
                                "config.json and model.safetensors, and found none there")
    from transformers.utils import logging

    progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # these files load in a blink; a bar would stay in the notebook
    try:
        return auto_class.from_pretrained(source, **options)
    except Exception as error:  # transformers and safetensors raise many kinds; all mean this
        raise ValueError(f"source is {str(source)!r}; expected a readable checkpoint, and reading "
                         f"it failed: {error}") from error
    finally:
        if progress:
            logging.enable_progress_bar()


def count_parameters(model: torch.nn.Module) -> int:
    """Number of distinct parameters; tied weights count once.

    Chapter: ppo-mechanics.
    """
    return sum(parameter.numel() for parameter in model.parameters())


# ---------------------------------------------------------------------------------- encoding

@dataclass
class TokenBatch:
    """Prompts and completions as tokens, the one layout that every model here reads.

    Chapter: ppo-mechanics.
    """

    prompt_ids: Tensor  # (B, P) padded on the left
    prompt_mask: Tensor  # (B, P) 1 on real tokens
    completion_ids: Tensor  # (B, T) padded on the right
    completion_mask: Tensor  # (B, T) 1 up to and including the first end token

    @property
    def input_ids(self) -> Tensor:  # (B, P + T)
        return torch.cat([self.prompt_ids, self.completion_ids], dim=1)

    @property
    def attention_mask(self) -> Tensor:  # (B, P + T)
        return torch.cat([self.prompt_mask, self.completion_mask], dim=1)

    @property
    def model_inputs(self) -> dict[str, Tensor]:
        """What a transformers model is called with."""
        mask = self.attention_mask
        return dict(input_ids=self.input_ids, attention_mask=mask,
                    position_ids=position_ids(mask), use_cache=False)

    @property
    def trimmed(self) -> TokenBatch:
        """The same without the columns that are padding in every row."""
        start = int(self.prompt_mask.any(dim=0).int().argmax())
        T = int(self.completion_mask.sum(dim=1).max())
        return TokenBatch(self.prompt_ids[:, start:], self.prompt_mask[:, start:],
                          self.completion_ids[:, :T], self.completion_mask[:, :T])

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def __getitem__(self, rows) -> TokenBatch:
        """The same record for some rows: an index tensor or a slice."""
        return TokenBatch(self.prompt_ids[rows], self.prompt_mask[rows],
                          self.completion_ids[rows], self.completion_mask[rows])


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions counted over real tokens only, so that left padding does not shift a prompt.

    Chapter: ppo-mechanics.

    Examples
    --------
    >>> position_ids(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]))
    tensor([[0, 0, 0, 1, 2],
            [0, 1, 2, 3, 4]])
    """
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


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

    Chapter: sft.

    Raises
    ------
    ValueError
        If there is no prompt, one has no tokens, or the tokenizer cannot tell padding from the
        end of a completion.
    """
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is None or eos is None or pad == eos:
        raise ValueError(f"tokenizer has pad_token_id={pad} and eos_token_id={eos}; expected two "
                         "different tokens (load_policy adds a pad token where there is none)")
    prompts = texts("prompts", prompts)
    if not prompts:
        raise ValueError("prompts is empty; expected at least one prompt")
    rows = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    for i, row in enumerate(rows):
        if not row:
            raise ValueError(f"prompts[{i}] is {prompts[i]!r}; expected text with at least one "
                             "token")
    width = max(map(len, rows))
    ids = [[pad] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def encode(tokenizer, prompts: list[str], completions: list[str], device="cpu") -> TokenBatch:
    """Tokenize prompts with their completions; each completion gets an end token.

    Chapter: sft.

    Raises
    ------
    ValueError
        If the lists differ in length, or a prompt is empty.
    """
    prompts, completions = texts("prompts", prompts), texts("completions", completions)
    if len(prompts) != len(completions):
        raise ValueError(f"completions has {len(completions)} entries; expected one for each of "
                         f"the {len(prompts)} prompts")
    prompt_ids, prompt_mask = encode_prompts(tokenizer, prompts, device)
    rows = [row + [tokenizer.eos_token_id]
            for row in tokenizer(completions, add_special_tokens=False)["input_ids"]]
    width = max(map(len, rows))
    ids = [row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return TokenBatch(prompt_ids, prompt_mask, torch.tensor(ids, device=device),
                      torch.tensor(mask, device=device))


def check_context(model, length: int) -> None:
    """Raise a ValueError if `length` tokens do not fit the model's context.

    Chapter: gpt2-on-a-gpu.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and length > context:
        raise ValueError(f"the longest prompt and its completion take {length} tokens; expected "
                         f"at most {context}, the context of this model")


def layers_of(model) -> list[torch.nn.Module]:
    """The layers of a transformers model: what can be computed again, or compiled, one by one.

    Chapter: gpt2-on-a-gpu.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


# ---------------------------------------------------------------------------------- scoring

def completion_logits(model, batch: TokenBatch, temperature: float = 1.) -> Tensor:
    """The logits that predict each completion token, divided by the sampling temperature.

    Chapter: ppo-mechanics.

    Returns
    -------
    Tensor, shape (B, T, V)
        Row t predicts `completion_ids[:, t]`: it is the output one position earlier. Logits over
        the prompt, which nothing reads, are not computed.
    """
    check_context(model, batch.input_ids.shape[1])
    T = batch.completion_ids.shape[1]
    logits = model(**batch.model_inputs, logits_to_keep=T + 1).logits[:, :-1]
    return logits / temperature if temperature != 1. else logits


def selected_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """log softmax(logits) at the given ids: (B, T, V) and (B, T) to (B, T), in nats.

    The table of all log-probabilities, (B, T, V), is never made: forward needs the logarithm of a
    sum for each token, backward one table, its gradient. Chapters: ppo-mechanics, gpt2-on-a-gpu.
    """
    return _SelectedLogprobs.apply(logits, ids)


class _SelectedLogprobs(torch.autograd.Function):
    """x[id] − log Σ exp x; its gradient in x is [id] − softmax(x)."""

    @staticmethod
    def forward(ctx, logits: Tensor, ids: Tensor) -> Tensor:
        total = _float(logits).logsumexp(dim=-1)
        ctx.save_for_backward(logits, ids, total)
        return logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - total

    @staticmethod
    def backward(ctx, weight: Tensor) -> tuple[Tensor, None]:
        logits, ids, total = ctx.saved_tensors
        weight = weight.unsqueeze(-1)
        gradient = (logits - total.unsqueeze(-1)).exp_().mul_(-weight)
        return gradient.scatter_add_(-1, ids.unsqueeze(-1), weight).to(logits.dtype), None


def _float(x: Tensor) -> Tensor:  # 16 bits are too few for a sum over a vocabulary
    return x if x.dtype == torch.float64 else x.float()


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each next-token distribution: (B, T, V) to (B, T), in nats.

    Chapter: ppo-mechanics.

    Examples
    --------
    >>> entropy(torch.zeros(1, 1, 4)).exp()
    tensor([[4.]])
    """
    logprobs = torch.log_softmax(_float(logits), dim=-1)
    return -(logprobs.exp() * logprobs).sum(dim=-1)


def token_logprobs(model, batch: TokenBatch, temperature: float = 1.) -> Tensor:
    """log π(y_t | x, y_<t) of every completion token, shape (B, T), in nats; 0 on padding.

    The temperature must be the one that the completions were sampled at: at another one these
    would be the log-probabilities of a different policy.

    Chapter: ppo-mechanics.
    """
    logits = completion_logits(model, batch, temperature)
    return selected_logprobs(logits, batch.completion_ids) * batch.completion_mask
