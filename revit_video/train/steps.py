"""What is special to each training: from a batch to gradients. `loop.fit` does the rest."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.data.targets import Targets
from revit_video.length import TokenLength
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.base import Output, ResizableModel
from revit_video.runtime.ranks import Ranks, sum_over_ranks
from revit_video.train.losses import Distillation, dense_loss, distillation_loss, label_loss


class Step(Protocol):
    """Adds the gradients of one batch and returns what to log, as scalar tensors on the device.

    `labels` are what the batches hold that the step is used with.
    What is logged is the mean over the ranks, so all return the same names in the same order.
    """

    def __call__(self, inputs: Tensor, labels: Any) -> dict[str, Tensor]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class MixedLengthStep:
    """ReViT-B: one mini-batch at every token length, longest first; the gradients add up (Algorithm 1).

    The longest length learns from the labels; its detached logits teach the others. Each length's
    graph is freed by its own backward pass, so peak memory is the longest length's. With a dense head,
    the patch tokens of every length learn their labels beside all that; none of them is taught.

    Args:
        distillation: how the shorter lengths learn; None teaches them with the labels alone.
        smoothing: label smoothing of every cross-entropy.
        autocast: dtype of mixed precision, None for full precision.
        dense_weight: of the patch tokens' loss, where the model has a dense head.
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

    def __call__(self, inputs: Tensor, labels: Tensor | Targets) -> dict[str, Tensor]:
        targets = Targets.of(labels)
        longest, *others = self.model.lengths
        output = self._read(inputs, longest, targets)
        teacher = output.cls.detach() if self._distils() else None
        metrics = self._learn(longest, output, targets)
        for length in others:
            metrics |= self._learn(length, self._read(inputs, length, targets), targets, teacher)
        self._follow_teacher(metrics)
        return metrics

    def _read(self, inputs: Tensor, length: TokenLength, targets: Targets) -> Output:
        with torch.autocast(inputs.device.type, self.autocast, enabled=self.autocast is not None):
            if targets.box is None:
                return self.model(inputs, length)
            return self.model(inputs, length, mix=targets.box)

    def _learn(
        self, length: TokenLength, output: Output, targets: Targets, teacher: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Adds the gradients of what was read at `length`, learning from `teacher`'s logits if given."""
        labels = targets.of_clips(length, self.model.num_classes)
        if teacher is None:
            loss = label_loss(output, labels, self.smoothing)
        else:
            assert self.distillation is not None
            loss = distillation_loss(output, teacher, labels, self.distillation, self.smoothing)
        if output.dense is not None:
            loss = loss + self.dense_weight * dense_loss(output.dense, targets, length, self.smoothing)
        loss.backward()
        return {f"loss_{length}": loss.detach(), f"top1_{length}": top1(output, labels)}

    def _distils(self) -> bool:
        how = self.distillation
        if how is None:
            return False
        # Reading the tensor waits for the device, so do it only where a threshold asks for it.
        return how.min_teacher_top1 <= 0 or float(self.teacher_top1) >= how.min_teacher_top1

    def _follow_teacher(self, metrics: dict[str, Tensor]) -> None:
        if self.distillation is not None and self.distillation.min_teacher_top1 > 0:
            top1 = metrics[f"top1_{self.model.lengths[0]}"]
            top1 = sum_over_ranks(top1, self.ranks) / self.ranks.world_size
            self.teacher_top1.lerp_(top1, 1 - self.momentum)

    def state_dict(self) -> dict[str, Tensor]:
        return {"teacher_top1": self.teacher_top1}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.teacher_top1.copy_(state["teacher_top1"])


class AssignerStep:
    """Cross-entropy of the Token-Length Assigner with the mined labels (paper section 3.1).

    Args:
        class_weights: weight of each length `(lengths,)`, 1 on average over the clips; None for equal ones.
    """

    def __init__(self, assigner: TokenLengthAssigner, class_weights: Tensor | None = None) -> None:
        self.assigner, self.class_weights = assigner, class_weights

    def __call__(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.assigner(inputs)
        # A mean over clips: divided by the weights of its own clips, each rank's share would count otherwise.
        total = F.cross_entropy(logits, labels, self.class_weights, reduction="sum")
        loss = total / len(labels)
        loss.backward()
        accuracy = 100 * (logits.detach().argmax(dim=1) == labels).float().mean()
        return {"loss": loss.detach(), "accuracy": accuracy}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


def top1(output: Output, labels: Tensor) -> Tensor:
    """Accuracy in percent; `labels` are class indices `(B,)`, or shares `(B, classes)`."""
    classes = labels if labels.dim() == 1 else labels.argmax(dim=1)  # of mixed clips, the larger part
    return 100 * (output.logits.detach().argmax(dim=1) == classes).float().mean()


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimiser updates."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
