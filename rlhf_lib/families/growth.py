"""A small GPT-2 grown into a larger one that says the same.

A model of a million parameters that was trained in a minute becomes one of GPT-2's exact shape,
124,439,808 parameters, with the same next-token distribution up to rounding. So a loop can be
watched at that size from a policy that already writes letters, without a download.

- *Width.* Every feature of the trunk is copied k times, and what reads the copies shares its
  weights out among them; so with heads and with the units of an MLP. LayerNorm sees the same mean
  and the same variance.
- *Depth.* New layers stand behind the old ones and add 0 to the trunk.
- *Vocabulary.* A new row has one constant logit, far below the others. LayerNorm's output, before
  its weight w and its bias, has mean 0: so on 1/w all hidden states have the same projection.
- *Noise.* Copies stay copies under gradient descent, and the large model would learn as the small
  one. Noise on the shares parts them. It sums to 0 over the copies of a feature, and so it changes
  nothing as long as they are equal.

Sources: Net2Net, Chen et al. 2015, arXiv:1511.05641, widens layers by copies that
share out and deepens by identities; LEMON, Wang et al. 2023, arXiv:2310.07999, brings that to
transformers, LayerNorm included, and parts copies by unequal shares. Here the noise has another
direction in each copy: Adam would divide out shares that differ in size alone. Chapter: gpt2-live.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

UNUSED = -30.0  # nats: the logit of a token that the small model did not know
LONGEST = 300.0  # such a row at most; GPT-2's own rows have a length of 4
SIZES = ("n_embd", "n_layer", "n_head", "n_positions", "vocab_size")


def grow(model, noise: float = 0.5, seed: int = 0, initializer_range: float = 0.02, **sizes):
    """A larger GPT-2 that says what this one says: `grow(model, **SCALES["gpt2"])`.

    Chapter: gpt2-live.

    Parameters
    ----------
    model : transformers GPT-2
        With any head: a policy, a reward model or a critic. It is not changed.
    noise : float
        Standard deviation of the noise that parts the copies, over that of the matrix that it is
        put on. With 0 the copies of heads and of hidden units stay equal for ever.
    seed : int
        Seeds the noise, and the weights of new layers.
    initializer_range : float
        Standard deviation of the weights of new layers.
    **sizes : int
        Those of `n_embd`, `n_layer`, `n_head`, `n_positions` and `vocab_size` that grow. The width
        of the MLP grows as that of the trunk.

    Returns
    -------
    transformers.PreTrainedModel
        Of the same class, dtype and device, in evaluation mode. At positions that the small model
        did not have it has learnt nothing.

    Raises
    ------
    ValueError
        If the model is no GPT-2, a size is smaller than it was, or a width is no multiple of what
        it was.
    """
    config = _larger(model, sizes)
    config.initializer_range = initializer_range
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise is {noise}; expected 0 or more, and finite")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        large = type(model)(config).to(model.device, model.dtype).eval()
        with torch.no_grad():
            _fill(large, model, noise)
    return large


def _larger(model, sizes: dict[str, int]):
    """The configuration of the grown model; refuses what cannot be grown into."""
    small: Any = getattr(model, "config", None)
    if getattr(small, "model_type", None) != "gpt2" or not hasattr(model, "transformer"):
        raise ValueError(f"model is a {type(model).__name__}; expected a GPT-2 of transformers")
    config = copy.deepcopy(small)
    for name, value in sizes.items():
        if name not in SIZES:
            raise ValueError(f"sizes name {name}; expected some of {', '.join(SIZES)}")
        if value < getattr(small, name):
            raise ValueError(f"{name} is {value}; expected at least {getattr(small, name)}")
        setattr(config, name, value)
    wide, narrow = ((c.n_embd, c.n_head, c.n_embd / c.n_head) for c in (config, small))
    for name, many, few in zip(("n_embd", "n_head", "n_embd / n_head"), wide, narrow):
        if many % few:
            raise ValueError(f"{name} is {many:g}; expected a multiple of {few:g}")
    if config.n_inner:
        config.n_inner *= config.n_embd // small.n_embd
    return config


def _fill(large, small, noise: float) -> None:
    """Write the small model into the large one."""
    new, old, t, s = large.config, small.config, large.transformer, small.transformer
    k = new.n_embd // old.n_embd
    heads, inside = new.n_head // old.n_head, k * old.n_head // new.n_head  # copies of each
    features = torch.arange(old.n_embd).repeat_interleave(k)  # which one each is a copy of
    units = torch.arange(old.n_inner or 4 * old.n_embd).repeat_interleave(k)
    of_heads = torch.arange(old.n_embd).view(old.n_head, -1)
    of_heads = of_heads.repeat_interleave(heads, 0).repeat_interleave(inside, 1).flatten()
    of_qkv = torch.cat([of_heads + part * old.n_embd for part in range(3)])

    def shared(weight: Tensor, source: Tensor) -> Tensor:
        """(E, out) to (kE, out): each copy carries a share, with noise that adds up to 0."""
        share = weight[source] / k
        if k == 1 or not noise:
            return share
        drawn = noise * share.std() * torch.randn_like(share)
        mean = torch.zeros_like(weight).index_add_(0, source.to(weight.device), drawn) / k
        return share + drawn - mean[source]

    def widen(mine, its, read: Tensor, written: Tensor) -> None:
        mine.weight.copy_(shared(its.weight[:, written], read))
        mine.bias.copy_(its.bias[written])

    t.wte.weight[: old.vocab_size] = s.wte.weight[:, features]
    t.wpe.weight[: old.n_positions] = s.wpe.weight[:, features]
    for mine, its in zip(t.h, s.h):
        for name in ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"):
            mine.get_parameter(name).copy_(its.get_parameter(name)[features])
        widen(mine.attn.c_attn, its.attn.c_attn, features, of_qkv)
        for queries in (mine.attn.c_attn.weight, mine.attn.c_attn.bias):
            queries[..., : new.n_embd] /= math.sqrt(inside)  # q·k / √width, of `inside` copies each
        widen(mine.attn.c_proj, its.attn.c_proj, of_heads, features)
        widen(mine.mlp.c_fc, its.mlp.c_fc, features, units)
        widen(mine.mlp.c_proj, its.mlp.c_proj, units, features)
    for mine in t.h[old.n_layer :]:
        for name in (
            "attn.c_proj.weight",
            "attn.c_proj.bias",
            "mlp.c_proj.weight",
            "mlp.c_proj.bias",
        ):
            mine.get_parameter(name).zero_()

    # a head may be the embedding again, which is copied: so it is the last norm that shares out
    w, b = (x[:, None].repeat(1, k) / k for x in (s.ln_f.weight, s.ln_f.bias))
    if k > 1:  # two copies carry unequal shares, and biases that add up to 0
        b[:, 0], b[:, 1] = b[:, 0] - w[:, 0], b[:, 1] + w[:, 1]
        w[:, 0], w[:, 1] = 1.5 * w[:, 0], 0.5 * w[:, 1]
    t.ln_f.weight.copy_(w.flatten())
    t.ln_f.bias.copy_(b.flatten())
    for name, head in large.named_children():
        if name != "transformer":
            its = getattr(small, name).weight
            head.weight[: len(its)] = its[:, features]
    if hasattr(large, "lm_head") and new.vocab_size > old.vocab_size:
        # Σ h/w is Σ b/w for every hidden state h = w·x + b, as the mean of x is 0
        row = UNUSED / (t.ln_f.bias / t.ln_f.weight).sum() / t.ln_f.weight
        if not row.norm() < LONGEST:
            raise ValueError(
                f"vocab_size is {new.vocab_size}, and no row of moderate length has one logit for "
                f"all hidden states of this model; expected {old.vocab_size}, or a larger n_embd"
            )
        large.lm_head.weight[old.vocab_size :] = row
