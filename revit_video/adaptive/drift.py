"""A guard in deployment: does what a model sees still look like its validation list?

Videos are compared with the list in blocks, by the confidence of the answers (Kolmogorov-Smirnov test) and by
the mix of lengths (chi-square test). The k-th block may raise a false alarm with a probability of
`ALARMS / (k (k + 1))`, which adds up to `ALARMS` over an endless stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from revit_video.meters import VideoScores

BLOCK = 100  # videos
ALARMS = 0.05  # probability of a false alarm, ever
KEPT = 500  # quantiles of the confidence that are kept


@dataclass(frozen=True)
class Seen:
    """What the shipped policy did with the validation list.

    Attributes:
        videos: number of those in the list.
        confidence: evenly spaced quantiles of the largest class probability of a video, ascending.
        lengths: videos that exited at each length, longest first.
    """

    videos: int
    confidence: list[float]
    lengths: list[int]

    def __post_init__(self) -> None:
        numbers = [self.videos, *self.confidence, *self.lengths]
        if not all(isinstance(n, int | float) and 0 <= n < 1e9 for n in numbers) or self.videos < 1:
            raise ValueError("what was seen of the validation list is not counts and confidences")
        if not self.confidence or sum(self.lengths) != self.videos:
            raise ValueError("what was seen of the validation list does not add up")

    @classmethod
    def of(cls, scores: VideoScores, stop: Tensor, num_lengths: int) -> Seen:
        """Of N videos.

        Args:
            stop: the length at which each exited `(N,)`.
        """
        confidence = scores.scores.amax(dim=1).double()
        places = torch.linspace(0, 1, min(KEPT, len(confidence)), dtype=torch.float64)
        counts = stop.bincount(minlength=num_lengths)
        return cls(len(confidence), confidence.quantile(places).tolist(), counts.tolist())


class Watch:
    """Looks at the answers for a stream of videos; see `see`."""

    def __init__(self, before: Seen) -> None:
        self.before, self.blocks, self.alarmed = before, 0, False
        self._confidence: list[float] = []
        self._lengths = [0] * len(before.lengths)

    def see(self, confidence: float, length: int) -> str:
        """Takes note of a video; returns a warning after the first block that differs, else nothing."""
        self._confidence.append(confidence)
        self._lengths[length] += 1
        if len(self._confidence) < BLOCK:
            return ""
        self.blocks += 1
        allowed = ALARMS / (self.blocks * (self.blocks + 1)) / 2  # of each of the two tests
        p_confidence = same_distribution(self._confidence, self.before.confidence, self.before.videos)
        p_lengths = same_mix(self._lengths, self.before.lengths)
        words = self._in_words()
        self._confidence, self._lengths = [], [0] * len(self._lengths)
        if self.alarmed or min(p_confidence, p_lengths) > allowed:
            return ""
        self.alarmed = True
        return words

    def _in_words(self) -> str:
        before = self.before.confidence
        now, then = sum(self._confidence) / len(self._confidence), sum(before) / len(before)
        shares = [
            "/".join(f"{100 * count / sum(counts):.0f}" for count in counts)
            for counts in (self._lengths, self.before.lengths)
        ]
        return (
            f"the last {BLOCK} videos are not like the validation list: mean confidence {now:.2f} (there "
            f"{then:.2f}), {shares[0]} % at each length, longest first (there {shares[1]} %); other content, "
            "quality or mix of classes; what was measured and certified there need not hold"
        )


def same_distribution(values: Sequence[float], quantiles: Sequence[float], count: int) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test, by its asymptotic distribution.

    Args:
        quantiles: of the other sample, ascending, as in `Seen`.
        count: size of the other sample.
    """
    own, other = torch.tensor(sorted(values)).double(), torch.tensor(quantiles).double()
    steps = torch.cat([own, other])
    gaps = [
        torch.searchsorted(own, steps, right=right) / len(own)
        - torch.searchsorted(other, steps, right=right) / len(other)
        for right in (False, True)
    ]
    distance = torch.stack(gaps).abs().max().item() - 1 / len(other) * (len(other) < count)
    size = math.sqrt(len(own) * count / (len(own) + count))
    x = (size + 0.12 + 0.11 / size) * max(0.0, distance)
    if x < 0.2:  # where the series converges slowly, and is 1 within rounding
        return 1.0
    terms = [(-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101)]
    return min(1.0, max(0.0, 2 * sum(terms)))


def same_mix(counts: Sequence[int], others: Sequence[int]) -> float:
    """p-value of the chi-square test that two samples have the same mix.

    Kinds with fewer than 5 expected in the smaller sample are taken together.
    """
    table = torch.tensor([counts, others], dtype=torch.float64)
    totals, smaller = table.sum(dim=1), table.sum(dim=1).min()
    common = table.sum(dim=0) * smaller / totals.sum() >= 5
    table = torch.cat([table[:, common], table[:, ~common].sum(dim=1, keepdim=True)], dim=1)
    table = table[:, table.sum(dim=0) > 0]
    expected = table.sum(dim=1, keepdim=True) * table.sum(dim=0) / totals.sum()
    kinds = table.shape[1]
    if kinds < 2 or expected.min() < 1:
        return 1.0
    statistic = ((table - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(torch.tensor((kinds - 1) / 2).double(), statistic / 2).item()
