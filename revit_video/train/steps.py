"""What is special to each training: from a batch to gradients. `loop.fit` does the rest."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from revit_video.length import TokenLength
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.revit import Output, ReViT
from revit_video.runtime.distributed import Ranks, sum_over_ranks
from revit_video.train.losses import Distillation, distillation_loss, label_loss


class Step(Protocol):
    """Adds the gradients of one batch and returns what to log, as scalar tensors on the device.

    What is logged is the mean over the ranks, so all return the same names in the same order.
    """

    def __call__(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class MixedLengthStep:
    """ReViT-B: one mini-batch at every token length, longest first; the gradients add up (Algorithm 1).

    The longest length learns from the labels; its detached logits teach the others. Each length's
    graph is freed by its own backward pass, so peak memory is the longest length's.

    Args:
        distillation: how the shorter lengths learn; None teaches them with the labels alone.
        smoothing: label smoothing of every cross-entropy.
        autocast: dtype of mixed precision, None for full precision.
    """

    momentum = 0.98  # of the teacher's running accuracy: about the last 50 batches

    def __init__(
        self,
        model: ReViT,
        distillation: Distillation | None,
        ranks: Ranks,
        smoothing: float = 0.0,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model, self.distillation, self.ranks = model, distillation, ranks
        self.smoothing, self.autocast = smoothing, autocast
        self.teacher_top1 = torch.zeros((), device=ranks.device)

    def __call__(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        longest, *others = self.model.lengths
        output = self._read(inputs, longest)
        teacher = output.cls.detach() if self._distils() else None
        metrics = self._learn(longest, output, labels)
        for length in others:
            metrics |= self._learn(length, self._read(inputs, length), labels, teacher)
        self._follow_teacher(metrics)
        return metrics

    def _read(self, inputs: Tensor, length: TokenLength) -> Output:
        with torch.autocast(inputs.device.type, self.autocast, enabled=self.autocast is not None):
            return self.model(inputs, length)

    def _learn(
        self, length: TokenLength, output: Output, labels: Tensor, teacher: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Adds the gradients of what was read at `length`, learning from `teacher`'s logits if given."""
        if teacher is None:
            loss = label_loss(output, labels, self.smoothing)
        else:
            assert self.distillation is not None
            loss = distillation_loss(output, teacher, labels, self.distillation, self.smoothing)
        loss.backward()
        classes = labels if labels.dim() == 1 else labels.argmax(dim=1)  # of mixed clips, the larger part
        top1 = 100 * (output.logits.detach().argmax(dim=1) == classes).float().mean()
        return {f"loss_{length}": loss.detach(), f"top1_{length}": top1}

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

    def __init__(
        self, assigner: TokenLengthAssigner, class_weights: Tensor | None = None, smoothing: float = 0.0
    ) -> None:
        self.assigner, self.class_weights, self.smoothing = assigner, class_weights, smoothing

    def __call__(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.assigner(inputs)
        # A mean over clips: divided by the weights of its own clips, each rank's share would count otherwise.
        total = F.cross_entropy(
            logits, labels, self.class_weights, reduction="sum", label_smoothing=self.smoothing
        )
        loss = total / len(labels)
        loss.backward()
        accuracy = 100 * (logits.detach().argmax(dim=1) == labels).float().mean()
        return {"loss": loss.detach(), "accuracy": accuracy}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimiser updates."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
