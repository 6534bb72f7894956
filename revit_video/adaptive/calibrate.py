"""Choosing an operating point on held-out data. Pure functions over tables, no model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from revit_video.adaptive.policies import pick_lengths


class Point(NamedTuple):
    """One operating point: top-1 in percent, cost in GMACs a clip, share of each length.

    `drop` is the loss against always reading the longest length, in points, and `error` its standard
    error over the clips.
    """

    threshold: float
    top1: float
    gmacs: float
    drop: float
    error: float
    mix: list[float]


def assigned_points(
    probabilities: Tensor, correct: Tensor, gmacs: Sequence[float], overhead: float
) -> list[Point]:
    """Every distinct outcome of the assigner's threshold, cheapest first.

    Args:
        probabilities: the assigner's, `(N, lengths)`, longest first.
        correct: whether each length is right `(N, lengths)`.
        gmacs: cost of each length.
        overhead: cost of the assigner.
    """
    costs = torch.tensor(gmacs, dtype=torch.float64)

    def outcome(threshold: float) -> tuple[Tensor, Tensor]:
        chosen = pick_lengths(probabilities, threshold)
        return chosen, costs[chosen] + overhead

    return _sweep(correct, outcome)


def cascade_points(confidence: Tensor, correct: Tensor, gmacs: Sequence[float]) -> list[Point]:
    """Every distinct outcome of a cascade's threshold, cheapest first.

    Args:
        confidence: largest class probability at each length `(N, lengths)`.
    """
    paid = torch.tensor(gmacs, dtype=torch.float64).flip(0).cumsum(0).flip(0)

    def outcome(threshold: float) -> tuple[Tensor, Tensor]:
        sure = confidence >= threshold
        sure[:, 0] = True
        chosen = sure.shape[1] - 1 - sure.flip(1).int().argmax(dim=1)
        return chosen, paid[chosen]

    return _sweep(correct, outcome)


def choose_point(points: Sequence[Point], max_drop: float, safety: float) -> Point:
    """The cheapest point whose drop, plus `safety` standard errors, is at most `max_drop` points.

    The margin matters: of many thresholds, the cheapest that just passes on the calibration clips
    owes part of its accuracy to luck. Where none passes, the most accurate point.
    """
    allowed = [point for point in points if point.drop + safety * point.error <= max_drop]
    if not allowed:
        return max(points, key=lambda point: (point.top1, -point.gmacs))
    return min(allowed, key=lambda point: (point.gmacs, -point.top1))


def _sweep(
    correct: Tensor, outcome: Callable[[float], tuple[Tensor, Tensor]], steps: int = 201
) -> list[Point]:
    """Points at thresholds spaced evenly in log-odds, since most of them matter close to 1."""
    rows = torch.arange(len(correct))
    thresholds = [0.0, *torch.linspace(-4, 10, steps).sigmoid().tolist(), 1.0]
    points: list[Point] = []
    for threshold in thresholds:
        chosen, cost = outcome(threshold)
        loss = correct[:, 0].double() - correct[rows, chosen].double()
        mix = chosen.bincount(minlength=correct.shape[1]).double() / len(correct)
        point = Point(
            threshold=threshold,
            top1=100 * correct[rows, chosen].double().mean().item(),
            gmacs=cost.mean().item(),
            drop=100 * loss.mean().item(),
            error=100 * loss.std(correction=0).item() / math.sqrt(len(correct)),
            mix=mix.tolist(),
        )
        if not points or point[1:] != points[-1][1:]:
            points.append(point)
    return sorted(points, key=lambda point: point.gmacs)
