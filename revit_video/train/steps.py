"""Training steps: each turns one batch into gradients and metrics; `loop.fit` does the rest."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.data.targets import Targets
from revit_video.length import TokenLength
from revit_video.meters import right
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.base import Output, ResizableModel
from revit_video.runtime.ranks import Ranks
from revit_video.train.graphed import GraphedPasses
from revit_video.train.losses import Distillation, dense_loss, distillation_loss, label_loss


class Step:
    """Base class: forward and backward pass of one batch.

    `step(inputs, labels)` adds to the gradients of its model and returns the metrics to log: scalar tensors
    on the device, with the same names in the same order on all ranks, since the loop averages them over the
    ranks. `labels` are as yielded by the loader. Nothing here may wait for the device.
    """

    def prepare(self, batch: int) -> None:
        """Called once before the first of the batches, whose parts are of `batch` clips."""

    @property
    def reuses_memory(self) -> bool:
        """Whether a backward pass may overwrite the gradients that an earlier one has returned."""
        return False

    def __call__(self, inputs: Tensor, labels: Any) -> dict[str, Tensor]:
        raise NotImplementedError

    def learn_of(self, metrics: dict[str, Tensor]) -> None:
        """After all parts of a batch: the means of what they returned, over parts and ranks."""

    def state_dict(self) -> dict[str, Tensor]:
        """State to save in a checkpoint beside the weights; most steps have none."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""


class MixedLengthStep(Step):
    """ReViT-B: one batch at every token length, longest first; gradients are summed (Algorithm 1).

    The longest length learns from the labels, the others also from its detached logits. Each length runs its
    own backward pass, so that peak memory is the longest length's. With a dense head, the patch tokens of
    every length learn their labels too, without a teacher.

    Args:
        distillation: how the shorter lengths learn from the longest; None for labels alone.
        smoothing: label smoothing of every cross-entropy.
        autocast: dtype of mixed precision; None for full precision.
        dense_weight: weight of the patch tokens' loss.
    """

    momentum = 0.98  # of the teacher's running accuracy: about the last 50 batches

    def __init__(
        self,
        model: ResizableModel,
        distillation: Distillation | None,
        ranks: Ranks,
        smoothing: float = 0.0,
        autocast: torch.dtype | None = None,
        dense_weight: float = 1.0,
    ) -> None:
        self.model, self.distillation, self.ranks = model, distillation, ranks
        self.smoothing, self.autocast, self.dense_weight = smoothing, autocast, dense_weight
        self.teacher_top1 = torch.zeros((), device=ranks.device)
        self.graphed = GraphedPasses(model, autocast)

    def prepare(self, batch: int) -> None:
        self.graphed.record(self.model.lengths, batch, self.ranks.device)

    @property
    def reuses_memory(self) -> bool:
        return self.model.compiled or bool(self.graphed.recorded)

    def __call__(self, inputs: Tensor, labels: Tensor | Targets) -> dict[str, Tensor]:
        targets = Targets.of(labels)
        longest, *others = self.model.lengths
        # Weights that autocast has cast serve all lengths: it forgets them when its outermost context ends.
        with torch.autocast(inputs.device.type, enabled=False):
            output = self._forward(inputs, longest, targets)
            # A copy: graphs reuse the memory of their outputs.
            teacher = output.cls.detach().clone() if self._distils() else None
            metrics = self._backward(longest, output, targets)
            for length in others:
                metrics |= self._backward(length, self._forward(inputs, length, targets), targets, teacher)
        return metrics

    def learn_of(self, metrics: dict[str, Tensor]) -> None:
        if self.distillation is not None and self.distillation.min_teacher_top1 > 0:
            self.teacher_top1.lerp_(metrics[f"top1_{self.model.lengths[0]}"], 1 - self.momentum)

    def _forward(self, inputs: Tensor, length: TokenLength, targets: Targets) -> Output:
        with torch.autocast(inputs.device.type, self.autocast, enabled=self.autocast is not None):
            if targets.box is None:
                return self.graphed(inputs, length) or self.model(inputs, length)
            return self.model(inputs, length, mix=targets.box)

    def _backward(
        self, length: TokenLength, output: Output, targets: Targets, teacher: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Add the gradients of one length's loss; `teacher`: the longest length's logits, if it distils."""
        labels = targets.of_clips(length, self.model.num_classes)
        loss = self._loss(output, labels, teacher)
        if output.dense is not None:
            loss = loss + self.dense_weight * dense_loss(output.dense, targets, length, self.smoothing)
        loss.backward()
        return {f"loss_{length}": loss.detach(), f"top1_{length}": top1(output, labels)}

    def _loss(self, output: Output, labels: Tensor, teacher: Tensor | None) -> Tensor:
        if teacher is None:
            return label_loss(output, labels, self.smoothing)
        assert self.distillation is not None
        taught = distillation_loss(output, teacher, labels, self.distillation, self.smoothing)
        if self.distillation.min_teacher_top1 <= 0:
            return taught
        good_enough = self.teacher_top1 >= self.distillation.min_teacher_top1
        # Both are computed, and the device chooses: this process would have to wait for it.
        return torch.where(good_enough, taught, label_loss(output, labels, self.smoothing))

    def _distils(self) -> bool:
        return self.distillation is not None

    def state_dict(self) -> dict[str, Tensor]:
        return {"teacher_top1": self.teacher_top1}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.teacher_top1.copy_(state["teacher_top1"])


class CascadeStep(Step):
    """DVT: one batch through the whole cascade; the cross-entropies of all lengths are summed.

    Nothing is detached, so that a shorter length's model also learns to help the longer ones.

    Args:
        smoothing: label smoothing of every cross-entropy.
        autocast: dtype of mixed precision; None for full precision.
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


class AssignerStep(Step):
    """Cross-entropy of the Token-Length Assigner with the mined labels (paper section 3.1).

    With the objective `sufficiency`: binary cross-entropy with whether each length is right, which `labels`
    `(B, lengths)` say then.

    Args:
        class_weights: weight of each length `(lengths,)`, 1 on average over the clips; None for 1 each.
    """

    def __init__(self, assigner: TokenLengthAssigner, class_weights: Tensor | None = None) -> None:
        self.assigner, self.class_weights = assigner, class_weights

    def __call__(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.assigner(inputs)
        if labels.dim() == 2:
            loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
            loss.backward()
            accuracy = 100 * ((logits.detach() > 0) == labels).float().mean()
            return {"loss": loss.detach(), "accuracy": accuracy}
        # Not reduction="mean": it divides by the weights of this rank's clips, which differ between ranks.
        loss = F.cross_entropy(logits, labels, self.class_weights, reduction="sum") / len(labels)
        loss.backward()
        accuracy = 100 * (logits.detach().argmax(dim=1) == labels).float().mean()
        return {"loss": loss.detach(), "accuracy": accuracy}


def top1(output: Output, labels: Tensor) -> Tensor:
    """Accuracy in percent; `labels` are as in `label_loss`."""
    if labels.dtype == torch.bool:
        return 100 * right(output.logits.detach(), labels).float().mean()
    classes = labels if labels.dim() == 1 else labels.argmax(dim=1)
    return 100 * (output.logits.detach().argmax(dim=1) == classes).float().mean()


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimiser updates."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
