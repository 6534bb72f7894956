"""`predictions.csv`: the predicted class of every test video."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from revit_video.length import TokenLength
from revit_video.runtime.output_dir import write_csv


@dataclass(frozen=True)
class Predictions:
    """Predictions for N test videos; class labels and positions of lengths (longest first) as integers.

    Attributes:
        videos: paths.
        truth: class label `(N,)`.
        static: class predicted at each length `(N,)`, by the length's name; lengths may be missing.
        adaptive: class that the adaptive policy predicted `(N,)`; None if it was not run.
        chosen: length that the adaptive policy ran the video's first view at `(N,)`; None likewise.
    """

    videos: Sequence[str]
    truth: np.ndarray
    static: Mapping[str, np.ndarray]
    adaptive: np.ndarray | None = None
    chosen: np.ndarray | None = None

    @property
    def by(self) -> str:
        """Whose predictions `predicted` are: "adaptive", else the longest length that was run."""
        return "adaptive" if self.adaptive is not None else next(iter(self.static))

    @property
    def predicted(self) -> np.ndarray:
        """Class predicted by the adaptive policy, or else at the longest length `(N,)`."""
        return self.static[self.by] if self.adaptive is None else self.adaptive

    @property
    def correct(self) -> np.ndarray:
        """Whether `predicted` is the class label `(N,)`."""
        return self.truth == self.predicted


def write_predictions(path: str, predictions: Predictions, lengths: Sequence[TokenLength]) -> None:
    """Writes one row per video: class label, the adaptive policy's length and class, each length's class."""
    columns: dict[str, Sequence[object]] = {"video": predictions.videos, "label": predictions.truth.tolist()}
    blank = [""] * len(predictions.videos)
    chosen, adaptive = predictions.chosen, predictions.adaptive
    columns["adaptive_length"] = blank if chosen is None else [lengths[i] for i in chosen.tolist()]
    columns["adaptive_prediction"] = blank if adaptive is None else adaptive.tolist()
    columns |= {f"prediction_{name}": classes.tolist() for name, classes in predictions.static.items()}
    write_csv(path, list(columns), zip(*columns.values(), strict=True))


def parse_predictions(text: str, lengths: Sequence[TokenLength]) -> Predictions:
    """The inverse of `write_predictions`.

    Raises:
        ValueError: the text lists no video, is damaged, or is of other token lengths.
    """
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    if not rows:
        raise ValueError("lists no video")
    names = [str(length) for length in lengths]
    adaptive = bool(rows[0].get("adaptive_length"))
    wanted = [] if adaptive else names[:1]  # the longest length is shown instead
    try:
        classes = {
            name: np.array([int(row[f"prediction_{name}"]) for row in rows])
            for name in names
            if name in wanted or f"prediction_{name}" in rows[0]
        }
        return Predictions(
            videos=[row["video"] for row in rows],
            truth=np.array([int(row["label"]) for row in rows]),
            static=classes,
            adaptive=np.array([int(row["adaptive_prediction"]) for row in rows]) if adaptive else None,
            chosen=np.array([names.index(row["adaptive_length"]) for row in rows]) if adaptive else None,
        )
    except (KeyError, TypeError, ValueError):
        raise ValueError("is damaged or of other token lengths") from None
