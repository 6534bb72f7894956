"""The augmentations of DeiT's recipe, for clips of any number of frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import posterize, rand_augment_transform
from torch import Tensor

from revit_video.data.transforms import draw_cut
from revit_video.length import Box, TokenLength
from revit_video.runtime.rng import global_seed

ERASED_AREA = (0.02, 1 / 3)  # of the frame
ERASED_STRETCH = 1 / 0.3


class RandAugment:
    """timm's RandAugment, the same for all frames of a clip.

    Args:
        policy: in timm's notation, such as `rand-m9-mstd0.5-inc1`.
        crop_size: side of the frames in pixels; shifts are relative to it.
        mean: colour in 0..1 of the areas that a shift or rotation uncovers.
    """

    def __init__(self, policy: str, crop_size: int, mean: Sequence[float]) -> None:
        settings = {
            "translate_const": int(0.45 * crop_size),
            "img_mean": tuple(round(255 * value) for value in mean),
            "interpolation": Image.Resampling.BICUBIC,
        }
        self._augment = rand_augment_transform(policy, settings)
        for operation in self._augment.ops:
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize

    def __call__(self, clip: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 (C, T, H, W) -> the same shape; `generator` determines all draws."""
        seed = int(torch.randint(2**32, (), generator=generator))
        frames = []
        for frame in clip.permute(1, 2, 3, 0):
            with global_seed(seed):
                frames.append(np.array(self._augment(Image.fromarray(frame.numpy()))))
        return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep the highest `bits` of each colour; newer Pillow rejects 0 bits, which is black."""
    return posterize(image, bits) if bits else image.point(lambda _: 0)


class RandomErasing:
    """Replace a box of 2 to 33 % of the frame by noise, the same box in all frames of a clip.

    Modifications (of timm's, which works on normalised images): the noise has the data's mean and standard
    deviation, clamped to bytes.

    Args:
        probability: that a clip is changed.
        mean, std: of the data's colours, in 0..1.
    """

    def __init__(self, probability: float, mean: Sequence[float], std: Sequence[float]) -> None:
        self.probability = probability
        self._mean, self._std = (255 * torch.tensor(values).view(-1, 1, 1, 1) for values in (mean, std))

    def __call__(self, clip: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 (C, T, H, W) -> the same shape."""
        if torch.rand((), generator=generator) >= self.probability:
            return clip
        height, width = clip.shape[-2:]
        cut = draw_cut(height, width, ERASED_AREA, ERASED_STRETCH, generator)
        if cut is None:
            return clip
        top, left, height, width = cut
        noise = torch.randn(*clip.shape[:2], height, width, generator=generator) * self._std + self._mean
        clip = clip.clone()
        clip[..., top : top + height, left : left + width] = noise.clamp(0, 255).to(torch.uint8)
        return clip


class Mixing:
    """timm's mixup and CutMix: clip b of a batch of B is mixed with clip B − 1 − b.

    Args:
        mixup, cutmix: α of the Beta distribution of the shares; 0 for off.
        probability: that a batch is mixed.
        switch: probability of CutMix if both are on.
    """

    def __init__(
        self, mixup: float, cutmix: float, probability: float, switch: float, num_classes: int, seed: int = 0
    ) -> None:
        self._mix = Mixup(
            mixup, cutmix, None, probability, switch, label_smoothing=0.0, num_classes=num_classes
        )
        self._seed = seed

    def __call__(self, clips: Tensor, labels: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        """Clips `(B, C, T, H, W)`, overwritten, and labels `(B,)` -> clips, labels `(B, classes)`.

        An odd batch (a clip was unreadable) is returned unchanged.
        """
        if len(labels) % 2:
            return clips, labels
        seed = np.random.SeedSequence((self._seed, epoch, batch)).generate_state(1)
        with global_seed(int(seed[0])):
            mixed, labels = self._mix(clips.flatten(1, 2), labels)
        return mixed.view_as(clips), labels


class MixToken:
    """LV-ViT's MixToken: within a box, the clips of a batch exchange their patch tokens.

    The box is CutMix's: it covers 1 - λ of the frame, λ ~ Beta(α, α), has the frame's aspect ratio and a
    uniformly drawn centre, and is clipped to the frame.

    Modifications (of LV-ViT's public code, which draws on the grid of its one token length): the box is
    rounded to the grid of the shortest length, so that teacher and students see the same mix: exactly if
    the grids nest, as 7 x 7 and 14 x 14 do, else approximately.

    Args:
        alpha: α.
        probability: that a batch is mixed.
        coarsest: the shortest token length.
    """

    def __init__(self, alpha: float, probability: float, coarsest: TokenLength, seed: int = 0) -> None:
        self._alpha, self._probability, self._seed = alpha, probability, seed
        self._coarsest = coarsest

    def __call__(self, epoch: int, batch: int) -> Box | None:
        """The box of a batch, the same on all ranks; None if it is empty or the batch is not mixed."""
        random = np.random.default_rng((self._seed, epoch, batch))
        mixed = random.random() < self._probability
        half = np.sqrt(1 - random.beta(self._alpha, self._alpha)) / 2
        cells = np.array([self._coarsest.h, self._coarsest.w])
        place = random.random(2)
        start, end = (np.round((place + side).clip(0, 1) * cells) for side in (-half, half))
        if not mixed or (start == end).any():
            return None
        (top, left), (bottom, right) = (start / cells).tolist(), (end / cells).tolist()
        return top, left, bottom, right
