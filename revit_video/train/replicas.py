"""ReViT-E: all token lengths at the same time, each on a rank of its own (paper section 3.2, Fig. 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from revit_video.data.targets import Targets
from revit_video.length import TokenLength
from revit_video.runtime.ranks import broadcast_from_longest
from revit_video.train.steps import MixedLengthStep


class ReplicaStep(MixedLengthStep):
    """One mini-batch at this rank's token length; its length group reads the same one at the others.

    Once `reduce_gradients` has summed them over the lengths, the gradients are those of
    `MixedLengthStep`, in the time of the longest length. `ranks` come from `in_length_groups`.

    Modifications:
        The longest length's rank sends its logits to its group. The others wait for them only where
        their loss needs them, so that all forward passes run at the same time.
        The paper sums the gradients on the longest length's rank, which sends new weights out. Here
        all ranks get the sum, and make the same update.
    """

    def __call__(self, inputs: Tensor, labels: Tensor | Targets) -> dict[str, Tensor]:
        targets = Targets.of(labels)
        own = self.model.lengths[self.ranks.length_rank]
        if not self._distils():
            metrics = self._learn(own, self._read(inputs, own, targets), targets)
        elif self.ranks.length_rank == 0:
            metrics = self._teach(own, inputs, targets)
        else:
            metrics = self._study(own, inputs, targets)
        metrics = self._among_ranks(metrics)
        self._follow_teacher(metrics)
        return metrics

    def _teach(self, length: TokenLength, inputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        output = self._read(inputs, length, targets)
        logits = self._teacher_logits(len(targets)).copy_(output.cls.detach())
        sent = broadcast_from_longest(logits, self.ranks)
        metrics = self._learn(length, output, targets)
        sent.wait()
        return metrics

    def _study(self, length: TokenLength, inputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        logits = self._teacher_logits(len(targets))
        received = broadcast_from_longest(logits, self.ranks)
        output = self._read(inputs, length, targets)
        received.wait()
        return self._learn(length, output, targets, logits)

    def _teacher_logits(self, batch: int) -> Tensor:
        """Room for them, in the precision of the weights, which loses nothing under autocast."""
        return self.model.class_token.new_empty(batch, self.model.num_classes)

    def _distils(self) -> bool:
        return self.ranks.length_size > 1 and super()._distils()

    def _among_ranks(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """The metrics of all lengths, the others' being zero, so that means over the ranks are right."""
        metrics = {}
        for length in self.model.lengths:
            for name, value in zip(("loss", "top1"), own.values(), strict=True):
                key = f"{name}_{length}"
                metrics[key] = value * self.ranks.length_size if key in own else torch.zeros_like(value)
        return metrics
