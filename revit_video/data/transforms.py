"""Augmentation and views of uint8 clips (C, T, H, W). Every random draw comes from an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torchvision.transforms.v2 import InterpolationMode, functional

from revit_video.length import Box

Augmentation = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""uint8 clip (C, T, H, W), generator -> clip of the same shape."""

CROP_STRETCH = 4 / 3  # largest aspect ratio of a crop of random area, either way
FINE = 4096  # parts of a frame's sides, in which a crop of a squashed frame is drawn


class TrainTransform:
    """Random crop, flip, photometric jitter and further augmentations, the same for all frames of a clip.

    Call `draw_short_side` first, decode the clip at that size, then call the transform. With `areas`, frames
    keep the file's size, and a box of random area and aspect ratio is scaled to the crop (torchvision's
    RandomResizedCrop).

    Args:
        jitter_scales: smallest and largest short side in pixels, both included.
        crop_size: side of the square crop in pixels, at most the smallest short side.
        flip: mirror half of the clips; not for classes that tell left from right.
        brightness, contrast, saturation: 0.4 is a factor between 0.6 and 1.4; 0 is off.
        areas: smallest and largest fraction of the frame's area in a crop; empty to scale by `jitter_scales`.
        augmentations: applied last, in this order.
        squash: a crop's aspect ratio is relative to the frame's; without `areas` it is the whole frame.
    """

    def __init__(
        self,
        jitter_scales: Sequence[int],
        crop_size: int,
        flip: bool,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        areas: Sequence[float] = (),
        augmentations: Sequence[Augmentation] = (),
        squash: bool = False,
    ) -> None:
        self.jitter_scales = tuple(jitter_scales)
        self.crop_size = crop_size
        self.flip = flip
        self.areas = tuple(areas) or ((1.0, 1.0) if squash else ())
        self.squash = squash
        self.augmentations = tuple(augmentations)
        self._adjustments = [
            (adjust, strength)
            for adjust, strength in (
                (functional.adjust_brightness, brightness),
                (functional.adjust_contrast, contrast),
                (functional.adjust_saturation, saturation),
            )
            if strength > 0
        ]

    def draw_short_side(self, generator: torch.Generator) -> int | None:
        """A short side in pixels, uniform over the jitter scales; None for the file's own."""
        if self.areas:
            return None
        smallest, largest = self.jitter_scales
        return _draw_integer(smallest, largest, generator)

    def __call__(self, clip: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, Box]:
        """Crop and augment a clip that is scaled to the drawn short side.

        Args:
            clip: uint8 (C, T, H, W).

        Returns:
            The clip, uint8 (C, T, crop, crop), and the box that was cut out. Of a mirrored clip, the box's
            left is larger than its right. Geometric `augmentations` do not change it.
        """
        height, width = clip.shape[-2:]
        top, left, high, wide = cut = self._draw_cut(height, width, generator)
        box = top / height, left / width, (top + high) / height, (left + wide) / width
        if self.areas:
            size = [self.crop_size, self.crop_size]
            frames = functional.resized_crop(clip.transpose(0, 1), *cut, size, InterpolationMode.BICUBIC)
            clip = frames.transpose(0, 1)
        else:
            clip = clip[..., top : top + high, left : left + wide]
        if self.flip and torch.rand((), generator=generator) < 0.5:
            clip = clip.flip(-1)
            box = box[0], box[3], box[2], box[1]
        frames = clip.transpose(0, 1)  # torchvision expects (…, C, H, W)
        for adjust, strength in self._adjustments:
            factor = 1 + strength * (2 * torch.rand((), generator=generator).item() - 1)
            frames = adjust(frames, max(factor, 0.0))
        clip = frames.transpose(0, 1)
        for augment in self.augmentations:
            clip = augment(clip, generator)
        return clip.contiguous(), box

    def _draw_cut(self, height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
        """Top, left, height and width in pixels of the part to cut out."""
        if not self.areas:
            top = _draw_integer(0, height - self.crop_size, generator)
            left = _draw_integer(0, width - self.crop_size, generator)
            return top, left, self.crop_size, self.crop_size
        if self.squash:
            shape = height, width, height, width
            parts = draw_cut(FINE, FINE, self.areas, CROP_STRETCH, generator) or (0, 0, FINE, FINE)
            top, left, high, wide = (n * side // FINE for n, side in zip(parts, shape, strict=True))
            return top, left, max(high, 1), max(wide, 1)
        cut = draw_cut(height, width, self.areas, CROP_STRETCH, generator)
        if cut is not None:
            return cut
        # A frame more elongated than any crop: its centre.
        high, wide = min(height, round(width * CROP_STRETCH)), min(width, round(height * CROP_STRETCH))
        return (height - high) // 2, (width - wide) // 2, high, wide


def draw_cut(
    height: int, width: int, areas: Sequence[float], stretch: float, generator: torch.Generator
) -> tuple[int, int, int, int] | None:
    """A random part of a frame: top, left, height, width in pixels; None if none of ten draws fits.

    Args:
        areas: smallest and largest fraction of the frame's area.
        stretch: largest ratio of the longer to the shorter side.
    """
    for _ in range(10):
        area, place = torch.rand(2, generator=generator).tolist()
        pixels = height * width * (areas[0] + area * (areas[1] - areas[0]))
        ratio = stretch ** (2 * place - 1)  # tall and wide are equally likely
        high, wide = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < high <= height and 0 < wide <= width:
            top = _draw_integer(0, height - high, generator)
            left = _draw_integer(0, width - wide, generator)
            return top, left, high, wide
    return None


def spatial_crops(clip: torch.Tensor, size: int, num_crops: int) -> torch.Tensor:
    """Evenly spaced square crops along the longer side, from the left or top; a single crop is the centre.

    Args:
        clip: (C, T, H, W), both sides at least `size`.
        num_crops: V, 1 or more.

    Returns:
        (V, C, T, size, size).
    """
    spare_h, spare_w = clip.shape[-2] - size, clip.shape[-1] - size
    views = []
    for step in range(num_crops):
        place = step / (num_crops - 1) if num_crops > 1 else 0.5
        top = round(spare_h * (place if spare_h > spare_w else 0.5))
        left = round(spare_w * (0.5 if spare_h > spare_w else place))
        views.append(clip[..., top : top + size, left : left + size])
    return torch.stack(views)


def squashed(clip: torch.Tensor, size: int) -> torch.Tensor:
    """The whole frames of a clip (C, T, H, W), scaled to (C, T, size, size)."""
    return functional.resize(clip, [size, size], antialias=True)


class Normalize(nn.Module):
    """uint8 (B, C, T, H, W) -> float32 `(x / 255 - mean) / std`, on the device the clips are on.

    Clips are sent to the device as bytes, a quarter of the traffic of floats.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        deviation = torch.tensor(std).view(-1, 1, 1, 1)
        self.register_buffer("scale", 1 / (255 * deviation), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean).view(-1, 1, 1, 1) / deviation, persistent=False)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return clips * self.scale + self.shift


def _draw_integer(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))
