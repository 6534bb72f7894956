"""From pixels to tokens: patch and position embeddings, one per token length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from revit_video.length import TokenLength, patch_geometry, stem_geometry


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


class Stem(PatchEmbed):
    """Convolutions that shrink the frame, each followed by a batch norm and a ReLU, before the projection.

    Parameters are `conv<k>`, `bn<k>` from 1 on, and `proj`, as in LV-ViT.

    Args:
        convs: none has a bias.
        size: side in pixels of what they make of a frame.
    """

    def __init__(self, convs: Sequence[nn.Conv2d], length: TokenLength, size: int, dim: int) -> None:
        super().__init__(length, size, dim, in_chans=convs[-1].out_channels)
        self.depth = len(convs)
        for k, conv in enumerate(convs, 1):
            self.add_module(f"conv{k}", conv)
            self.add_module(f"bn{k}", nn.BatchNorm2d(conv.out_channels))

    def forward(self, frames: Tensor) -> Tensor:
        """`(F, C, H, W)` -> `(F, N, dim)`."""
        for conv, norm in self.layers():
            frames = F.relu(norm(conv(frames)), inplace=True)
        return super().forward(frames)

    def layers(self) -> Iterator[tuple[Any, Any]]:
        """Each convolution with its batch norm."""
        for k in range(1, self.depth + 1):
            yield getattr(self, f"conv{k}"), getattr(self, f"bn{k}")

    def fold(self) -> None:
        """Makes each batch norm part of the convolution before it: not for training."""
        for k, (conv, norm) in enumerate(self.layers(), 1):
            dtype = conv.weight.dtype
            self.add_module(f"conv{k}", fuse_conv_bn_eval(conv.double(), norm.double().eval()).to(dtype))
            self.add_module(f"bn{k}", nn.Identity())


class ConvStem(Stem):
    """Consecutive 3x3 convolutions of stride 2, then a projection (paper section 4, after Xiao et al.).

    They halve the frame as often as `stem_geometry` says, down to the grid itself where that can be: then
    the projection is 1x1. Channels double with every halving and would reach the width at the grid.

    Raises:
        ValueError: the frame cannot be halved, or the width not as often as the channels double.
    """

    def __init__(self, length: TokenLength, img_size: int, dim: int, in_chans: int = 3) -> None:
        halvings, doublings = stem_geometry(img_size, length)
        if dim % (first := 2 ** (doublings - 1)):
            raise ValueError(
                f"a convolutional stem for {length} needs a width divisible by {first}, not {dim}"
            )
        channels = [in_chans, *(dim // 2 ** (doublings - k) for k in range(1, halvings + 1))]
        convs = [
            nn.Conv2d(fan_in, fan_out, kernel_size=3, stride=2, padding=1, bias=False)
            for fan_in, fan_out in zip(channels, channels[1:], strict=False)
        ]
        super().__init__(convs, length, img_size // 2**halvings, dim)


class LVViTStem(Stem):
    """LV-ViT's: 7x7 of stride 2 and twice 3x3, 64 channels each, then patches of the halved frame.

    Raises:
        ValueError: the frame's side is odd, or its half cannot be cut into the patches.
    """

    def __init__(self, length: TokenLength, img_size: int, dim: int, in_chans: int = 3) -> None:
        if img_size % 2:
            raise ValueError(f"LV-ViT's stem halves the frame, which has an odd side, {img_size} px")
        convs = [nn.Conv2d(in_chans, 64, kernel_size=7, stride=2, padding=3, bias=False)]
        convs += [nn.Conv2d(64, 64, kernel_size=3, padding=1, bias=False) for _ in range(2)]
        super().__init__(convs, length, img_size // 2, dim)


STEMS: Mapping[str, type[PatchEmbed]] = {"patch": PatchEmbed, "conv": ConvStem, "lvvit": LVViTStem}


class PatchEmbeds(nn.ModuleList):
    """A patch embedding of its own for every length: `patch_embed.<i>.proj.weight`.

    Args:
        stem: a name in `STEMS`. Batch norms are a length's own too, since their statistics differ.
    """

    def __init__(self, lengths: Sequence[TokenLength], img_size: int, dim: int, stem: str = "patch") -> None:
        super().__init__(STEMS[stem](length, img_size, dim) for length in lengths)

    def __iter__(self) -> Iterator[PatchEmbed]:
        return super().__iter__()  # type: ignore[return-value]

    def forward(self, frames: Tensor, i: int) -> Tensor:
        return self[i](frames)

    def weights(self, i: int) -> dict[str, Tensor]:
        """What length `i` reads, as the state of a patch embedding of that length alone."""
        return self[i].state_dict()

    @torch.no_grad()
    def spread(self) -> None:
        """Starts every length from the longest one's kernel, resampled as in FlexiViT.

        Of a stem, from its convolutions as far as they are of the same shapes; if all are, from its kernel.
        """
        first, *others = self
        for embed in others:
            if _copy_convs(first, embed):
                kernel = list(embed.proj.kernel_size)
                embed.proj.weight.copy_(resample_patch_embed(first.proj.weight, kernel))
                embed.proj.bias.copy_(first.proj.bias)  # type: ignore[union-attr, arg-type]


class OnePatchEmbed(nn.Module):
    """One kernel, `patch_embed.proj.weight`, of the shortest length's patch, which is the largest."""

    def __init__(self, lengths: Sequence[TokenLength], img_size: int, dim: int) -> None:
        super().__init__()
        self.lengths, self.img_size = tuple(lengths), img_size
        each = [PatchEmbed(length, img_size, dim) for length in lengths]
        self.proj = each[-1].proj
        self.paddings = [embed.padding for embed in each]
        self.kernels = [embed.proj.kernel_size for embed in each]

    def spread(self) -> None:
        """Nothing to do: all lengths share it."""

    def forward(self, frames: Tensor, i: int) -> Tensor:
        return _embed(frames, self.paddings[i], self.kernel(i), self.proj.bias, self.kernels[i])

    def kernel(self, i: int) -> Tensor:
        """The kernel `(dim, C, rows, columns)` that length `i` makes of the one."""
        raise NotImplementedError

    def weights(self, i: int) -> dict[str, Tensor]:
        """What length `i` reads, as the state of a patch embedding of that length alone."""
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
    """One large kernel; a longer length uses its centre (Table 3's ablation, after Once-for-All)."""

    def __init__(self, lengths: Sequence[TokenLength], img_size: int, dim: int) -> None:
        _check_nested(lengths)
        super().__init__(lengths, img_size, dim)

    def kernel(self, i: int) -> Tensor:
        rows, columns = self.kernels[i]
        top = (self.proj.weight.shape[-2] - rows) // 2
        left = (self.proj.weight.shape[-1] - columns) // 2
        return self.proj.weight[..., top : top + rows, left : left + columns]


class ResizedPatchEmbed(OnePatchEmbed):
    """One kernel, resampled to each length's patch by the pseudo-inverse of resizing (FlexiViT).

    So far as the kernel reads nothing finer than a smaller patch can show, a patch and the same patch made
    smaller have the same token.
    """

    def __init__(self, lengths: Sequence[TokenLength], img_size: int, dim: int) -> None:
        super().__init__(lengths, img_size, dim)
        for i, (rows, columns) in enumerate(self.kernels):
            self.register_buffer(f"down{i}", _resampling(self.kernels[-1][0], rows), persistent=False)
            self.register_buffer(f"across{i}", _resampling(self.kernels[-1][1], columns), persistent=False)

    def kernel(self, i: int) -> Tensor:
        if self.kernels[i] == self.kernels[-1]:
            return self.proj.weight
        # In the kernel's own precision: in bfloat16 the sums would lose what tells pixels apart.
        with torch.autocast(self.proj.weight.device.type, enabled=False):
            return self.get_buffer(f"down{i}") @ self.proj.weight @ self.get_buffer(f"across{i}").mT


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


class OnePositionEmbed(nn.Module):
    """One position embedding of all lengths: `pos_embed.grid` `(1, dim, h, w)` of the length `learned`.

    Its special tokens, `pos_embed.special`, are shared as well.
    """

    def __init__(
        self, lengths: Sequence[TokenLength], num_special: Sequence[int], dim: int, learned: TokenLength
    ) -> None:
        super().__init__()
        self.lengths, self.num_special = tuple(lengths), tuple(num_special)
        self.special = nn.Parameter(torch.zeros(1, max(num_special), dim))
        self.grid = nn.Parameter(torch.zeros(1, dim, learned.h, learned.w))

    def __getitem__(self, i: int) -> Tensor:
        places = self.places(i).flatten(2).transpose(1, 2)
        return torch.cat([self.special[:, : self.num_special[i]], places], dim=1)

    def places(self, i: int) -> Tensor:
        """The grid `(1, dim, h, w)` that length `i` makes of the one."""
        raise NotImplementedError

    @torch.no_grad()
    def set_grid(self, grid: Tensor) -> None:
        """Sets the places from `grid` `(h, w, dim)` of the longest length, resampled to those learned."""
        self.grid.copy_(_resize(grid.permute(2, 0, 1)[None], self.grid.shape[2:]))

    def spread(self) -> None:
        """Nothing to do: all lengths share it."""

    @torch.no_grad()
    def separate(self) -> PositionEmbeds:
        """The same embeddings, each with places of its own."""
        embeds = PositionEmbeds(self.lengths, self.num_special, self.grid.shape[1])
        for i in range(len(self.lengths)):
            embeds[i] = nn.Parameter(self[i], self.grid.requires_grad)
        return embeds


class SharedPositionEmbed(OnePositionEmbed):
    """One position embedding, zero-padded to the longer grids (Table 3's ablation).

    The grid of the shortest length is what is learned; a longer grid holds it in its centre.
    """

    def __init__(self, lengths: Sequence[TokenLength], num_special: Sequence[int], dim: int) -> None:
        _check_nested(lengths)
        super().__init__(lengths, num_special, dim, lengths[-1])

    def places(self, i: int) -> Tensor:
        rows = self.lengths[i].h - self.lengths[-1].h
        columns = self.lengths[i].w - self.lengths[-1].w
        return F.pad(self.grid, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


class ResizedPositionEmbed(OnePositionEmbed):
    """One position embedding, that of the longest length, interpolated to the shorter grids (FlexiViT)."""

    def __init__(self, lengths: Sequence[TokenLength], num_special: Sequence[int], dim: int) -> None:
        super().__init__(lengths, num_special, dim, lengths[0])

    def places(self, i: int) -> Tensor:
        return _resize(self.grid, (self.lengths[i].h, self.lengths[i].w))


PATCH_EMBEDS: Mapping[str, type[OnePatchEmbed]] = {"shared": SharedPatchEmbed, "resized": ResizedPatchEmbed}
POSITION_EMBEDS: Mapping[str, Callable[..., PositionEmbeds | OnePositionEmbed]] = {
    "per_length": PositionEmbeds,
    "shared": SharedPositionEmbed,
    "resized": ResizedPositionEmbed,
}


def separate_embeddings(model: nn.Module) -> None:
    """Gives every length of `model` embeddings of its own where lengths share them; its answers stay."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, OnePatchEmbed | OnePositionEmbed):
                setattr(module, name, child.separate())


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


def _copy_convs(source: PatchEmbed, target: PatchEmbed) -> bool:
    """Copies a stem's convolutions up to the first of another shape; whether there was none."""
    theirs, ours = (
        [conv.weight for conv, _ in embed.layers()] if isinstance(embed, Stem) else []
        for embed in (source, target)
    )
    for weight, own in zip(theirs, ours, strict=False):
        if weight.shape != own.shape:
            return False
        own.copy_(weight)
    return len(theirs) == len(ours)


def _resampling(size: int, target: int) -> Tensor:
    """What resamples the sides of kernels from `size` to `target` pixels, `(target, size)`.

    Rows and columns are resampled one after the other, since resizing is.
    """
    return resample_patch_embed(torch.eye(size)[:, None, None], [1, target])[:, 0, 0].T.contiguous()


def _resize(grid: Tensor, size: Sequence[int]) -> Tensor:
    """Places `(1, dim, h, w)` on a grid of `size`."""
    if grid.shape[2:] == torch.Size(size):
        return grid
    return F.interpolate(grid, list(size), mode="bicubic", antialias=True)


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
