"""From pixels to tokens: patch and position embeddings, one per token length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn

from revit_video.length import TokenLength, patch_geometry


class PatchEmbed(nn.Module):
    """Cuts each frame into `length` patches and projects them, with a kernel as large as its stride.

    Where the side is no multiple of the cells, the frame is zero-padded evenly (`patch_geometry`).
    """

    def __init__(self, length: TokenLength, img_size: int, dim: int, in_chans: int = 3) -> None:
        super().__init__()
        rows, top, bottom = patch_geometry(img_size, length.h)
        columns, left, right = patch_geometry(img_size, length.w)
        self.padding = (left, right, top, bottom)
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=(rows, columns), stride=(rows, columns))

    def forward(self, frames: Tensor) -> Tensor:
        """`(F, C, H, W)` -> `(F, N, dim)`."""
        return _embed(frames, self.padding, self.proj.weight, self.proj.bias, self.proj.stride)


class PatchEmbeds(nn.ModuleList):
    """A patch embedding of its own for every length: `patch_embed.<i>.proj.weight`."""

    def __init__(self, lengths: Sequence[TokenLength], img_size: int, dim: int) -> None:
        super().__init__(PatchEmbed(length, img_size, dim) for length in lengths)

    def __iter__(self) -> Iterator[PatchEmbed]:
        return super().__iter__()  # type: ignore[return-value]

    def forward(self, frames: Tensor, i: int) -> Tensor:
        return self[i](frames)

    def projection(self, i: int) -> tuple[Tensor, Tensor | None]:
        """Kernel `(dim, C, rows, columns)` and bias of length `i`."""
        proj = list(self)[i].proj
        return proj.weight, proj.bias

    @torch.no_grad()
    def spread(self) -> None:
        """Starts every length from the longest one's kernel, resampled as in FlexiViT."""
        first, *others = (embed.proj for embed in self)
        for proj in others:
            proj.weight.copy_(resample_patch_embed(first.weight, list(proj.kernel_size)))
            proj.bias.copy_(first.bias)  # type: ignore[union-attr, arg-type]


class SharedPatchEmbed(nn.Module):
    """One large kernel; a longer length uses its centre (Table 3's ablation, after Once-for-All).

    The kernel is the shortest length's, `patch_embed.proj.weight`.
    """

    def __init__(self, lengths: Sequence[TokenLength], img_size: int, dim: int) -> None:
        super().__init__()
        _check_nested(lengths)
        each = [PatchEmbed(length, img_size, dim) for length in lengths]
        self.proj = each[-1].proj
        self.paddings = [embed.padding for embed in each]
        self.kernels = [embed.proj.kernel_size for embed in each]

    def spread(self) -> None:
        """Nothing to do: all lengths share it."""

    def forward(self, frames: Tensor, i: int) -> Tensor:
        return _embed(frames, self.paddings[i], *self.projection(i), self.kernels[i])

    def projection(self, i: int) -> tuple[Tensor, Tensor | None]:
        """Kernel `(dim, C, rows, columns)` and bias of length `i`."""
        rows, columns = self.kernels[i]
        top = (self.proj.weight.shape[-2] - rows) // 2
        left = (self.proj.weight.shape[-1] - columns) // 2
        return self.proj.weight[..., top : top + rows, left : left + columns], self.proj.bias


class PositionEmbeds(nn.ParameterList):
    """A spatial position embedding for every length: `pos_embed.<i>`, `(1, special + N, dim)`.

    The special tokens come first: the class token and, for the lengths after the first, the
    distillation token when there is one.
    """

    def __init__(self, lengths: Sequence[TokenLength], num_special: Sequence[int], dim: int) -> None:
        self.lengths, self.num_special = tuple(lengths), tuple(num_special)
        super().__init__(
            torch.zeros(1, special + length.count, dim)
            for length, special in zip(lengths, num_special, strict=True)
        )

    @torch.no_grad()
    def set_grid(self, grid: Tensor) -> None:
        """Sets the longest length's places from `grid` `(h, w, dim)`."""
        self[0][:, self.num_special[0] :] = grid.flatten(0, 1)

    @torch.no_grad()
    def spread(self) -> None:
        """Starts every length from the longest one's embedding, resampled to its grid."""
        longest = self[0][:, self.num_special[0] :]
        size = [self.lengths[0].h, self.lengths[0].w]
        for embed, length, special in zip(self, self.lengths, self.num_special, strict=True):
            embed[:, special:] = resample_abs_pos_embed(longest, [length.h, length.w], size, 0)


class SharedPositionEmbed(nn.Module):
    """One position embedding, zero-padded to the longer grids (Table 3's ablation).

    The grid of the shortest length is what is learned; a longer grid holds it in its centre.
    """

    def __init__(self, lengths: Sequence[TokenLength], num_special: Sequence[int], dim: int) -> None:
        super().__init__()
        _check_nested(lengths)
        self.lengths, self.num_special = tuple(lengths), tuple(num_special)
        self.special = nn.Parameter(torch.zeros(1, max(num_special), dim))
        self.grid = nn.Parameter(torch.zeros(1, dim, lengths[-1].h, lengths[-1].w))

    def __getitem__(self, i: int) -> Tensor:
        rows = self.lengths[i].h - self.lengths[-1].h
        columns = self.lengths[i].w - self.lengths[-1].w
        padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        grid = F.pad(self.grid, padding).flatten(2).transpose(1, 2)
        return torch.cat([self.special[:, : self.num_special[i]], grid], dim=1)

    @torch.no_grad()
    def set_grid(self, grid: Tensor) -> None:
        """Sets the places from `grid` `(h, w, dim)` of the longest length, resampled to the shortest."""
        places = F.interpolate(
            grid.permute(2, 0, 1)[None], self.grid.shape[2:], mode="bicubic", antialias=True
        )
        self.grid.copy_(places)

    def spread(self) -> None:
        """Nothing to do: all lengths share it."""


def waves(positions: Tensor, dim: int, temperature: float = 100.0) -> Tensor:
    """Sines and cosines of `positions` `(P,)`, `(P, dim)`; wavelengths from 2 pi to 2 pi `temperature`."""
    rates = temperature ** (-torch.arange(dim // 2) / (dim // 2))
    angles = positions[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def place_waves(length: TokenLength, dim: int) -> Tensor:
    """Waves down and across the grid, half of the channels each, `(h, w, dim)`."""
    down = waves(torch.arange(length.h), dim // 2)[:, None].expand(-1, length.w, -1)
    across = waves(torch.arange(length.w), dim // 2)[None].expand(length.h, -1, -1)
    return torch.cat([down, across], dim=2)


def _check_nested(lengths: Sequence[TokenLength]) -> None:
    shortest = lengths[-1]
    if any(length.h < shortest.h or length.w < shortest.w for length in lengths):
        raise ValueError(
            f"embeddings are shared by grids that hold the shortest one, {shortest}, on both sides"
        )


def _embed(
    frames: Tensor, padding: tuple[int, ...], weight: Tensor, bias: Tensor | None, stride: tuple[int, ...]
) -> Tensor:
    if any(padding):
        frames = F.pad(frames, padding)
    return F.conv2d(frames, weight, bias, stride=stride).flatten(2).transpose(1, 2)
