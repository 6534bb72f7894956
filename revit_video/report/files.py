"""The files of an OUTPUT_DIR, parsed on first use; `Missing` for a missing or damaged file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

from revit_video.adaptive.labels import MinedLabels, read_labels
from revit_video.length import TokenLength, token_lengths
from revit_video.report.predictions import MOST_CLASSES, Predictions, parse_predictions
from revit_video.report.results_file import check_results
from revit_video.runtime import output_dir


class Missing(Exception):
    """A file is missing or damaged; the message says which in one line."""


class Run:
    """One OUTPUT_DIR. Every property parses its file once, and raises `Missing`."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def text(self, name: str) -> str:
        """The content of a file."""
        path = os.path.join(self.directory, name)
        if not os.path.isfile(path):
            raise Missing(f"there is no {name}")
        try:
            with open(path, **output_dir.TEXT) as file:
                return file.read()
        except OSError as error:
            raise Missing(f"{name} cannot be read: {error.strerror}") from None

    @cached_property
    def results(self) -> dict[str, Any]:
        """`results.json`."""
        with _damage_told(output_dir.RESULTS):
            results = output_dir.parsed_json(self.text(output_dir.RESULTS))
            check_results(results)
        return results

    @cached_property
    def stats(self) -> dict[str, list[dict[str, Any]]]:
        """The lines of `stats.jsonl` by stage.

        A resumed or restarted run repeats steps: later lines replace earlier ones from the same step on.
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
        """Token lengths, longest first, from the results or, before the test, from the log."""
        try:
            return token_lengths(self.results["lengths"])
        except Missing:
            lines = self.stats.get("train", [])
            names = [key.removeprefix("loss_") for key in (lines[0] if lines else {}) if key[:5] == "loss_"]
            if not names:
                raise
            with _damage_told(output_dir.STATS):
                return token_lengths(names)

    @cached_property
    def labels(self) -> MinedLabels:
        """`labels.csv`."""
        self.text(output_dir.LABELS)
        path, lengths = os.path.join(self.directory, output_dir.LABELS), self.lengths
        try:
            labels = read_labels(path, lengths)
        except ValueError as error:
            raise Missing(str(error).replace(path, output_dir.LABELS)) from None
        if self._named and int(labels.labels.max()) >= len(self._named):
            raise Missing(f"labels.csv is of more classes than the {len(self._named)} of results.json")
        return labels

    @cached_property
    def predictions(self) -> Predictions:
        """`predictions.csv`."""
        text, lengths = self.text(output_dir.PREDICTIONS), self.lengths
        with _damage_told():
            return parse_predictions(text, lengths, len(self._named) or MOST_CLASSES)

    @cached_property
    def _named(self) -> list[str]:
        """Names of the classes; none if the data set has none."""
        try:
            return list(self.results.get("classes") or ())
        except Missing:
            return []

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes; "class 7" if the data set has none."""
        if self._named:
            return self._named
        seen = [0]
        with suppress(Missing):
            seen += [int(self.predictions.truth.max()), int(self.predictions.predicted.max())]
        with suppress(Missing):
            seen.append(int(self.labels.labels.max()))
        return [f"class {n}" for n in range(max(seen) + 1)]


@contextmanager
def _damage_told(name: str = "") -> Iterator[None]:
    """Turns a reader's ValueError into `Missing`, with the file's name where the reader does not say it."""
    try:
        yield
    except ValueError as error:
        raise Missing(f"{name} is damaged: {error}" if name else str(error)) from None
