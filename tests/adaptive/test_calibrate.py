"""Operating points on tables small enough to check by hand."""

from __future__ import annotations

import pytest
import torch

from revit_video.adaptive.calibrate import Point, assigned_points, cascade_points, choose_point

GMACS = [10.0, 2.0]
# Clip 0 needs the long length, clip 1 does with either, clip 2 is right at the short one alone, clip 3 never.
CORRECT = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0]]).bool()


def rounded(points: list[Point]) -> list[tuple[float, float, float, list[float]]]:
    return [(round(p.top1, 6), round(p.gmacs, 6), round(p.drop, 6), p.mix) for p in points]


def test_every_outcome_of_the_assigners_threshold() -> None:
    """The short length suffices with probability .1 .3 .5 .7: a rising threshold moves clip after clip."""
    short = torch.tensor([0.1, 0.3, 0.5, 0.7])
    points = assigned_points(torch.stack([1 - short, short], dim=1), CORRECT, GMACS, overhead=0.5)
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
    points = cascade_points(confidence, CORRECT, GMACS)
    assert rounded(points) == [
        (50.0, 2.0, 0.0, [0.0, 1.0]),
        (75.0, 4.5, -25.0, [0.25, 0.75]),
        (50.0, 7.0, 0.0, [0.5, 0.5]),
        (50.0, 9.5, 0.0, [0.75, 0.25]),
        (50.0, 12.0, 0.0, [1.0, 0.0]),
    ]


def test_a_cascade_pays_for_each_of_three_passes() -> None:
    confidence = torch.tensor([[1.0, 0.5, 0.3], [1.0, 0.9, 0.2]])
    points = cascade_points(confidence, torch.ones(2, 3).bool(), [10.0, 2.0, 1.0])
    assert [round(point.gmacs, 6) for point in points] == [
        1.0,  # both stop at once
        (1 + 3) / 2,
        3.0,  # both at the middle length
        (13 + 3) / 2,
        13.0,
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
