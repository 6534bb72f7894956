"""Patch and position embeddings of all token lengths: one per length, or one that the lengths share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn

from revit_video.length import TokenLength
from revit_video.models.config import ReViTConfig
from revit_video.models.stem import PatchEmbed, copy_convs, project, stem_named

# ---- Patch embeddings ------------------------------------------------------------------------------------


class PatchEmbeds(nn.ModuleList):
    """A patch embedding per length: `patch_embed.<i>.proj.weight`.

    Args:
        stem: see `stem_named`. Batch norms are per length too, since their statistics differ.
        in_chans: 3 for each frame of a tubelet.
    """

    def __init__(
        self, lengths: Sequence[TokenLength], img_size: int, dim: int, stem: str = "patch", in_chans: int = 3
    ) -> None:
        super().__init__(stem_named(stem)(length, img_size, dim, in_chans) for length in lengths)

    def __iter__(self) -> Iterator[Any]:
        return super().__iter__()

    def forward(self, frames: Tensor, i: int) -> Tensor:
        """`(F, C, H, W)` -> `(F, N, dim)` at length `i`."""
        return self[i](frames)

    def weights(self, i: int) -> dict[str, Tensor]:
        """State dict of a `PatchEmbed` (or stem) for length `i` alone."""
        return self[i].state_dict()

    @torch.no_grad()
    def init_from_longest(self) -> None:
        """Start every length from the longest one's kernel, resampled as in FlexiViT.

        Of a stem, copy the convolutions up to the first of another shape; the kernel only if none is.
        """
        first, *others = self
        for embed in others:
            if not isinstance(embed, PatchEmbed):
                embed.start_from(first)
            elif copy_convs(first, embed):
                kernel = list(embed.proj.kernel_size)
                embed.proj.weight.copy_(resample_patch_embed(first.proj.weight, kernel))
                assert embed.proj.bias is not None
                embed.proj.bias.copy_(first.proj.bias)


class OnePatchEmbed(nn.Module):
    """One kernel, `patch_embed.proj.weight`, of the largest patch, the shortest length's."""

    def __init__(self, lengths: Sequence[TokenLength], img_size: int, dim: int, in_chans: int = 3) -> None:
        super().__init__()
        self.lengths, self.img_size = tuple(lengths), img_size
        each = [PatchEmbed(length, img_size, dim, in_chans) for length in lengths]
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
            dim, in_chans = self.proj.weight.shape[:2]
            embeds = PatchEmbeds(self.lengths, self.img_size, dim, in_chans=in_chans)
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

    def __init__(self, lengths: Sequence[TokenLength], img_size: int, dim: int, in_chans: int = 3) -> None:
        super().__init__(lengths, img_size, dim, in_chans)
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


class PositionEmbeds(nn.Module):
    """A position embedding per length: `pos_embed.<i>`, `(1, S + steps N, dim)`, special tokens first.

    Args:
        steps: those in time that have places of their own; 1 if the embeddings are of space alone.
        fixed: buffers, which are not trained.
    """

    def __init__(
        self,
        lengths: Sequence[TokenLength],
        num_special: Sequence[int],
        dim: int,
        steps: int = 1,
        fixed: bool = False,
    ) -> None:
        super().__init__()
        self.lengths, self.num_special, self.steps = tuple(lengths), tuple(num_special), steps
        for i, (length, special) in enumerate(zip(lengths, num_special, strict=True)):
            zeros = torch.zeros(1, special + steps * length.count, dim)
            if fixed:
                self.register_buffer(str(i), zeros)
            else:
                self.register_parameter(str(i), nn.Parameter(zeros))

    def __getitem__(self, i: int) -> Tensor:
        embed: Tensor = getattr(self, str(i))
        return embed

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    @torch.no_grad()
    def set_grid(self, grid: Tensor) -> None:
        """Set the longest length's grid to `grid` `(h, w, dim)`, or `(steps, h, w, dim)`."""
        self[0][:, self.num_special[0] :] = grid.expand(self.steps, *grid.shape[-3:]).flatten(0, 2)

    @torch.no_grad()
    def init_from_longest(self) -> None:
        """Start every length from the longest one's grid, resampled."""
        longest = self[0][:, self.num_special[0] :]
        for i in range(1, len(self)):
            places = resized_places(longest, self.lengths[0], self.lengths[i], self.steps)
            self[i][:, self.num_special[i] :] = places


class OnePositionEmbed(nn.Module):
    """One position embedding for all lengths.

    Parameters are `pos_embed.special` `(1, S, dim)` and `pos_embed.grid` `(1, steps dim, h, w)`, the grid of
    `lengths[learned]`.
    """

    learned: ClassVar[int]

    def __init__(
        self, lengths: Sequence[TokenLength], num_special: Sequence[int], dim: int, steps: int = 1
    ) -> None:
        super().__init__()
        learned = lengths[self.learned]
        self.lengths, self.num_special, self.steps = tuple(lengths), tuple(num_special), steps
        self.special = nn.Parameter(torch.zeros(1, max(num_special), dim))
        self.grid = nn.Parameter(torch.zeros(1, steps * dim, learned.h, learned.w))

    def __getitem__(self, i: int) -> Tensor:
        places = self.places(i).unflatten(1, (self.steps, -1)).flatten(3)  # (1, steps, dim, N)
        return torch.cat(
            [self.special[:, : self.num_special[i]], places.transpose(2, 3).flatten(1, 2)], dim=1
        )

    def places(self, i: int) -> Tensor:
        """The grid for length `i`, `(1, steps dim, h, w)`, derived from the learned one."""
        raise NotImplementedError

    @torch.no_grad()
    def set_grid(self, grid: Tensor) -> None:
        """Set the learned grid to `grid` of the longest length, resampled; see `PositionEmbeds.set_grid`."""
        grid = grid.expand(self.steps, *grid.shape[-3:]).permute(0, 3, 1, 2).flatten(0, 1)
        self.grid.copy_(_resize(grid[None], self.grid.shape[2:]))

    def init_from_longest(self) -> None:
        """Nothing to do: all lengths share it."""

    @torch.no_grad()
    def separate(self) -> PositionEmbeds:
        """The same embeddings, each with a grid of its own."""
        embeds = PositionEmbeds(self.lengths, self.num_special, self.special.shape[2], self.steps)
        for i in range(len(self.lengths)):
            embeds.register_parameter(str(i), nn.Parameter(self[i], self.grid.requires_grad))
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


@torch.no_grad()
def resized_places(
    places: Tensor, grid: TokenLength, target: TokenLength, steps: int = 1, target_steps: int | None = None
) -> Tensor:
    """`places` `(1, steps N, dim)` on another grid, as timm does, and with other steps in time, linearly."""
    in_space = places.unflatten(1, (steps, -1)).transpose(1, 2).flatten(2)  # (1, N, steps dim)
    in_space = resample_abs_pos_embed(in_space, [target.h, target.w], [grid.h, grid.w], 0)
    by_step = in_space.unflatten(2, (steps, -1)).permute(0, 2, 1, 3).flatten(2)  # (1, steps, N' dim)
    return over_steps(by_step, target_steps or steps).unflatten(2, (target.count, -1)).flatten(1, 2)


def over_steps(values: Tensor, steps: int) -> Tensor:
    """`(1, T, C)` -> `(1, steps, C)`, interpolated linearly."""
    if values.shape[1] == steps:
        return values
    return F.interpolate(values.transpose(1, 2), size=steps, mode="linear").transpose(1, 2)


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


def sine_table(first: int, count: int, dim: int) -> Tensor:
    """Sines (even channels) and cosines of the places from `first` on, `(count, dim)`; Vaswani et al."""
    rates = 10000.0 ** (-2 * torch.arange(dim // 2, dtype=torch.float64) / dim)
    angles = torch.arange(first, first + count)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()


# ---- By name ---------------------------------------------------------------------------------------------

PATCH_EMBEDS: Mapping[str, type[OnePatchEmbed]] = {"shared": SharedPatchEmbed, "resized": ResizedPatchEmbed}
POSITION_EMBEDS: Mapping[str, type[OnePositionEmbed]] = {
    "shared": SharedPositionEmbed,
    "resized": ResizedPositionEmbed,
}


def patch_embed_of(config: ReViTConfig) -> PatchEmbeds | OnePatchEmbed:
    """The patch embedding that `config.patch_embed` and `config.stem` name."""
    sizes, in_chans = (config.lengths, config.img_size, config.embed_dim), 3 * config.tubelet
    if config.patch_embed == "per_length":
        return PatchEmbeds(*sizes, config.stem, in_chans)
    return PATCH_EMBEDS[config.patch_embed](*sizes, in_chans)


def pos_embed_of(config: ReViTConfig) -> PositionEmbeds | OnePositionEmbed:
    """The position embedding that `config.pos_embed` and `config.positions` name."""
    sizes = config.lengths, config.num_placed, config.embed_dim, config.placed_steps
    if config.pos_embed == "per_length":
        return PositionEmbeds(*sizes, fixed=config.positions == "fixed")
    return POSITION_EMBEDS[config.pos_embed](*sizes)


def separate_embeddings(model: nn.Module) -> None:
    """Replace shared embeddings by one per length, in place; outputs stay the same."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, OnePatchEmbed | OnePositionEmbed):
                setattr(module, name, child.separate())
