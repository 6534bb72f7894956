"""Operating points that are wished for at prediction, chosen on what the run kept of its validation list."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from revit_video.adaptive.calibrate import Point, best_within, choose_point, hybrid_points
from revit_video.adaptive.kept import read_calibration
from revit_video.adaptive.policies import Policy
from revit_video.adaptive.temperatures import fit_temperatures
from revit_video.models.untrusted import believed

if TYPE_CHECKING:
    from revit_video.predict import Choices


def point_within(name: str, value: str, choices: Choices) -> Policy:
    """Policy `hybrid` at the point that `budget=SHARE` or `max_drop=POINTS` asks for.

    Raises:
        ValueError: the value is no such number, no point is as cheap, or nothing of the validation list was
            kept.
    """
    wish, number = f"policy {name}={value}", _number(value)
    if not (0 < number <= 1 if name == "budget" else 0 <= number <= 100):
        expected = "a share above 0, up to 1" if name == "budget" else "points from 0 to 100"
        raise ValueError(f"{wish}: must be {expected}")
    if not os.path.isfile(choices.calibration):
        raise ValueError(
            f"{wish}: needs {choices.calibration}, where a run keeps the outputs for its validation list; "
            "load its OUTPUT_DIR"
        )
    (points, safety), costs = choices.kept, choices.costs
    if name == "budget":
        chosen = best_within(points, number * costs.gmacs[0])
        if chosen.gmacs > number * costs.gmacs[0] * (1 + 1e-9):
            cheapest = chosen.gmacs / costs.gmacs[0]
            raise ValueError(f"{wish}: nothing is as cheap; the cheapest takes {cheapest:.2f}")
    else:
        chosen = choose_point(points, number, safety)
    assert chosen.hybrid is not None
    return chosen.hybrid.policy()


def kept_points(choices: Choices) -> tuple[list[Point], float]:
    """The points of policy `hybrid` on what the run kept of its validation list, and its ADAPTIVE.SAFETY."""
    kept = read_calibration(choices.calibration)
    assert kept is not None  # `point_within` has looked
    table, adaptive = kept
    if choices.assigner is None:
        table = replace(table, assigned=table.assigned[:, :0])
    temperatures = fit_temperatures(table.scores, table.labels)
    with believed(choices.calibration, "calibration"):
        safety, per_view = float(adaptive["SAFETY"]), adaptive["DECISION"] == "view"
    return hybrid_points(table, choices.costs, temperatures, per_view), safety


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
