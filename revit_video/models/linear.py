"""Linear layers on CPU through oneDNN instead of MKL."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# PyTorch uses MKL for float32 products, at half of oneDNN's rate on an AMD processor (docs/benchmarks.md).
# This operation is how torch.compile calls oneDNN; MKL is the fallback where it is missing.
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Linear(nn.Linear):
    """`nn.Linear` that calls `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` in the same precision, often faster on CPU."""
    if not _suits_onednn(x):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Linear.apply(x, weight, bias)
    return _onednn(x, weight, bias)


def _suits_onednn(x: Tensor) -> bool:
    return bool(
        not torch.compiler.is_compiling()  # first: the checks below cannot be compiled
        and not torch.jit.is_tracing()  # FLOP counters only know PyTorch's own operations
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled  # PyTorch's own switch: off, FLOP counters see every product
        and x.device.type == "cpu"
        and x.dim() > 1
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and onednn_computes_in(x.dtype)
    )


@cache
def onednn_computes_in(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies matrices of `dtype` here.

    It is asked by a small product: bfloat16 needs AVX-512 or its like, and oneDNN may be told to use less
    than the processor has (`ONEDNN_MAX_CPU_ISA`).
    """
    if _ONEDNN is None or dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        _onednn(torch.ones(2, 2, dtype=dtype), torch.ones(2, 2, dtype=dtype))
    except RuntimeError:
        return False
    return True


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, after: str = "none") -> Tensor:
    return _ONEDNN(x, weight, bias, after, [], "none")  # type: ignore[misc]


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """GELU of `linear`; a fused linear + GELU on CPU when gradients are off."""
    if torch.is_grad_enabled() or not _suits_onednn(x):
        return F.gelu(linear(x, weight, bias))
    return _onednn(x, weight, bias, "gelu")


class _Linear(torch.autograd.Function):
    """`_onednn` with gradients, also computed by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        of_x = _onednn(grad, weight.t()) if ctx.needs_input_grad[0] else None
        of_weight = of_bias = None
        if ctx.needs_input_grad[1]:
            of_weight = _onednn(rows.t(), x.flatten(0, -2).t())
        if ctx.has_bias and ctx.needs_input_grad[2]:
            of_bias = rows.sum(dim=0)
        return of_x, of_weight, of_bias
