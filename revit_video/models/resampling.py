"""A weight of one model in the shape that another one has: other grids, frames, patches and channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import resample_patch_embed
from torch import Tensor

from revit_video.length import TokenLength
from revit_video.models.embed import (
    OnePatchEmbed,
    PatchEmbeds,
    ResizedPatchEmbed,
    over_steps,
    resized_places,
)
from revit_video.models.layouts import KERNEL
from revit_video.models.revit import ReViT


def resampled(
    model: ReViT,
    steps: int,
    common: str,
    value: Tensor,
    like: Tensor,
    grid: TokenLength,
    target: TokenLength,
) -> Tensor:
    """`value`, of `steps` placed steps, in the shape of `like`; `grid` and `target` are their lengths."""
    if common.endswith(("norm2.weight", "norm2.bias", "mlp.fc1.weight")):
        return torch.cat([value, like[..., value.shape[-1] :]], dim=-1)  # with more channels in a DVT
    if common.startswith("pos_embed"):
        return _positions(common, value, like, grid, target, steps, model.config.placed_steps)
    if common == KERNEL and value.ndim == 4:
        value = _over_frames(value, model.config.tubelet) if model.config.stem == "patch" else value
        return _kernel(model.patch_embed, value, like) if value.shape[:2] == like.shape[:2] else value
    if common == "time_embed":
        return over_steps(value, like.shape[1])
    return value


def _over_frames(kernel: Tensor, tubelet: int) -> Tensor:
    """A kernel for as many frames, with the same tokens for a still clip: divided among them, or summed."""
    frames = kernel.shape[1] // 3
    if frames in (0, tubelet) or kernel.shape[1] % 3:
        return kernel
    parts = kernel.unflatten(1, (frames, 3)).movedim(1, -1).flatten(1, 3)  # (C, RGB h w, frames)
    parts = F.adaptive_avg_pool1d(parts, tubelet) * (frames / tubelet)
    return parts.unflatten(1, (3, *kernel.shape[2:])).movedim(-1, 1).flatten(1, 2)


def _kernel(embed: PatchEmbeds | OnePatchEmbed, value: Tensor, like: Tensor) -> Tensor:
    if value.shape == like.shape or not isinstance(embed, ResizedPatchEmbed):
        return resample_patch_embed(value, list(like.shape[2:]))
    # The kernel that becomes `value` at the longest length: invert the resampling there.
    value = resample_patch_embed(value, list(embed.kernels[0]))
    down, across = (torch.linalg.pinv(embed.get_buffer(name)) for name in ("down0", "across0"))
    return down @ value @ across.mT


def _positions(
    common: str, value: Tensor, like: Tensor, grid: TokenLength, target: TokenLength, steps: int, ours: int
) -> Tensor:
    """A position embedding for `ours` steps at `target` from one `(1, S + steps N, C)` for `grid`."""
    count = value.shape[1] - steps * grid.count
    # The last special token is the distillation token, or the class token as its twin.
    special = torch.cat([value[:, :1], value[:, count - 1 : count]], dim=1)
    special = special if count else special.new_zeros(like.shape[0], 2, special.shape[2])
    if common == "pos_embed.special":
        return special[:, : like.shape[1]]
    places = resized_places(value[:, count:], grid, target, steps, ours)
    if common == "pos_embed.grid":
        by_step = places.unflatten(1, (ours, -1)).transpose(2, 3).flatten(1, 2)  # (1, steps C, N)
        return by_step.unflatten(2, (target.h, target.w))
    return torch.cat([special[:, : like.shape[1] - places.shape[1]], places], dim=1)
