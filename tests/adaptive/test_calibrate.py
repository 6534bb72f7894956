"""Operating points on tables small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from revit_video.adaptive.calibrate import (
    FEW,
    NEVER,
    Point,
    assigned_points,
    best_within,
    cascade_points,
    choose_point,
    dearer,
    exit_thresholds,
    hybrid_points,
)
from revit_video.adaptive.policies import Costs, cascade
from revit_video.adaptive.table import Table
from tests.tables import table_of_scores

COSTS = Costs([10.0, 2.0], assigner=0.5)
# Clip 0 needs the long length, clip 1 does with either, clip 2 is right at the short one alone, clip 3 never.
CORRECT = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0]]).bool()


def single_views(correct: Tensor, confidence: Tensor | None = None) -> Table:
    """Videos of one view and three classes; class 1 is true, and what is wrong is called class 0."""
    confidence = torch.full(correct.shape, 0.9) if confidence is None else confidence
    scores = ((1 - confidence) / 2)[..., None].repeat(1, 1, 3)
    scores.scatter_(2, correct.long()[..., None], confidence[..., None])
    return table_of_scores(scores, torch.ones(len(correct), dtype=torch.long), torch.arange(len(correct)))


def exits(confidence: Tensor, thresholds: list[float]) -> Tensor:
    """Where each view of a cascade stops."""
    shortest = torch.full((len(confidence),), confidence.shape[1] - 1)
    return cascade(thresholds).exits(shortest, confidence)


def asked(table: Table, short: Tensor) -> Table:
    """The same table with an assigner's probabilities, given those of the short length."""
    return replace(table, assigned=torch.stack([1 - short, short], dim=1))


def rounded(points: list[Point]) -> list[tuple[float, float, float, list[float]]]:
    return [(round(p.top1, 6), round(p.gmacs, 6), round(p.drop, 6), p.mix) for p in points]


def test_every_outcome_of_the_assigners_threshold() -> None:
    """The short length suffices with probability .1 .3 .5 .7: a rising threshold moves clip after clip."""
    short = torch.tensor([0.1, 0.3, 0.5, 0.7])
    points = assigned_points(asked(single_views(CORRECT), short), COSTS, per_view=False)
    assert rounded(points) == [
        (50.0, 2.5, 0.0, [0.0, 1.0]),  # all short: clips 1 and 2 are right
        (75.0, 4.5, -25.0, [0.25, 0.75]),  # clip 0 long, and right
        (75.0, 6.5, -25.0, [0.5, 0.5]),
        (50.0, 8.5, 0.0, [0.75, 0.25]),  # clip 2 long, and wrong
        (50.0, 10.5, 0.0, [1.0, 0.0]),
    ]
    for point, (above, up_to) in zip(
        points, [(0, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 1)], strict=True
    ):
        assert above <= point.threshold <= up_to
    # At 4.5 GMACs one clip in four gains: losses -1 0 0 0, standard deviation sqrt(3) / 4, over 4 clips.
    assert [point.error for point in points[:2]] == pytest.approx([100 * 0.5**0.5 / 2, 100 * 3**0.5 / 8])


def test_every_outcome_of_a_cascade() -> None:
    """A clip that goes on pays for both passes. What the long length is sure of does not matter."""
    confidence = torch.tensor([[0.99, 0.6], [0.4, 0.9], [0.99, 0.7], [0.99, 0.8]])
    points = cascade_points(single_views(CORRECT, confidence), COSTS)
    assert rounded(points) == [
        (50.0, 2.0, 0.0, [0.0, 1.0]),
        (75.0, 4.5, -25.0, [0.25, 0.75]),
        (50.0, 7.0, 0.0, [0.5, 0.5]),
        (50.0, 9.5, 0.0, [0.75, 0.25]),
        (50.0, 12.0, 0.0, [1.0, 0.0]),
    ]


def test_a_cascade_pays_for_each_of_three_passes() -> None:
    confidence = torch.tensor([[1.0, 0.5, 0.45], [1.0, 0.9, 0.4]])
    points = cascade_points(single_views(torch.ones(2, 3).bool(), confidence), Costs([10.0, 2.0, 1.0]))
    assert [round(point.gmacs, 6) for point in points] == [
        1.0,  # both stop at once
        (1 + 3) / 2,
        3.0,  # both at the middle length
        (13 + 3) / 2,
        13.0,
    ]


# ---- Several views a video -------------------------------------------------------------------------------

# Two videos of two views, in no order, and two classes; the numbers are what each view gives to the true one.
# Video 7 is right at the long length (.8 + .4 > 1), wrong at the short one (.3 + .6 < 1), right where its
# first view is read long and its second short (.8 + .6), wrong the other way round (.3 + .4).
# Video 3 is right at the long length alone: .9 + .2 > 1, .4 + .2 < 1; its first view decides.
VIDEOS = torch.tensor([7, 3, 7, 3])
TRUE_CLASS = torch.tensor([[0.8, 0.3], [0.9, 0.4], [0.4, 0.6], [0.2, 0.2]])


def two_views() -> Table:
    labels = torch.tensor([0, 1, 0, 1])
    scores = torch.stack([TRUE_CLASS, 1 - TRUE_CLASS], dim=2)
    return table_of_scores(torch.where(labels[:, None, None] == 1, scores.flip(2), scores), labels, VIDEOS)


@pytest.mark.parametrize(
    ("chosen", "right"),
    [
        ([0, 0, 0, 0], [True, True]),  # of videos 3 and 7
        ([1, 1, 1, 1], [False, False]),
        ([0, 1, 1, 0], [False, True]),
        ([1, 0, 0, 1], [True, False]),
    ],
)
def test_views_of_a_video_are_averaged_each_at_its_own_length(chosen: list[int], right: list[bool]) -> None:
    assert two_views().videos_at(torch.tensor(chosen)).correct.tolist() == right


def test_one_decision_a_video() -> None:
    """Top-1 and its error are over two videos, cost and mix over four views."""
    short = torch.tensor([0.7, 0.3, 0.7, 0.3])
    points = assigned_points(asked(two_views(), short), COSTS, per_view=False)
    assert rounded(points) == [
        (0.0, 2.5, 100.0, [0.0, 1.0]),
        (50.0, 6.5, 50.0, [0.5, 0.5]),  # video 3 long
        (100.0, 10.5, 0.0, [1.0, 0.0]),
    ]
    # Losses 0 and 1: standard deviation 1/2, over 2 videos.
    assert points[1].error == pytest.approx(100 * 0.5 / 2**0.5)


def test_each_view_decides_for_itself() -> None:
    short = torch.tensor([0.1, 0.3, 0.7, 0.5])
    points = assigned_points(asked(two_views(), short), Costs(COSTS.gmacs), per_view=True)
    assert rounded(points) == [
        (0.0, 2.0, 100.0, [0.0, 1.0]),
        (50.0, 4.0, 50.0, [0.25, 0.75]),  # the first view of video 7 long: right
        (100.0, 6.0, 0.0, [0.5, 0.5]),  # that of video 3 too
        (100.0, 8.0, 0.0, [0.75, 0.25]),
        (100.0, 10.0, 0.0, [1.0, 0.0]),
    ]


def test_a_cascade_stops_view_by_view() -> None:
    """At the short length the views are sure to .7 (of the wrong class), .6 (likewise), .6 and .8."""
    points = cascade_points(two_views(), COSTS)
    assert rounded(points) == [
        (0.0, 2.0, 100.0, [0.0, 1.0]),
        (50.0, 7.0, 50.0, [0.5, 0.5]),  # the middle two go on: video 3 right; of video 7 .3 + .4 < 1
        (100.0, 9.5, 0.0, [0.75, 0.25]),
        (100.0, 12.0, 0.0, [1.0, 0.0]),
    ]


def point(drop: float, gmacs: float, error: float = 0.0) -> Point:
    return Point(threshold=gmacs / 10, top1=90 - drop, gmacs=gmacs, drop=drop, error=error, mix=[])


def test_cheapest_allowed_point() -> None:
    points = [point(3.0, 1), point(0.5, 2), point(0.4, 3), point(0.0, 9)]
    assert choose_point(points, max_drop=0.5, safety=0.0).gmacs == 2
    assert choose_point(points, max_drop=0.49, safety=0.0).gmacs == 3
    assert choose_point(points, max_drop=10, safety=0.0).gmacs == 1


def test_the_more_accurate_of_two_equally_cheap_points() -> None:
    assert choose_point([point(0.4, 2), point(0.1, 2)], 0.5, 0.0).drop == 0.1


def test_a_margin_for_luck() -> None:
    points = [point(0.3, 2, error=0.3), point(0.1, 5, error=0.2), point(0.0, 9)]
    assert [choose_point(points, 0.5, safety).gmacs for safety in (0, 0.5, 1, 2, 3)] == [2, 2, 5, 5, 9]


def test_where_nothing_passes_the_most_accurate_is_taken() -> None:
    points = [point(3.0, 1), point(1.0, 4), point(1.0, 3), point(2.0, 9)]
    chosen = choose_point(points, max_drop=0.5, safety=0.0)
    assert (chosen.drop, chosen.gmacs) == (1.0, 3)


def test_the_most_accurate_within_a_budget() -> None:
    points = [point(3.0, 1), point(0.5, 2), point(0.5, 3), point(0.0, 9)]
    assert best_within(points, 4).gmacs == 2
    assert best_within(points, 9).gmacs == 9, "the budget itself may be spent"
    assert best_within(points, 100).gmacs == 9
    assert best_within(points, 0.5).gmacs == 1, "none is within it: the cheapest"


# ---- A threshold for each length -------------------------------------------------------------------------

# Confidence of seven views, longest length first.
CONFIDENCE = torch.tensor(
    [
        [0.1, 0.2, 0.90],
        [0.1, 0.9, 0.80],
        [0.1, 0.8, 0.70],
        [0.1, 0.7, 0.60],
        [0.1, 0.6, 0.50],
        [0.1, 0.5, 0.40],
        [0.1, 0.4, 0.30],
    ]
)


@pytest.mark.parametrize(
    ("q", "thresholds", "chosen"),
    [
        (0, [0, 0, 0], [2] * 7),
        (0.5, [0, 0.5, 0.6], [2, 2, 2, 2, 1, 1, 0]),  # 4 : 2 : 1
        (1, [0, 0.7, 0.8], [2, 2, 1, 1, 0, 0, 0]),  # 7 / 3 each, rounded down
        (2, [0, 0.8, 0.9], [2, 1, 1, 0, 0, 0, 0]),  # 1 : 2 : 4; the first view, which is 0.2 sure, has left
        (1e6, [0, NEVER, NEVER], [0] * 7),
    ],
)
def test_exit_fractions_give_the_thresholds(q: float, thresholds: list[float], chosen: list[int]) -> None:
    solved = exit_thresholds(CONFIDENCE, q)
    assert solved == pytest.approx(thresholds)
    assert exits(CONFIDENCE, solved).tolist() == chosen


def test_views_that_are_equally_sure_leave_together() -> None:
    same = torch.full((6, 3), 0.5)
    assert exits(same, exit_thresholds(same, 1)).tolist() == [2] * 6


def test_every_outcome_of_a_staged_cascade() -> None:
    """What is paid is given: 5 at the long length after the short one's 2, not 5 + 2."""
    confidence = torch.tensor([[0.99, 0.6], [0.4, 0.9], [0.99, 0.7], [0.99, 0.8]])
    points = cascade_points(single_views(CORRECT, confidence), Costs([5.0, 2.0], cumulative=True))
    assert rounded(points) == [
        (50.0, 2.0, 0.0, [0.0, 1.0]),
        (75.0, 2.75, -25.0, [0.25, 0.75]),
        (50.0, 3.5, 0.0, [0.5, 0.5]),
        (50.0, 4.25, 0.0, [0.75, 0.25]),
        (50.0, 5.0, 0.0, [1.0, 0.0]),
    ]
    for each in points:
        chosen = exits(confidence, exit_thresholds(confidence, each.threshold))
        assert chosen.double().mean().item() == pytest.approx(each.mix[1])


@pytest.mark.parametrize(("count", "many"), [(FEW - 1, False), (FEW, True)])
def test_few_videos_choose_among_few_ways(count: int, many: bool) -> None:
    """Of fewer than 200: one length for all, or all lengths with their answers averaged."""
    scores = torch.rand(count, 3, 3, generator=torch.Generator().manual_seed(0)).softmax(dim=2)
    labels = scores[:, 0].argmax(dim=1)
    points = hybrid_points(
        table_of_scores(scores, labels, torch.arange(count)), Costs([10.0, 2.0, 1.0]), [1.0, 1.0, 1.0]
    )
    ways = {(len(p.hybrid.usable), p.hybrid.averaged) for p in points if p.hybrid is not None}
    assert any(ways) and (ways <= {(1, False), (3, True)}) is not many


def test_the_dearer_of_cost_and_time() -> None:
    costs, clock = Costs([10.0, 2.0], assigner=1.0), Costs([4.0, 2.0], assigner=0.1)
    assert dearer(costs, clock) == Costs([1.0, 0.5], assigner=0.1)
