"""Memory by its parts: parameters, what an optimiser keeps beside them, cache and activations.

Exact, to the byte: parameters, gradients, optimiser state and the KV cache; `held_bytes` counts
them in real tensors. An estimate: the activations, which depend on the kernels that run. Left out:
the allocator's rounding, the counter of 4 bytes that PyTorch's Adam keeps for each tensor, and
the short-lived buffers of a step. Chapter: what-a-step-costs.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

CGROUP = Path("/sys/fs/cgroup")  # where Linux tells a container's limits
BYTES_PER_PARAMETER = {  # of a model in training; one that is frozen keeps its weights alone
    "mixed": {"weights": 2, "gradients": 2, "master weights": 4, "Adam m": 4, "Adam v": 4},
    "fp32": {"weights": 4, "gradients": 4, "master weights": 0, "Adam m": 4, "Adam v": 4},
}


def parameter_count(config, head: str = "lm") -> int:
    """Number of distinct parameters of a GPT-2 or a Llama, from its sizes alone.

    Definition: embeddings; per layer the four matrices of attention, the two (GPT-2) or three
    (Llama) of the MLP and two norms; a last norm; the head. Chapter: what-a-step-costs.

    Parameters
    ----------
    config : transformers configuration
        Of `model_type` "gpt2", or of "llama" without biases.
    head : {"lm", "score"}
        The output layer of a language model, which costs nothing where it is the embedding again;
        or the scalar head of a reward model or critic.

    Examples
    --------
    >>> from transformers import GPT2Config, LlamaConfig
    >>> parameter_count(GPT2Config()), parameter_count(LlamaConfig())
    (124439808, 6738415616)
    """
    if head not in ("lm", "score"):
        raise ValueError(f"head is {head!r}; expected 'lm' or 'score'")
    d, queries, keys, mlp = _widths(config)
    matrices = 2 * d * queries + 2 * d * keys
    if config.model_type == "gpt2":  # every matrix and norm has a bias
        layer = matrices + 2 * d * mlp + (queries + 2 * keys + d) + (mlp + d) + 4 * d
        trunk = config.n_positions * d + 2 * d
    else:  # positions are rotations and have no parameters
        layer = matrices + 3 * d * mlp + 2 * d
        trunk = d
    embedding = config.vocab_size * d
    head_size = d if head == "score" else 0 if config.tie_word_embeddings else embedding
    return embedding + trunk + config.num_hidden_layers * layer + head_size


def model_bytes(parameters: int, precision: str = "mixed", trained: bool = True) -> dict[str, int]:
    """What a model holds between two steps of Adam, by part, in bytes.

    "mixed" computes in 16 bits and keeps a copy of the weights in 32 for the optimiser: 16 bytes
    a parameter, and 2 for a model that is frozen. "fp32" has 16 and 4.

    Source: ZeRO, Rajbhandari et al. 2019, arXiv:1910.02054, section 3.1.
    Chapter: what-a-step-costs.

    Examples
    --------
    >>> sum(model_bytes(1).values()), sum(model_bytes(1, trained=False).values())
    (16, 2)
    """
    if precision not in BYTES_PER_PARAMETER:
        raise ValueError(
            f"precision is {precision!r}; expected one of "
            f"{', '.join(map(repr, BYTES_PER_PARAMETER))}"
        )
    return {
        part: parameters * size if trained or part == "weights" else 0
        for part, size in BYTES_PER_PARAMETER[precision].items()
    }


def ppo_bytes(config, precision: str = "mixed") -> dict[str, dict[str, int]]:
    """The four models of PPO, each by part, in bytes: policy and critic train, two are frozen.

    All four have the trunk of `config`; critic and reward model carry a scalar head.
    Chapter: what-a-step-costs.
    """
    language, scalar = parameter_count(config), parameter_count(config, "score")
    return {
        "policy": model_bytes(language, precision),
        "critic": model_bytes(scalar, precision),
        "reference": model_bytes(language, precision, trained=False),
        "reward model": model_bytes(scalar, precision, trained=False),
    }


def kv_cache_bytes(config, sequences: int, tokens: int, element_size: int = 2) -> int:
    """Keys and values of every token so far, in every layer, in bytes.

    Definition: 2 · layers · key width · tokens · sequences. Chapter: what-a-step-costs.
    """
    keys = _widths(config)[2]
    return 2 * config.num_hidden_layers * keys * tokens * sequences * element_size


def activation_bytes(config, sequences: int, tokens: int, element_size: int = 2) -> int:
    """About what the backward pass keeps of a forward pass through the layers, in bytes.

    An estimate: the inputs of every matrix product and of every non-linearity, without dropout and
    without stored attention scores (fused attention keeps none). Logits come on top.

    Source: Korthikanti et al. 2022, arXiv:2205.05198, section 4.1, less the dropout masks and
    the scores. Chapter: what-a-step-costs.
    """
    d, queries, keys, mlp = _widths(config)
    # norms' inputs, attention's input, q, k, v and its output, MLP's input and inside
    inside = (2 if config.model_type == "gpt2" else 4) * mlp
    per_token = 2 * d + d + queries + 2 * keys + queries + d + inside
    return config.num_hidden_layers * per_token * tokens * sequences * element_size


def held_bytes(*owners: torch.nn.Module | torch.optim.Optimizer) -> int:
    """Bytes of the tensors that models and optimisers hold now, each tensor once.

    A model's parameters and their gradients, an optimiser's state. Chapter: what-a-step-costs.
    """
    tensors: dict[int, Tensor] = {}
    for owner in owners:
        if isinstance(owner, torch.nn.Module):
            found = [x for p in owner.parameters() for x in (p, p.grad)]
        else:
            found = [x for state in owner.state.values() for x in state.values()]
        tensors |= {id(x): x for x in found if isinstance(x, Tensor)}
    return sum(x.numel() * x.element_size() for x in tensors.values())


def _widths(config) -> tuple[int, int, int, int]:
    """Width of the trunk, of all queries, of all keys, and of the MLP."""
    d = config.hidden_size
    if config.model_type == "gpt2":
        return d, d, d, config.n_inner or 4 * d
    if config.model_type != "llama" or config.attention_bias or config.mlp_bias:
        raise ValueError(
            f"config is of model_type {config.model_type!r}; expected 'gpt2', or "
            "'llama' without biases"
        )
    return (
        d,
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
        config.intermediate_size,
    )


def free_bytes() -> int | None:
    """Memory that this process can still take, in bytes; None where the system does not tell.

    What the machine has free, or what is left of a container's limit if that is less: a container
    sees all memory of its machine, and is stopped when it takes more than its own part. Files that
    are only kept in memory to be read again count as free. Chapter: gpt2-live.
    """
    free: list[int] = []
    with suppress(OSError, ValueError, StopIteration):
        free.append(1024 * _number(Path("/proc/meminfo"), "MemAvailable:"))
    for limit, used, kept in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError, StopIteration):  # no such file, or "max": no limit
            most, taken = (int((CGROUP / name).read_text()) for name in (limit, used))
            files = _number((CGROUP / used).with_name("memory.stat"), kept)
            free.append(max(0, most - taken + files))
    return min(free) if free else None


def short_of_memory(trained: dict, free: int | None) -> str:
    """What it takes to train models by Adam, said if fewer bytes are free; else an empty string.

    Each weight that is trained gets a gradient and two moments. What a step computes on the way
    comes on top, and is not counted. Chapter: gpt2-live.

    Parameters
    ----------
    trained : dict of str to model
        By their roles. No two share weights.
    free : int or None
        In bytes, as `free_bytes` tells. None: nobody knows, and nothing is said.
    """
    moved = sum(p.nbytes for m in trained.values() for p in m.parameters() if p.requires_grad)
    if free is None or free >= 3 * moved:
        return ""
    return (
        f"training {' and '.join(trained)} takes at least {3 * moved / 1e6:,.0f} MB beside the "
        "weights, for gradients and the two moments of Adam; expected as much free memory, and "
        f"{free / 1e6:,.0f} MB are free"
    )


def _number(file: Path, name: str) -> int:
    """What stands behind a name at the beginning of a line."""
    lines = map(str.split, file.read_text().splitlines())
    return next(int(words[1]) for words in lines if words[:1] == [name])
