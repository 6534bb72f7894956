"""Folds: as large as each other, in every class, and never half of a video."""

from __future__ import annotations

import pytest
import torch

from revit_video.adaptive.folds import cut_into_folds, losses_on_others
from revit_video.adaptive.policies import Policy, static
from revit_video.adaptive.table import Table
from tests.tables import table_of_scores

CLASSES = [0] * 7 + [1] * 11 + [2] * 2 + [4]
PATHS = [f"{n}.mp4" for n in range(len(CLASSES))]


@pytest.mark.parametrize("folds", [2, 3, 5, 21])
def test_folds_are_balanced(folds: int) -> None:
    fold = cut_into_folds(PATHS, CLASSES, folds, seed=0)
    for rows in (torch.arange(21), *((torch.tensor(CLASSES) == c).nonzero().flatten() for c in range(5))):
        counts = fold[rows].bincount(minlength=folds)
        assert len(counts) == folds and counts.max() - counts.min() <= 1


def test_folds_follow_from_the_seed() -> None:
    assert torch.equal(cut_into_folds(PATHS, CLASSES, 3, 1), cut_into_folds(PATHS, CLASSES, 3, 1))
    assert not torch.equal(cut_into_folds(PATHS, CLASSES, 3, 1), cut_into_folds(PATHS, CLASSES, 3, 2))


def test_rows_of_the_same_video_share_a_fold() -> None:
    """A fold's model must not have seen what it mines."""
    paths = [f"{n % 7}.mp4" for n in range(21)]
    fold = cut_into_folds(paths, CLASSES, 3, seed=0)
    assert torch.equal(fold, fold[:7].repeat(3))
    assert fold[:7].bincount().tolist() in ([3, 2, 2], [2, 3, 2], [2, 2, 3])


def test_more_folds_than_videos() -> None:
    with pytest.raises(ValueError, match="MINE.FOLDS 22: the training list has only 21 videos"):
        cut_into_folds(PATHS, CLASSES, 22, seed=0)


def test_what_a_choice_loses_on_videos_that_it_was_not_made_on() -> None:
    """The short length is right on video 0 alone, the long one always; who sees video 0 takes the short."""
    scores = torch.tensor([[0.1, 0.9], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1], [0.1, 0.9], [0.9, 0.1]])
    table = table_of_scores(scores.view(3, 2, 2), torch.ones(3, dtype=torch.long), torch.arange(3))

    def choose(others: Table) -> Policy:
        return static(1) if 0 in others.rows.tolist() else static(0)

    assert losses_on_others(table, torch.tensor([0, 1, 1]), choose).tolist() == [0, 1, 1]
