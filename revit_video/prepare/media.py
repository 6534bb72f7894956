"""Video and image files below a folder, found by their names without a suffix."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

from revit_video.data.folders import VIDEO_SUFFIXES
from revit_video.data.video import is_image
from revit_video.prepare.annotation import split_in

_UNLIKE = re.compile(r"[^a-z0-9]+")
_REPLACEMENT = "replacement"  # the Kinetics mirror's folder of files that stand in for damaged ones


class MediaFiles:
    """All videos below a folder, or all images where there are no videos; links are followed.

    Attributes:
        duplicates: file that was found -> others of the same name.
    """

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)
        self.duplicates: dict[str, list[str]] = {}

    @cached_property
    def paths(self) -> list[str]:
        """Sorted; a ValueError if there is none."""
        paths = list(_walk(self.folder))
        videos = [path for path in paths if path.lower().endswith(VIDEO_SUFFIXES)]
        # Images beside videos are their thumbnails.
        found = sorted(videos or [path for path in paths if is_image(path)])
        if not found:
            raise ValueError(f"--videos: no videos or images in {self.folder!r}")
        return found

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        by_stem = defaultdict(list)
        for path in self.paths:
            by_stem[stem_of(path)].append(path)
        return dict(by_stem)

    def find(self, stem: str, split: str = "", label: str = "") -> str:
        """The file of that name, "" if there is none.

        Of several, it is one that is not empty, replaces a damaged one, lies in a folder of the split, in a
        folder of the class, in this order; the choice is kept in `duplicates`.
        """
        found = self._by_stem.get(stem, [])
        if len(found) < 2:
            return found[0] if found else ""
        best, *others = sorted(found, key=lambda path: self._rank(path, split, label))
        if others := [path for path in others if not os.path.samefile(path, best)]:  # not links to it
            self.duplicates[best] = others
        return best

    def _rank(self, path: str, split: str, label: str) -> tuple[bool, bool, bool, bool, str]:
        folders = os.path.relpath(path, self.folder).split(os.sep)[:-1]
        return (
            os.path.getsize(path) == 0,
            not any(folder.startswith(_REPLACEMENT) for folder in folders),
            split not in map(split_in, folders),
            _squeezed(label) not in map(_squeezed, folders),
            path,
        )


def stem_of(path: str) -> str:
    """A file's name without suffixes of videos, of which downloaders leave several (`x.mp4.mkv`)."""
    name = os.path.basename(path)
    while (parts := os.path.splitext(name))[1].lower() in VIDEO_SUFFIXES or is_image(name):
        name = parts[0]
    return name


def _squeezed(name: str) -> str:
    """A class name as its folder may spell it: with spaces, underscores or neither."""
    return _UNLIKE.sub("", name.lower())


def _walk(folder: str) -> Iterator[str]:
    visited = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:  # a link that leads back
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in files if not name.startswith("."))
