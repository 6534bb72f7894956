"""Folders of videos or images, one a class, split by hand or by the names' hashes; classes in their order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence

from iopath.common.file_io import g_pathmgr
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from revit_video.data.images import IMAGE_SUFFIXES, is_image

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv")
KNOWN = f"videos ({', '.join(VIDEO_SUFFIXES)}) or images ({', '.join(IMAGE_SUFFIXES)})"


def list_videos(folder: str) -> list[str]:
    """Names of the files in `folder` that end like a video's or, if none does, like an image's; sorted.

    Images beside videos are their thumbnails.
    """
    names = _entries(folder)
    videos = [name for name in names if name.lower().endswith(VIDEO_SUFFIXES)]
    return videos or [name for name in names if is_image(name)]


def list_folders(folder: str) -> list[str]:
    """Names of the folders in `folder`, sorted."""
    return [name for name in _entries(folder) if g_pathmgr.isdir(os.path.join(folder, name))]


class VideoFolder:
    """A folder that holds either a folder for each class, or a folder for each split with those in it.

    Args:
        path: the folder.
        shares: names of the splits, and the share of each class's videos that each gets where they are not
            folders of their own.
    """

    def __init__(self, path: str, shares: Mapping[str, float]) -> None:
        self.path = path
        self._shares = shares
        # A class may be called "train": only a folder of folders is a split.
        own = [split for split in shares if list_folders(os.path.join(path, split))]
        self._class_folders = {split: list_folders(os.path.join(path, split)) for split in own}
        names = {name for folders in self._class_folders.values() for name in folders} if own else None
        self.class_names = sorted(names) if names else list_folders(path)
        if not own and set(self.class_names) <= set(shares):  # videos without a class, not classes
            self.class_names = []

    def read(self, split: str) -> LabeledVideoPaths:
        """The videos or images of a split, class by class.

        Raises:
            ValueError: there is no such split, a class cannot be trained on, or has too few videos to split.
        """
        if not self.class_names:
            raise ValueError(f"{self.path}: neither lists (train.csv, …) nor a folder for each class")
        read = self._read_own if self._class_folders else self._read_share
        videos: list[tuple[str, int | None]] = []
        for label, name in enumerate(self.class_names):
            videos += [(path, label) for path in read(split, name)]
        if not videos:
            raise ValueError(f"{self.path}: {split} has no {KNOWN}")
        return LabeledVideoPaths(videos)

    def _read_own(self, split: str, name: str) -> list[str]:
        if split not in self._class_folders:
            there = ", ".join(self._class_folders)
            raise ValueError(
                f"{self.path}/{split}: no such folder with a folder for each class; there is {there}"
            )
        folder = os.path.join(self.path, split, name)
        videos = list_videos(folder)
        if not videos and split == "train":
            raise ValueError(f"{folder}: nothing to learn this class from; no {KNOWN}")
        return [os.path.join(folder, video) for video in videos]

    def _read_share(self, split: str, name: str) -> list[str]:
        if not self._shares.get(split):
            shares = ", ".join(f"{name} {share:g}" for name, share in self._shares.items())
            raise ValueError(f"{self.path}: nothing is split off for {split} (DATA.SPLIT: {shares})")
        videos = list_videos(os.path.join(self.path, name))
        try:
            parts = split_by_name([f"{name}/{video}" for video in videos], list(self._shares.values()))
        except ValueError as error:
            raise ValueError(
                f"{os.path.join(self.path, name)}: {error}; "
                "add some, or give some split no share (DATA.SPLIT)"
            ) from None
        return [os.path.join(self.path, video) for video in parts[list(self._shares).index(split)]]


def split_by_name(names: Sequence[str], shares: Sequence[float]) -> list[list[str]]:
    """Split names by their hashes: always in the same way, and almost so when a few come or go.

    Each part gets its share, rounded, and at least one name if its share is not 0; each is sorted.

    Raises:
        ValueError: there are fewer names than parts with a share.
    """
    needed = sum(share > 0 for share in shares)
    if len(names) < needed:
        raise ValueError(f"{len(names)} files are too few for {needed} splits")
    exact = [share * len(names) for share in shares]
    counts = [max(int(count), share > 0) for count, share in zip(exact, shares, strict=True)]
    while (rest := len(names) - sum(counts)) != 0:
        step = 1 if rest > 0 else -1
        may_change = [n for n, count in enumerate(counts) if shares[n] > 0 and count + step >= 1]
        counts[max(may_change, key=lambda n: step * (exact[n] - counts[n]))] += step
    hashed = sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    ends = [sum(counts[: n + 1]) for n in range(len(counts))]
    return [sorted(hashed[end - count : end]) for end, count in zip(ends, counts, strict=True)]


def _entries(folder: str) -> list[str]:
    names = g_pathmgr.ls(folder) if g_pathmgr.isdir(folder) else []
    for name in names:
        if name != name.encode(errors="ignore").decode():  # no result file could name it
            raise ValueError(f"{folder}: the name {name!r} is not UTF-8; rename it")
    return sorted(name for name in names if not name.startswith("."))
