"""Accuracies over videos, whose views are scored separately."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def topk(scores: Tensor, labels: Tensor, k: int) -> float:
    """Percent of rows of `scores` `(N, classes)` with the label `(N,)` among the `k` highest.

    100 if there are at most `k` classes.
    """
    if len(labels) == 0:
        return 0.0
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return 100 * (best == labels[:, None]).any(dim=1).double().mean().item()


class VideoScores(NamedTuple):
    """Class probabilities `(N, classes)`, class labels `(N,)` and list rows `(N,)` of N videos."""

    scores: Tensor
    labels: Tensor
    rows: Tensor

    @property
    def predicted(self) -> Tensor:
        """The most probable class of each video `(N,)`."""
        return self.scores.argmax(dim=1)

    @property
    def correct(self) -> Tensor:
        """Whether that is the class label `(N,)`."""
        return self.predicted == self.labels

    def topk(self, k: int) -> float:
        """Percent of videos with the label among the `k` most probable classes."""
        return topk(self.scores, self.labels, k)


def by_video(
    probabilities: Tensor, labels: Tensor, rows: Tensor, ensemble: str = "probabilities"
) -> VideoScores:
    """Class probabilities of each video, from those of its views `(B, classes)`, by ascending row `(B,)`.

    Args:
        ensemble: what is averaged over the views, see `averaged`.
    """
    unique, video, counts = rows.unique(return_inverse=True, return_counts=True)
    values = averaged(probabilities, ensemble)
    sums = values.new_zeros(len(unique), values.shape[1]).index_add_(0, video, values)
    mean = sums / counts.unsqueeze(1)
    own = torch.zeros(len(unique), dtype=labels.dtype).scatter_(0, video, labels)
    return VideoScores(mean if ensemble == "probabilities" else mean.softmax(dim=1), own, unique)


def averaged(probabilities: Tensor, ensemble: str) -> Tensor:
    """Of each view, what is averaged over the views of a video: `probabilities`, or `logits`.

    The mean of log-probabilities has the softmax of the mean of logits.
    """
    if ensemble == "probabilities":
        return probabilities
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def interval(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Percent of videos that may be right in truth if `right` of `count` are (Wilson, 95 % by default)."""
    share, spread = right / count, z**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def counts_by_name(choices: Tensor, names: Sequence[str]) -> dict[str, int]:
    """Number of occurrences in `choices` of each position in `names`."""
    counts = choices.bincount(minlength=len(names)).tolist()
    return dict(zip(names, counts, strict=True))
