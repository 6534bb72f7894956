"""Fig. 6: easy, medium and hard samples of some classes, by their assigned token length."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from textwrap import wrap

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduce.markdown import Page, markdown_table
from reproduce.rows import OWN
from reproduce.runs import Runs
from revit_video.data.clips import open_video
from revit_video.data.video import DecodeError, decode_errors
from revit_video.length import TokenLength
from revit_video.report.files import Missing, Run
from revit_video.report.gallery import FRAMES_AT, SHORT_SIDE
from revit_video.report.style import INK, MUTED, WIDTH, canvas

CLASSES, SAMPLES = 8, 3
THUMBNAIL, GAP = 96, 4  # pixels


def fig6(sources: Sequence[Runs]) -> Page:
    """Correctly classified samples of the first seed's run, by assigned length."""
    (runs,) = sources
    seed = runs.seeds[0]
    run = Run(runs.folder(OWN, seed))
    predictions, names = run.predictions, run.class_names
    if predictions.chosen is None:
        raise Missing("the adaptive policy was not run")
    lengths = run.lengths[::-1]
    classes = evenly_chosen(np.unique(predictions.truth).tolist(), CLASSES)
    found = {
        (c, place): np.flatnonzero(
            (predictions.truth == c) & (predictions.chosen == len(lengths) - 1 - place) & predictions.correct
        ).tolist()
        for c in classes
        for place in range(len(lengths))
    }
    shown = {cell: _readable([predictions.videos[n] for n in rows]) for cell, rows in found.items()}
    counts = [[names[c], *(f"{len(found[c, place]):,}" for place in range(len(lengths)))] for c in classes]
    header = ["class", *(f"{difficulty(place, len(lengths))}, {x}" for place, x in enumerate(lengths))]
    totals = {cell: len(rows) for cell, rows in found.items()}
    return Page(
        "Fig. 6: easy, medium and hard samples",
        [
            f"For each class and length, the first {SAMPLES} samples of the test list that the assigner of "
            f"seed {seed} gave this length and that were classified correctly; three frames per video. "
            "Places are blank where there are fewer.",
            "Samples by assigned length, among those classified correctly:",
            markdown_table(header, counts),
        ],
        [],
        samples_figure(classes, names, lengths, shown, totals),
    )


def evenly_chosen(items: Sequence[int], most: int) -> list[int]:
    """At most `most` of the items, evenly spaced."""
    count = min(most, len(items))
    return [items[n * len(items) // count] for n in range(count)]


def difficulty(place: int, count: int) -> str:
    """Difficulty of clips assigned to the `place`-th shortest of `count` lengths."""
    return {0: "easy", count - 1: "hard"}.get(place, "medium")


def _readable(paths: Sequence[str]) -> list[np.ndarray]:
    """Strips `(H, W, 3)` of square thumbnails, of the first videos that can be decoded."""
    strips: list[np.ndarray] = []
    for path in paths:
        if len(strips) == SAMPLES:
            break
        try:
            strips.append(strip(frames_of(path)))
        except DecodeError:
            continue
    return strips


def frames_of(path: str) -> torch.Tensor:
    """Frames of a video as in the report's gallery, or the one of an image, uint8 `(T, H, W, 3)`."""
    with decode_errors(path), closing(open_video(path)) as video:
        frames = (torch.tensor(FRAMES_AT) * len(video.times)).long().unique().tolist()
        return video.read(frames, SHORT_SIDE).permute(1, 2, 3, 0)


def strip(frames: torch.Tensor) -> np.ndarray:
    """Central squares of uint8 frames `(T, H, W, 3)`, side by side with white gaps."""
    side = min(frames.shape[1:3])
    top, left = ((size - side) // 2 for size in frames.shape[1:3])
    squares = frames[:, top : top + side, left : left + side].permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(squares, (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
    pictures = small.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    gap = np.full((THUMBNAIL, GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


def samples_figure(
    classes: Sequence[int],
    names: Sequence[str],
    lengths: Sequence[TokenLength],
    shown: dict[tuple[int, int], list[np.ndarray]],
    totals: dict[tuple[int, int], int],
) -> Figure:
    """One row per class, one column per length, easy first.

    Images stand side by side; videos one below the other, three frames each.
    """
    frames = max((strip.shape[1] for strips in shown.values() for strip in strips), default=THUMBNAIL)
    below = frames > THUMBNAIL
    size = (SAMPLES, 1) if below else (1, SAMPLES)
    height, width = (n * side + (n - 1) * GAP for n, side in zip(size, (THUMBNAIL, frames), strict=True))
    cell = (WIDTH - 1.2) / len(lengths)
    figure = canvas(0.7 + len(classes) * (cell * height / width + 0.12))
    grid = figure.subplots(len(classes), len(lengths), squeeze=False)
    for row, c in zip(grid, classes, strict=True):
        for place, axes in enumerate(row):
            strips = shown[c, place]
            picture = np.full((height, width, 3), 255, dtype=np.uint8)
            for n, part in enumerate(strips):
                y, x = (n * (THUMBNAIL + GAP), 0) if below else (0, n * (THUMBNAIL + GAP))
                picture[y : y + part.shape[0], x : x + part.shape[1]] = part
            axes.imshow(picture, interpolation="none")
            _frame(axes)
            if len(strips) < SAMPLES:
                _say_how_few(axes, len(strips), totals[c, place], below)
        row[0].set_ylabel("\n".join(wrap(names[c], 12)), rotation=0, ha="right", va="center", color=INK)
    for place, axes in enumerate(grid[0]):
        axes.set_title(f"{difficulty(place, len(lengths)).capitalize()}, {lengths[place]}")
    return figure


def _frame(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _say_how_few(axes: Axes, shown: int, total: int, below: bool) -> None:
    """Writes the number of samples into the blank places."""
    words = "none" if not total else f"only {total}" if total == shown else "unreadable"
    middle = (shown + SAMPLES) / 2 / SAMPLES
    x, y = (0.5, 1 - middle) if below else (middle, 0.5)
    axes.text(x, y, words, transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=9)
