"""Linear layers that keep a CPU busy: through oneDNN, where PyTorch itself would call MKL."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# PyTorch gives products in single precision to MKL, which reached half of oneDNN's rate on an AMD processor
# (docs/benchmarks.md). This operation is how its own compiler reaches oneDNN; without it, MKL serves.
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Linear(nn.Linear):
    """`nn.Linear`, through `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear`: the same products in the same precision, on a CPU often faster."""
    if not _suits_onednn(x):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Linear.apply(x, weight, bias)
    return _onednn(x, weight, bias)


def _suits_onednn(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # first: compilers cannot follow the questions below
        and _ONEDNN is not None
        and torch.backends.mkldnn.is_available()
        and x.device.type == "cpu"
        and x.dim() > 1
        and x.numel() > 0
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()  # whoever counts operations knows PyTorch's own
    )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, after: str = "none") -> Tensor:
    return _ONEDNN(x, weight, bias, after, [], "none")  # type: ignore[misc]


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """GELU of `linear`, on a CPU without a pass over the memory of its own where no gradients are taken."""
    if torch.is_grad_enabled() or not _suits_onednn(x):
        return F.gelu(linear(x, weight, bias))
    return _onednn(x, weight, bias, "gelu")


class _Linear(torch.autograd.Function):
    """`_onednn` with the gradients of a linear layer, likewise products of oneDNN."""

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
