"""Token-length-aware self-distillation (TLSD, paper section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.data.targets import Targets
from revit_video.length import TokenLength
from revit_video.models.base import Output


@dataclass(frozen=True)
class Distillation:
    """How the shorter lengths learn from the longest.

    Attributes:
        tau: temperature τ of both distributions.
        lam: weight λ of the distillation term, 0 to 1.
        hard: distil the teacher's arg-max class instead of its distribution.
        min_teacher_top1: running training accuracy of the longest length, in percent, below which the others
            learn from labels alone.
    """

    tau: float = 0.9
    lam: float = 0.5
    hard: bool = False
    min_teacher_top1: float = 0.0


def label_loss(output: Output, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the labels, averaged over the class head and the distillation head, if any.

    Args:
        labels: class indices `(B,)`, the shares of mixed clips `(B, classes)`, or bools of that shape, true
            for each of a clip's labels: then binary cross-entropy, averaged over the classes.
    """
    loss = _truth(output.cls, labels, smoothing)
    if output.dist is None:
        return loss
    return (loss + _truth(output.dist, labels, smoothing)) / 2


def _truth(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    logits = _precise(logits)
    if labels.dtype != torch.bool:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    targets = labels.to(logits.dtype) * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, targets)


def dense_loss(dense: Tensor, targets: Targets, length: TokenLength, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of every patch token with its own label, averaged over tokens, as in LV-ViT.

    Args:
        dense: the dense head's logits `(B, N, classes)` at `length`.
        smoothing: label smoothing, the same as for clips in LV-ViT.
    """
    logits = _precise(dense.flatten(0, 1))
    shares = targets.of_tokens(length, dense.shape[-1]).flatten(0, 1)
    return F.cross_entropy(logits, shares.to(logits.dtype), label_smoothing=smoothing)


def distillation_loss(
    student: Output, teacher: Tensor, labels: Tensor, how: Distillation, smoothing: float = 0.0
) -> Tensor:
    """`(1 - λ) CE(Z_s, y) + λ τ² KL(softmax(Z_t / τ) || softmax(Z_s / τ))`, the paper's L_teacher.

    Modifications:
        Read literally, the paper's formula is KL(student || teacher). Here it is KL(teacher || student), as
        in DeiT, which the paper follows, in timm and FlexiViT.

    The cross-entropy uses the class head, the distillation term the distillation head (the class head if
    there is none), as in DeiT.

    Args:
        student: the shorter length's output, Z_s, logits `(B, classes)`.
        teacher: the longest length's logits Z_t `(B, classes)`, detached.
        labels: class indices y `(B,)`, shares `(B, classes)`, or bools as in `label_loss`.
    """
    student_logits = _precise(student.cls if student.dist is None else student.dist)
    teacher = _precise(teacher)
    if labels.dtype == torch.bool:
        taught = _taught_each_class(student_logits, teacher, how)
    elif how.hard:
        taught = F.cross_entropy(student_logits, teacher.argmax(dim=1))
    else:
        taught = how.tau**2 * F.kl_div(
            F.log_softmax(student_logits / how.tau, dim=1),
            F.log_softmax(teacher / how.tau, dim=1),
            reduction="batchmean",
            log_target=True,
        )
    return (1 - how.lam) * _truth(student.cls, labels, smoothing) + how.lam * taught


def _taught_each_class(student: Tensor, teacher: Tensor, how: Distillation) -> Tensor:
    """The same of every class on its own, averaged over the classes, as the loss of the labels is."""
    if how.hard:
        return F.binary_cross_entropy_with_logits(student, (teacher > 0).to(student.dtype))
    targets = (teacher / how.tau).sigmoid()
    cross, own = (F.binary_cross_entropy_with_logits(x / how.tau, targets) for x in (student, teacher))
    return how.tau**2 * (cross - own)


def _precise(logits: Tensor) -> Tensor:
    """At least float32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
