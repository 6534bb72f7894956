"""Training targets of the clips of a batch and of their patch tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from revit_video.data.token_labels import TokenLabels
from revit_video.length import Box, TokenLength, cells_of


@dataclass(frozen=True)
class Targets:
    """Labels of a batch of B clips with token labels, mixed labels or MixToken.

    Modifications (of LV-ViT's public code): there, with label maps, the class head learns the map's content
    within the crop. Here, as in LV-ViT's paper, it learns the clip's own label.

    Attributes:
        labels: class indices `(B,)`, or class shares of mixed clips `(B, classes)`.
        token_labels: soft labels of the patch tokens; None if all tokens learn their clip's label.
        box: in which MixToken replaces the tokens of clip b by those of clip B - 1 - b; None for off.
    """

    labels: Tensor
    token_labels: TokenLabels | None = None
    box: Box | None = None

    @classmethod
    def of(cls, labels: Tensor | Targets) -> Targets:
        """Wrap plain labels; return targets unchanged."""
        return cls(labels) if isinstance(labels, Tensor) else labels

    def __len__(self) -> int:
        return len(self.labels)

    def chunk(self, parts: int) -> list[Targets]:
        """Split the batch like `Tensor.chunk`; each part is mixed within itself, with the same box."""
        labels = self.labels.chunk(parts)
        if self.token_labels is None:
            return [replace(self, labels=part) for part in labels]
        maps, boxes = self.token_labels.maps.chunk(parts), self.token_labels.boxes.chunk(parts)
        return [
            Targets(own, TokenLabels(*token_labels), self.box)
            for own, *token_labels in zip(labels, maps, boxes, strict=True)
        ]

    def of_clips(self, length: TokenLength, num_classes: int) -> Tensor:
        """Class indices `(B,)`, or class shares `(B, classes)`, mixed by the share of tokens in the box.

        That share depends on the length, because the box is rounded to whole cells of its grid.
        """
        if self.box is None:
            return self.labels
        top, left, bottom, right = cells_of(self.box, length)
        taken = (bottom - top) * (right - left) / length.count
        shares = self._shares(num_classes)
        return (1 - taken) * shares + taken * shares.flip(0)

    def of_tokens(self, length: TokenLength, num_classes: int) -> Tensor:
        """Class shares of each clip's own tokens, before MixToken `(B, N, classes)`."""
        if self.token_labels is None:
            return self._shares(num_classes).unsqueeze(1).expand(-1, length.count, -1)
        return self.token_labels.at(length, num_classes)

    def _shares(self, num_classes: int) -> Tensor:
        if self.labels.dim() == 2:
            return self.labels
        return F.one_hot(self.labels, num_classes).float()
