"""T2T-ViT's stem (Yuan et al., 2021): soft splits, which overlap, with performers between them.

DVT's coarser models differ in the first split alone.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from revit_video.length import TokenLength, soft_splits

TOKEN_DIM = 64  # channels between the splits
FEATURES = TOKEN_DIM // 2  # random features of a performer
EPS = 1e-8  # of its division
DROP = 0.1


class TokenPerformer(nn.Module):
    """Attention in linear time, by random positive features of queries and keys, then a MLP.

    Values, not inputs, are the residual of the attention, since the width changes.

    Args:
        dim: input width.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.kqv = nn.Linear(dim, 3 * TOKEN_DIM)
        self.proj = nn.Linear(TOKEN_DIM, TOKEN_DIM)
        self.norm2 = nn.LayerNorm(TOKEN_DIM)
        self.mlp = nn.Sequential(
            nn.Linear(TOKEN_DIM, TOKEN_DIM), nn.GELU(), nn.Linear(TOKEN_DIM, TOKEN_DIM), nn.Dropout(DROP)
        )
        self.drop = nn.Dropout(DROP)
        rows = nn.init.orthogonal_(torch.empty(FEATURES, TOKEN_DIM)) * math.sqrt(FEATURES)
        self.register_buffer("w", rows)

    def forward(self, x: Tensor) -> Tensor:
        """`(F, L, dim)` -> `(F, L, TOKEN_DIM)`."""
        keys, queries, values = self.kqv(self.norm1(x)).chunk(3, dim=-1)
        # In single precision: exponentials of sums of 64 squares.
        with torch.autocast(x.device.type, enabled=False):
            of_keys, of_queries = self._features(keys.float()), self._features(queries.float())
            total = of_queries @ of_keys.sum(dim=1).unsqueeze(2)  # (F, L, 1)
            attended = of_queries @ (of_keys.transpose(1, 2) @ values.float()) / (total + EPS)
        y = values + self.drop(self.proj(attended.to(values.dtype)))
        return cast(Tensor, y + self.mlp(self.norm2(y)))

    def _features(self, x: Tensor) -> Tensor:
        """`exp(w x - |x|^2 / 2)`, `(F, L, FEATURES)`."""
        length = x.square().sum(dim=-1, keepdim=True) / 2
        return (x @ self.get_buffer("w").float().t() - length).exp() / math.sqrt(FEATURES)


class SoftSplitStem(nn.Module):
    """Three soft splits, as `soft_splits` cuts a frame for `length`; parameters are named as T2T-ViT's."""

    def __init__(self, length: TokenLength, img_size: int, dim: int, in_chans: int = 3) -> None:
        super().__init__()
        self.splits = list(zip(soft_splits(img_size, length.h), soft_splits(img_size, length.w), strict=True))
        (rows, _, _), (columns, _, _) = self.splits[0]
        self.in_chans, self.kernel = in_chans, [rows, columns]
        self.attention1 = TokenPerformer(in_chans * rows * columns)
        self.attention2 = TokenPerformer(TOKEN_DIM * 9)
        self.proj = nn.Linear(TOKEN_DIM * 9, dim)

    def forward(self, frames: Tensor) -> Tensor:
        """`(F, C, H, W)` -> `(F, N, dim)`."""
        for split, attention in zip(self.splits, (self.attention1, self.attention2), strict=False):
            tokens = attention(self._unfold(frames, split))
            sides = [_cells(side, one) for side, one in zip(frames.shape[2:], split, strict=True)]
            frames = tokens.transpose(1, 2).unflatten(2, sides)
        return cast(Tensor, self.proj(self._unfold(frames, self.splits[2])))

    @staticmethod
    def _unfold(frames: Tensor, split: tuple[tuple[int, int, int], ...]) -> Tensor:
        kernel, stride, padding = zip(*split, strict=True)
        return F.unfold(frames, kernel, padding=padding, stride=stride).transpose(1, 2)

    @torch.no_grad()
    def start_from(self, other: SoftSplitStem) -> None:
        """Take the weights of another length's stem; those of the first split resampled to its kernel."""
        state = {name: self.fitted(name, value) for name, value in other.state_dict().items()}
        self.load_state_dict(state)

    def fitted(self, name: str, value: Tensor) -> Tensor:
        """Another stem's weight of this name, for patches of the first split as large as here."""
        like = self.state_dict()[name]
        if value.shape == like.shape or not name.startswith("attention1"):
            return value
        side = math.isqrt(value.shape[-1] // self.in_chans)
        kernels = value.reshape(-1, self.in_chans, side, side)
        if name.endswith("kqv.weight"):
            return resample_patch_embed(kernels, self.kernel).reshape(like.shape)
        return F.interpolate(kernels, self.kernel, mode="bilinear").reshape(like.shape)


def _cells(size: int, split: tuple[int, int, int]) -> int:
    kernel, stride, padding = split
    return (size + 2 * padding - kernel) // stride + 1
