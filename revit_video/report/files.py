"""The files of an OUTPUT_DIR as the report reads them; what is missing or damaged is named, not raised."""

from __future__ import annotations

import csv
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import simplejson
from iopath.common.file_io import g_pathmgr

from revit_video.adaptive.labels import MinedLabels, read_labels
from revit_video.length import TokenLength, token_lengths
from revit_video.runtime import output_dir


class Missing(Exception):
    """A section of the report cannot be made; the message is the one line that says why."""


@dataclass(frozen=True)
class Predictions:
    """`predictions.csv`, one entry a test video.

    Attributes:
        videos: paths, N of them.
        truth: true class `(N,)`.
        predicted: class predicted `(N,)`, by the policy named in `by`.
        chosen: position of the length that the adaptive policy read `(N,)`; None if it was not run.
        by: "adaptive", or the longest length's name where the adaptive policy was not run.
    """

    videos: list[str]
    truth: np.ndarray
    predicted: np.ndarray
    chosen: np.ndarray | None
    by: str

    @property
    def correct(self) -> np.ndarray:
        return self.truth == self.predicted


class Run:
    """One OUTPUT_DIR. Every property reads its file once and raises `Missing` if there is none to read."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def text(self, name: str) -> str:
        """The content of a file."""
        path = os.path.join(self.directory, name)
        if not g_pathmgr.isfile(path):
            raise Missing(f"there is no {name}")
        with g_pathmgr.open(path) as file:
            return file.read()

    @cached_property
    def results(self) -> dict[str, Any]:
        """`results.json`."""
        try:
            results = simplejson.loads(self.text(output_dir.RESULTS))
        except ValueError:
            raise Missing("results.json is damaged") from None
        if not isinstance(results, dict) or not {"lengths", "static"} <= set(results):
            raise Missing("results.json holds no results")
        return results

    @cached_property
    def stats(self) -> dict[str, list[dict[str, Any]]]:
        """The lines of `stats.jsonl` by stage.

        A run that was resumed, or started again in the same place, repeats steps: its later lines
        replace the earlier ones from that step on.
        """
        stages: dict[str, list[dict[str, Any]]] = {}
        self.text(output_dir.STATS)
        for record in output_dir.read_stats(self.directory):
            lines = stages.setdefault(record["stage"], [])
            while lines and "step" in record and lines[-1].get("step", -1) >= record["step"]:
                lines.pop()
            lines.append(record)
        return stages

    @cached_property
    def lengths(self) -> tuple[TokenLength, ...]:
        """The model's token lengths, longest first, from the results or, before there are any, the log."""
        try:
            return token_lengths(self.results["lengths"])
        except Missing:
            lines = self.stats.get("train", [])
            names = [key.removeprefix("loss_") for key in (lines[0] if lines else {}) if key[:5] == "loss_"]
            if not names:
                raise
            return token_lengths(names)

    @cached_property
    def labels(self) -> MinedLabels:
        """`labels.csv`."""
        self.text(output_dir.LABELS)
        try:
            return read_labels(os.path.join(self.directory, output_dir.LABELS), self.lengths)
        except ValueError as error:
            raise Missing(str(error)) from None

    @cached_property
    def predictions(self) -> Predictions:
        """`predictions.csv`."""
        rows = list(csv.DictReader(self.text(output_dir.PREDICTIONS).splitlines()))
        names = [str(length) for length in self.lengths]
        if not rows:
            raise Missing("predictions.csv lists no video")
        adaptive = bool(rows[0].get("adaptive_length"))
        column = "adaptive_prediction" if adaptive else f"prediction_{names[0]}"
        try:
            return Predictions(
                videos=[row["video"] for row in rows],
                truth=np.array([int(row["label"]) for row in rows]),
                predicted=np.array([int(row[column]) for row in rows]),
                chosen=np.array([names.index(row["adaptive_length"]) for row in rows]) if adaptive else None,
                by="adaptive" if adaptive else names[0],
            )
        except (KeyError, TypeError, ValueError):
            raise Missing("predictions.csv is damaged or of other token lengths") from None

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes, "class 7" where the data set names none."""
        with suppress(Missing):
            if self.results.get("classes"):
                return list(self.results["classes"])
        seen = [0]
        with suppress(Missing):
            seen += [int(self.predictions.truth.max()), int(self.predictions.predicted.max())]
        with suppress(Missing):
            seen.append(int(self.labels.classes.max()))
        return [f"class {n}" for n in range(max(seen) + 1)]
