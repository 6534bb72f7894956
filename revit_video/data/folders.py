"""A data folder: list files, or class folders that are split by folder or by a hash of the file names."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from revit_video.data.groups import groups_of
from revit_video.data.lists import composed, labelled_files, read_class_names, read_list
from revit_video.data.video import IMAGE_SUFFIXES, is_image

_SUFFIXES = """
    .mp4 .avi .mkv .mov .webm .mpg .mpeg .m4v .wmv .flv .3gp .3g2 .ts .mts .m2ts .vob .ogv .gif .divx .xvid
    .asf .f4v .mxf .qt .mpe .m1v .m2v .rm .rmvb .dv .ivf .y4m .mjpg .mjpeg .h264 .264 .avc .h265 .265 .hevc
    .nut .obu .apng
"""
VIDEO_SUFFIXES = tuple(_SUFFIXES.split())
KNOWN = "files that end like a video's (.mp4, .avi, .mkv, …) or an image's (.jpg, .png, …)"

MOST_NAMED = 12  # classes in a message
DEEPEST, MOST_WAYS = 64, 64  # folders in each other; links to one of them

logger = logging.getLogger(__name__)


class Folder:
    """What a folder holds; it and its sub-folders are listed once. Names that start with a dot are hidden.

    Args:
        above: the folders that this one is in.
        ways: how often each folder was reached so far.

    Attributes:
        files: names, sorted.
        folders: by name, sorted.

    Raises:
        ValueError: folders too deep in each other, or links that multiply them.
    """

    def __init__(self, path: str, above: tuple[str, ...] = (), ways: Counter[str] | None = None) -> None:
        above, ways = (*above, os.path.realpath(path)), Counter() if ways is None else ways
        ways[above[-1]] += 1
        if len(above) > DEEPEST or ways[above[-1]] > MOST_WAYS:
            raise ValueError(
                f"{above[0]}: it has folders over {DEEPEST} deep, or links by which one of them is found in "
                f"over {MOST_WAYS} ways: {path}"
            )
        self.files: list[str] = []
        self.folders: dict[str, Folder] = {}
        for name in _entries(path):
            at = os.path.join(path, name)
            if name.lower().endswith(VIDEO_SUFFIXES + IMAGE_SUFFIXES) or not os.path.isdir(at):
                self.files.append(name)
            elif os.path.realpath(at) not in above:  # a link may lead back
                self.folders[name] = Folder(at, above, ways)

    def all_files(self) -> list[str]:
        """The files of this folder and its sub-folders, relative to it, sorted."""
        inside = [f"{name}/{file}" for name, folder in self.folders.items() for file in folder.all_files()]
        return sorted(self.files + inside)

    @cached_property
    def videos(self) -> list[str]:
        """The videos here and in sub-folders or, if there is none, the images, by their suffixes; sorted.

        Images beside videos count as thumbnails.
        """
        files = self.all_files()
        videos = [name for name in files if name.lower().endswith(VIDEO_SUFFIXES)]
        return videos or [name for name in files if is_image(name)]

    @property
    def left_out(self) -> list[str]:
        """The files that are not among `videos`."""
        return sorted(set(self.all_files()) - set(self.videos))


def in_words(files: Iterable[str]) -> str:
    """Counts of files by suffix, most first: `12 .jpg, 1 .txt`."""
    suffixes = Counter(os.path.splitext(name)[1].lower() or "without a suffix" for name in files)
    return ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common())


def find_videos(paths: Iterable[str]) -> list[str]:
    """The files among `paths`, and the videos (else the images) in those that are folders, sorted.

    Raises:
        ValueError: a folder that holds neither.
    """
    found = []
    for path in map(os.path.expanduser, paths):
        if not os.path.isdir(path):
            found.append(path)
            continue
        folder = Folder(path)
        if not folder.videos:
            there = f" (but {in_words(folder.left_out)})" if folder.left_out else ""
            raise ValueError(f"{path}: nothing to classify in this folder; no {KNOWN}{there}")
        if folder.left_out:
            logger.warning("%s: left out: %s", path, in_words(folder.left_out))
        found += [os.path.join(path, name) for name in folder.videos]
    return found


class DataFolder:
    """The videos of a data folder, from list files or class folders. Each file and folder is read once.

    Args:
        path: folder of the lists train.csv, …, with classes.txt beside them, or of a `ClassFolders`.
        shares: of each split, by name, in a folder without lists.
        prefix, separator: of the lists, see `read_list`.
        num_classes: of the model; 0 to count the classes of the folder.
        model_classes: of a trained model, if its names are known; labels are given in their order.
        same_classes: whether the folder may name no others.
        multi_label: labels are tuples, see `read_list`.
        wanted: splits that are set aside where there are folders for other splits only, see `ClassFolders`.
        group: see `ClassFolders`.
    """

    def __init__(
        self,
        path: str,
        shares: Mapping[str, float],
        prefix: str = "",
        separator: str = " ",
        num_classes: int = 0,
        model_classes: Sequence[str] | None = None,
        same_classes: bool = True,
        wanted: Sequence[str] = (),
        multi_label: bool = False,
        group: str = "",
    ) -> None:
        self.path, self._wanted, self._multi_label, self._group = path, wanted, multi_label, group
        self._shares = shares
        self._prefix, self._separator = prefix, separator
        self._num_classes = num_classes
        self._model_classes, self._same_classes = model_classes, same_classes
        self._videos: dict[str, LabeledVideoPaths] = {}

    def videos(self, split: str) -> LabeledVideoPaths:
        """The videos or images of a split with their class labels.

        Raises:
            ValueError: there is no data folder, or the split is empty, damaged or has no folder.
            FileNotFoundError: there are lists, but not this one.
        """
        if split not in self._videos:
            self._check_exists()
            if self._classes is not None:
                videos = self._classes.videos(split)
            else:
                path = os.path.join(self.path, f"{split}.csv")
                videos = read_list(path, self._prefix, self._separator, self.num_classes, self._multi_label)
            if (to := self.reordered) is not None or self._multi_label:
                pairs = labelled_files(videos)
                videos = LabeledVideoPaths([(path, self._given(label, to)) for path, label in pairs])
            self._videos[split] = videos
        return self._videos[split]

    def _given(self, label: Any, to: Sequence[int] | None) -> Any:
        """A label, or tuple of labels, in the model's order `to`; a tuple with `multi_label`."""
        labels = label if isinstance(label, tuple) else (label,)
        ours = labels if to is None else tuple(sorted(to[n] for n in labels))
        return ours if self._multi_label else ours[0]

    @property
    def shown_names(self) -> list[str]:
        """Names of the classes, in the order of the labels; `class 7` where there are none."""
        return self.class_names or [f"class {n}" for n in range(self.num_classes)]

    @cached_property
    def class_names(self) -> list[str] | None:
        """From classes.txt beside the lists; without lists, the names of the folders. None if there are none.

        In the order of the labels: the model's, if its names are known.

        Raises:
            ValueError: their number is not that of the model's classes, or they are not the model's.
        """
        own = self._own_names(self._num_classes or None)
        known = None if self._model_classes is None else list(self._model_classes)
        if self.reordered is not None or (own is None and self._same_classes):
            return known
        if own is not None and known is not None and set(map(composed, own)) == set(map(composed, known)):
            return known
        return own

    @cached_property
    def reordered(self) -> list[int] | None:
        """The model's label of each class of the folder, where the model has them in another order.

        Raises:
            ValueError: the folder names other classes than the model.
        """
        known = self._model_classes
        own = None if known is None else self._own_names()
        if own is None or known is None:
            return None
        label = {composed(name): n for n, name in enumerate(known)}
        ours = [label.get(composed(name), -1) for name in own]
        if ours == list(range(len(known))):
            return None
        if sorted(ours) == list(range(len(known))):
            logger.info(
                "%s: its classes are in another order than the model's; labels are the model's", self.path
            )
            return ours
        if self._same_classes:
            raise ValueError(
                f"{self.path}: its classes are not the model's: it has {_named(own, known)}; the model has "
                f"{_named(known, own)}"
            )
        return None

    def _own_names(self, num_classes: int | None = None) -> list[str] | None:
        if self._classes is not None and self._classes.names:
            return self._classes.names
        return read_class_names(self.path, num_classes)

    @property
    def num_classes(self) -> int:
        """Number of classes of the model.

        Raises:
            ValueError: the classes are to be counted, but there is no such folder or it names no classes.
        """
        if self._num_classes:
            return self._num_classes
        try:
            self._check_exists()
        except ValueError as error:
            raise ValueError(
                f"{error}, and MODEL.NUM_CLASSES 0 counts the classes there; give the one or the other"
            ) from None
        if not self.class_names:
            raise ValueError(
                f"MODEL.NUM_CLASSES 0: {self.path!r} has neither folders of classes "
                "nor a classes.txt to count them in"
            )
        return len(self.class_names)

    @cached_property
    def _classes(self) -> ClassFolders | None:
        """The class folders; None if there are lists."""
        lists = (os.path.join(self.path, f"{split}.csv") for split in self._shares)
        if not self.path or any(map(os.path.isfile, lists)):
            return None
        folders = ClassFolders(self.path, self._shares, self._wanted, self._group)
        found, expected = len(folders.names), self._num_classes
        if found and expected not in (0, found):
            raise ValueError(
                f"MODEL.NUM_CLASSES {expected}: {self.path} has folders of {found} classes; "
                "0 takes their number"
            )
        return folders

    def _check_exists(self) -> None:
        if not self.path or not os.path.isdir(self.path):
            raise ValueError(f"DATA.PATH_TO_DATA_DIR: no such folder: {self.path!r}")


def _named(names: Sequence[str], other: Sequence[str]) -> str:
    """`a, b, c`, those that are not in `other` first, as many as fit a line."""
    there = set(map(composed, other))
    first = sorted(names, key=lambda name: composed(name) in there)
    return ", ".join(first[:MOST_NAMED]) + (f" … ({len(names)} in all)" if len(names) > MOST_NAMED else "")


class ClassFolders:
    """A folder that holds class folders, or split folders that hold class folders.

    Args:
        path: the folder.
        shares: of each split, by name, in the videos of each class.
        wanted: splits which, where there are split folders but not theirs, are set aside of another one by
            the shares of both: test of val, or else of train; mine and val of train.
        group: pattern of what videos share that stay in one split, see `groups_of`; empty: each stands alone.

    Attributes:
        names: of the classes, sorted; empty if there are none.
    """

    def __init__(
        self, path: str, shares: Mapping[str, float], wanted: Sequence[str] = (), group: str = ""
    ) -> None:
        self.path = path
        self._shares, self._group = shares, group
        root = Folder(path)
        # A class may be called "train": only a folder that holds folders is a split.
        splits = {split: root.folders[split] for split in shares if split in root.folders}
        self._splits = {split: folder for split, folder in splits.items() if folder.folders}
        self._class_folders = [folder.folders for folder in self._splits.values()] or [root.folders]
        names = {name for classes in self._class_folders for name in classes if classes[name].videos}
        # Without splits, folders that are called like splits hold videos without classes.
        self.names = sorted(names) if self._splits or not names <= set(shares) else []
        self._source = self._set_aside(wanted)
        self._log_left_out()

    def _set_aside(self, wanted: Sequence[str]) -> dict[str, str]:
        """The folder of each split: its own, or the one that it shares."""
        source = {split: split for split in self._splits}
        if "train" in source:
            for split in wanted:
                if split not in source and self._shares[split] > 0:
                    source[split] = "val" if split == "test" and "val" in self._splits else "train"
                    logger.info(
                        "%s: no folder %s; its videos are set aside of those of %s, by DATA.SPLIT",
                        *(self.path, split, source[split]),
                    )
        return source

    def _log_left_out(self) -> None:
        """Name what is there and not used."""
        classes = [(name, folder) for folders in self._class_folders for name, folder in folders.items()]
        files = [file for name, folder in classes if name in self.names for file in folder.left_out]
        files += [file for split in self._splits.values() for file in split.files]
        if files:
            logger.info("%s: left out: %s", self.path, in_words(files))
        folders = sorted({name for name, _ in classes} - set(self.names))
        if folders and self.names:
            logger.info("%s: folders without videos or images: %s", self.path, ", ".join(folders))

    def videos(self, split: str) -> LabeledVideoPaths:
        """The videos or images of a split, class by class.

        Raises:
            ValueError: there is no such split, a class cannot be trained on, or has too few videos to split.
        """
        if not self.names:
            raise ValueError(f"{self.path}: neither lists (train.csv, …) nor a folder for each class")
        of_class = self._in_own_folder(split) if self._splits else self._shared_out(split)
        videos: list[tuple[str, int | None]] = [
            (os.path.join(self.path, name), label) for label, names in enumerate(of_class) for name in names
        ]
        if not videos:
            raise ValueError(f"{self.path}: {split} has no {KNOWN}")
        return LabeledVideoPaths(videos)

    def _in_own_folder(self, split: str) -> Iterator[list[str]]:
        """The videos of each class in the split's folder, relative to `path`."""
        if split not in self._source:
            there = ", ".join(self._splits)
            raise ValueError(
                f"{self.path}/{split}: no such folder with a folder for each class; there is {there}"
            )
        source = self._source[split]
        sharing = [other for other in self._source if self._source[other] == source]
        total = sum(self._shares[other] for other in sharing)
        for name in self.names:
            at, folder = os.path.join(source, name), self._splits[source].folders.get(name)
            videos = [os.path.join(at, video) for video in (folder.videos if folder else [])]
            if not videos and split == "train":
                raise ValueError(
                    f"{os.path.join(self.path, at)}: nothing to learn this class from; no {KNOWN}"
                )
            if len(sharing) > 1 and videos:
                shares = [self._shares[other] / total for other in sharing]
                videos = self._split(at, videos, shares)[sharing.index(split)]
            yield videos

    def _shared_out(self, split: str) -> list[list[str]]:
        """The split's share of the videos of each class, relative to `path`."""
        if not self._shares.get(split):
            shares = ", ".join(f"{name} {share:g}" for name, share in self._shares.items())
            raise ValueError(f"{self.path}: nothing is split off for {split} (DATA.SPLIT: {shares})")
        part = list(self._shares).index(split)
        return [parts[part] for parts in self._parts]

    @cached_property
    def _parts(self) -> list[list[list[str]]]:
        """The videos of each class in each split, relative to `path`."""
        shares = list(self._shares.values())
        return [
            self._split(name, [f"{name}/{video}" for video in self._class_folders[0][name].videos], shares)
            for name in self.names
        ]

    def _split(self, at: str, videos: Sequence[str], shares: Sequence[float]) -> list[list[str]]:
        if self._group:
            return self._split_by_group(at, videos, shares)
        try:
            return split_by_name(videos, shares)
        except ValueError as error:
            folder = os.path.join(self.path, at)
            raise ValueError(
                f"{folder}: {error}; add some, or give some split no share (DATA.SPLIT)"
            ) from None

    def _split_by_group(self, at: str, videos: Sequence[str], shares: Sequence[float]) -> list[list[str]]:
        """All videos of a group, of any class, in one part; each part gets its share of the groups."""
        top, _, _ = at.rpartition("/")
        folders = self._splits[top].folders if top else self._class_folders[0]
        there = [name for name in self.names if name in folders]
        every = [os.path.join(top, name, video) for name in there for video in folders[name].videos]
        groups = sorted(set(groups_of(every, self._group, ".")))
        try:
            parts = split_by_name(groups, shares)
        except ValueError:
            raise ValueError(
                f"DATA.GROUP {self._group!r}: {len(groups)} groups in {os.path.join(self.path, top)} are too "
                "few for the splits; give some split no share (DATA.SPLIT)"
            ) from None
        part_of = {name: n for n, part in enumerate(parts) for name in part}
        found: list[list[str]] = [[] for _ in shares]
        for video, group in zip(videos, groups_of(videos, self._group, "."), strict=True):
            found[part_of[group]].append(video)
        if not found[0]:
            raise ValueError(
                f"{os.path.join(self.path, at)}: DATA.GROUP {self._group!r} leaves nothing to learn this "
                "class from, its groups are all in other splits; lists (train.csv, …) can say what is what"
            )
        return found


def split_by_name(names: Sequence[str], shares: Sequence[float]) -> list[list[str]]:
    """Split names by their hashes: reproducibly, and nearly unchanged when a few names come or go.

    Each part gets its share, rounded, and at least one name if its share is not 0. Parts are sorted.

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
    names = os.listdir(folder) if os.path.isdir(folder) else []
    for name in names:
        if name != name.encode(errors="ignore").decode():  # no result file could name it
            raise ValueError(f"{folder}: the name {name!r} is not UTF-8; rename it")
    return sorted(name for name in names if not name.startswith("."))
