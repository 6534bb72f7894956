"""What happens when in a long video: windows over all of it, and the segments of equal classes."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise, takewhile
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from revit_video.adaptive.engine import Prediction
from revit_video.data.windows import stream_windows
from revit_video.length import TokenLength

if TYPE_CHECKING:
    from revit_video.predict import Predictor


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

    for part in stream_windows(path, predictor.sampling, predictor.grid, seconds, step, at_once):
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
    """Stretches of steps with the same most probable class.

    A step's probabilities are the mean over the windows that see it, those whose middle is near count more. A
    stretch that is shorter than a window is given to the likelier of its neighbours.
    """
    steps = max(1, round(duration / stride))
    bounds = [min(stride * n, duration) for n in range(steps)] + [duration]
    shares = torch.stack([_seen_at(moments, (a + b) / 2) for a, b in pairwise(bounds)])
    labels = [-1 if nothing(share) else int(share.argmax()) for share in shares]
    shortest = moments[0].end - moments[0].start
    while True:
        ends = [n for n in range(1, steps) if labels[n] != labels[n - 1]]
        runs = list(pairwise([0, *ends, steps]))
        short = [run for run in runs if bounds[run[1]] - bounds[run[0]] < shortest - 1e-9]
        if not short or len(runs) == 1:
            break
        start, end = min(short, key=lambda run: bounds[run[1]] - bounds[run[0]])
        beside = {labels[n] for n in (start - 1, end) if 0 <= n < steps}
        labels[start:end] = [max(beside, key=_mean_share(shares[start:end]))] * (end - start)
    for start, end in runs:
        if labels[start] >= 0:
            share = float(shares[start:end, labels[start]].mean())
            yield _segment(moments, bounds[start], bounds[end], duration, names[labels[start]], share)


def _seen_at(moments: list[Moment], seconds: float) -> Tensor:
    """Probabilities of the classes at a moment `(classes,)`."""
    first = bisect_right(moments, seconds, key=lambda moment: moment.end)
    seen = list(takewhile(lambda moment: moment.start <= seconds, islice(moments, first, None)))
    seen = seen or moments[-1:]
    near = [1 - abs(2 * seconds - m.start - m.end) / (m.end - m.start) + 1e-3 for m in seen]
    weights = torch.tensor(near).clamp(min=1e-3)
    return (weights[:, None] * torch.stack([m.probabilities for m in seen])).sum(dim=0) / weights.sum()


def _mean_share(shares: Tensor) -> Callable[[int], float]:
    """Mean probability of a class over some steps; 0 for the background."""
    means = shares.mean(dim=0).tolist()
    return lambda label: means[label] if label >= 0 else 0.0


def _segment(
    moments: list[Moment], start: float, end: float, duration: float, name: str, probability: float
) -> Segment:
    own = [m for m in moments if start <= (m.start + min(m.end, duration)) / 2 < end]
    nearest = own or [min(moments, key=lambda m: abs(m.start + m.end - start - end))]
    length = Counter(m.length for m in nearest).most_common(1)[0][0]
    return Segment(start, end, name, probability, length, sum(m.gmacs for m in own), len(own))
