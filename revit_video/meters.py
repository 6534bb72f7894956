"""Accuracies over videos, whose views are scored separately."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from revit_video.models.inference import log_probabilities, probabilities


def topk(scores: Tensor, labels: Tensor, k: int) -> float:
    """Percent of rows of `scores` `(N, classes)` with the label `(N,)` among the `k` highest.

    100 if there are at most `k` classes. Of several labels, `(N, classes)`, each must be among the `k`
    highest, the other labels not counted.
    """
    if len(labels) == 0:
        return 0.0
    if labels.dim() == 2:
        others = scores.masked_fill(labels, -torch.inf)
        best = torch.cat([others, torch.full_like(others[:, :1], -torch.inf).expand(-1, k)], dim=1)
        lowest = scores.masked_fill(~labels, torch.inf).amin(dim=1)
        return 100 * (lowest > best.topk(k, dim=1).values[:, -1]).double().mean().item()
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return 100 * (best == labels[:, None]).any(dim=1).double().mean().item()


def right(scores: Tensor, labels: Tensor) -> Tensor:
    """Whether each answer is right, from its scores `(..., classes)`: the label `(...)` scores highest.

    With several labels, `(..., classes)`, whether they all score higher than all other classes. That needs no
    threshold, as mAP needs none, and with one label it is the same.
    """
    if labels.dtype != torch.bool:
        return scores.argmax(dim=-1) == labels
    lowest = scores.masked_fill(~labels, torch.inf).amin(dim=-1)
    return lowest > scores.masked_fill(labels, -torch.inf).amax(dim=-1)


def mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Percent: average precision of each class over N rows, averaged over the classes that occur.

    Args:
        scores: `(N, classes)`, comparable between rows.
        labels: `(N, classes)`, true for each label.
    """
    occurs = labels.any(dim=0)
    order = scores[:, occurs].argsort(dim=0, descending=True, stable=True)
    hits = labels[:, occurs].gather(0, order).double()
    places = torch.arange(1, len(hits) + 1, dtype=torch.float64)[:, None]
    precision = hits.cumsum(dim=0) / places
    return 100 * ((precision * hits).sum(dim=0) / hits.sum(dim=0)).mean().item() if occurs.any() else 0.0


class VideoScores(NamedTuple):
    """Class probabilities `(N, classes)`, class labels and list rows `(N,)` of N videos.

    Labels are `(N,)`, or with several a video `(N, classes)`, true for each.
    """

    scores: Tensor
    labels: Tensor
    rows: Tensor

    @property
    def predicted(self) -> Tensor:
        """The most probable class of each video `(N,)`; as many as it has labels, `(N, classes)`."""
        if self.labels.dim() == 1:
            return self.scores.argmax(dim=1)
        places = self.scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return places < self.labels.sum(dim=1, keepdim=True)

    @property
    def correct(self) -> Tensor:
        """Whether the answer is right `(N,)`."""
        return right(self.scores, self.labels)

    @property
    def mean_average_precision(self) -> float | None:
        """Percent; None with one label a video."""
        return mean_average_precision(self.scores, self.labels) if self.labels.dim() == 2 else None

    def topk(self, k: int) -> float:
        """Percent of videos with the label among the `k` most probable classes."""
        return topk(self.scores, self.labels, k)


def by_video(scores: Tensor, labels: Tensor, rows: Tensor, ensemble: str = "probabilities") -> VideoScores:
    """Class probabilities of each video, from those of its views `(B, classes)`, by ascending row `(B,)`.

    Args:
        ensemble: what is averaged over the views, see `averaged`.
    """
    unique, video, counts = rows.unique(return_inverse=True, return_counts=True)
    multi_label = labels.dim() == 2
    values = averaged(scores, ensemble, multi_label)
    sums = values.new_zeros(len(unique), values.shape[1]).index_add_(0, video, values)
    mean = sums / counts.unsqueeze(1)
    own = labels.new_zeros(len(unique), *labels.shape[1:])
    own[video] = labels
    return VideoScores(mean if ensemble == "probabilities" else probabilities(mean, multi_label), own, unique)


def averaged(scores: Tensor, ensemble: str, multi_label: bool) -> Tensor:
    """Of each view, what is averaged over the views of a video: its class probabilities, or `logits`.

    The mean of log-probabilities has the softmax of the mean of logits.
    """
    return scores if ensemble == "probabilities" else log_probabilities(scores, 1.0, multi_label)


def interval(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Percent of videos that may be right in truth if `right` of `count` are (Wilson, 95 % by default)."""
    share, spread = right / count, z**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def drop_with_margin(losses: Tensor) -> tuple[float, float]:
    """Mean of `losses` `(N,)` in points, and half of its 95 % interval, at least that of one video.

    Args:
        losses: of each video, 1 where it was lost, -1 where it was gained, else 0.
    """
    error = max(100 * losses.std(correction=0).item() / math.sqrt(len(losses)), 100 / len(losses))
    return 100 * losses.mean().item(), 1.96 * error


def counts_by_name(choices: Tensor, names: Sequence[str]) -> dict[str, int]:
    """Number of occurrences in `choices` of each position in `names`."""
    counts = choices.bincount(minlength=len(names)).tolist()
    return dict(zip(names, counts, strict=True))
