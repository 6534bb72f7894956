"""From the pixels of a frame to the tokens of one length: patches, alone or after convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from revit_video.length import TokenLength, halved, patch_geometry, stem_geometry

if TYPE_CHECKING:
    from revit_video.models.soft_split import SoftSplitStem


class PatchEmbed(nn.Module):
    """Linear projection of non-overlapping patches, as a convolution with kernel = stride = patch.

    A side that is no multiple of the cells is zero-padded evenly (`patch_geometry`). A tubelet's frames are
    given one after the other as channels.
    """

    def __init__(self, length: TokenLength, img_size: int, dim: int, in_chans: int = 3) -> None:
        super().__init__()
        rows, top, bottom = patch_geometry(img_size, length.h)
        columns, left, right = patch_geometry(img_size, length.w)
        self.padding = (left, right, top, bottom)  # in the order of F.pad
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=(rows, columns), stride=(rows, columns))

    def forward(self, frames: Tensor) -> Tensor:
        """`(F, C, H, W)` -> `(F, N, dim)`."""
        return project(frames, self.padding, self.proj.weight, self.proj.bias)


class Stem(PatchEmbed):
    """Convolutions, each followed by a batch norm and a ReLU, then `PatchEmbed`.

    Parameters are `conv<k>`, `bn<k>` from 1 on, and `proj`, as in LV-ViT.

    Args:
        convs: convolutions without bias.
        size: side of their output for a frame, in pixels.
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
        """Fuse each batch norm into the convolution before it, for inference."""
        for k, (conv, norm) in enumerate(self.layers(), 1):
            dtype = conv.weight.dtype
            self.add_module(f"conv{k}", fuse_conv_bn_eval(conv.double(), norm.double().eval()).to(dtype))
            self.add_module(f"bn{k}", nn.Identity())


class ConvStem(Stem):
    """3x3 convolutions of stride 2 (paper section 4, after Xiao et al.); `stem_geometry` says how many.

    The projection is 1x1 where they reach the grid itself. Channels double with every halving.
    """

    def __init__(self, length: TokenLength, img_size: int, dim: int, in_chans: int = 3) -> None:
        halvings, doublings = stem_geometry(img_size, length, dim)
        channels = [in_chans, *(dim // 2 ** (doublings - k) for k in range(1, halvings + 1))]
        convs = [
            nn.Conv2d(fan_in, fan_out, kernel_size=3, stride=2, padding=1, bias=False)
            for fan_in, fan_out in zip(channels, channels[1:], strict=False)
        ]
        super().__init__(convs, length, img_size // 2**halvings, dim)


class LVViTStem(Stem):
    """LV-ViT's: 7x7 of stride 2 and twice 3x3, 64 channels each, then patches of the halved frame."""

    def __init__(self, length: TokenLength, img_size: int, dim: int, in_chans: int = 3) -> None:
        size = halved(img_size)
        convs = [nn.Conv2d(in_chans, 64, kernel_size=7, stride=2, padding=3, bias=False)]
        convs += [nn.Conv2d(64, 64, kernel_size=3, padding=1, bias=False) for _ in range(2)]
        super().__init__(convs, length, size, dim)


STEMS: Mapping[str, type[PatchEmbed]] = {"patch": PatchEmbed, "conv": ConvStem, "lvvit": LVViTStem}


def stem_named(name: str) -> type[PatchEmbed] | type[SoftSplitStem]:
    """One of `STEMS`, or `t2t`, which few models need."""
    if name == "t2t":
        from revit_video.models.soft_split import SoftSplitStem

        return SoftSplitStem
    return STEMS[name]


def project(frames: Tensor, padding: tuple[int, ...], kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Tokens `(F, N, dim)` of padded `frames` `(F, C, H, W)`: a convolution with stride = kernel size."""
    if any(padding):
        frames = F.pad(frames, padding)
    if frames.is_cuda:  # cuDNN takes two to six times as long (docs/benchmarks.md)
        return project_by_product(frames, kernel, bias)
    return F.conv2d(frames, kernel, bias, stride=kernel.shape[2:]).flatten(2).transpose(1, 2)


def project_by_product(frames: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """The same as one matrix product; the sides of `frames` are multiples of the kernel's."""
    rows, columns = kernel.shape[2:]
    patches = frames.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))  # (F, C, h, rows, w, columns)
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    return F.linear(patches, kernel.flatten(1), bias)


def copy_convs(source: PatchEmbed, target: PatchEmbed) -> bool:
    """Copy a stem's convolutions up to the first of another shape; True if all were copied."""
    theirs, ours = (
        [conv.weight for conv, _ in embed.layers()] if isinstance(embed, Stem) else []
        for embed in (source, target)
    )
    for weight, own in zip(theirs, ours, strict=False):
        if weight.shape != own.shape:
            return False
        own.copy_(weight)
    return len(theirs) == len(ours)
