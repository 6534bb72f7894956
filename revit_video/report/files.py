"""The files of an OUTPUT_DIR, parsed on first use; `Missing` for a missing or damaged file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from revit_video.adaptive.labels import MinedLabels, read_labels
from revit_video.data.lists import labelled_files, read_list
from revit_video.length import TokenLength, token_lengths
from revit_video.report.predictions import MOST_CLASSES, Predictions, parse_predictions
from revit_video.report.results_file import check_results
from revit_video.runtime import output_dir
from revit_video.runtime.yaml_file import YamlError, parse_yaml


class Missing(Exception):
    """A file is missing or damaged; the message says which in one line."""


@dataclass(frozen=True)
class OwnVideos:
    """The videos whose frames a page may show: those below or listed in a data folder.

    Neither the whole disk nor a home folder is a data folder.
    """

    folders: tuple[str, ...]
    listed: frozenset[str] = frozenset()
    place: Callable[[str], str] = os.path.abspath

    @classmethod
    def below(cls, folders: Sequence[str], run: str) -> OwnVideos:
        """Those below folders that a stranger's `run` names: no list and no link leads elsewhere."""
        named = cls.of(*folders).folders
        real = [os.path.join(os.path.realpath(folder), "") for folder in named]
        inside = os.path.join(os.path.realpath(run), "")
        return cls(tuple(each for each in real if not each.startswith(inside)), place=os.path.realpath)

    @classmethod
    def of(cls, folder: str, prefix: str = "", separator: str = " ", split: str = "test") -> OwnVideos:
        """Those of a data folder; see `DataFolder` for its lists."""
        home = os.path.join(os.path.expanduser("~"), "")
        folders = [os.path.join(os.path.abspath(os.path.expanduser(f)), "") for f in (folder, prefix) if f]
        listed: set[str] = set()
        with suppress(OSError, ValueError):
            videos = read_list(os.path.join(folder, f"{split}.csv"), prefix, separator, multi_label=True)
            listed = {path for path, _ in labelled_files(videos)}
        return cls(tuple(each for each in folders if not home.startswith(each)), frozenset(listed))

    def __contains__(self, path: str) -> bool:
        return path in self.listed or self.place(path).startswith(self.folders)


class Run:
    """One OUTPUT_DIR. Every property parses its file once, and raises `Missing`.

    Args:
        data_folder: the only one whose videos are shown; empty for the one that the run's config names.
        own: this process has made the run, so that its config and lists are believed.
    """

    def __init__(self, directory: str, data_folder: str = "", own: bool = True) -> None:
        self.directory, self._data_folder, self._own = directory, data_folder, own

    def text(self, name: str) -> str:
        """The content of a file."""
        path = os.path.join(self.directory, name)
        if os.path.islink(path):
            raise Missing(f"{name} is a link, which may lead anywhere")
        if not os.path.isfile(path):
            raise Missing(f"there is no {name}")
        try:
            with open(path, **output_dir.TEXT) as file:
                return file.read()
        except OSError as error:
            raise Missing(f"{name} cannot be read: {error.strerror}") from None

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.yaml`, as a tree of groups."""
        try:
            tree = parse_yaml(self.text(output_dir.CONFIG))
        except YamlError as error:
            raise Missing(f"{output_dir.CONFIG}: {error}") from None
        if not isinstance(tree, dict):
            raise Missing(f"{output_dir.CONFIG} holds no config")
        return tree

    @cached_property
    def own_videos(self) -> OwnVideos:
        """The videos that may be shown; none where no data folder is known."""
        split, group = "test", None
        with suppress(Missing):
            split = str(self.results.get("split"))
        if self._data_folder:
            return OwnVideos.of(self._data_folder, split=split)
        with suppress(Missing):
            group = self.config.get("DATA")
        data = group if isinstance(group, dict) else {}
        folder, prefix, separator = (
            str(data.get(f"PATH_{name}") or "") for name in ("TO_DATA_DIR", "PREFIX", "LABEL_SEPARATOR")
        )
        if not folder:
            return OwnVideos(())
        if not self._own:
            return OwnVideos.below((folder, prefix), self.directory)
        return OwnVideos.of(folder, prefix, separator or " ", split)

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
            seen.append(self.labels.num_classes - 1)
        return [f"class {n}" for n in range(max(seen) + 1)]


@contextmanager
def _damage_told(name: str = "") -> Iterator[None]:
    """Turns a reader's ValueError into `Missing`, with the file's name where the reader does not say it."""
    try:
        yield
    except ValueError as error:
        raise Missing(f"{name} is damaged: {error}" if name else str(error)) from None
