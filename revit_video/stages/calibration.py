"""Operating points of the policies: fixed by the config, or chosen on the validation list."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode

from revit_video.adaptive.calibrate import (
    Point,
    Readings,
    assigned_points,
    best_within,
    cascade_points,
    choose_point,
    exit_thresholds,
    staged_points,
)
from revit_video.evaluate import Table
from revit_video.models.base import ResizableModel
from revit_video.stages.job import gmacs_of

logger = logging.getLogger(__name__)


def assigned_settings(cfg: CfgNode, table: Table, costs: dict[str, Any]) -> dict[str, Any]:
    """The assigner's threshold, None for arg-max, whether views decide alone, and the mix of lengths."""
    adaptive = cfg.ADAPTIVE
    gmacs = gmacs_of(costs)
    settings: dict[str, Any] = {"per_view": adaptive.DECISION == "view", "threshold": None}
    mix = table.assigned.argmax(dim=1).bincount(minlength=len(gmacs)).double() / len(table.rows)
    if adaptive.POLICY == "cumulative":
        points = assigned_points(table.assigned, table.readings, gmacs, costs["assigner_gmacs"])
        chosen = _point(cfg, points, adaptive.THRESHOLD, gmacs[0])
        settings["threshold"], mix = chosen.threshold, torch.tensor(chosen.mix)
        _log(f"assigner on val: threshold {chosen.threshold:.3f}", chosen, gmacs[0])
    return settings | {"mix": mix.tolist()}


def cascade_settings(
    cfg: CfgNode, model: ResizableModel, table: Table, costs: dict[str, Any]
) -> dict[str, Any]:
    """The cascade's threshold; a DVT's are one for each length, longest first."""
    gmacs = gmacs_of(costs)
    points = points_of_cascade(model, table.readings, gmacs)
    chosen = _point(cfg, points, cfg.ADAPTIVE.CASCADE_THRESHOLD, gmacs[0])
    if not model.carries_state:
        _log(f"cascade on val: threshold {chosen.threshold:.3f}", chosen, gmacs[0])
        return {"cascade_threshold": chosen.threshold}
    thresholds = exit_thresholds(table.readings.scores.amax(dim=2), chosen.threshold)
    shortest_first = ", ".join(f"{threshold:.3f}" for threshold in thresholds[:0:-1])
    _log(f"early exit on val: thresholds {shortest_first}", chosen, gmacs[0])
    return {"cascade_threshold": thresholds}


def points_of_cascade(model: ResizableModel, readings: Readings, gmacs: Sequence[float]) -> list[Point]:
    """Every operating point of the model's cascade; `gmacs` are those of the cost table."""
    return staged_points(readings, gmacs) if model.carries_state else cascade_points(readings, gmacs)


def _point(cfg: CfgNode, points: list[Point], threshold: float, longest: float) -> Point:
    """The point at a threshold that the config gives, or the chosen one; `longest` is that length's GMACs."""
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


def _log(what: str, chosen: Point, longest: float) -> None:
    logger.info(
        "%s: %+.2f points at %.0f %% of the longest length's cost",
        what,
        0 - chosen.drop,  # no minus before a zero
        100 * chosen.gmacs / longest,
    )
