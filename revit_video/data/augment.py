"""The stronger augmentation of image training, as DeiT's recipe has it, for clips of any number of frames."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from revit_video.data.transforms import draw_box

ERASED_AREA = (0.02, 1 / 3)  # of the frame
ERASED_STRETCH = 1 / 0.3


class RandAugment:
    """timm's RandAugment, the same for all frames of a clip.

    Args:
        policy: timm's words for it, such as `rand-m9-mstd0.5-inc1`.
        crop_size: side of the frames in pixels, of which shifts are fractions.
        mean: colour in 0..1 that fills what comes into view.
    """

    def __init__(self, policy: str, crop_size: int, mean: Sequence[float]) -> None:
        settings = {
            "translate_const": int(0.45 * crop_size),
            "img_mean": tuple(round(255 * value) for value in mean),
            "interpolation": Image.Resampling.BICUBIC,
        }
        self._augment = rand_augment_transform(policy, settings)

    def __call__(self, clip: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 (C, T, H, W) -> the same shape; all draws follow from `generator`."""
        seed = int(torch.randint(2**32, (), generator=generator))
        frames = []
        for frame in clip.permute(1, 2, 3, 0):
            with global_seed(seed):
                frames.append(np.array(self._augment(Image.fromarray(frame.numpy()))))
        return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)


class RandomErasing:
    """Puts noise in place of a box of 2 to 33 % of the frame, the same box in all frames of a clip.

    Modifications (of timm's, which works on normalised images): the noise has the data's mean and deviation
    as far as bytes can hold it.

    Args:
        probability: of erasing at all.
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
        box = draw_box(height, width, ERASED_AREA, ERASED_STRETCH, generator)
        if box is None:
            return clip
        top, left, height, width = box
        noise = torch.randn(*clip.shape[:2], height, width, generator=generator) * self._std + self._mean
        clip = clip.clone()
        clip[..., top : top + height, left : left + width] = noise.clamp(0, 255).to(torch.uint8)
        return clip


class Mixing:
    """timm's mixup and CutMix: each clip of a batch is mixed with the one as far from the batch's end.

    Args:
        mixup, cutmix: α of the Beta distribution that the shares are drawn from; 0 leaves that one out.
        probability: of mixing a batch at all.
        switch: probability of CutMix where both are in.
    """

    def __init__(
        self, mixup: float, cutmix: float, probability: float, switch: float, num_classes: int, seed: int = 0
    ) -> None:
        self._mix = Mixup(
            mixup, cutmix, None, probability, switch, label_smoothing=0.0, num_classes=num_classes
        )
        self._seed = seed

    def __call__(self, clips: Tensor, labels: Tensor, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
        """Clips `(B, C, T, H, W)`, which are overwritten, and labels `(B,)` -> clips, labels `(B, classes)`.

        An odd batch, which lacks a clip that could not be read, is returned as it is.
        """
        if len(labels) % 2:
            return clips, labels
        seed = np.random.SeedSequence((self._seed, epoch, batch)).generate_state(1)
        with global_seed(int(seed[0])):
            mixed, labels = self._mix(clips.flatten(1, 2), labels)
        return mixed.view_as(clips), labels


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Inside, the global generators of Python and NumPy, which timm draws from, start from `seed` (32 bits).

    Outside they go on as if nothing had been.
    """
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
