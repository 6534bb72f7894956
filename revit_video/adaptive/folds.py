"""Splitting the training list into folds, each answered by a model that was trained on the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from revit_video.adaptive.table import Table
from revit_video.runtime.rng import seeded_generator


class OutOfFold(NamedTuple):
    """The table of a list that was trained on, each view by a model without its fold; the folds `(V,)`."""

    table: Table
    fold: Tensor


def cut_into_folds(paths: Sequence[str], classes: Sequence[int], folds: int, seed: int) -> Tensor:
    """A random fold for each row of a list `(N,)`, stratified by class.

    Sizes of folds differ by at most one video, in total and per class. Rows of the same video share a fold.

    Args:
        paths: of each row; or the names of groups that must share a fold.
        classes: of each row.

    Raises:
        ValueError: there are fewer videos than folds.
    """
    rows_of: dict[str, list[int]] = {}
    for row, path in enumerate(paths):
        rows_of.setdefault(path, []).append(row)
    groups = list(rows_of.values())
    if len(groups) < folds:
        raise ValueError(f"MINE.FOLDS {folds}: the training list has only {len(groups)} videos")
    order = torch.randperm(len(groups), generator=seeded_generator(seed)).tolist()
    order.sort(key=lambda n: classes[groups[n][0]])
    fold = torch.empty(len(paths), dtype=torch.long)
    for place, n in enumerate(order):
        fold[groups[n]] = place % folds
    return fold
