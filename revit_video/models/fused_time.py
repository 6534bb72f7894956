"""Attention over time as one Triton kernel, for GPUs; imported there alone.

A sequence of 8 frames is a sixteenth of the tile that general attention kernels work on, so that they run at
a tenth of the memory's speed. Here a tile of 64 rows holds several sequences: scores between different ones
are computed and masked, which costs little beside reading the rows. Each tensor is read or written once:
three and one forward, four and three backward.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import custom_op

ROWS = 64  # of a tile: frames x sequences
WIDTHS = (16, 32, 64, 128)  # channels of a head
FRAMES = (2, 4, 8, 16, 32)


@triton.jit
def _tile(M, T: tl.constexpr, D: tl.constexpr, P: tl.constexpr):
    """Offsets of a tile's rows, which of them exist, and which pairs belong to one sequence."""
    row = tl.arange(0, T * P)
    place = tl.program_id(0) * P + row % P
    first = (tl.program_id(1).to(tl.int64) * T + row // P) * M + place
    offsets = first[:, None] * D + tl.arange(0, D)[None, :]
    return offsets, (place < M)[:, None], place[:, None] == place[None, :]


@triton.jit
def _weights(q, k, same, scale):
    """Softmax over the frames of each sequence."""
    scores = tl.where(same, tl.dot(q, tl.trans(k)) * scale, float("-inf"))
    exponentials = tl.exp(scores - tl.max(scores, 1)[:, None])
    return exponentials / tl.sum(exponentials, 1)[:, None]


@triton.jit
def _forward(q, k, v, out, scale, M, T: tl.constexpr, D: tl.constexpr, P: tl.constexpr):
    at, exists, same = _tile(M, T, D, P)
    weights = _weights(tl.load(q + at, exists, 0.0), tl.load(k + at, exists, 0.0), same, scale)
    values = tl.load(v + at, exists, 0.0)
    tl.store(out + at, tl.dot(weights.to(values.dtype), values).to(values.dtype), exists)


@triton.jit
def _backward(q, k, v, grad, of_q, of_k, of_v, scale, M, T: tl.constexpr, D: tl.constexpr, P: tl.constexpr):
    at, exists, same = _tile(M, T, D, P)
    queries, keys = tl.load(q + at, exists, 0.0), tl.load(k + at, exists, 0.0)
    up = tl.load(grad + at, exists, 0.0)
    weights = _weights(queries, keys, same, scale)
    tl.store(of_v + at, tl.dot(tl.trans(weights.to(up.dtype)), up).to(up.dtype), exists)
    of_weights = tl.dot(up, tl.trans(tl.load(v + at, exists, 0.0)))
    mean = tl.sum(weights * of_weights, 1)[:, None]
    of_scores = (weights * (of_weights - mean) * scale).to(up.dtype)
    tl.store(of_q + at, tl.dot(of_scores, keys).to(up.dtype), exists)
    tl.store(of_k + at, tl.dot(tl.trans(of_scores), queries).to(up.dtype), exists)


def _launch(kernel: Any, q: Tensor, *others: Tensor) -> None:
    batch, frames, sequences, width = q.shape
    together = ROWS // frames
    grid = (triton.cdiv(sequences, together), batch)
    with torch.cuda.device_of(q):  # Triton launches on the current device
        kernel[grid](q, *others, width**-0.5, sequences, frames, width, together)


@custom_op("revit_video::attend_over_time", mutates_args={})
def attend_over_time(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of each sequence over its frames; each `(B, T, sequences, C)` in half precision.

    `T` is one of `FRAMES`, `C` one of `WIDTHS`.
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out = torch.empty_like(q)
    _launch(_forward, q, k, v, out)
    return out


@custom_op("revit_video::attend_over_time_backward", mutates_args={})
def _attend_over_time_backward(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v, grad = (x.contiguous() for x in (q, k, v, grad))
    of_q, of_k, of_v = torch.empty_like(q), torch.empty_like(q), torch.empty_like(q)
    _launch(_backward, q, k, v, grad, of_q, of_k, of_v)
    return of_q, of_k, of_v


@attend_over_time.register_fake
def _output_of(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@_attend_over_time_backward.register_fake
def _outputs_of(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _output_of(q, k, v), _output_of(q, k, v), _output_of(q, k, v)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return _attend_over_time_backward(*ctx.saved_tensors, grad)


attend_over_time.register_autograd(_gradients, setup_context=_keep)
