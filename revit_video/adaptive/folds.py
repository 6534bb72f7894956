"""Splitting the training list into folds, each answered by a model that was trained on the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from revit_video.adaptive.policies import Policy
from revit_video.adaptive.table import Table
from revit_video.runtime.rng import seeded_generator


class OutOfFold(NamedTuple):
    """Of a list that was trained on: answers by models without their fold.

    Attributes:
        table: of each view by the model without its fold.
        fold: of each view `(V,)`.
        curve: top-1 of the longest length in percent, by the number of clips that were learned from; empty
            if it was not measured.
    """

    table: Table
    fold: Tensor
    curve: dict[int, float]


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
        raise ValueError(f"MINE.FOLDS {folds}: the training list has only {len(groups)} videos or groups")
    order = torch.randperm(len(groups), generator=seeded_generator(seed)).tolist()
    order.sort(key=lambda n: classes[groups[n][0]])
    fold = torch.empty(len(paths), dtype=torch.long)
    for place, n in enumerate(order):
        fold[groups[n]] = place % folds
    return fold


def losses_on_others(table: Table, fold: Tensor, choose: Callable[[Table], Policy]) -> Tensor:
    """What a way of choosing loses on videos that were not chosen on `(N,)`, in the order of the folds.

    Each fold's videos are answered by the policy that `choose` makes of the others: 1 where the longest
    length alone is right, -1 where the policy alone is, else 0.

    Args:
        fold: of each view `(V,)`; all views of a video have one.
    """
    found = []
    for n in fold.unique():
        own = table.only(fold == n)
        longest = own.videos_at(torch.zeros_like(own.rows)).correct
        ours = own.follow(choose(table.only(fold != n))).videos.correct
        found.append(longest.double() - ours.double())
    return torch.cat(found)
