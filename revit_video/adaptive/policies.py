"""Policies: at which token length a view starts, and when it exits. They run nothing themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from revit_video.models.inference import log_probabilities, probabilities
from revit_video.models.untrusted import number
from revit_video.runtime.rng import seeded_generator

if TYPE_CHECKING:
    from revit_video.adaptive.drift import Seen

SHIPPED = ("hybrid", "assigned", "cascade")  # the first of these that there is is what `predict` runs


@dataclass(frozen=True)
class Known:
    """Information on V views before the backbone runs.

    Attributes:
        rows: list row of each view's video `(V,)`, since the views of a video may share a decision.
        num_lengths: token lengths of the model.
        assigned: the assigner's probabilities `(V, lengths)`, for policies that need them: how much likelier
            each length suffices than the next shorter one. Of an assigner of labels, that the label is it.
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
        temperatures: one per length, which calibrate its answers; None to take them as they are.
        averaged: with temperatures, whether the answer is the mean of the log-probabilities of all lengths
            run so far, instead of the last one's.
        usable: the lengths that may be run, longest first; None for all. `start` gives one of them.
    """

    start: Callable[[Known], Tensor]
    thresholds: Sequence[float] | None = None
    asks_assigner: bool = False
    temperatures: Sequence[float] | None = None
    averaged: bool = False
    usable: Sequence[int] | None = None

    @property
    def longest(self) -> int:
        """The longest length that may be run, at which every view exits."""
        return 0 if self.usable is None else self.usable[0]

    def may_run(self, i: int) -> bool:
        """Whether length `i` is one of those that may be run."""
        return self.usable is None or i in self.usable

    def next_longer(self, i: int) -> int:
        """The length at which a view continues that does not exit at length `i`."""
        return next(longer for longer in range(i - 1, -1, -1) if self.may_run(longer))

    def runs(self, start: Tensor, num_lengths: int) -> Tensor:
        """Whether each length is run unless the view exits before `(V, lengths)`."""
        usable = torch.tensor([self.may_run(i) for i in range(num_lengths)])
        return usable & (torch.arange(num_lengths) <= start[:, None])

    def stops(self, confidence: Tensor, i: int) -> Tensor:
        """Whether each view exits at length `i`, given its confidence there `(B,)`."""
        if self.thresholds is None or i == self.longest:
            return torch.ones_like(confidence, dtype=torch.bool)
        return confidence >= self.thresholds[i]

    def answers(self, scores: Tensor, start: Tensor, multi_label: bool = False) -> Tensor:
        """Class probabilities after each length `(V, lengths, classes)`, from those of each length alone."""
        if self.temperatures is None:
            return scores
        run = self.runs(start, scores.shape[1])
        return combined(scores, list(self.temperatures), run, self.averaged, multi_label)

    def exits(self, start: Tensor, confidence: Tensor) -> Tensor:
        """Length at which each view exits `(V,)`.

        Args:
            start: the first length of each view `(V,)`.
            confidence: largest class probability of the answer after each length `(V, lengths)`.
        """
        if self.thresholds is None:
            return start
        stops = confidence >= torch.tensor(self.thresholds, dtype=confidence.dtype)
        stops &= self.runs(start, stops.shape[1])
        stops[:, self.longest] = True
        return _shortest(stops)


@dataclass(frozen=True)
class At:
    """Every view starts at length `i`."""

    i: int

    def __call__(self, known: Known) -> Tensor:
        return torch.full_like(known.rows, self.i)


@dataclass(frozen=True)
class Predicted:
    """A view starts where the assigner says, see `pick_lengths`.

    Attributes:
        per_view: decide for each view separately, instead of once per video from the mean over its views.
    """

    threshold: float | None
    per_view: bool = False

    def __call__(self, known: Known) -> Tensor:
        return pick_lengths(_of_views(known, self.per_view), self.threshold)


@dataclass(frozen=True)
class Worthiest:
    """A view starts at the length that is worth most: the probability that it suffices, less its price.

    Attributes:
        usable: lengths that may be run, longest first.
        prices: one per length of the model, in probability.
        per_view: as in `Predicted`.
    """

    usable: tuple[int, ...]
    prices: tuple[float, ...]
    per_view: bool = False

    def __call__(self, known: Known) -> Tensor:
        suffices, chosen = sufficiency(_of_views(known, self.per_view)), torch.tensor(self.usable)
        worth = suffices - suffices.new_tensor(self.prices)
        return chosen[worth[:, chosen].argmax(dim=1)]


def _of_views(known: Known, per_view: bool) -> Tensor:
    """The assigner's probabilities that decide for each view `(V, lengths)`."""
    assert known.assigned is not None
    return known.assigned if per_view else mean_by_video(known.assigned, known.rows)


def static(i: int) -> Policy:
    """Every view at length `i`."""
    return Policy(At(i))


def assigned(threshold: float | None, per_view: bool = False) -> Policy:
    """The length that the Token-Length Assigner predicts (paper section 3.1); see `Predicted`."""
    return Policy(Predicted(threshold, per_view), asks_assigner=True)


def cascade(thresholds: Sequence[float]) -> Policy:
    """Start at the shortest length; exit where confidence reaches the length's threshold."""
    return Policy(At(len(thresholds) - 1), tuple(thresholds))


def hybrid(
    usable: Sequence[int],
    threshold: float,
    temperatures: Sequence[float],
    prices: Sequence[float] | None = None,
    averaged: bool = True,
    per_view: bool = False,
) -> Policy:
    """Start at the length that is worth most, exit once the averaged, calibrated answer is confident.

    Args:
        usable: lengths that may be run, longest first.
        threshold: confidence required to exit at any but the longest of them.
        temperatures: one per length of the model.
        prices, per_view: see `Worthiest`; without prices, start at the shortest usable length and do not ask
            the assigner.
        averaged: see `Policy`.
    """
    return Policy(
        At(usable[-1]) if prices is None else Worthiest(tuple(usable), tuple(prices), per_view),
        [threshold] * len(temperatures),
        asks_assigner=prices is not None,
        temperatures=tuple(temperatures),
        averaged=averaged,
        usable=tuple(usable),
    )


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
class Hybrid:
    """An operating point of `hybrid`; the attributes are its arguments."""

    usable: list[int]
    threshold: float
    temperatures: list[float]
    prices: list[float] | None
    averaged: bool
    per_view: bool

    def __post_init__(self) -> None:
        for value in (self.threshold, *self.temperatures, *(self.prices or ())):
            number("a number of policy hybrid", value, 0.0)
        if {*map(type, self.usable)} - {int} or {type(self.averaged), type(self.per_view)} != {bool}:
            raise ValueError("policy hybrid: usable must be positions, averaged and per_view true or false")

    def policy(self) -> Policy:
        """The policy."""
        return hybrid(**asdict(self))

    def fits(self, num_lengths: int) -> bool:
        """Whether a model with so many lengths can run it."""
        usable = [i for i in range(num_lengths) if i in self.usable]
        sizes = {len(self.temperatures), len(self.temperatures if self.prices is None else self.prices)}
        return usable == self.usable != [] and sizes == {num_lengths} and min(self.temperatures) > 0


@dataclass(frozen=True)
class Certificate:
    """What is known of the drop of an operating point.

    Attributes:
        max_drop: points of top-1 below the longest length.
        confidence: probability with which a certified drop holds.
        videos: number of those in the validation list.
        holds: whether the drop of the point is certified to be at most `max_drop`.
        needed: about how many videos of the validation list would certify the point, if its drop is as
            estimated; None where no number would.
    """

    max_drop: float
    confidence: float
    videos: int
    holds: bool
    needed: int | None = None


@dataclass(frozen=True)
class Settings:
    """Operating points of the policies that have one.

    Attributes:
        threshold, per_view: of `assigned`.
        mix: share of views at each length under the assigner, longest first; None without an assigner.
        cascade_threshold: one for all lengths, or one per length, longest first; None without a cascade.
        hybrid: of `hybrid`; None in checkpoints that are older than it.
        certificate: of `hybrid`; None without a promised drop.
        seen: how `hybrid` did on the validation list; None in checkpoints of earlier versions.
    """

    threshold: float | None = None
    per_view: bool = False
    mix: list[float] | None = None
    cascade_threshold: float | list[float] | None = None
    hybrid: Hybrid | None = None
    certificate: Certificate | None = None
    seen: Seen | None = None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Settings:
        """The settings in a checkpoint; inverse of `to_dict`."""
        kinds: dict[str, Any] = {"hybrid": Hybrid, "certificate": Certificate}
        parts = {name: kind(**content[name]) for name, kind in kinds.items() if name in content}
        if "seen" in content:
            from revit_video.adaptive.drift import Seen  # earlier versions' checkpoints have none

            parts["seen"] = Seen(**content["seen"])
        return cls(**{**content, **parts})

    def __post_init__(self) -> None:
        cascade = self.cascade_threshold
        values = [*(self.mix or ()), *(cascade if isinstance(cascade, list) else [cascade]), self.threshold]
        for value in values:
            number("a threshold or share", 0.0 if value is None else value, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint, of the policies that there are; inverse of `of`."""
        content: dict[str, Any] = {}
        if self.mix is not None:
            content |= {"threshold": self.threshold, "per_view": self.per_view, "mix": self.mix}
        if self.cascade_threshold is not None:
            content["cascade_threshold"] = self.cascade_threshold
        parts = {"hybrid": self.hybrid, "certificate": self.certificate}
        content |= {name: asdict(part) for name, part in parts.items() if part is not None}
        if self.seen is not None:
            content["seen"] = {name: each for name, each in asdict(self.seen).items() if each is not None}
        return content

    def policies(self, num_lengths: int, seed: int = 0) -> dict[str, Policy]:
        """Those of `hybrid`, `assigned`, `random` and `cascade` that have settings.

        Args:
            seed: of the random lengths.

        Raises:
            ValueError: the settings of `hybrid` are of other lengths.
        """
        found: dict[str, Policy] = {}
        if self.hybrid is not None:
            if not self.hybrid.fits(num_lengths):
                raise ValueError(f"policy hybrid is not for {num_lengths} token lengths")
            found["hybrid"] = self.hybrid.policy()
        if self.seen is not None and len(self.seen.lengths) != num_lengths:
            raise ValueError(f"what was seen of the validation list is not for {num_lengths} token lengths")
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

    def spent(self, start: Tensor, stop: Tensor, asked: bool, usable: Sequence[int] | None = None) -> Tensor:
        """Cost of running each view at all lengths from `start` to `stop` `(V,)`, float64 `(V,)`.

        Args:
            asked: whether the assigner ran.
            usable: lengths that are run, of those in between; None for all.
        """
        return self.passes(usable)[start, stop] + (self.assigner if asked else 0.0)

    def passes(self, usable: Sequence[int] | None = None) -> Tensor:
        """Cost of all usable lengths from one to another, without asking; float64 `(lengths, lengths)`."""
        count = range(len(self.gmacs))
        paid = [g if usable is None or i in usable else 0.0 for i, g in enumerate(self.gmacs)]
        passes = [
            [self.gmacs[last] if self.cumulative else sum(paid[last : first + 1]) for last in count]
            for first in count
        ]
        return torch.tensor(passes, dtype=torch.float64)


def pick_lengths(probabilities: Tensor, threshold: float | None) -> Tensor:
    """Position of each view's length `(V,)`, from the assigner's probabilities `(V, lengths)`.

    With a threshold: the shortest length at which the cumulative probability, summed from the shortest
    length up, reaches it. Without: the most probable length.
    """
    if threshold is None:
        return probabilities.argmax(dim=1)
    suffices = sufficiency(probabilities)
    suffices[:, 0] = torch.inf  # the longest always suffices, whatever the rounding error
    return _shortest(suffices >= threshold)


def sufficiency(probabilities: Tensor) -> Tensor:
    """Probability that each length suffices `(V, lengths)`, from `Known.assigned`."""
    return probabilities.flip(1).cumsum(dim=1).flip(1)


def increments(suffices: Tensor) -> Tensor:
    """How much likelier each length suffices than the next shorter one; inverse of `sufficiency`."""
    return torch.cat([suffices[:, :-1] - suffices[:, 1:], suffices[:, -1:]], dim=1)


def _shortest(allowed: Tensor) -> Tensor:
    """Position of the shortest allowed length of each view `(V,)`, from `(V, lengths)`."""
    return allowed.shape[1] - 1 - allowed.flip(1).int().argmax(dim=1)


def mean_by_video(values: Tensor, rows: Tensor) -> Tensor:
    """Replace `values` `(V, K)` of each view by the mean over the views of its video `(V,)`."""
    _, video, counts = rows.unique(return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(counts), values.shape[1]).index_add_(0, video, values)
    return (sums / counts.unsqueeze(1))[video]


def combined(
    scores: Tensor, temperatures: list[float], run: Tensor, averaged: bool, multi_label: bool = False
) -> Tensor:
    """Class probabilities after each length `(V, lengths, classes)`.

    Args:
        scores: class probabilities of each length alone, longest first `(V, lengths, classes)`.
        run: the lengths that are run if the view does not exit before `(V, lengths)`.
        averaged: the mean of the log-probabilities of all lengths run up to there, instead of the last one's.
        multi_label: each class has a probability of its own.
    """
    logs = log_probabilities(scores, scores.new_tensor(temperatures)[:, None], multi_label)
    if averaged:
        sums = (logs * run[..., None]).flip(1).cumsum(dim=1).flip(1)
        logs = sums / run.flip(1).cumsum(dim=1).flip(1).clamp(min=1)[..., None]
    return probabilities(logs, multi_label)
