"""Choosing an operating point on held-out data. Pure functions over tables, no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from revit_video.adaptive.policies import pick_lengths
from revit_video.meters import by_video


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

    `drop` is the loss against always reading the longest length, in points, and `error` its standard
    error over the videos.
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
    paid = torch.tensor(gmacs, dtype=torch.float64).flip(0).cumsum(0).flip(0)

    def outcome(threshold: float) -> tuple[Tensor, Tensor]:
        sure = confidence >= threshold
        sure[:, 0] = True
        chosen = sure.shape[1] - 1 - sure.flip(1).int().argmax(dim=1)
        return chosen, paid[chosen]

    return _sweep(readings, outcome)


def choose_point(points: Sequence[Point], max_drop: float, safety: float) -> Point:
    """The cheapest point whose drop, plus `safety` standard errors, is at most `max_drop` points.

    The margin matters: of many thresholds, the cheapest that just passes on the calibration videos
    owes part of its accuracy to luck. Where none passes, the most accurate point.
    """
    allowed = [point for point in points if point.drop + safety * point.error <= max_drop]
    if not allowed:
        return max(points, key=lambda point: (point.top1, -point.gmacs))
    return min(allowed, key=lambda point: (point.gmacs, -point.top1))


def right_videos(readings: Readings, chosen: Tensor) -> Tensor:
    """Whether each video is classified correctly `(N,)`, in ascending order of its number.

    A video's class is that of the mean over its views, each read at its own `chosen` length `(V,)`.
    """
    scores = readings.scores[torch.arange(len(chosen)), chosen]
    videos = by_video(scores, readings.labels, readings.videos)
    return videos.scores.argmax(dim=1) == videos.labels


def _sweep(
    readings: Readings, outcome: Callable[[float], tuple[Tensor, Tensor]], steps: int = 201
) -> list[Point]:
    """Points at thresholds spaced evenly in log-odds, since most of them matter close to 1."""
    thresholds = [0.0, *torch.linspace(-4, 10, steps).sigmoid().tolist(), 1.0]
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
