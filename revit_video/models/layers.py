"""Multi-head self-attention; the MLP and stochastic depth are timm's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention over the second to last axis, all leading axes being batch.

    Names as in TimeSformer (`qkv`, `proj`), so that its weights load unchanged.
    """

    def __init__(self, dim: int, num_heads: int, drop: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"{num_heads} attention heads do not divide the width {dim}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., L, C)` -> `(..., L, C)`."""
        *batch, length, dim = x.shape
        qkv = self.qkv(x).reshape(-1, length, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, L, C / heads)
        x = F.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).reshape(*batch, length, dim)
        return self.drop(self.proj(x))
