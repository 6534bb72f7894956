"""A guard in deployment: does what a model sees still look like its validation list?

Videos are compared with the list in blocks, by the confidence of the answers (Kolmogorov-Smirnov test) and by
the mix of lengths and how often those disagree (chi-square test). The k-th block may raise a false alarm with
a probability of `ALARMS / (k (k + 1))`, which adds up to `ALARMS` over an endless stream.
"""

from __future__ import annotations

import math
import operator
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
        disagreed: those of them for which an earlier length had named another class; None in checkpoints of
            earlier versions.
    """

    videos: int
    confidence: list[float]
    lengths: list[int]
    disagreed: list[int] | None = None

    def __post_init__(self) -> None:
        different = [0] * len(self.lengths) if self.disagreed is None else self.disagreed
        numbers = [self.videos, *self.confidence, *self.lengths, *different]
        if not all(isinstance(n, int | float) and 0 <= n < 1e9 for n in numbers) or self.videos < 1:
            raise ValueError("what was seen of the validation list is not counts and confidences")
        fits = len(different) == len(self.lengths) and all(map(operator.le, different, self.lengths))
        if not self.confidence or sum(self.lengths) != self.videos or not fits:
            raise ValueError("what was seen of the validation list does not add up")

    @classmethod
    def of(cls, scores: VideoScores, stop: Tensor, agreed: Tensor, num_lengths: int) -> Seen:
        """Of N videos.

        Args:
            stop: the length at which each exited `(N,)`.
            agreed: whether all lengths that were run named the same class `(N,)`.
        """
        confidence = scores.scores.amax(dim=1).double()
        places = torch.linspace(0, 1, min(KEPT, len(confidence)), dtype=torch.float64)
        counts, different = (part.bincount(minlength=num_lengths).tolist() for part in (stop, stop[~agreed]))
        return cls(len(confidence), confidence.quantile(places).tolist(), counts, different)


class Watch:
    """Looks at the answers for a stream of videos; see `see`."""

    def __init__(self, before: Seen) -> None:
        self.before, self.blocks, self.alarmed = before, 0, False
        self._confidence: list[float] = []
        self._lengths, self._disagreed = [0] * len(before.lengths), [0] * len(before.lengths)

    def see(self, confidence: float, length: int, agreed: bool) -> str:
        """Takes note of a video; returns a warning after the first block that differs, else nothing."""
        self._confidence.append(confidence)
        self._lengths[length] += 1
        self._disagreed[length] += not agreed
        if len(self._confidence) < BLOCK:
            return ""
        self.blocks += 1
        allowed = ALARMS / (self.blocks * (self.blocks + 1)) / 2  # of each of the two tests
        p_confidence = same_distribution(self._confidence, self.before.confidence, self.before.videos)
        p_lengths = same_mix(
            _kinds(self._lengths, self._disagreed if self.before.disagreed is not None else None),
            _kinds(self.before.lengths, self.before.disagreed),
        )
        words = self._in_words()
        none = [0] * len(self._lengths)
        self._confidence, self._lengths, self._disagreed = [], none, none.copy()
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
        disagree = ""
        if self.before.disagreed is not None:
            here, there = sum(self._disagreed) / BLOCK, sum(self.before.disagreed) / self.before.videos
            disagree = f", lengths disagree on {100 * here:.0f} % (there {100 * there:.0f} %)"
        return (
            f"the last {BLOCK} videos are not like the validation list: mean confidence {now:.2f} (there "
            f"{then:.2f}), {shares[0]} % at each length, longest first (there {shares[1]} %){disagree}; "
            "other content, quality or mix of classes (files sorted by class?); what was measured and "
            "certified there need not hold"
        )


def _kinds(lengths: list[int], disagreed: list[int] | None) -> list[int]:
    """Videos by length and, where it is known, by whether all lengths that were run agreed."""
    if disagreed is None:
        return lengths
    return [n - different for n, different in zip(lengths, disagreed, strict=True)] + disagreed


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
