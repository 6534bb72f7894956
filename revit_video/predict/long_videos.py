"""What happens when in a long video: windows over all of it, and the segments of equal classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from revit_video.adaptive.engine import Prediction
from revit_video.data.windows import stream_windows
from revit_video.length import TokenLength

if TYPE_CHECKING:
    from revit_video.predict import Predictor

BORDER = 0.5  # nats that a border costs, so that a single odd window makes no stretch
LEAST = 1e-3  # probability that a window leaves to any class: it may be wrong


class Moment(NamedTuple):
    """The answer for one window.

    Attributes:
        start, end: in seconds.
        probabilities: of the classes `(classes,)`.
        length: token length of the first view.
        gmacs: cost of all views.
    """

    start: float
    end: float
    probabilities: Tensor
    length: TokenLength
    gmacs: float


@dataclass(frozen=True)
class Segment:
    """A stretch of one class.

    Attributes:
        start, end: in seconds.
        probability: of the class, mean over the stretch.
        length: the most frequent token length of its windows.
        gmacs: cost of its windows, those whose middle lies in it.
        windows: number of these.
    """

    start: float
    end: float
    name: str
    probability: float
    length: TokenLength
    gmacs: float
    windows: int


@dataclass(frozen=True)
class VideoTimeline:
    """A long video's windows and segments.

    Attributes:
        segments: in order; where there is none, it is the background.
        moments: the windows, in order.
        duration: in seconds.
    """

    path: str
    duration: float
    class_names: list[str]
    moments: list[Moment]
    segments: list[Segment]

    @property
    def borders(self) -> list[float]:
        """Seconds between which each window is the nearest, from 0 to the end of the video."""
        middles = [(m.start + min(m.end, self.duration)) / 2 for m in self.moments]
        return [0.0, *((a + b) / 2 for a, b in zip(middles, middles[1:], strict=False)), self.duration]

    @property
    def gmacs(self) -> float:
        """Cost of all windows."""
        return sum(moment.gmacs for moment in self.moments)


def timeline_of(
    predictor: Predictor,
    path: str,
    window: float | None,
    stride: float | None,
    batch_size: int,
    background: str | None,
    min_probability: float,
) -> VideoTimeline:
    """See `Predictor.timeline`."""
    seconds = Fraction(window) if window else predictor.sampling.duration
    step = Fraction(stride) if stride else seconds / 2
    if not 0 < step <= seconds:
        raise ValueError(
            f"stride {float(step):g} s: must be above 0, and at most the window's {float(seconds):g}"
        )
    names = predictor.class_names
    if background is not None and background not in names:
        raise ValueError(f"background {background!r}: no class of the model; it has {', '.join(names)}")
    spans, moments, duration = list[list[float]](), dict[int, Moment](), 0.0
    views = predictor.grid.num_crops
    at_once = max(1, batch_size // views)
    engine, waiting = predictor.new_engine(batch_size), dict[int, list[Prediction]]()

    def settle(parts: list[Prediction]) -> None:
        for view in (view for part in parts for view in part.views()):
            row = int(view.numbers) // views
            waiting.setdefault(row, []).append(view)
            if len(waiting[row]) == views:
                answer = Prediction.joined(waiting.pop(row))
                length = predictor.model.lengths[int(answer.lengths[0])]
                start, end = spans[row]
                shares = predictor.probabilities(path, answer)
                moments[row] = Moment(start, end, shares, length, float(answer.gmacs.sum()))

    ways = predictor.sampling, predictor.grid
    for part in stream_windows(path, *ways, seconds, step, at_once, 2 * predictor.timeout):
        rows = torch.arange(len(spans), len(spans) + len(part.spans)).repeat_interleave(views)
        spans += part.spans.tolist()
        duration = part.duration
        settle(engine.submit(predictor.normalize(part.clips.to(predictor.device)), rows))
    settle(engine.flush())
    ordered = [moments[row] for row in range(len(spans))]

    def nothing(share: Tensor) -> bool:
        best = int(share.argmax())
        return names[best] == background or float(share[best]) < min_probability

    segments = list(_segments(ordered, duration, float(step), names, nothing))
    return VideoTimeline(path, duration, names, ordered, segments)


def _segments(
    moments: list[Moment], duration: float, stride: float, names: list[str], nothing: Callable[[Tensor], bool]
) -> Iterator[Segment]:
    """The likeliest partition into stretches of one class, each at least a window long.

    A window within a stretch speaks for its class with its probability. One that a border cuts sees two
    things, which no class is like: it counts as a guess. A border also costs `BORDER`.
    """
    shares = torch.stack([moment.probabilities for moment in moments])
    unclear = torch.tensor([nothing(share) for share in shares])
    evidence = torch.full((len(moments), len(names) + 1), LEAST)
    evidence[~unclear, :-1] = shares[~unclear].float().clamp(min=LEAST)
    evidence[unclear, -1] = shares[unclear].amax(dim=1).float().clamp(min=LEAST) * 0.999  # in doubt, a class
    bounds = [min(stride * n, duration) for n in range(max(1, round(duration / stride)))] + [duration]
    stretches = _partition(moments, bounds, (evidence.log() + math.log(len(names))).double().numpy())
    for label, group in groupby(stretches, key=lambda stretch: stretch[2]):
        own = list(group)
        start, end = bounds[own[0][0]], bounds[own[-1][1]]
        if label < len(names):
            seen = [share for m, share in zip(moments, shares, strict=True) if _within(m, start, end, stride)]
            probability = float(torch.stack(seen)[:, label].mean())
            yield _segment(moments, start, end, duration, names[label], probability)


def _partition(moments: list[Moment], bounds: list[float], gains: np.ndarray) -> list[tuple[int, int, int]]:
    """The first and the last bound, and the class, of each stretch.

    Args:
        gains: of a window within a stretch of each class `(windows, classes)`, over one that a border cuts.
    """
    sums = np.concatenate([np.zeros_like(gains[:1]), gains.cumsum(axis=0)])
    slack = (bounds[1] - bounds[0]) / 100
    first = np.searchsorted([m.start for m in moments], np.array(bounds) - slack)  # window from each bound on
    last = np.searchsorted([m.end for m in moments], np.array(bounds) + slack)  # number of windows up to it
    best, before = [0.0], [(0, 0)]
    opened, since, j = np.full(gains.shape[1], -np.inf), np.zeros(gains.shape[1], int), 0
    for k in range(1, len(bounds)):
        while j < k and first[j] < last[k]:
            started = best[j] - sums[first[j]]
            since, opened = np.where(started > opened, j, since), np.maximum(opened, started)
            j += 1
        scores = opened + sums[last[k]]
        label = int(scores.argmax())
        best.append(float(scores[label]) - BORDER)
        before.append((int(since[label]), label))
    stretches, k = list[tuple[int, int, int]](), len(bounds) - 1
    while k > 0:
        stretches.append((before[k][0], k, before[k][1]))
        k = before[k][0]
    return stretches[::-1]


def _within(moment: Moment, start: float, end: float, stride: float) -> bool:
    return moment.start >= start - stride / 100 and moment.end <= end + stride / 100


def _segment(
    moments: list[Moment], start: float, end: float, duration: float, name: str, probability: float
) -> Segment:
    own = [m for m in moments if start <= (m.start + min(m.end, duration)) / 2 < end]
    nearest = own or [min(moments, key=lambda m: abs(m.start + m.end - start - end))]
    length = Counter(m.length for m in nearest).most_common(1)[0][0]
    return Segment(start, end, name, probability, length, sum(m.gmacs for m in own), len(own))
