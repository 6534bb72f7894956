"""The operating points of the policies, chosen on held-out videos and stored in checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from revit_video.adaptive import policies
from revit_video.adaptive.policies import Policy


@dataclass(frozen=True)
class Settings:
    """Operating points of the policies that have one.

    Attributes:
        threshold, per_view: of `policies.assigned`.
        mix: share of views at each length under the assigner, longest first; None without an assigner.
        cascade_threshold: one for all lengths, or one per length, longest first; None without a cascade.
    """

    threshold: float | None = None
    per_view: bool = False
    mix: list[float] | None = None
    cascade_threshold: float | list[float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint, of the policies that there are; inverse of `Settings(**content)`."""
        cascade = {} if self.cascade_threshold is None else {"cascade_threshold": self.cascade_threshold}
        if self.mix is None:
            return cascade
        return {"threshold": self.threshold, "per_view": self.per_view, "mix": self.mix} | cascade

    def policies(self, num_lengths: int, seed: int = 0) -> dict[str, Policy]:
        """Those of `assigned`, `random` and `cascade` that have settings.

        Args:
            seed: of the random lengths.
        """
        found: dict[str, Policy] = {}
        if self.mix is not None:
            found["assigned"] = policies.assigned(self.threshold, self.per_view)
            found["random"] = policies.random(self.mix, seed)
        if self.cascade_threshold is not None:
            given = self.cascade_threshold
            found["cascade"] = policies.cascade(given if isinstance(given, list) else [given] * num_lengths)
        return found
