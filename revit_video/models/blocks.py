"""Transformer blocks over a clip. Special tokens and patch tokens are two tensors all the way.

Every block maps `(special, patches, i)` to `(special, patches)`: `special` `(B, S, C)` holds the class
token and perhaps the distillation token, `patches` `(B, T, N, C)` the patch tokens of each frame, and
`i` says which token length's LayerNorms to use.
"""

from __future__ import annotations

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from revit_video.models.layers import Attention
from revit_video.models.norm import LengthNorm


class JointBlock(nn.Module):
    """Attention over all tokens of the clip at once (`joint_space_time`)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        num_lengths: int,
        shared_norm: bool = False,
        drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = LengthNorm(dim, num_lengths, shared_norm)
        self.attn = Attention(dim, num_heads, drop)
        self.norm2 = LengthNorm(dim, num_lengths, shared_norm)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, special: Tensor, patches: Tensor, i: int) -> tuple[Tensor, Tensor]:
        count = special.shape[1]
        x = torch.cat([special, patches.flatten(1, 2)], dim=1)  # (B, S + T N, C)
        x = self.drop_path(self.attn(self.norm1(x, i)))
        special = special + x[:, :count]
        patches = patches + x[:, count:].view_as(patches)
        return self.feed_forward(special, patches, i)

    def feed_forward(self, special: Tensor, patches: Tensor, i: int) -> tuple[Tensor, Tensor]:
        special = special + self.drop_path(self.mlp(self.norm2(special, i)))
        patches = patches + self.drop_path(self.mlp(self.norm2(patches, i)))
        return special, patches


class SpaceBlock(JointBlock):
    """Attention within each frame, whose special tokens are its own: `special` is `(B, T, S, C)`."""

    def forward(self, special: Tensor, patches: Tensor, i: int) -> tuple[Tensor, Tensor]:
        count = special.shape[2]
        x = torch.cat([special, patches], dim=2)  # (B, T, S + N, C)
        x = self.drop_path(self.attn(self.norm1(x, i)))
        special = special + x[:, :, :count]
        patches = patches + x[:, :, count:]
        return self.feed_forward(special, patches, i)


class DividedBlock(JointBlock):
    """Attention over time at each place, then over space in each frame (`divided_space_time`).

    As in TimeSformer: patch tokens alone attend over time; for the spatial attention the special
    tokens are repeated for every frame and averaged afterwards. `temporal_fc` starts at zero in every
    block, so that an image model's weights give that image model's answer at the start.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        num_lengths: int,
        shared_norm: bool = False,
        drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, mlp_ratio, num_lengths, shared_norm, drop, drop_path)
        self.temporal_norm1 = LengthNorm(dim, num_lengths, shared_norm)
        self.temporal_attn = Attention(dim, num_heads, drop)
        self.temporal_fc = nn.Linear(dim, dim)

    def forward(self, special: Tensor, patches: Tensor, i: int) -> tuple[Tensor, Tensor]:
        x = self.temporal_norm1(patches, i).transpose(1, 2)  # (B, N, T, C)
        x = self.temporal_fc(self.temporal_attn(x)).transpose(1, 2)
        patches = patches + self.drop_path(x)

        frames, count = patches.shape[1], special.shape[1]
        repeated = special.unsqueeze(1).expand(-1, frames, -1, -1)
        x = torch.cat([repeated, patches], dim=2)  # (B, T, S + N, C)
        x = self.drop_path(self.attn(self.norm1(x, i)))
        special = special + x[:, :, :count].mean(dim=1)
        patches = patches + x[:, :, count:]
        return self.feed_forward(special, patches, i)


BLOCKS: dict[str, type[JointBlock]] = {
    "divided_space_time": DividedBlock,
    "joint_space_time": JointBlock,
    "space_only": SpaceBlock,
}
