"""Choosing the operating point of a policy on held-out data, from a table; no model runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import NamedTuple

import torch
from torch import Tensor

from revit_video.adaptive.policies import Costs, Hybrid, Policy, assigned, cascade
from revit_video.adaptive.table import Table
from revit_video.meters import by_video
from revit_video.models.inference import confidence

FEW = 200  # videos; of fewer, one alone is more than half a point
NEVER = 2.0  # a threshold that no probability reaches
# Thresholds from 0 to 1, evenly spaced in log-odds: most of the interesting ones are close to 1.
IN_LOG_ODDS = (0.0, *torch.linspace(-4, 10, 201).sigmoid().tolist(), 1.0)
HYBRID_THRESHOLDS = IN_LOG_ODDS[1::4]  # fewer, for each of its other parameters
# Of the longest length, in probability: how much likelier a length must suffice than a cheaper one.
PRICES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0)
EXIT_RATIOS = (0.0, *torch.logspace(-3, 3, 201).tolist())  # q of `exit_thresholds`


class Point(NamedTuple):
    """One operating point of a policy.

    Attributes:
        threshold: of the policy; the q of `exit_thresholds` where a cascade has several.
        top1: percent of videos.
        gmacs: mean cost per view.
        drop: top-1 of the longest length less `top1`, in points.
        error: standard error of `drop`, over videos; at least that of one video lost or gained, but for
            always the longest length: that no video differs on a list does not say that none will.
        mix: share of views at each length, longest first.
        hybrid: the parameters of policy `hybrid`, of which this is a point.
    """

    threshold: float
    top1: float
    gmacs: float
    drop: float
    error: float
    mix: list[float]
    hybrid: Hybrid | None = None

    @property
    def is_longest(self) -> bool:
        """Whether it is always the longest length, by policy `hybrid`."""
        return self.hybrid is not None and self.hybrid.usable == [0]


def assigned_points(table: Table, costs: Costs, per_view: bool) -> list[Point]:
    """Every distinct outcome of the assigner's threshold, cheapest first."""
    return _sweep(table, costs, lambda threshold: assigned(threshold, per_view), IN_LOG_ODDS)


def cascade_points(table: Table, costs: Costs) -> list[Point]:
    """Every distinct outcome of a cascade's threshold, cheapest first; each view exits on its own.

    With cumulative costs (DVT) each length has its own threshold, and `Point.threshold` is the q of
    `exit_thresholds`.
    """

    def by_confidence(threshold: float) -> Policy:
        return cascade([threshold] * len(costs.gmacs))

    def by_share(q: float) -> Policy:
        return cascade(exit_thresholds(table.confidence, q))

    if costs.cumulative:
        return _sweep(table, costs, by_share, EXIT_RATIOS)
    return _sweep(table, costs, by_confidence, IN_LOG_ODDS)


def hybrid_points(
    table: Table, costs: Costs, temperatures: Sequence[float], per_view: bool = False
) -> list[Point]:
    """The best outcomes of policy `hybrid` over all its parameters: the `front` of cost and top-1.

    Always the longest length is there too, beaten or not: the one point that is sure not to lose. A table of
    fewer than `FEW` videos cannot tell which lengths and answers do best from which had luck: there it is one
    length for all, or all lengths with their answers averaged.
    """
    asks = table.assigned.shape[1] > 0 and not costs.cumulative  # a DVT runs the shorter lengths anyway
    found: list[Point] = []
    few = len(table.first_views) < FEW
    for way in _hybrids(costs, temperatures, per_view, asks, few):
        found += threshold_points(table, costs, way)
    always = [point for point in found if point.is_longest]
    best = front(found)
    return sorted({id(point): point for point in best + always}.values(), key=lambda point: point.gmacs)


def threshold_points(table: Table, costs: Costs, hybrid: Hybrid) -> list[Point]:
    """The outcomes of policy `hybrid` at other thresholds, its other parameters as given, cheapest first."""

    def at(threshold: float) -> Policy:
        return replace(hybrid, threshold=threshold).policy()

    thresholds = HYBRID_THRESHOLDS if len(hybrid.usable) > 1 else (0.0,)
    points = _sweep(table, costs, at, thresholds)
    return [point._replace(hybrid=replace(hybrid, threshold=point.threshold)) for point in points]


def _hybrids(
    costs: Costs, temperatures: Sequence[float], per_view: bool, asks: bool, few: bool
) -> Iterator[Hybrid]:
    """Every set of lengths, start and combination of answers, without a threshold yet."""
    lengths = range(len(costs.gmacs))
    shares = [gmacs / costs.gmacs[0] for gmacs in costs.gmacs]
    prices = [None, *([price * share for share in shares] for price in PRICES if asks)]
    sets = [usable for count in lengths for usable in combinations(lengths, count + 1)]
    if few:
        sets = [usable for usable in sets if len(usable) in (1, len(lengths))]
    for usable in sets:
        answers = (True,) if few else (True, False)
        for start, averaged in product(prices, answers) if len(usable) > 1 else [(None, False)]:
            yield Hybrid(list(usable), 0.0, list(temperatures), start, averaged, per_view)


def exit_thresholds(confidence: Tensor, q: float) -> list[float]:
    """One threshold per length, longest first, at which a share q^k (normalised) exits at the k-th shortest.

    DVT's rule. The share is larger where several views are equally confident.

    Args:
        confidence: largest class probability of held-out views at each length `(V, lengths)`.
        q: with 0 all exit at the shortest length; the larger q, the fewer do.
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


def choose_point(points: Sequence[Point], max_drop: float, safety: float) -> Point:
    """The cheapest point whose drop, plus `safety` standard errors, is at most `max_drop` points.

    The margin corrects for selection: of many thresholds, the cheapest that just passes on the calibration
    videos does so partly by chance. If none passes, the most accurate point.
    """
    allowed = [point for point in points if point.drop + safety * point.error <= max_drop]
    if not allowed:
        return max(points, key=lambda point: (point.top1, -point.gmacs))
    return min(allowed, key=lambda point: (point.gmacs, -point.top1))


def best_within(points: Sequence[Point], budget: float) -> Point:
    """The most accurate point that costs at most `budget` GMACs per view; of equal ones, the cheapest.

    If none is within the budget, the cheapest of all.
    """
    within = [point for point in points if point.gmacs <= budget * (1 + 1e-9)]
    if not within:
        return min(points, key=lambda point: (point.gmacs, -point.top1))
    return max(within, key=lambda point: (point.top1, -point.gmacs))


def dearer(costs: Costs, clock: Costs, noise: float = 0.0) -> Costs:
    """Relative to the longest length, the larger of cost and time of each length and of the assigner.

    Args:
        noise: share by which times are taken to be larger than measured, but for the longest length's.
    """
    shares = [[each / own.gmacs[0] for each in (*own.gmacs[1:], own.assigner)] for own in (costs, clock)]
    *shorter, assigner = (max(cost, (1 + noise) * time) for cost, time in zip(*shares, strict=True))
    return Costs([1.0, *shorter], assigner, costs.cumulative)


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats in both cost and top-1, cheapest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.gmacs, -point.top1)):
        if not kept or point.top1 > kept[-1].top1:
            kept.append(point)
    return kept


def _sweep(
    table: Table, costs: Costs, policy_at: Callable[[float], Policy], thresholds: Sequence[float]
) -> list[Point]:
    """The distinct outcomes of the policies at `thresholds`, cheapest first.

    Policies with temperatures start each view at the same length whatever the threshold.
    """
    every, known = torch.arange(len(table.rows)), table.known
    _, video = table.rows.unique(return_inverse=True)
    chosen = torch.zeros_like(video)
    at_longest = table.videos_at(chosen).correct
    first = policy_at(thresholds[0])
    scores, sure = table.scores, table.confidence
    if first.temperatures is not None:
        scores = first.answers(table.scores, first.start(known), table.multi_label)
        sure = confidence(scores, table.multi_label)
    right = by_video(scores[:, 0], table.labels, table.rows, table.ensemble).correct
    points: list[Point] = []
    for threshold in thresholds:
        policy = policy_at(threshold)
        start = policy.start(known)
        before, chosen = chosen, policy.exits(start, sure)
        if points and torch.equal(chosen, before):
            continue  # the same outcome
        # A rising threshold changes few videos at a time; only these are averaged again.
        changed = torch.zeros_like(right).index_fill(0, video[chosen != before], True)
        if changed.any():
            views = every[changed[video]]
            right = right.clone()
            own = scores[views, chosen[views]]
            labels, rows = table.labels[views], table.rows[views]
            right[changed] = by_video(own, labels, rows, table.ensemble).correct
        loss = at_longest.double() - right.double()
        mix = chosen.bincount(minlength=table.scores.shape[1]).double() / len(chosen)
        spent = costs.spent(start, chosen, policy.asks_assigner, policy.usable)
        errors = [100 * loss.std(correction=0).item() / math.sqrt(len(right))]
        if bool((chosen != 0).any()) or bool(loss.any()):
            errors.append(100 * math.sqrt(1 - 1 / len(right)) / len(right))
        point = Point(
            threshold=threshold,
            top1=100 * right.double().mean().item(),
            gmacs=spent.mean().item(),
            drop=100 * loss.mean().item(),
            error=max(errors),
            mix=mix.tolist(),
        )
        if not points or point[1:] != points[-1][1:]:
            points.append(point)
    return sorted(points, key=lambda point: point.gmacs)
