"""The policies that a predictor can run, and the one that it begins with."""

from __future__ import annotations

import math
import os
from collections.abc import Container
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from revit_video.adaptive.calibrate import Point, best_within, choose_point, hybrid_points
from revit_video.adaptive.kept import read_calibration
from revit_video.adaptive.policies import Costs, Policy, Settings, static
from revit_video.adaptive.temperatures import fit_temperatures
from revit_video.length import TokenLength
from revit_video.models.untrusted import believed

if TYPE_CHECKING:
    from revit_video.models.assigner import TokenLengthAssigner


@dataclass(frozen=True)
class Choices:
    """The policies that a predictor can run.

    Attributes:
        lengths: of the model, longest first.
        settings: of the policies in the checkpoint.
        shipped: the name of the one to begin with.
        calibration: the file with the outputs for the validation list; there may be none.
    """

    lengths: tuple[TokenLength, ...]
    costs: Costs
    settings: Settings
    shipped: str
    assigner: TokenLengthAssigner | None
    calibration: str

    @cached_property
    def kept(self) -> tuple[list[Point], float]:
        """Points of policy `hybrid` on what the run kept of its validation list, and its ADAPTIVE.SAFETY."""
        kept = read_calibration(self.calibration)
        assert kept is not None  # `_wished` has looked
        table, adaptive = kept
        if self.assigner is None:
            table = replace(table, assigned=table.assigned[:, :0])
        temperatures = fit_temperatures(table.scores, table.labels)
        with believed(self.calibration, "calibration"):
            safety, per_view = float(adaptive["SAFETY"]), adaptive["DECISION"] == "view"
        return hybrid_points(table, self.costs, temperatures, per_view), safety

    def policy(self, wish: str) -> Policy:
        """See `Predictor.policy`; ValueError for a wish that cannot be met."""
        name, is_wish, value = wish.partition("=")
        policies = self.settings.policies(len(self.lengths))
        policies.pop("random", None)
        if self.assigner is None:
            policies = {name: each for name, each in policies.items() if not each.asks_assigner}
        policies |= {"longest": static(0)} | {str(each): static(i) for i, each in enumerate(self.lengths)}
        if is_wish and name in ("budget", "max_drop"):
            return self._wished(name, value)
        if wish not in policies:
            raise ValueError(
                f"policy {wish!r}: there are {', '.join(policies)}, budget=SHARE, max_drop=POINTS"
            )
        return policies[wish]

    def _wished(self, name: str, value: str) -> Policy:
        """Policy `hybrid` at the point that `budget=SHARE` or `max_drop=POINTS` asks for.

        Raises:
            ValueError: the value is no such number, no point is as cheap, or nothing of the validation list
                was kept.
        """
        wish, number = f"policy {name}={value}", _number(value)
        if not (0 < number <= 1 if name == "budget" else 0 <= number <= 100):
            expected = "a share above 0, up to 1" if name == "budget" else "points from 0 to 100"
            raise ValueError(f"{wish}: must be {expected}")
        if not os.path.isfile(self.calibration):
            raise ValueError(
                f"{wish}: needs {self.calibration}, where a run keeps the outputs for its validation list; "
                "load its OUTPUT_DIR"
            )
        (points, safety), costs = self.kept, self.costs
        if name == "budget":
            chosen = best_within(points, number * costs.gmacs[0])
            if chosen.gmacs > number * costs.gmacs[0] * (1 + 1e-9):
                cheapest = chosen.gmacs / costs.gmacs[0]
                raise ValueError(f"{wish}: nothing is as cheap; the cheapest takes {cheapest:.2f}")
        else:
            chosen = choose_point(points, number, safety)
        assert chosen.hybrid is not None
        return chosen.hybrid.policy()


def shipped_policy(policies: Container[str], has_assigner: bool, carries_state: bool) -> str:
    """The name of the policy that a checkpoint with these `policies` ships; `longest` without any.

    A cascade alone ships with a model that `carries_state`, which runs the shorter lengths in any case.
    """
    if "hybrid" in policies:
        return "hybrid"
    if has_assigner:
        return "assigned"
    return "cascade" if carries_state and "cascade" in policies else "longest"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
