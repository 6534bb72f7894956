"""Where the adaptive policy gains and loses against always running the longest length: classes and clips."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np

from revit_video.meters import interval
from revit_video.report.files import Missing, Run

MOST_CLASSES, MOST_MISTAKES = 20, 24  # shown


@dataclass(frozen=True)
class ClassResult:
    """Test videos of one class; percent, with the 95 % interval of the adaptive policy's.

    Attributes:
        videos: of the class.
        longest: top-1 of always the longest length.
        adaptive: of the adaptive policy.
        low, high: between which that lies in truth.
    """

    name: str
    videos: int
    longest: float
    adaptive: float
    low: float
    high: float

    @property
    def points(self) -> float:
        """What adapting gains."""
        return self.adaptive - self.longest


def class_results(run: Run) -> list[ClassResult]:
    """Of every class with test videos, those that lose most by adapting first.

    Raises:
        Missing: the adaptive policy or the longest length was not run.
    """
    predictions, longest = run.predictions, _answers_of_longest(run)
    size = len(run.class_names)
    videos, at_longest, adapted = (
        np.bincount(predictions.truth[chosen], minlength=size)
        for chosen in (
            np.ones_like(predictions.truth, dtype=bool),
            longest == predictions.truth,
            predictions.adaptive == predictions.truth,
        )
    )
    found = [
        ClassResult(
            run.class_names[n],
            int(videos[n]),
            100 * int(at_longest[n]) / int(videos[n]),
            100 * int(adapted[n]) / int(videos[n]),
            *interval(int(adapted[n]), int(videos[n])),
        )
        for n in videos.nonzero()[0]
    ]
    return sorted(found, key=lambda one: (one.points, one.adaptive))


def paired_points(run: Run) -> tuple[float, float, float]:
    """Points of top-1 that adapting gains, and its 95 % interval over the videos, which both answered.

    Raises:
        Missing: as `class_results`.
    """
    predictions = run.predictions
    gain = predictions.correct.astype(float) - (_answers_of_longest(run) == predictions.truth)
    mean, error = float(gain.mean()), float(gain.std()) / math.sqrt(len(gain))
    return 100 * mean, 100 * (mean - 1.96 * error), 100 * (mean + 1.96 * error)


def _answers_of_longest(run: Run) -> np.ndarray:
    """The classes that the longest length gives, where the adaptive policy was run as well."""
    predictions, longest = run.predictions, str(run.lengths[0])
    if predictions.adaptive is None or longest not in predictions.static:
        raise Missing(f"the adaptive policy and always {longest} were not both run")
    return predictions.static[longest]


def mistakes(run: Run) -> tuple[int, list[tuple[str, str, str, str]]]:
    """How many videos the shown policy got wrong, and the first ones: file, class, what was said, length."""
    predictions, names = run.predictions, run.class_names
    wrong = np.flatnonzero(~predictions.correct)
    shown = [
        (
            os.path.basename(predictions.videos[row]),
            names[predictions.truth[row]],
            names[predictions.predicted[row]],
            predictions.by if predictions.chosen is None else str(run.lengths[predictions.chosen[row]]),
        )
        for row in wrong[:MOST_MISTAKES]
    ]
    return len(wrong), shown
