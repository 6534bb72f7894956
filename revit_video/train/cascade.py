"""Training DVT, the baseline: all of its models learn together."""

from __future__ import annotations

import torch
from torch import Tensor

from revit_video.models.base import ResizableModel
from revit_video.train.losses import label_loss
from revit_video.train.steps import top1


class CascadeStep:
    """One mini-batch through the cascade; the cross-entropies of all lengths are added up.

    Nothing is detached: a model also learns what the longer ones can make of its tokens and attention.

    Args:
        smoothing: label smoothing of every cross-entropy.
        autocast: dtype of mixed precision, None for full precision.
    """

    def __init__(
        self, model: ResizableModel, smoothing: float = 0.0, autocast: torch.dtype | None = None
    ) -> None:
        self.model, self.smoothing, self.autocast = model, smoothing, autocast

    def __call__(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        with torch.autocast(inputs.device.type, self.autocast, enabled=self.autocast is not None):
            longest_first = self.model.forward_all(inputs)
        losses = [label_loss(output, labels, self.smoothing) for output in longest_first]
        torch.stack(losses).sum().backward()
        metrics: dict[str, Tensor] = {}
        for length, output, loss in zip(self.model.lengths, longest_first, losses, strict=True):
            metrics |= {f"loss_{length}": loss.detach(), f"top1_{length}": top1(output, labels)}
        return metrics

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass
