"""Choosing an operating point on held-out data. Pure functions over tables, no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from revit_video.adaptive.policies import pick_lengths, with_shorter
from revit_video.meters import by_video

NEVER = 2.0  # a threshold that no probability reaches
# Thresholds from 0 to 1, evenly spaced in log-odds, since most of them matter close to 1.
IN_LOG_ODDS = (0.0, *torch.linspace(-4, 10, 201).sigmoid().tolist(), 1.0)


class Readings(NamedTuple):
    """What each length says of V views.

    Attributes:
        scores: class probabilities `(V, lengths, classes)`, longest length first.
        labels: true class `(V,)`.
        videos: which views show the same video, any number each `(V,)`.
    """

    scores: Tensor
    labels: Tensor
    videos: Tensor


class Point(NamedTuple):
    """One operating point: top-1 in percent of videos, cost in GMACs a view, share of views at each length.

    `threshold` is what was varied: where a cascade has several, q of `exit_thresholds`. `drop` is the loss
    against always reading the longest length, in points, and `error` its standard error over the videos.
    """

    threshold: float
    top1: float
    gmacs: float
    drop: float
    error: float
    mix: list[float]


def assigned_points(
    probabilities: Tensor, readings: Readings, gmacs: Sequence[float], overhead: float
) -> list[Point]:
    """Every distinct outcome of the assigner's threshold, cheapest first.

    Args:
        probabilities: the assigner's `(V, lengths)`; views with a decision in common have the same ones.
        gmacs: cost of each length.
        overhead: cost of the assigner.
    """
    costs = torch.tensor(gmacs, dtype=torch.float64)

    def outcome(threshold: float) -> tuple[Tensor, Tensor]:
        chosen = pick_lengths(probabilities, threshold)
        return chosen, costs[chosen] + overhead

    return _sweep(readings, outcome)


def cascade_points(readings: Readings, gmacs: Sequence[float]) -> list[Point]:
    """Every distinct outcome of a cascade's threshold, cheapest first; each view stops by itself."""
    confidence = readings.scores.amax(dim=2)
    paid = torch.tensor(with_shorter(gmacs), dtype=torch.float64)

    def outcome(threshold: float) -> tuple[Tensor, Tensor]:
        chosen = exits(confidence, [threshold] * len(gmacs))
        return chosen, paid[chosen]

    return _sweep(readings, outcome)


def staged_points(readings: Readings, paid: Sequence[float]) -> list[Point]:
    """Every distinct outcome of a cascade with `exit_thresholds`, cheapest first; `Point.threshold` is q.

    Args:
        paid: what a view has cost that stops at each length, longest first.
    """
    confidence = readings.scores.amax(dim=2)
    costs = torch.tensor(paid, dtype=torch.float64)

    def outcome(q: float) -> tuple[Tensor, Tensor]:
        chosen = exits(confidence, exit_thresholds(confidence, q))
        return chosen, costs[chosen]

    return _sweep(readings, outcome, [0.0, *torch.logspace(-3, 3, 201).tolist()])


def exit_thresholds(confidence: Tensor, q: float) -> list[float]:
    """A threshold for each length, longest first, with which q^k of the views stop at the k-th shortest.

    In proportion to all lengths' q^k; DVT's rule. Where more stop than are to, they are equally confident.

    Args:
        confidence: largest class probability of held-out views at each length `(V, lengths)`.
        q: 0 stops all at the shortest length; the larger, the more go on.
    """
    count, lengths = confidence.shape
    shares = torch.tensor([q**k for k in range(lengths)], dtype=torch.float64)
    wanted = (count * shares / shares.sum() + 1e-6).floor().int().tolist()
    thresholds, there = [0.0] * lengths, torch.ones(count, dtype=torch.bool)
    for i, stop in zip(reversed(range(1, lengths)), wanted, strict=False):
        reached = confidence[there, i].sort(descending=True).values
        if stop < len(reached):
            thresholds[i] = reached[stop - 1].item() if stop else NEVER
        there &= confidence[:, i] < thresholds[i]
    return thresholds


def exits(confidence: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Position of the length `(V,)` at which each view of a cascade is sure enough, or of the longest."""
    sure = confidence >= torch.tensor(thresholds, dtype=confidence.dtype)
    sure[:, 0] = True
    return sure.shape[1] - 1 - sure.flip(1).int().argmax(dim=1)


def choose_point(points: Sequence[Point], max_drop: float, safety: float) -> Point:
    """The cheapest point whose drop, plus `safety` standard errors, is at most `max_drop` points.

    The margin matters: of many thresholds, the cheapest that just passes on the calibration videos
    owes part of its accuracy to luck. Where none passes, the most accurate point.
    """
    allowed = [point for point in points if point.drop + safety * point.error <= max_drop]
    if not allowed:
        return max(points, key=lambda point: (point.top1, -point.gmacs))
    return min(allowed, key=lambda point: (point.gmacs, -point.top1))


def best_within(points: Sequence[Point], budget: float) -> Point:
    """The most accurate point, of equal ones the cheapest, that costs at most `budget` GMACs a view.

    The cheapest of all where none is within the budget.
    """
    within = [point for point in points if point.gmacs <= budget * (1 + 1e-9)]
    if not within:
        return min(points, key=lambda point: (point.gmacs, -point.top1))
    return max(within, key=lambda point: (point.top1, -point.gmacs))


def right_videos(readings: Readings, chosen: Tensor) -> Tensor:
    """Whether each video is classified correctly `(N,)`, in ascending order of its number.

    A video's class is that of the mean over its views, each read at its own `chosen` length `(V,)`.
    """
    scores = readings.scores[torch.arange(len(chosen)), chosen]
    videos = by_video(scores, readings.labels, readings.videos)
    return videos.scores.argmax(dim=1) == videos.labels


def _sweep(
    readings: Readings,
    outcome: Callable[[float], tuple[Tensor, Tensor]],
    thresholds: Sequence[float] = IN_LOG_ODDS,
) -> list[Point]:
    """The distinct outcomes of `thresholds`, cheapest first."""
    _, video = readings.videos.unique(return_inverse=True)
    chosen = torch.zeros_like(video)
    right = at_longest = right_videos(readings, chosen)
    points: list[Point] = []
    for threshold in thresholds:
        before, (chosen, cost) = chosen, outcome(threshold)
        # A rising threshold changes few videos at a time: averaging all of them anew would be slow.
        changed = torch.zeros_like(right).index_fill(0, video[chosen != before], True)
        if changed.any():
            views = changed[video]
            right = right.clone()
            right[changed] = right_videos(Readings(*(part[views] for part in readings)), chosen[views])
        loss = at_longest.double() - right.double()
        mix = chosen.bincount(minlength=readings.scores.shape[1]).double() / len(chosen)
        point = Point(
            threshold=threshold,
            top1=100 * right.double().mean().item(),
            gmacs=cost.mean().item(),
            drop=100 * loss.mean().item(),
            error=100 * loss.std(correction=0).item() / math.sqrt(len(right)),
            mix=mix.tolist(),
        )
        if not points or point[1:] != points[-1][1:]:
            points.append(point)
    return sorted(points, key=lambda point: point.gmacs)
