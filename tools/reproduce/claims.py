"""A figure measured with several seeds, and what such figures say of the paper's claims."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import hypot
from statistics import mean, stdev
from typing import NamedTuple

AGREES, DISAGREES, WITHIN = "agrees", "disagrees", "within one standard deviation"
EQUAL = "neither: equal"


class PerSeed(NamedTuple):
    """One value for each seed."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> PerSeed:
        return cls(tuple(values))

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds (of a sample); 0 where there is one seed."""
        return stdev(self.values) if len(self.values) > 1 else 0.0

    def text(self, decimals: int = 1, exact: bool = False) -> str:
        """`98.1 ± 0.3`; without the deviation where there is one seed.

        Args:
            exact: of what does not vary by itself, such as a cost: nor is a deviation of 0 shown.
        """
        text = f"{self.mean:.{decimals}f}"
        shown = len(self.values) > 1 and (self.deviation > 0 or not exact)
        return f"{text} ± {self.deviation:.{decimals}f}" if shown else text

    def times(self, factor: float) -> PerSeed:
        """Each value times `factor`."""
        return PerSeed.of(factor * value for value in self.values)

    def by(self, other: PerSeed, function: Callable[[float, float], float]) -> PerSeed:
        """`function` of this and another one's value with the same seed."""
        return PerSeed.of(function(a, b) for a, b in zip(self.values, other.values, strict=True))


class Claim(NamedTuple):
    """What the paper says in words and in figures, and what was measured: `above` should exceed `below`."""

    words: str
    paper: str
    above: PerSeed
    below: PerSeed
    decimals: int = 1

    @property
    def verdict(self) -> str:
        """Whether the means are ordered as the paper's; they are not told apart within one deviation.

        The deviation is that of the difference of two independent runs.
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
    """One claim, at every length.

    Args:
        paper: its two figures at each length; None where it gives none.
    """
    pairs = ["no figures"] * len(lengths) if paper is None else [f"{a:.2f} > {b:.2f}" for a, b in paper]
    return [
        Claim(f"{words}, at {length}", pair, a, b)
        for length, pair, a, b in zip(lengths, pairs, above, below, strict=True)
    ]
