"""`predictions.csv`: the predicted class of every test video."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from revit_video.length import TokenLength
from revit_video.runtime.csv_rows import CsvRows
from revit_video.runtime.output_dir import PREDICTIONS, write_csv

MOST_CLASSES = 1 << 20  # as MODEL.NUM_CLASSES


@dataclass(frozen=True)
class Predictions:
    """Predictions for N test videos; class labels and positions of lengths (longest first) as integers.

    Attributes:
        videos: paths.
        truth: class label `(N,)`; in a run with several labels a video all classes are texts, `3,17`.
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


def parse_predictions(
    text: str, lengths: Sequence[TokenLength], num_classes: int = MOST_CLASSES
) -> Predictions:
    """The inverse of `write_predictions`.

    Args:
        num_classes: classes are below it.

    Raises:
        ValueError: the text lists no video, is damaged, or is of other token lengths.
    """
    table = CsvRows(PREDICTIONS, io.StringIO(text, newline=""))
    if not len(table):
        raise ValueError(f"{PREDICTIONS}: lists no video")
    if any("," in label for label in table.texts("label")):
        raise ValueError(f"{PREDICTIONS}: of videos with several labels, which are not drawn")
    names = {str(length): place for place, length in enumerate(lengths)}
    by_length = [name for name in names if f"prediction_{name}" in table.columns]
    adaptive = "adaptive_length" in table.columns and table.texts("adaptive_length")[0] != ""
    if not adaptive and next(iter(names)) not in by_length:  # the longest length is shown instead
        raise ValueError(f"{PREDICTIONS}: no column prediction_{next(iter(names))}")
    classes = {
        name: np.array(table.whole(column, num_classes - 1))
        for name, column in [("label", "label")]
        + [(name, f"prediction_{name}") for name in by_length]
        + ([("adaptive", "adaptive_prediction")] if adaptive else [])
    }
    known = f"a token length of {', '.join(names)}"
    chosen = table.parsed("adaptive_length", names.__getitem__, known) if adaptive else None
    return Predictions(
        videos=table.texts("video"),
        truth=classes["label"],
        static={name: classes[name] for name in by_length},
        adaptive=classes["adaptive"] if adaptive else None,
        chosen=None if chosen is None else np.array(chosen),
    )
