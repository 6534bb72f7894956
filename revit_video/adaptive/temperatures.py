"""Calibration of the class probabilities of each token length: one temperature each (Guo et al., 2017).

Lengths that are trained together differ in how confident they are for the same accuracy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.models.inference import log_probabilities

TEMPERATURES = torch.logspace(-1, 1, 201, dtype=torch.float64)  # candidates of `fit_temperature`
BINS = 15  # of `calibration_error`


def fit_temperature(scores: Tensor, labels: Tensor) -> float:
    """The temperature with the lowest mean log-loss.

    Args:
        scores: class probabilities of held-out views at one length `(V, classes)`.
        labels: their class labels `(V,)`, or with several `(V, classes)`.
    """
    scores = scores.double()
    if labels.dim() == 2:
        targets, logits = labels.double(), log_probabilities(scores, 1.0, multi_label=True)
        losses = [
            F.binary_cross_entropy_with_logits(logits / t, targets).item() for t in TEMPERATURES.tolist()
        ]
    else:
        true = labels[:, None]
        losses = [-log_probabilities(scores, t).gather(1, true).mean().item() for t in TEMPERATURES.tolist()]
    return TEMPERATURES[losses.index(min(losses))].item()


def fit_temperatures(scores: Tensor, labels: Tensor) -> list[float]:
    """One temperature per length, from the scores of held-out views `(V, lengths, classes)`."""
    return [fit_temperature(own, labels) for own in scores.unbind(dim=1)]


def calibration_error(scores: Tensor, labels: Tensor) -> float:
    """Expected calibration error in percent of class probabilities `(V, classes)`, in bins of confidence.

    With several labels a view, of the decision for or against each class.
    """
    if labels.dim() == 2:
        labels, scores = labels.flatten().long(), torch.stack([1 - scores, scores], dim=-1).flatten(0, 1)
    confidence, predicted = scores.double().max(dim=1)
    excess = confidence - (predicted == labels).double()
    which = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = excess.new_zeros(BINS).index_add_(0, which, excess).abs()  # bins weighted by their views
    return 100 * gaps.sum().item() / max(1, len(labels))
