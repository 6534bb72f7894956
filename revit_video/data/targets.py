"""What the clips of a batch, and their patch tokens, should be classified as."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from revit_video.data.token_labels import TokenLabels
from revit_video.length import Box, TokenLength, cells_of


@dataclass(frozen=True)
class Targets:
    """The labels of a batch of B clips, where there is more to say than one label for each.

    Modifications (of LV-ViT's public code): there, with label maps, a clip's own label is not used: the class
    head learns what the map shows within the crop. Here, as in its paper, it learns the clip's label.

    Attributes:
        labels: class indices `(B,)`, or the share of each class in clips that are mixed `(B, classes)`.
        token_labels: what the tokens show; None if all should tell their clip's label.
        box: where MixToken puts tokens of clip B - 1 - b in place of those of clip b; None for nowhere.
    """

    labels: Tensor
    token_labels: TokenLabels | None = None
    box: Box | None = None

    @classmethod
    def of(cls, labels: Tensor | Targets) -> Targets:
        """Plain labels as targets; targets as they are."""
        return cls(labels) if isinstance(labels, Tensor) else labels

    def __len__(self) -> int:
        return len(self.labels)

    def chunk(self, parts: int) -> list[Targets]:
        """Cuts the batch as `Tensor.chunk` does; each part is mixed within itself, by the same box."""
        labels = self.labels.chunk(parts)
        if self.token_labels is None:
            return [replace(self, labels=part) for part in labels]
        maps, boxes = self.token_labels.maps.chunk(parts), self.token_labels.boxes.chunk(parts)
        return [
            Targets(own, TokenLabels(*token_labels), self.box)
            for own, *token_labels in zip(labels, maps, boxes, strict=True)
        ]

    def of_clips(self, length: TokenLength, num_classes: int) -> Tensor:
        """Class indices `(B,)`, or shares `(B, classes)`; clips are mixed by the tokens that the box takes.

        These are not the same part of every grid: of 10 x 10, no whole cells are what those of 7 x 7 are.
        """
        if self.box is None:
            return self.labels
        top, left, bottom, right = cells_of(self.box, length)
        taken = (bottom - top) * (right - left) / length.count
        shares = self._shares(num_classes)
        return (1 - taken) * shares + taken * shares.flip(0)

    def of_tokens(self, length: TokenLength, num_classes: int) -> Tensor:
        """Shares of the classes in each clip's own tokens `(B, N, classes)`; the box mixes none of them."""
        if self.token_labels is None:
            return self._shares(num_classes).unsqueeze(1).expand(-1, length.count, -1)
        return self.token_labels.at(length, num_classes)

    def _shares(self, num_classes: int) -> Tensor:
        if self.labels.dim() == 2:
            return self.labels
        return F.one_hot(self.labels, num_classes).float()
