"""ReViT-E: all token lengths in parallel, one per rank (paper section 3.2, Fig. 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from revit_video.data.targets import Targets
from revit_video.length import TokenLength
from revit_video.runtime.ranks import broadcast_from_longest
from revit_video.train.steps import MixedLengthStep


class ReplicaStep(MixedLengthStep):
    """One batch at this rank's token length; its length group runs the same batch at the other lengths.

    After `Gradients.sum` the gradients equal those of `MixedLengthStep`. A step takes as long as one of
    the longest length. `ranks` come from `in_length_groups`.

    Modifications:
        The longest length's rank broadcasts its logits to its group. The others wait for them only to compute
        their loss, so that all forward passes run in parallel.
        The paper sums gradients on the longest length's rank, which sends out new weights. Here gradients are
        all-reduced, and every rank makes the same update.
    """

    def prepare(self, batch: int) -> None:
        self.graphed.record([self.model.lengths[self.ranks.length_rank]], batch, self.ranks.device)

    def __call__(self, inputs: Tensor, labels: Tensor | Targets) -> dict[str, Tensor]:
        targets = Targets.of(labels)
        own = self.model.lengths[self.ranks.length_rank]
        if not self._distils():
            metrics = self._backward(own, self._forward(inputs, own, targets), targets)
        elif self.ranks.length_rank == 0:
            metrics = self._as_teacher(own, inputs, targets)
        else:
            metrics = self._as_student(own, inputs, targets)
        return self._of_all_lengths(metrics)

    def _as_teacher(self, length: TokenLength, inputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        output = self._forward(inputs, length, targets)
        logits = self._logits_buffer(len(targets)).copy_(output.cls.detach())
        work = broadcast_from_longest(logits, self.ranks)
        metrics = self._backward(length, output, targets)
        work.wait()
        return metrics

    def _as_student(self, length: TokenLength, inputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        logits = self._logits_buffer(len(targets))
        work = broadcast_from_longest(logits, self.ranks)
        output = self._forward(inputs, length, targets)
        work.wait()
        return self._backward(length, output, targets, logits)

    def _logits_buffer(self, batch: int) -> Tensor:
        """Empty `(batch, classes)` in the dtype of the weights, which holds logits of autocast exactly."""
        return self.model.example.new_empty(batch, self.model.num_classes)

    def _distils(self) -> bool:
        return self.ranks.length_size > 1 and super()._distils()

    def _of_all_lengths(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """Metrics of all lengths, scaled so that their means over the ranks are each length's own values."""
        metrics = {}
        for length in self.model.lengths:
            for name, value in zip(("loss", "top1"), own.values(), strict=True):
                key = f"{name}_{length}"
                metrics[key] = value * self.ranks.length_size if key in own else torch.zeros_like(value)
        return metrics
