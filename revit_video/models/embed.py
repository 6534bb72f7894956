"""Patch and position embeddings of all token lengths: one per length, or one that the lengths share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn

from revit_video.length import TokenLength
from revit_video.models.config import ReViTConfig
from revit_video.models.stem import STEMS, PatchEmbed, copy_convs, project

# ---- Patch embeddings ------------------------------------------------------------------------------------


class PatchEmbeds(nn.ModuleList):
    """A patch embedding per length: `patch_embed.<i>.proj.weight`.

    Args:
        stem: a name in `STEMS`. Batch norms are per length too, since their statistics differ.
    """

    def __init__(self, lengths: Sequence[TokenLength], img_size: int, dim: int, stem: str = "patch") -> None:
        super().__init__(STEMS[stem](length, img_size, dim) for length in lengths)

    def __iter__(self) -> Iterator[PatchEmbed]:
        return super().__iter__()  # type: ignore[return-value]

    def forward(self, frames: Tensor, i: int) -> Tensor:
        """`(F, C, H, W)` -> `(F, N, dim)` at length `i`."""
        return self[i](frames)

    def weights(self, i: int) -> dict[str, Tensor]:
        """State dict of a `PatchEmbed` (or stem) for length `i` alone."""
        return self[i].state_dict()

    @torch.no_grad()
    def init_from_longest(self) -> None:
        """Start every length from the longest one's kernel, resampled as in FlexiViT.

        Of a stem, copy the convolutions up to the first whose shape differs; the kernel only if none does.
        """
        first, *others = self
        for embed in others:
            if copy_convs(first, embed):
                kernel = list(embed.proj.kernel_size)
                embed.proj.weight.copy_(resample_patch_embed(first.proj.weight, kernel))
                embed.proj.bias.copy_(first.proj.bias)  # type: ignore[union-attr, arg-type]


class OnePatchEmbed(nn.Module):
    """One kernel, `patch_embed.proj.weight`, of the largest patch, the shortest length's."""

    def __init__(self, lengths: Sequence[TokenLength], img_size: int, dim: int) -> None:
        super().__init__()
        self.lengths, self.img_size = tuple(lengths), img_size
        each = [PatchEmbed(length, img_size, dim) for length in lengths]
        self.proj = each[-1].proj
        self.paddings = [embed.padding for embed in each]
        self.kernels = [embed.proj.kernel_size for embed in each]

    def init_from_longest(self) -> None:
        """Nothing to do: all lengths share it."""

    def forward(self, frames: Tensor, i: int) -> Tensor:
        """`(F, C, H, W)` -> `(F, N, dim)` at length `i`."""
        return project(frames, self.paddings[i], self.kernel(i), self.proj.bias)

    def kernel(self, i: int) -> Tensor:
        """The kernel for length `i`, `(dim, C, rows, columns)`, derived from the learned one."""
        raise NotImplementedError

    def weights(self, i: int) -> dict[str, Tensor]:
        """State dict of a `PatchEmbed` for length `i` alone."""
        assert self.proj.bias is not None
        return {"proj.weight": self.kernel(i).detach(), "proj.bias": self.proj.bias.detach()}

    def separate(self) -> PatchEmbeds:
        """The same embeddings, each with a kernel of its own."""
        with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced
            embeds = PatchEmbeds(self.lengths, self.img_size, self.proj.out_channels)
        for i, embed in enumerate(embeds):
            embed.load_state_dict({k: w.clone() for k, w in self.weights(i).items()}, assign=True)
        return embeds.requires_grad_(self.proj.weight.requires_grad)


class SharedPatchEmbed(OnePatchEmbed):
    """One large kernel, cropped at its centre for longer lengths (Table 3's ablation, after Once-for-All)."""

    def kernel(self, i: int) -> Tensor:
        rows, columns = self.kernels[i]
        top = (self.proj.weight.shape[-2] - rows) // 2
        left = (self.proj.weight.shape[-1] - columns) // 2
        return self.proj.weight[..., top : top + rows, left : left + columns]


class ResizedPatchEmbed(OnePatchEmbed):
    """One kernel, resampled to each length's patch by the pseudo-inverse of resizing (FlexiViT).

    A patch and its downsized copy have the same token, if the kernel responds to nothing finer than the
    smaller patch resolves.
    """

    def __init__(self, lengths: Sequence[TokenLength], img_size: int, dim: int) -> None:
        super().__init__(lengths, img_size, dim)
        for i, (rows, columns) in enumerate(self.kernels):
            self.register_buffer(f"down{i}", _resampling(self.kernels[-1][0], rows), persistent=False)
            self.register_buffer(f"across{i}", _resampling(self.kernels[-1][1], columns), persistent=False)

    def kernel(self, i: int) -> Tensor:
        if self.kernels[i] == self.kernels[-1]:
            return self.proj.weight
        # In the kernel's own precision: bfloat16 sums would lose the differences between pixels.
        with torch.autocast(self.proj.weight.device.type, enabled=False):
            return self.get_buffer(f"down{i}") @ self.proj.weight @ self.get_buffer(f"across{i}").mT


def _resampling(size: int, target: int) -> Tensor:
    """Matrix `(target, size)` that resamples the rows, or the columns, of a kernel."""
    return resample_patch_embed(torch.eye(size)[:, None, None], [1, target])[:, 0, 0].T.contiguous()


# ---- Position embeddings ---------------------------------------------------------------------------------


class PositionEmbeds(nn.ParameterList):
    """A spatial position embedding per length: `pos_embed.<i>`, `(1, S + N, dim)`, special tokens first."""

    def __init__(self, lengths: Sequence[TokenLength], num_special: Sequence[int], dim: int) -> None:
        self.lengths, self.num_special = tuple(lengths), tuple(num_special)
        super().__init__(
            torch.zeros(1, special + length.count, dim)
            for length, special in zip(lengths, num_special, strict=True)
        )

    @torch.no_grad()
    def set_grid(self, grid: Tensor) -> None:
        """Set the longest length's grid to `grid` `(h, w, dim)`."""
        self[0][:, self.num_special[0] :] = grid.flatten(0, 1)

    @torch.no_grad()
    def init_from_longest(self) -> None:
        """Start every length from the longest one's grid, resampled."""
        longest = self[0][:, self.num_special[0] :]
        size = [self.lengths[0].h, self.lengths[0].w]
        for embed, length, special in zip(self, self.lengths, self.num_special, strict=True):
            embed[:, special:] = resample_abs_pos_embed(longest, [length.h, length.w], size, 0)


class OnePositionEmbed(nn.Module):
    """One position embedding for all lengths.

    Parameters are `pos_embed.special` `(1, S, dim)` and `pos_embed.grid` `(1, dim, h, w)`, the grid of
    `lengths[learned]`.
    """

    learned: ClassVar[int]

    def __init__(self, lengths: Sequence[TokenLength], num_special: Sequence[int], dim: int) -> None:
        super().__init__()
        learned = lengths[self.learned]
        self.lengths, self.num_special = tuple(lengths), tuple(num_special)
        self.special = nn.Parameter(torch.zeros(1, max(num_special), dim))
        self.grid = nn.Parameter(torch.zeros(1, dim, learned.h, learned.w))

    def __getitem__(self, i: int) -> Tensor:
        places = self.places(i).flatten(2).transpose(1, 2)
        return torch.cat([self.special[:, : self.num_special[i]], places], dim=1)

    def places(self, i: int) -> Tensor:
        """The grid for length `i`, `(1, dim, h, w)`, derived from the learned one."""
        raise NotImplementedError

    @torch.no_grad()
    def set_grid(self, grid: Tensor) -> None:
        """Set the learned grid to `grid` `(h, w, dim)` of the longest length, resampled."""
        self.grid.copy_(_resize(grid.permute(2, 0, 1)[None], self.grid.shape[2:]))

    def init_from_longest(self) -> None:
        """Nothing to do: all lengths share it."""

    @torch.no_grad()
    def separate(self) -> PositionEmbeds:
        """The same embeddings, each with a grid of its own."""
        embeds = PositionEmbeds(self.lengths, self.num_special, self.grid.shape[1])
        for i in range(len(self.lengths)):
            embeds[i] = nn.Parameter(self[i], self.grid.requires_grad)
        return embeds


class SharedPositionEmbed(OnePositionEmbed):
    """The shortest length's grid, centred in longer grids and zero-padded (Table 3's ablation)."""

    learned = -1

    def places(self, i: int) -> Tensor:
        rows = self.lengths[i].h - self.lengths[-1].h
        columns = self.lengths[i].w - self.lengths[-1].w
        return F.pad(self.grid, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


class ResizedPositionEmbed(OnePositionEmbed):
    """The longest length's grid, interpolated to shorter ones (FlexiViT)."""

    learned = 0

    def places(self, i: int) -> Tensor:
        return _resize(self.grid, (self.lengths[i].h, self.lengths[i].w))


def _resize(grid: Tensor, size: Sequence[int]) -> Tensor:
    """`grid` `(1, dim, h, w)`, interpolated to `size`."""
    if grid.shape[2:] == torch.Size(size):
        return grid
    return F.interpolate(grid, list(size), mode="bicubic", antialias=True)


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


# ---- By name ---------------------------------------------------------------------------------------------

PATCH_EMBEDS: Mapping[str, type[OnePatchEmbed]] = {"shared": SharedPatchEmbed, "resized": ResizedPatchEmbed}
POSITION_EMBEDS: Mapping[str, type[PositionEmbeds] | type[OnePositionEmbed]] = {
    "per_length": PositionEmbeds,
    "shared": SharedPositionEmbed,
    "resized": ResizedPositionEmbed,
}


def patch_embed_of(config: ReViTConfig) -> PatchEmbeds | OnePatchEmbed:
    """The patch embedding that `config.patch_embed` and `config.stem` name."""
    if config.patch_embed == "per_length":
        return PatchEmbeds(config.lengths, config.img_size, config.embed_dim, config.stem)
    return PATCH_EMBEDS[config.patch_embed](config.lengths, config.img_size, config.embed_dim)


def pos_embed_of(config: ReViTConfig) -> PositionEmbeds | OnePositionEmbed:
    """The position embedding that `config.pos_embed` names."""
    return POSITION_EMBEDS[config.pos_embed](config.lengths, config.num_special, config.embed_dim)


def separate_embeddings(model: nn.Module) -> None:
    """Replace shared embeddings by one per length, in place; outputs stay the same."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, OnePatchEmbed | OnePositionEmbed):
                setattr(module, name, child.separate())
