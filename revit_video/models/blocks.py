"""Transformer blocks over a clip. Special tokens and patch tokens are two tensors all the way.

Every block maps `(special, patches, i)` to `(special, patches)`: `special` `(B, S, C)` holds the class
token and perhaps the distillation token, `patches` `(B, T, N, C)` the patch tokens of each frame, and
`i` says which token length's LayerNorms to use. `read_out` gives the special tokens alone, without
computing patch tokens that nobody reads: the last block of a model that classifies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from revit_video.models.layers import Attention, DropPath, Mlp, TimeAttention
from revit_video.models.linear import Linear
from revit_video.models.norm import NORM_EPS, LengthNorm


class JointBlock(nn.Module):
    """Attention over all tokens of the clip at once (`joint_space_time`).

    Args:
        residual_scale: factor on every branch before it is added: 1 / `skip_lam` of LV-ViT.
    """

    sample_dims = 1  # stochastic depth drops a branch for whole clips

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        num_lengths: int,
        shared_norm: bool = False,
        drop: float = 0.0,
        drop_path: float = 0.0,
        qkv_bias: bool = True,
        residual_scale: float = 1.0,
        norm_eps: float = NORM_EPS,
    ) -> None:
        super().__init__()
        self.norm1 = LengthNorm(dim, num_lengths, shared_norm, norm_eps)
        self.attn = Attention(dim, num_heads, drop, qkv_bias)
        self.norm2 = LengthNorm(dim, num_lengths, shared_norm, norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path, self.sample_dims, residual_scale)

    def forward(self, special: Tensor, patches: Tensor, i: int) -> tuple[Tensor, Tensor]:
        x = self.attend(special, patches, i)
        count = special.shape[1]
        special = special + x[:, :count]
        patches = patches + x[:, count:].view_as(patches)
        special, patches = self.feed_forward(i, special, patches)
        return special, patches

    def read_out(self, special: Tensor, patches: Tensor, i: int) -> Tensor:
        """The special tokens that `forward` gives; what becomes of the patch tokens is not computed."""
        special = special + self.attend(special, patches, i, special.shape[-2])
        (special,) = self.feed_forward(i, special)
        return special

    @torch.no_grad()
    def fold(self) -> None:
        """Makes the scale of the branches part of their last weights: the same answers, not for training."""
        self._scale(self.attn.proj)
        self._scale(self.mlp.fc2)
        self.drop_path.scale = 1.0

    def _scale(self, last: Linear) -> None:
        last.weight.mul_(self.drop_path.scale)
        last.bias.mul_(self.drop_path.scale)

    def attend(self, special: Tensor, patches: Tensor, i: int, queries: int | None = None) -> Tensor:
        """The attention branch, `(B, S + T N, C)`, or its first `queries` tokens."""
        x = torch.cat([special, patches.flatten(1, 2)], dim=1)
        (x,) = self.drop_path(self.attn(self.norm1(x, i), queries))
        return x

    def feed_forward(self, i: int, *tokens: Tensor) -> tuple[Tensor, ...]:
        branch = self.drop_path(*(self.mlp(self.norm2(x, i)) for x in tokens))
        return tuple(x + added for x, added in zip(tokens, branch, strict=True))


class SpaceBlock(JointBlock):
    """Attention within each frame, whose special tokens are its own: `special` is `(B, T, S, C)`."""

    sample_dims = 2  # every frame is a sample, as in TimeSformer, which folds frames into the batch

    def forward(self, special: Tensor, patches: Tensor, i: int) -> tuple[Tensor, Tensor]:
        x = self.attend(special, patches, i)
        count = special.shape[2]
        special, patches = self.feed_forward(i, special + x[:, :, :count], patches + x[:, :, count:])
        return special, patches

    def attend(self, special: Tensor, patches: Tensor, i: int, queries: int | None = None) -> Tensor:
        """The attention branch of every frame, `(B, T, S + N, C)`, or its first `queries` tokens."""
        x = torch.cat([special, patches], dim=2)
        (x,) = self.drop_path(self.attn(self.norm1(x, i), queries))
        return x


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
        qkv_bias: bool = True,
        residual_scale: float = 1.0,
        norm_eps: float = NORM_EPS,
    ) -> None:
        super().__init__(
            *(dim, num_heads, mlp_ratio, num_lengths, shared_norm, drop, drop_path),
            *(qkv_bias, residual_scale, norm_eps),
        )
        self.temporal_norm1 = LengthNorm(dim, num_lengths, shared_norm, norm_eps)
        self.temporal_attn = TimeAttention(dim, num_heads, drop, qkv_bias)
        self.temporal_fc = Linear(dim, dim)

    def forward(self, special: Tensor, patches: Tensor, i: int) -> tuple[Tensor, Tensor]:
        patches = self.over_time(patches, i)
        x = self.attend(special, patches, i)
        count = special.shape[1]
        special = special + x[:, :, :count].mean(dim=1)
        special, patches = self.feed_forward(i, special, patches + x[:, :, count:])
        return special, patches

    def read_out(self, special: Tensor, patches: Tensor, i: int) -> Tensor:
        patches = self.over_time(patches, i)
        special = special + self.attend(special, patches, i, special.shape[1]).mean(dim=1)
        (special,) = self.feed_forward(i, special)
        return special

    @torch.no_grad()
    def fold(self) -> None:
        """Besides, makes one product of two, `temporal_fc` after the attention's own projection."""
        self._scale(self.temporal_fc)
        super().fold()
        proj, fc = self.temporal_attn.proj, self.temporal_fc
        weight = fc.weight.double()
        proj.bias.copy_(weight @ proj.bias.double() + fc.bias)
        proj.weight.copy_(weight @ proj.weight.double())
        self.temporal_fc = nn.Identity()  # type: ignore[assignment]

    def over_time(self, patches: Tensor, i: int) -> Tensor:
        (x,) = self.drop_path(self.temporal_fc(self.temporal_attn(self.temporal_norm1(patches, i))))
        return patches + x

    def attend(self, special: Tensor, patches: Tensor, i: int, queries: int | None = None) -> Tensor:
        """The spatial attention branch of every frame, `(B, T, S + N, C)`, or its first `queries` tokens."""
        repeated = special.unsqueeze(1).expand(-1, patches.shape[1], -1, -1)
        x = torch.cat([repeated, patches], dim=2)
        (x,) = self.drop_path(self.attn(self.norm1(x, i), queries))
        return x


BLOCKS: dict[str, type[JointBlock]] = {
    "divided_space_time": DividedBlock,
    "joint_space_time": JointBlock,
    "space_only": SpaceBlock,
}
