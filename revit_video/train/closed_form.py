"""Linear heads in closed form: ridge regression on the class, for a few thousand clips at most; no epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from revit_video.runtime.rng import seeded_generator

SHARPNESS = 10.0  # of scores between 0 and 1 before softmax; heads are calibrated from there
STRENGTH = 0.003  # of the ridge; a tenth to three times of it changed nothing on real clips


class Head(NamedTuple):
    """A linear head: weight `(classes, D)` and bias `(classes,)`."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Scores `(..., classes)` of `features` `(..., D)`."""
        return F.linear(features, self.weight, self.bias)

    def divided(self, temperature: float) -> Head:
        """The head whose scores are those of this one over `temperature`."""
        return Head(self.weight / temperature, self.bias / temperature)


def ridge(features: Tensor, labels: Tensor, classes: int, sizes: Sequence[int]) -> Head:
    """The head that best gives `SHARPNESS` for the class and 0 for the others, with a penalty on its weights.

    Each part of the features counts the same, however many numbers it has: they are standardised, and scaled
    by one over the root of the part's size.

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
        sizes: of the parts, together D.
    """
    features = features.double()
    parts = torch.repeat_interleave(torch.tensor(sizes), torch.tensor(sizes)).double()
    mean = features.mean(dim=0)
    scale = 1 / ((features.std(dim=0, correction=0) + 1e-6) * parts.sqrt())
    x = (features - mean) * scale
    targets = F.one_hot(labels, classes).double()
    shares = targets.mean(dim=0)
    y = targets - shares
    count, width = x.shape
    if width < count:
        weight = torch.linalg.solve(x.T @ x + STRENGTH * count * torch.eye(width, dtype=x.dtype), x.T @ y)
    else:
        weight = x.T @ torch.linalg.solve(x @ x.T + STRENGTH * count * torch.eye(count, dtype=x.dtype), y)
    weight = weight * scale[:, None]
    return Head(SHARPNESS * weight.T.float(), SHARPNESS * (shares - mean @ weight).float())


def out_of_fold(
    features: Tensor,
    labels: Tensor,
    classes: int,
    sizes: Sequence[int],
    fold: Tensor,
    share: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Scores `(N, classes)` of each clip's first view by a head that was solved on the other folds.

    Args:
        features: `(N, views, D)`.
        fold: of each clip `(N,)`.
        share: of the clips of the other folds, drawn at random, that the head is solved on.
    """
    scores, generator = torch.empty(len(labels), classes), seeded_generator(seed)
    for n in fold.unique():
        others, own = (fold != n).nonzero().flatten(), fold == n
        if share < 1:
            others = others[
                torch.randperm(len(others), generator=generator)[: max(2, round(share * len(others)))]
            ]
        known = features[others].flatten(0, 1)
        head = ridge(known, labels[others].repeat_interleave(features.shape[1]), classes, sizes)
        scores[own] = head(features[own, 0])
    return scores
