"""The bound of a decode step: the bytes that it has to move, over the bandwidth of a copy.

A decode step multiplies each weight with a handful of rows, so it waits for memory and not for
arithmetic: it can be no faster than its bytes. Chapter: what-a-step-costs.
"""

from __future__ import annotations

import time

import torch

from rlhf_lib.machinery.memory import kv_cache_bytes, parameter_count


def decode_bytes(config, batch: int, context: float, element_size: int) -> dict[str, float]:
    """What one decode step of a GPT-2 moves at least, by part, in bytes.

    Every weight is read once for the whole batch (the token embeddings are also the output
    layer); of the position embeddings, and of the token embeddings as input, only single rows are
    read, which is left out. The keys and values of the `context` tokens so far are read, and those
    of the new token written. The logits are written, and read once to draw from them; an
    intermediate copy in fp32, or a cache read at its full width, comes on top.

    Parameters
    ----------
    config : transformers.GPT2Config
    batch : int
        Rows that are decoded together.
    context : float
        Tokens of a row so far; the mean of several steps, as the bytes grow linearly with it.
    element_size : int
        Bytes of a number: 4 in fp32, 2 in bf16.

    Examples
    --------
    >>> from transformers import GPT2Config
    >>> sum(decode_bytes(GPT2Config(), 256, 128, 2).values())
    1516166656
    """
    positions = config.n_positions * config.n_embd
    cache = kv_cache_bytes(config, batch, 1, element_size)
    return {
        "weights": (parameter_count(config) - positions) * element_size,
        "cache read": cache * context,
        "cache written": cache,
        "logits": 2 * batch * config.vocab_size * element_size,
    }


def copy_bandwidth(device: str, size: int | None = None, repeats: int = 20) -> float:
    """Bytes a second that a large copy moves on a device, read and written ones alike; the best.

    The size is far beyond the caches: 2 GiB on a GPU, 256 MiB on a processor.
    """
    size = size or (2 << 30 if device == "cuda" else 256 << 20)
    source = torch.ones(size // 4, device=device)
    target = torch.zeros_like(source)
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        begun = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return 2 * size / min(seconds)


def synchronize(device: str) -> None:
    """Wait for what a GPU still has to do, so that a clock read next means something."""
    if device == "cuda":
        torch.cuda.synchronize()
