"""Transformer blocks over a clip. Special tokens and patch tokens are two tensors all the way.

Every block maps `(special, patches, i)` to `(special, patches)`: `special` `(B, S, C)` holds the class token
and the others, `patches` `(B, T, N, C)` the patch tokens of each frame (or tubelet), and `i` is the position
of the token length. `forward_special` computes the special tokens alone: enough for the last block
of a classifier.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from revit_video.models.config import ReViTConfig
from revit_video.models.layers import Attention, DropPath, LengthNorm, Linear, Mlp, TimeAttention


def length_norm(config: ReViTConfig, eps: float = 0.0) -> LengthNorm:
    """LayerNorms of the model's width, per length or shared; `eps` 0 is the config's."""
    return LengthNorm(config.embed_dim, len(config.lengths), config.norm == "shared", eps or config.norm_eps)


class JointBlock(nn.Module):
    """Attention over all tokens of the clip at once (`joint_space_time`).

    Args:
        drop_path: probability of stochastic depth, which grows with the layer.
    """

    samples: tuple[int, ...] = (0,)  # stochastic depth drops a branch for whole clips

    def __init__(self, config: ReViTConfig, drop_path: float) -> None:
        super().__init__()
        dim, drop = config.embed_dim, config.drop_rate
        self.norm1 = length_norm(config)
        self.attn = Attention(dim, config.num_heads, drop, config.qkv_bias)
        self.norm2 = length_norm(config)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio), drop=drop, act=config.act)
        self.drop_path = self.drop_attn = DropPath(drop_path, self.samples, config.residual_scale)

    def forward(self, special: Tensor, patches: Tensor, i: int) -> tuple[Tensor, Tensor]:
        patches = self.over_time(patches, i)
        of_special, of_patches = self.attend(special, patches, i)
        special, patches = special + of_special, patches + of_patches.view_as(patches)
        special, patches = self.feed_forward(i, special, patches)
        return special, patches

    def forward_special(self, special: Tensor, patches: Tensor, i: int) -> Tensor:
        """The special tokens of `forward`, without computing the patch tokens."""
        patches = self.over_time(patches, i)
        of_special, _ = self.attend(special, patches, i, special.shape[-2])
        (special,) = self.feed_forward(i, special + of_special)
        return special

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the residual scale into each branch's last weights, for inference."""
        self._scale(self.attn.proj)
        self._scale(self.mlp.fc2)
        self.drop_path.scale = self.drop_attn.scale = 1.0

    def _scale(self, last: Linear) -> None:
        last.weight.mul_(self.drop_path.scale)
        last.bias.mul_(self.drop_path.scale)

    def over_time(self, patches: Tensor, i: int) -> Tensor:
        """Patch tokens `(B, T, N, C)` after the attention over time, if there is one."""
        return patches

    def attend(
        self, special: Tensor, patches: Tensor, i: int, queries: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The attention branch of special and patch tokens; only of the first `queries` tokens, if given."""
        count = special.shape[1]
        x = torch.cat([special, patches.flatten(1, 2)], dim=1)
        (x,) = self.drop_attn(self.attn(self.norm1(x, i), queries))
        return x[:, :count], x[:, count:]

    def feed_forward(self, i: int, *tokens: Tensor) -> tuple[Tensor, ...]:
        branch = self.drop_path(*(self.mlp(self.norm2(x, i)) for x in tokens))
        return tuple(x + added for x, added in zip(tokens, branch, strict=True))


class SpaceBlock(JointBlock):
    """Attention within each frame, with special tokens per frame: `special` is `(B, T, S, C)`."""

    samples: tuple[int, ...] = (0, 1)  # per frame, as in TimeSformer, which folds frames into the batch

    def attend(
        self, special: Tensor, patches: Tensor, i: int, queries: int | None = None
    ) -> tuple[Tensor, Tensor]:
        count = special.shape[-2]
        x = torch.cat([self.to_frames(special, patches.shape[1]), patches], dim=2)
        (x,) = self.drop_attn(self.attn(self.norm1(x, i), queries))
        return self.from_frames(x[:, :, :count]), x[:, :, count:]

    def to_frames(self, special: Tensor, frames: int) -> Tensor:
        """The special tokens of every frame, `(B, T, S, C)`."""
        return special

    def from_frames(self, special: Tensor) -> Tensor:
        """Undo `to_frames` on the special tokens' attention branch."""
        return special


class DividedBlock(SpaceBlock):
    """Attention over time at each place, then over space in each frame (`divided_space_time`).

    As in TimeSformer, only patch tokens attend over time; for attention over space, the special tokens are
    repeated for every frame and averaged afterwards. `temporal_fc` starts at zero, so that a video model
    initialised from an image model starts with that model's predictions.
    """

    samples = (0,)

    def __init__(self, config: ReViTConfig, drop_path: float) -> None:
        super().__init__(config, drop_path)
        dim = config.embed_dim
        self.temporal_norm1 = length_norm(config)
        self.temporal_attn = TimeAttention(dim, config.num_heads, config.drop_rate, config.qkv_bias)
        self.temporal_fc = Linear(dim, dim)
        self.drop_place, self.drop_time = DropPath(0.0), self.drop_path
        if config.drop_path_per == "sequence":
            self.drop_place = DropPath(drop_path, (0, 2))  # before temporal_fc, whose bias is never dropped
            self.drop_time = DropPath(0.0, scale=config.residual_scale)
            self.drop_attn = DropPath(drop_path, (0, 1), config.residual_scale)

    def over_time(self, patches: Tensor, i: int) -> Tensor:
        (x,) = self.drop_place(self.temporal_attn(self.temporal_norm1(patches, i)))
        (x,) = self.drop_time(self.temporal_fc(x))
        return patches + x

    def to_frames(self, special: Tensor, frames: int) -> Tensor:
        return special.unsqueeze(1).expand(-1, frames, -1, -1)

    def from_frames(self, special: Tensor) -> Tensor:
        return special.mean(dim=1)

    @torch.no_grad()
    def fold(self) -> None:
        """Also fuse the output projection of the attention over time with `temporal_fc`."""
        self._scale(self.temporal_fc)
        super().fold()
        self.drop_time.scale = 1.0
        proj, fc = self.temporal_attn.proj, self.temporal_fc
        weight = fc.weight.double()
        proj.bias.copy_(weight @ proj.bias.double() + fc.bias)
        proj.weight.copy_(weight @ proj.weight.double())
        self.temporal_fc = nn.Identity()  # type: ignore[assignment]


BLOCKS: dict[str, type[JointBlock]] = {
    "divided_space_time": DividedBlock,
    "joint_space_time": JointBlock,
    "space_only": SpaceBlock,
}


def block_of(config: ReViTConfig, drop_path: float) -> JointBlock:
    """A block of the kind that `config.attention` names."""
    return BLOCKS[config.attention](config, drop_path)
