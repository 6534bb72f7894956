"""Accuracies on tables small enough to check by hand."""

from __future__ import annotations

import pytest
import torch

from revit_video.meters import by_video, counts_by_name, interval, mean_average_precision, right, topk

SCORES = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.6, 0.1]])


@pytest.mark.parametrize(("k", "percent"), [(1, 100 / 3), (2, 200 / 3), (3, 100.0), (5, 100.0)])
def test_topk_is_in_percent(k: int, percent: float) -> None:
    """Ranks of the labels: first, second, third."""
    assert topk(SCORES, torch.tensor([0, 1, 2]), k) == pytest.approx(percent)


def test_nothing_to_score() -> None:
    assert topk(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 1) == 0.0


def test_views_of_a_video_are_averaged_in_list_order() -> None:
    """Video 9 has two views, video 4 one; the views are wrong alone and right together."""
    probabilities = torch.tensor([[0.6, 0.4, 0.0], [0.2, 0.1, 0.7], [0.0, 0.4, 0.6]])
    videos = by_video(probabilities, torch.tensor([1, 2, 1]), torch.tensor([9, 4, 9]))
    assert videos.rows.tolist() == [4, 9] and videos.labels.tolist() == [2, 1]
    torch.testing.assert_close(videos.scores, torch.tensor([[0.2, 0.1, 0.7], [0.3, 0.4, 0.3]]))
    assert topk(videos.scores, videos.labels, 1) == 100.0


def test_counts_name_what_never_occurs() -> None:
    assert counts_by_name(torch.tensor([1, 1, 0]), ["14x14", "7x7", "3x3"]) == {
        "14x14": 1,
        "7x7": 2,
        "3x3": 0,
    }


def test_logits_may_be_averaged_instead() -> None:
    """A view that is sure outweighs two that are not, as it does not where probabilities are averaged."""
    logits = torch.tensor([[0.0, 2.0], [0.0, 2.0], [9.0, 0.0]])
    views = logits.softmax(1), torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long)
    together = by_video(*views, "logits")
    torch.testing.assert_close(together.scores[0], logits.mean(0).softmax(0))
    assert together.predicted.tolist() == [0] and by_video(*views).predicted.tolist() == [1]
    sure = by_video(torch.tensor([[1.0, 0.0], [0.4, 0.6]]), *(column[:2] for column in views[1:]), "logits")
    assert sure.predicted.tolist() == [0] and bool(sure.scores.isfinite().all())


def test_an_interval_is_never_empty_and_shrinks_with_the_count() -> None:
    assert interval(60, 60) == pytest.approx((94.0, 100.0), abs=0.1)  # all right, and yet not certain
    assert interval(56, 60) == pytest.approx((84.1, 97.4), abs=0.1)  # Wilson's, by hand
    assert interval(560, 600)[0] > interval(56, 60)[0] and interval(0, 10)[0] == 0


# ---- Several labels --------------------------------------------------------------------------------------

BOTH = torch.tensor([[True, False, True], [False, True, False], [True, True, True]])


def test_right_is_that_all_labels_score_higher_than_all_else() -> None:
    """Labels {0, 2}, {1} and all: the first is beaten by class 1, then not."""
    scores = torch.tensor([[0.6, 0.5, 0.4], [0.2, 0.3, 0.1], [0.0, 0.0, 0.0]])
    assert right(scores, BOTH).tolist() == [False, True, True]
    assert right(scores.flip(1), BOTH).tolist() == [False, True, True]
    assert topk(scores, BOTH, 1) == pytest.approx(200 / 3) and topk(scores, BOTH, 2) == 100.0
    single = torch.tensor([0, 1, 2])
    one_hot = torch.nn.functional.one_hot(single).bool()
    assert torch.equal(right(SCORES, one_hot), right(SCORES, single))
    for k in (1, 2, 3):
        assert topk(SCORES, one_hot, k) == pytest.approx(topk(SCORES, single, k))


def test_average_precision_by_hand() -> None:
    """Class 0: hits at places 1 and 3, (1 + 2/3) / 2. Class 1: at place 2, 1/2. Class 2 never occurs."""
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.7, 0.5], [0.7, 0.6, 0.5]])
    labels = torch.tensor([[True, False, False], [False, False, False], [True, True, False]])
    assert mean_average_precision(scores, labels) == pytest.approx(100 * (5 / 6 + 1 / 2) / 2)
    assert mean_average_precision(scores, torch.zeros_like(labels)) == 0.0


def test_views_of_a_video_with_several_labels() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, -1.0, 3.0], [-1.0, 5.0, -1.0]])
    labels, rows = BOTH[[0, 0, 1]], torch.tensor([4, 4, 7])
    mean = by_video(logits.sigmoid(), labels, rows)
    torch.testing.assert_close(mean.scores[0], logits[:2].sigmoid().mean(0))
    together = by_video(logits.sigmoid(), labels, rows, "logits")
    torch.testing.assert_close(together.scores[0], logits[:2].mean(0).sigmoid())
    assert torch.equal(mean.labels, BOTH[:2])
    assert mean.predicted.tolist() == [[True, False, True], [False, True, False]]
    assert mean.correct.tolist() == [True, True] and mean.mean_average_precision == 100.0
