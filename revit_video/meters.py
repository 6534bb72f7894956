"""Accuracies over videos, whose views are scored separately."""

from __future__ import annotations

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
    """Mean class probabilities `(N, classes)`, class labels `(N,)` and list rows `(N,)` of N videos."""

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


def by_video(probabilities: Tensor, labels: Tensor, rows: Tensor) -> VideoScores:
    """Mean class probabilities `(B, classes)` over the views of each video, by ascending row `(B,)`."""
    unique, video, counts = rows.unique(return_inverse=True, return_counts=True)
    sums = probabilities.new_zeros(len(unique), probabilities.shape[1]).index_add_(0, video, probabilities)
    own = torch.zeros(len(unique), dtype=labels.dtype).scatter_(0, video, labels)
    return VideoScores(sums / counts.unsqueeze(1), own, unique)


def counts_by_name(choices: Tensor, names: Sequence[str]) -> dict[str, int]:
    """Number of occurrences in `choices` of each position in `names`."""
    counts = choices.bincount(minlength=len(names)).tolist()
    return dict(zip(names, counts, strict=True))
