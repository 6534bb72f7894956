"""LayerNorms per token length, multi-head self-attention, the MLP, stochastic depth; linear layers on CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.models.config import NORM_EPS

GELUS = {"gelu": "none", "gelu_tanh": "tanh"}  # and PyTorch's names of their approximation
CACHED_SCORES = 1 << 19  # attention scores computed at once: 1 MiB in bfloat16
# PyTorch uses MKL for float32 products, at half of oneDNN's rate on an AMD processor (docs/benchmarks.md).
# This operation is how torch.compile calls oneDNN; MKL is the fallback where it is missing.
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)

logger = logging.getLogger(__name__)


class LengthNorm(nn.ModuleList):
    """One LayerNorm per token length (TAL-LN, paper section 3.2, Fig. 3).

    Parameters are `<name>.<i>.weight`, `i` being the length's position in the model, longest first.
    With `shared` a single LayerNorm, `<name>.0`, serves every length (the ablation).
    """

    def __init__(self, dim: int, num_lengths: int, shared: bool = False, eps: float = NORM_EPS) -> None:
        super().__init__(nn.LayerNorm(dim, eps=eps) for _ in range(1 if shared else num_lengths))

    def forward(self, x: Tensor, i: int) -> Tensor:
        """Normalise `x` `(..., C)` with the LayerNorm of length `i`."""
        return self[min(i, len(self) - 1)](x)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype


class Attention(nn.Module):
    """Multi-head self-attention over the second to last axis; all leading axes are batch axes.

    Parameter names are TimeSformer's (`qkv`, `proj`), so that its weights load unchanged.
    """

    def __init__(self, dim: int, num_heads: int, drop: float = 0.0, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """`(..., L, C)` -> `(..., L, C)`; with `queries`, only the first `queries` tokens are computed."""
        return self.merged(attend(*self.heads(x, queries)), x)

    def heads(self, x: Tensor, queries: int | None = None) -> tuple[Tensor, ...]:
        """Queries, keys and values of every head, each `(batch, heads, L, C / heads)`."""
        length, dim = x.shape[-2:]
        if queries is None:
            parts = self.qkv(x).reshape(-1, length, 3, self.num_heads, dim // self.num_heads).unbind(2)
        else:
            parts = tuple(
                part.reshape(-1, part.shape[-2], self.num_heads, dim // self.num_heads)
                for part in self._projected(x[..., :queries, :], x, x)
            )
        return tuple(part.transpose(1, 2) for part in parts)

    def merged(self, x: Tensor, like: Tensor) -> Tensor:
        """Merge and project the heads' output `(batch, heads, L, C / heads)`; leading axes as in `like`."""
        return self.drop(self.proj(x.transpose(1, 2).reshape(*like.shape[:-2], -1, like.shape[-1])))

    def _projected(self, *inputs: Tensor) -> Iterator[Tensor]:
        """Queries, keys and values, each of its own input."""
        biases = (None,) * 3 if self.qkv.bias is None else self.qkv.bias.chunk(3)
        for x, weight, bias in zip(inputs, self.qkv.weight.chunk(3), biases, strict=True):
            yield linear(x, weight, bias)


class TimeAttention(Attention):
    """Attention over time, separately at each position of the grid.

    Positions are treated as further heads, so that no transposition is needed.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """`(B, T, N, C)` -> `(B, T, N, C)`."""
        heads = (*x.shape[:2], -1, x.shape[-1] // self.num_heads)
        q, k, v = (part.view(heads) for part in self._projected(x, x, x))
        if q.is_cuda and _time_kernel_pays(q.shape[1], q.shape[3], q.dtype, q.device):
            attended = torch.ops.revit_video.attend_over_time(q, k, v)
        else:
            attended = attend(*(part.transpose(1, 2) for part in (q, k, v))).transpose(1, 2)
        return self.drop(self.proj(attended.reshape(x.shape)))


@torch.compiler.assume_constant_result
def _time_kernel_pays(frames: int, width: int, dtype: torch.dtype, device: torch.device) -> bool:
    return _time_kernel_tried(frames, width, dtype, device)


@cache
def _time_kernel_tried(frames: int, width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `fused_time` computes this shape here, and faster than PyTorch's attention: by a trial."""
    if dtype not in (torch.bfloat16, torch.float16):
        return False
    try:
        from revit_video.models import fused_time

        if frames not in fused_time.FRAMES or width not in fused_time.WIDTHS:
            return False
        few, many = (torch.ones(8, frames, n, width, dtype=dtype, device=device) for n in (1, 2048))
        if not (fused_time.attend_over_time(few, few, few) == 1).all():
            return False
        ours = _milliseconds(fused_time.attend_over_time, many)
        theirs = _milliseconds(F.scaled_dot_product_attention, many.transpose(1, 2))
    except Exception as error:  # Triton, a compiler or a driver is missing, in as many ways
        from revit_video.runtime.text import first_line  # here: importing `predict` stays light

        words = "attention over time by PyTorch: Triton's kernel does not run here (%s)"
        logger.info(words, first_line(error))
        return False
    words = "attention over %d frames, %s: %.3f ms by Triton's kernel, %.3f by PyTorch's"
    logger.info(words, frames, dtype, ours, theirs)
    return ours < theirs


@torch.no_grad()
def _milliseconds(attention: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, times: int = 10) -> float:
    """What a GPU takes for `attention(x, x, x)`, set up by three calls before. The host waits."""
    with torch.cuda.device(x.device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for n in range(-3, times):
            if n == 0:
                start.record()
            attention(x, x, x)
        end.record()
        end.synchronize()
    return start.elapsed_time(end) / times


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention; each is `(B, heads, L, C / heads)`, with any number of queries."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v)
    # PyTorch's kernel is slow in bfloat16 on CPU. Plain products are twice as fast if the scores fit into the
    # cache.
    heads, scores, scale = q.shape[1], q.shape[2] * k.shape[2], q.shape[-1] ** -0.5
    samples = zip(*(x.split(max(1, CACHED_SCORES // (heads * scores))) for x in (q, k, v)), strict=True)
    attended = []
    for sample in samples:  # joint attention's scores are too many even for one sample: head by head
        some = zip(*(x.split(max(1, CACHED_SCORES // scores), dim=1) for x in sample), strict=True)
        parts = [((q * scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v for q, k, v in some]
        attended.append(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
    return torch.cat(attended)


class Mlp(nn.Module):
    """Linear, activation, linear; parameter names are TimeSformer's (`fc1`, `fc2`).

    Args:
        act: see `ReViTConfig`; with `swiglu`, the first half of `hidden_dim` gates the second.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        drop: float = 0.0,
        out_dim: int | None = None,
        act: str = "gelu",
    ) -> None:
        super().__init__()
        self.act = act
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim // 2 if act == "swiglu" else hidden_dim, out_dim or dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., C)` -> `(..., C)`, or `(..., out_dim)`."""
        return self.drop(self.fc2(self.drop(self._hidden(x))))

    def _hidden(self, x: Tensor) -> Tensor:
        if self.act in GELUS:
            return linear_gelu(x, self.fc1.weight, self.fc1.bias, GELUS[self.act])
        hidden = self.fc1(x)
        if self.act == "quick_gelu":
            return hidden * torch.sigmoid(1.702 * hidden)
        gate, values = hidden.chunk(2, dim=-1)
        return F.silu(gate) * values


class DropPath(nn.Module):
    """Stochastic depth: in training, drop a residual branch for random samples.

    The tensors of one branch share the draw of each sample. Kept branches are scaled up to preserve the mean.

    Args:
        drop_prob: probability of dropping a sample's branch.
        samples: the axes that index samples.
        scale: constant factor on the branch.
    """

    def __init__(self, drop_prob: float, samples: Sequence[int] = (0,), scale: float = 1.0) -> None:
        super().__init__()
        self.drop_prob, self.samples, self.scale = drop_prob, tuple(samples), scale

    def forward(self, *branch: Tensor) -> tuple[Tensor, ...]:
        if not self.training or self.drop_prob == 0:
            return branch if self.scale == 1 else tuple(self.scale * x for x in branch)
        keep_prob = 1 - self.drop_prob
        sizes = [branch[0].shape[axis] for axis in self.samples]
        kept = branch[0].new_empty(sizes).bernoulli_(keep_prob) / keep_prob
        if self.scale != 1:
            kept = self.scale * kept
        last = self.samples[-1] + 1
        kept = kept.view([branch[0].shape[axis] if axis in self.samples else 1 for axis in range(last)])
        return tuple(x * kept.view(*kept.shape, *[1] * (x.ndim - last)) for x in branch)


# ---- Linear layers on CPU through oneDNN instead of MKL --------------------------------------------------


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


def _onednn(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, after: str = "none", kind: str = "none"
) -> Tensor:
    return _ONEDNN(x, weight, bias, after, [], kind)  # type: ignore[misc]


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, approximate: str = "none") -> Tensor:
    """GELU of `linear`; a fused linear + GELU on CPU when gradients are off."""
    if torch.is_grad_enabled() or not _suits_onednn(x):
        return F.gelu(linear(x, weight, bias), approximate=approximate)
    return _onednn(x, weight, bias, "gelu", approximate)


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
