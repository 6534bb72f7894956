"""The files of OUTPUT_DIR that scripts read: names and formats."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from typing import Any

import simplejson
from iopath.common.file_io import g_pathmgr

from revit_video.data.batch import Skipped
from revit_video.evaluate import Evaluation
from revit_video.length import TokenLength
from revit_video.runtime.checkpoint import atomic_write_text

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
LABELS = "labels.csv"
FOLDS, FOLDS_LIST = "folds", "folds.csv"
ASSIGNER = "assigner.pyth"
MODEL = "model.pyth"
FLOPS = "flops.json"
RESULTS = "results.json"
PREDICTIONS = "predictions.csv"
SKIPPED = "skipped.csv"


def write_json(path: str, content: dict[str, Any]) -> None:
    """Indented JSON, whole or not at all."""
    atomic_write_text(path, simplejson.dumps(content, indent=2) + "\n")


def record_skipped(output_dir: str, stage: str, skipped: Iterable[Skipped]) -> None:
    """Replaces the stage's rows of `skipped.csv` (path, stage, reason) and keeps those of other stages."""
    path = os.path.join(output_dir, SKIPPED)
    rows: list[tuple[str, str, str]] = []
    if g_pathmgr.isfile(path):
        with g_pathmgr.open(path, newline="") as file:
            rows = [(r["path"], r["stage"], r["reason"]) for r in csv.DictReader(file) if r["stage"] != stage]
    rows += [(video, stage, reason) for video, reason in sorted(set(skipped))]
    atomic_write_text(path, _csv(["path", "stage", "reason"], rows))


def write_predictions(path: str, result: Evaluation, lengths: Sequence[TokenLength]) -> None:
    """One row a test video: its label, the adaptive policy's length and class, each static length's class.

    Without an assigner, as in DVT, the cascade is what adapts.
    """
    names = [str(length) for length in lengths if str(length) in result.predicted]
    adaptive = next((name for name in ("assigned", "cascade") if name in result.predicted), None)
    rows = []
    for n, video in enumerate(result.paths):
        row: list[Any] = [video, int(result.labels[n]), "", ""]
        if adaptive:
            row[2:] = [lengths[int(result.lengths[adaptive][n])], int(result.predicted[adaptive][n])]
        rows.append(row + [int(result.predicted[name][n]) for name in names])
    header = [
        "video",
        "label",
        "adaptive_length",
        "adaptive_prediction",
        *(f"prediction_{name}" for name in names),
    ]
    atomic_write_text(path, _csv(header, rows))


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
