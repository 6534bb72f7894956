"""Values measured with several seeds, and the verdicts on the paper's claims that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import hypot
from statistics import mean, stdev
from typing import NamedTuple

AGREES, DISAGREES, WITHIN = "agrees", "disagrees", "within one standard deviation"
EQUAL = "neither: equal"


class PerSeed(NamedTuple):
    """One value per seed."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> PerSeed:
        return cls(tuple(values))

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the seeds; 0 with one seed."""
        return stdev(self.values) if len(self.values) > 1 else 0.0

    def text(self, decimals: int = 1, exact: bool = False) -> str:
        """`98.1 ± 0.3`; without the deviation if there is one seed.

        Args:
            exact: leave out a deviation of 0 too, for values such as costs, which need not vary.
        """
        text = f"{self.mean:.{decimals}f}"
        shown = len(self.values) > 1 and (self.deviation > 0 or not exact)
        return f"{text} ± {self.deviation:.{decimals}f}" if shown else text

    def times(self, factor: float) -> PerSeed:
        """Each value times `factor`."""
        return PerSeed.of(factor * value for value in self.values)

    def by(self, other: PerSeed, function: Callable[[float, float], float]) -> PerSeed:
        """`function(own, other)` seed by seed."""
        return PerSeed.of(function(a, b) for a, b in zip(self.values, other.values, strict=True))


class Claim(NamedTuple):
    """A claim of the paper, in words and figures: that `above` exceeds `below`, which were measured."""

    words: str
    paper: str
    above: PerSeed
    below: PerSeed
    decimals: int = 1

    @property
    def verdict(self) -> str:
        """Whether the means are ordered as in the paper; no verdict within one standard deviation.

        The deviation is that of the difference of two independent values.
        """
        difference = self.above.mean - self.below.mean
        if difference == 0:
            return EQUAL
        if abs(difference) <= hypot(self.above.deviation, self.below.deviation):
            return WITHIN
        return AGREES if difference > 0 else DISAGREES

    def cells(self) -> list[str]:
        sign = ">" if self.above.mean > self.below.mean else "<" if self.above.mean < self.below.mean else "="
        here = f"{self.above.text(self.decimals)} {sign} {self.below.text(self.decimals)}"
        return [self.words, self.paper, here, self.verdict]


def at_each_length(
    words: str,
    lengths: Sequence[object],
    paper: Sequence[tuple[float, float]] | None,
    above: Sequence[PerSeed],
    below: Sequence[PerSeed],
) -> list[Claim]:
    """The same claim at each length.

    Args:
        paper: the paper's two figures at each length; None if it gives none.
    """
    pairs = ["no figures"] * len(lengths) if paper is None else [f"{a:.2f} > {b:.2f}" for a, b in paper]
    return [
        Claim(f"{words}, at {length}", pair, a, b)
        for length, pair, a, b in zip(lengths, pairs, above, below, strict=True)
    ]
