"""Policies: at which token length a view starts, and when it exits. They run nothing themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from revit_video.runtime.rng import seeded_generator


@dataclass(frozen=True)
class Known:
    """Information on V views before the backbone runs.

    Attributes:
        rows: list row of each view's video `(V,)`, since the views of a video may share a decision.
        num_lengths: token lengths of the model.
        assigned: the assigner's probabilities `(V, lengths)`, for policies that need them.
        truth: position of the shortest sufficient length `(V,)`, for the oracle.
    """

    rows: Tensor
    num_lengths: int
    assigned: Tensor | None = None
    truth: Tensor | None = None


@dataclass(frozen=True)
class Policy:
    """The first length of a view, and the confidence at which it exits.

    Lengths are positions in the model's lengths, longest first. A view that does not exit continues at the
    next longer length; at the longest every view exits.

    Attributes:
        start: from what is known to the first length of each view `(V,)`.
        thresholds: confidence (largest class probability) required to exit at each length; None to exit at
            the first length.
        asks_assigner: whether `start` needs `Known.assigned`; the assigner's cost is then counted.
    """

    start: Callable[[Known], Tensor]
    thresholds: Sequence[float] | None = None
    asks_assigner: bool = False

    def stops(self, confidence: Tensor, i: int) -> Tensor:
        """Whether each view exits at length `i`, given its confidence there `(B,)`."""
        if self.thresholds is None or i == 0:
            return torch.ones_like(confidence, dtype=torch.bool)
        return confidence >= self.thresholds[i]

    def exits(self, start: Tensor, confidence: Tensor) -> Tensor:
        """Length at which each view exits `(V,)`.

        Args:
            start: the first length of each view `(V,)`.
            confidence: largest class probability at every length `(V, lengths)`.
        """
        if self.thresholds is None:
            return start
        stops = confidence >= torch.tensor(self.thresholds, dtype=confidence.dtype)
        stops &= torch.arange(stops.shape[1]) <= start[:, None]
        stops[:, 0] = True
        return _shortest(stops)


def static(i: int) -> Policy:
    """Every view at length `i`."""
    return Policy(lambda known: torch.full_like(known.rows, i))


def assigned(threshold: float | None, per_view: bool = False) -> Policy:
    """The length that the Token-Length Assigner predicts (paper section 3.1).

    Args:
        threshold: see `pick_lengths`.
        per_view: decide for each view separately, instead of once per video from the mean over its views.
    """

    def start(known: Known) -> Tensor:
        assert known.assigned is not None
        probabilities = known.assigned if per_view else mean_by_video(known.assigned, known.rows)
        return pick_lengths(probabilities, threshold)

    return Policy(start, asks_assigner=True)


def cascade(thresholds: Sequence[float]) -> Policy:
    """Start at the shortest length; exit once the largest class probability reaches the threshold.

    Args:
        thresholds: one per length, longest first; the longest length's is ignored.
    """
    return Policy(lambda known: torch.full_like(known.rows, known.num_lengths - 1), tuple(thresholds))


def random(mix: Sequence[float], seed: int) -> Policy:
    """Random lengths in a given mix, one per video: the baseline for an assigner.

    A video's draw depends on the seed and its list row alone, not on batches or ranks.

    Args:
        mix: share of each length, longest first.
    """
    bounds = torch.tensor(mix, dtype=torch.float64).cumsum(dim=0)

    def start(known: Known) -> Tensor:
        rows, video = known.rows.unique(return_inverse=True)
        draws = [torch.rand(1, generator=seeded_generator(seed, row)) for row in rows.tolist()]
        drawn = torch.searchsorted(bounds / bounds[-1], torch.cat(draws).double(), right=True)
        return drawn[video]

    return Policy(start)


def oracle() -> Policy:
    """The true token-length labels at no cost: an upper bound for assigners."""

    def start(known: Known) -> Tensor:
        if known.truth is None:
            raise ValueError("the oracle needs the true token-length labels")
        return known.truth

    return Policy(start)


@dataclass(frozen=True)
class Settings:
    """Operating points of the policies that have one.

    Attributes:
        threshold, per_view: of `assigned`.
        mix: share of views at each length under the assigner, longest first; None without an assigner.
        cascade_threshold: one for all lengths, or one per length, longest first; None without a cascade.
    """

    threshold: float | None = None
    per_view: bool = False
    mix: list[float] | None = None
    cascade_threshold: float | list[float] | None = None

    def __post_init__(self) -> None:
        cascade = self.cascade_threshold
        values = [*(self.mix or ()), *(cascade if isinstance(cascade, list) else [cascade]), self.threshold]
        for value in values:
            if value is not None and not (isinstance(value, int | float) and 0 <= value < float("inf")):
                raise ValueError(f"thresholds and shares must be at least 0 and finite, got {value!r:.60}")

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
            found["assigned"] = assigned(self.threshold, self.per_view)
            found["random"] = random(self.mix, seed)
        if self.cascade_threshold is not None:
            given = self.cascade_threshold
            found["cascade"] = cascade(given if isinstance(given, list) else [given] * num_lengths)
        return found


@dataclass(frozen=True)
class Costs:
    """GMACs per view.

    Attributes:
        gmacs: of each length, longest first.
        assigner: of choosing a length.
        cumulative: whether a length continues from the state of the shorter ones (DVT) and its cost includes
            theirs.
    """

    gmacs: Sequence[float]
    assigner: float = 0.0
    cumulative: bool = False

    @classmethod
    def from_table(cls, table: Mapping[str, Any], cumulative: bool) -> Costs:
        """The costs in `flops.cost_table`."""
        gmacs = [length["gmacs"] for length in table["lengths"].values()]
        return cls(gmacs, table.get("assigner_gmacs", 0.0), cumulative)

    def spent(self, start: Tensor, stop: Tensor, asked: bool) -> Tensor:
        """Cost of running each view at all lengths from `start` to `stop` `(V,)`, float64 `(V,)`.

        Args:
            asked: whether the assigner ran.
        """
        count = range(len(self.gmacs))
        passes = [[self._pass(first, last) for last in count] for first in count]
        overhead = self.assigner if asked else 0.0
        return torch.tensor(passes, dtype=torch.float64)[start, stop] + overhead

    def _pass(self, start: int, stop: int) -> float:
        return self.gmacs[stop] if self.cumulative else sum(self.gmacs[stop : start + 1])


def pick_lengths(probabilities: Tensor, threshold: float | None) -> Tensor:
    """Position of each view's length `(V,)`, from the assigner's probabilities `(V, lengths)`.

    With a threshold: the shortest length at which the cumulative probability, summed from the shortest
    length up, reaches it. Without: the most probable length.
    """
    if threshold is None:
        return probabilities.argmax(dim=1)
    suffices = probabilities.flip(1).cumsum(dim=1).flip(1)
    suffices[:, 0] = torch.inf  # the longest always suffices, whatever the rounding error
    return _shortest(suffices >= threshold)


def _shortest(allowed: Tensor) -> Tensor:
    """Position of the shortest allowed length of each view `(V,)`, from `(V, lengths)`."""
    return allowed.shape[1] - 1 - allowed.flip(1).int().argmax(dim=1)


def mean_by_video(values: Tensor, rows: Tensor) -> Tensor:
    """Replace `values` `(V, K)` of each view by the mean over the views of its video `(V,)`."""
    _, video, counts = rows.unique(return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(counts), values.shape[1]).index_add_(0, video, values)
    return (sums / counts.unsqueeze(1))[video]
