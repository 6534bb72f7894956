"""Token labels: soft class labels of each patch, predicted by a larger model (LV-ViT, Jiang et al. 2021)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from revit_video.data.video import DecodeError, is_image
from revit_video.length import TokenLength
from revit_video.runtime.archive import damage
from revit_video.runtime.output_dir import open_ordinary

_MOST_BYTES = 1 << 20  # of a map's file, which has 6.5 kB in the public ones
_TRIED = 10  # label maps, until one can be read that gives the shape of all


class TokenLabelMaps:
    """Label maps on disk, in the layout of LV-ViT's public code: `<folder>/<class folder>/<image's name>.pt`.

    A map is a tensor `(2, K, H, W)` over a grid on the whole image: the K highest logits of each cell, then
    their class indices. The public maps, of NFNet-F6 on ImageNet's training images, have K = 5 on 18 x 18
    cells, in half precision.

    Args:
        images: paths of all images, each in a folder named after its class.
        num_classes: bound of the class indices in the maps.

    Raises:
        ValueError: a folder is missing, a file is not an image, or none of the first maps can be read.
    """

    def __init__(self, folder: str, images: Sequence[str], num_classes: int) -> None:
        self._folder, self._num_classes = folder, num_classes
        self._shape: torch.Size | None = None
        if not os.path.isdir(folder):
            raise ValueError(f"DATA.TOKEN_LABELS: no such folder: {folder!r}")
        classes: dict[str, str] = {}
        for image in images:
            if not is_image(image):
                raise ValueError(f"DATA.TOKEN_LABELS: label maps are of images, but {image} is none")
            classes.setdefault(os.path.dirname(self._path(image)), image)
        for own, image in classes.items():
            if not os.path.isdir(own):
                raise ValueError(f"DATA.TOKEN_LABELS: no such folder: {own!r}, for the label map of {image}")
        self._shape = self._first_shape(images)

    def read(self, image: str) -> Tensor:
        """The label map of an image, float32 `(2, K, H, W)`, of the same shape for all images.

        Raises:
            DecodeError: it is missing or malformed.
        """
        path = self._path(image)
        try:
            with open_ordinary(path) as file:
                if (size := os.fstat(file.fileno()).st_size) > _MOST_BYTES:
                    raise DecodeError(image, f"label map {path}: {size} bytes long, more than any map is")
                if reason := damage(path):
                    raise DecodeError(image, f"label map {path}: {reason}")
                file.seek(0)
                label_map = torch.load(file, "cpu", weights_only=True)
        except DecodeError:
            raise
        except FileNotFoundError:
            raise DecodeError(image, f"no label map {path}") from None
        except OSError as error:
            raise DecodeError(image, f"label map {path}: {error.strerror or error}") from None
        except Exception:  # torch raises many types for arbitrary bytes
            raise DecodeError(image, f"label map {path}: damaged, or more than a tensor") from None
        if problem := self._problem(label_map):
            raise DecodeError(image, f"label map {path}: {problem}")
        return label_map.float()

    def _path(self, image: str) -> str:
        folder, name = os.path.split(image)
        return os.path.join(self._folder, os.path.basename(folder), os.path.splitext(name)[0] + ".pt")

    def _first_shape(self, images: Sequence[str]) -> torch.Size:
        """Shape of the first map that can be read."""
        reasons = []
        for image in islice(images, _TRIED):
            try:
                return self.read(image).shape
            except DecodeError as error:
                reasons.append(str(error))
        raise ValueError(f"DATA.TOKEN_LABELS: the first {len(reasons)} maps are unreadable; {reasons[0]}")

    def _problem(self, label_map: object) -> str | None:
        """Why a map is invalid, in a few words; None if it is valid."""
        if not isinstance(label_map, Tensor) or not label_map.is_floating_point():
            return "it holds no tensor of scores and classes"
        if label_map.dim() != 4 or len(label_map) != 2 or not label_map.numel():
            return f"its shape is {tuple(label_map.shape)}, not 2 x K x H x W"
        if label_map.numel() > _MOST_BYTES:
            return f"its shape is {tuple(label_map.shape)}, larger than any map's"
        if self._shape and label_map.shape != self._shape:
            return f"its shape is {tuple(label_map.shape)}, that of others {tuple(self._shape)}"
        scores, classes = label_map.float()
        if not scores.isfinite().all():
            return "it holds scores that are not finite"
        if not ((classes >= 0) & (classes < self._num_classes) & (classes == classes.round())).all():
            return f"it holds classes other than 0 to {self._num_classes - 1}"
        return None


@dataclass(frozen=True)
class TokenLabels:
    """The label maps of a batch of crops, and the box of each crop in its image.

    Modifications (of LV-ViT's public code):
        There, top and left of the crop are passed to RoIAlign as x and y, which transposes the crop. Here
        each token gets the label of its own position.
        There, the map follows the rotations, shears and shifts of RandAugment. Here it does not: after these,
        a token has the label of its position before them.

    Attributes:
        maps: `(B, 2, K, H, W)`, see `TokenLabelMaps`.
        boxes: `(B, 4)`, top, left, bottom and right of each crop, see `TrainTransform`.
    """

    maps: Tensor
    boxes: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> TokenLabels:
        """Apply `function` to both tensors."""
        return TokenLabels(function(self.maps), function(self.boxes))

    def at(self, length: TokenLength, num_classes: int) -> Tensor:
        """Class shares of each token `(B, N, classes)`, which add up to 1.

        As published: RoIAlign averages the logits over the token's area, counting 0 for classes that are not
        among a cell's K highest; then softmax.
        """
        top_scores, classes = self.maps.unbind(dim=1)
        batch, _, height, width = top_scores.shape
        scores = top_scores.new_zeros(batch, num_classes, height, width)
        scores.scatter_(1, classes.long(), top_scores)
        top, left, bottom, right = self.boxes.to(scores.dtype).unbind(dim=1)
        sides = left.minimum(right) * width, top * height, left.maximum(right) * width, bottom * height
        corners = torch.stack(sides, dim=1)
        number = torch.arange(batch, dtype=corners.dtype, device=corners.device)
        regions = torch.cat([number.unsqueeze(1), corners], dim=1)  # RoIAlign's order: image, x, y, x, y
        tokens = roi_align(scores, regions, (length.h, length.w), aligned=True)
        mirrored = (left > right).view(-1, 1, 1, 1)
        tokens = torch.where(mirrored, tokens.flip(-1), tokens)
        return F.softmax(tokens.flatten(2).transpose(1, 2), dim=-1)
