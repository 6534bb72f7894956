"""Operating points of the policies: fixed by the config, or chosen on the validation list."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from fvcore.common.config import CfgNode

from revit_video.adaptive.calibrate import (
    Point,
    assigned_points,
    best_within,
    cascade_points,
    choose_point,
    exit_thresholds,
)
from revit_video.adaptive.policies import Costs, Settings, assigned
from revit_video.adaptive.table import Table

logger = logging.getLogger(__name__)


def calibrated(cfg: CfgNode, table: Table, costs: Costs) -> Settings:
    """Settings of all policies, from the table of the validation list with the assigner's probabilities."""
    settings = assigned_settings(cfg, table, costs)
    return replace(settings, cascade_threshold=cascade_threshold(cfg, table, costs))


def assigned_settings(cfg: CfgNode, table: Table, costs: Costs) -> Settings:
    """The assigner's threshold (None for arg-max) and its mix of lengths."""
    per_view, longest = cfg.ADAPTIVE.DECISION == "view", costs.gmacs[0]
    if cfg.ADAPTIVE.POLICY == "argmax":
        chosen = assigned(None, per_view).start(table.known)
        counts = chosen.bincount(minlength=len(costs.gmacs)).double()
        return Settings(None, per_view, (counts / len(chosen)).tolist())
    point = _point(cfg, assigned_points(table, costs, per_view), cfg.ADAPTIVE.THRESHOLD, longest)
    _log(f"assigner on val: threshold {point.threshold:.3f}", point, longest)
    mix = torch.tensor(point.mix).tolist()  # in single precision, as checkpoints have always kept it
    return Settings(point.threshold, per_view, mix)


def cascade_threshold(cfg: CfgNode, table: Table, costs: Costs) -> float | list[float]:
    """The cascade's threshold; with cumulative costs (DVT) one per length, longest first."""
    longest = costs.gmacs[0]
    point = _point(cfg, cascade_points(table, costs), cfg.ADAPTIVE.CASCADE_THRESHOLD, longest)
    if not costs.cumulative:
        _log(f"cascade on val: threshold {point.threshold:.3f}", point, longest)
        return point.threshold
    thresholds = exit_thresholds(table.confidence, point.threshold)
    shortest_first = ", ".join(f"{threshold:.3f}" for threshold in thresholds[:0:-1])
    _log(f"early exit on val: thresholds {shortest_first}", point, longest)
    return thresholds


def _point(cfg: CfgNode, points: list[Point], threshold: float, longest: float) -> Point:
    """The point at the given threshold, or the one that `ADAPTIVE` chooses.

    Args:
        threshold: 0 to choose.
        longest: GMACs of the longest length, which `ADAPTIVE.BUDGET` is relative to.
    """
    adaptive = cfg.ADAPTIVE
    if threshold > 0:
        same = max((p for p in points if p.threshold <= threshold), key=lambda point: point.threshold)
        return same._replace(threshold=threshold)
    if adaptive.BUDGET > 0:
        chosen, budget = best_within(points, adaptive.BUDGET * longest), 100 * adaptive.BUDGET
        if chosen.gmacs > adaptive.BUDGET * longest * (1 + 1e-9):
            logger.warning("ADAPTIVE.BUDGET %.0f %%: nothing is as cheap; the cheapest is taken", budget)
        return chosen
    return choose_point(points, adaptive.MAX_DROP, adaptive.SAFETY)


def _log(title: str, chosen: Point, longest: float) -> None:
    logger.info(
        "%s: %+.2f points at %.0f %% of the longest length's cost",
        title,
        0 - chosen.drop,  # no minus before a zero
        100 * chosen.gmacs / longest,
    )
