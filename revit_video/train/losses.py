"""Token-length-aware self-distillation (TLSD, paper section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from revit_video.models.revit import Output


@dataclass(frozen=True)
class Distillation:
    """How the shorter lengths learn from the longest.

    Attributes:
        tau: temperature τ of both distributions.
        lam: weight λ of the distillation term, 0 to 1.
        hard: learn the teacher's arg-max instead of its distribution.
        min_teacher_top1: the longest length's running training accuracy, in percent, before which
            the others learn from the labels alone: an untrained teacher only teaches its mistakes.
    """

    tau: float = 0.9
    lam: float = 0.5
    hard: bool = False
    min_teacher_top1: float = 0.0


def label_loss(output: Output, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the labels, averaged over the heads that there are."""
    loss = F.cross_entropy(output.cls.float(), labels, label_smoothing=smoothing)
    if output.dist is None:
        return loss
    return (loss + F.cross_entropy(output.dist.float(), labels, label_smoothing=smoothing)) / 2


def distillation_loss(
    student: Output, teacher: Tensor, labels: Tensor, how: Distillation, smoothing: float = 0.0
) -> Tensor:
    """`(1 - λ) CE(Z_s, y) + λ τ² KL(softmax(Z_t / τ) || softmax(Z_s / τ))`, the paper's L_teacher.

    The cross-entropy reads the class head, the distillation term the distillation head (the class
    head when there is none), as in DeiT.

    Args:
        student: the shorter length's output, Z_s, logits `(B, classes)`.
        teacher: the longest length's logits Z_t `(B, classes)`, detached.
        labels: class indices y `(B,)`.
    """
    student_logits = (student.cls if student.dist is None else student.dist).float()
    teacher = teacher.float()
    if how.hard:
        taught = F.cross_entropy(student_logits, teacher.argmax(dim=1))
    else:
        taught = how.tau**2 * F.kl_div(
            F.log_softmax(student_logits / how.tau, dim=1),
            F.log_softmax(teacher / how.tau, dim=1),
            reduction="batchmean",
            log_target=True,
        )
    truth = F.cross_entropy(student.cls.float(), labels, label_smoothing=smoothing)
    return (1 - how.lam) * truth + how.lam * taught
