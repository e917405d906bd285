"""What is computed in 16 bits: matrix products in bfloat16, over weights that stay in float32.

bfloat16 has the range of float32 and 8 bits of precision. That is enough for a product, whose
sums are kept in float32 by the hardware, and too little for a weight: a step of 1e-6 on a weight
of .1 would be rounded away. So weights, gradients and optimiser stay as they are.

A GPU does this by `torch.autocast`. On a processor with products in bfloat16 autocast wins little:
it leaves activations in 16 bits, where everything but a product is slow. Here only the products are
in 16 bits there, forward and backward; what goes in and comes out is float32. On a processor that
has no such products, torch takes several times as long for them as for those of float32. There the
numbers are rounded to 16 bits and multiplied in 32: the same results up to the order of sums, no
time saved, and little lost.

Source: Micikevicius et al. 2017, arXiv:1710.03740; Kalamkar et al. 2019, arXiv:1905.12322, for
bfloat16. Chapter: what-a-step-costs.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


def computing_in(config, device: torch.device, kept: dict | None = None) -> AbstractContextManager:
    """The precision of a loop's forward passes: products in bfloat16 if its settings say `bf16`.

    `kept` is that of `BFloat16Products`. Chapter: what-a-step-costs.
    """
    if not config.bf16:
        return nullcontext()
    rounded = products_are_rounded(torch.bfloat16, device)
    return BFloat16Products(kept) if rounded else _autocast(device.type)


def without_cudnn() -> AbstractContextManager:
    """Attention by any of torch's kernels but cuDNN's, its first choice on an H100 or H200.

    Given a mask, its backward pass can return nan there (pytorch#196678); and for each new length,
    which a cache has at every step, it makes a plan first. Chapter: what-a-step-costs.
    """
    names = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH", "OVERRIDEABLE")
    return sdpa_kernel([getattr(SDPBackend, name) for name in names])


@contextmanager
def _autocast(device_type: str) -> Iterator[None]:
    with torch.autocast(device_type, torch.bfloat16), without_cudnn():
        yield


def sampling_dtype(config) -> torch.dtype | None:
    """What a loop samples in, if not in the weights' own type: as it learns.

    Chapter: what-a-step-costs.
    """
    return torch.bfloat16 if config.bf16 else None


def products_are_rounded(dtype: torch.dtype | None, device: torch.device) -> bool:
    """Whether to sample in a dtype is to round products alone, as in learning: on a processor.

    Then a token is drawn from the policy that scores it, up to the order of sums. A GPU has the
    whole decoder in 16 bits instead. Chapter: what-a-step-costs.
    """
    return dtype is torch.bfloat16 and device.type == "cpu"


@cache
def multiplies_in_bfloat16() -> bool:
    """Whether this machine's processor has products in bfloat16.

    On x86 they came with AVX512-BF16 (Intel since 2020, AMD since 2022) and AMX; elsewhere oneDNN
    says. Chapter: what-a-step-costs.
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def check_precision(config, device: torch.device) -> None:
    """Refuse bfloat16 on a GPU that does not multiply in it, and where it would not be kept to.

    Chapter: what-a-step-costs.
    """
    if (
        config.bf16
        and device.type == "cpu"
        and config.torch_compile
        and config.gradient_checkpointing
    ):
        raise ValueError(
            "bf16, torch_compile and gradient_checkpointing are all True on a CPU; "
            "expected at most two of them there: a compiled layer that is computed "
            "again forgets in what precision"
        )
    if config.bf16 and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise ValueError(
            f"bf16 is True on {torch.cuda.get_device_name(device)}; expected a GPU "
            "that multiplies in bfloat16 (compute capability 8.0 or more), or "
            "bf16=False"
        )


class BFloat16Products(TorchFunctionMode):
    """Within it, the linear layers of any model multiply in bfloat16 and return float32.

    What goes into a product and what comes out is rounded; sums are kept in float32. To round the
    weights takes as long as to multiply a few hundred rows by them. A dict `kept` remembers them
    rounded, for several passes over weights that stand still: the tokens of a sample, or the parts
    of one update. With it goes what was remembered.

    Chapter: what-a-step-costs.

    Examples
    --------
    >>> layer, x = torch.nn.Linear(3, 1, bias=False), torch.ones(1, 3)
    >>> layer.weight.data = torch.tensor([[1., 1., 1.001]])
    >>> with BFloat16Products():
    ...     rough = layer(x)
    >>> layer(x).item() > rough.item() == 3., rough.dtype
    (True, torch.float32)
    """

    def __init__(self, kept: dict[tuple, tuple[Tensor, Tensor]] | None = None):
        super().__init__()
        self.kept = kept

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.linear:
            x, weight, *bias = (*args, *kwargs.values())
            y = self.product(x.flatten(0, -2), weight, True).view(*x.shape[:-1], len(weight))
            return y if not bias or bias[0] is None else y + bias[0]
        if func is torch.addmm and not kwargs:  # the layer of transformers' GPT-2
            bias, x, weight = args
            return self.product(x, weight, False) + bias
        return func(*args, **kwargs)

    def product(self, x: Tensor, weight: Tensor, transposed: bool) -> Tensor:
        """(n, k) times a weight (k, m), or transposed (m, k)."""
        return _Product.apply(x, weight, self.rounded(weight), transposed)

    def rounded(self, weight: Tensor) -> Tensor:
        if self.kept is None:
            return _operand(weight.detach().bfloat16())
        place = weight.data_ptr(), weight.shape
        if place not in self.kept:  # the weight too, so that nothing else comes to that place
            self.kept[place] = weight, _operand(weight.detach().bfloat16())
        return self.kept[place][1]


def _operand(low: Tensor) -> Tensor:
    """Numbers in bfloat16 as they are multiplied: so, or in float32 where that is faster."""
    return low if multiplies_in_bfloat16() else low.float()


class _Product(torch.autograd.Function):
    """A product in bfloat16; so are the two of its gradient.

    The gradient comes as the weight lies, so that a table with two uses adds it up in place.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, rounded: Tensor, transposed: bool) -> Tensor:
        low = x.bfloat16()
        ctx.save_for_backward(low, rounded)
        ctx.transposed = transposed
        return (_operand(low) @ (rounded.t() if transposed else rounded)).bfloat16().to(x.dtype)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (x, w), (gradient,) = ctx.saved_tensors, gradients
        x, low = _operand(x), _operand(gradient.bfloat16())
        to_x = low @ (w if ctx.transposed else w.t())
        to_weight = low.t() @ x if ctx.transposed else x.t() @ low
        kind = gradient.dtype
        return to_x.bfloat16().to(kind), to_weight.bfloat16().to(kind), None, None
