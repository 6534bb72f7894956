"""The lists of a run, compared at its start: videos in two of them, two labels, files that are not there."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from fvcore.common.config import CfgNode
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from revit_video.data.folders import DataFolder
from revit_video.data.groups import groups_of, series_of_all
from revit_video.data.lists import labelled_files
from revit_video.data.loader import allowed_unreadable
from revit_video.data.shards import shard_part
from revit_video.data.video import is_image

SAMPLE = 2000  # files of a list that are looked for
RESOLVED = 20_000  # files up to which links are followed when lists are compared
# What it means where the second list holds videos of the first.
SHARED = {
    ("train", "mine"): "a backbone has memorised some of them, so that their labels come out too short",
    ("train", "val"): "the top-1 on them is that of training clips",
    ("train", "test"): "the results on them are those of training clips",
    ("mine", "test"): "the assigner was trained on them",
    ("val", "test"): "thresholds are chosen on videos that are tested",
}

logger = logging.getLogger(__name__)


def mine_split(cfg: CfgNode) -> str:
    """The list whose token-length labels are mined."""
    return cfg.MINE.HOLDOUT or "train"


def list_root(cfg: CfgNode) -> str:
    """The folder from which the relative paths of lists, and of `DATA.GROUP`, count."""
    return str(cfg.DATA.PATH_PREFIX or cfg.DATA.PATH_TO_DATA_DIR)


def groups_in(cfg: CfgNode, paths: Sequence[str]) -> list[str]:
    """The group of each file by `DATA.GROUP`, see `groups_of`."""
    return groups_of(paths, cfg.DATA.GROUP, list_root(cfg))


def compare_lists(cfg: CfgNode, data: DataFolder, splits: Sequence[str]) -> None:
    """Looks at the lists of a run, those that are there.

    Args:
        splits: the lists that the run reads.

    Raises:
        ValueError: a video has two labels, too many files are not there, or all tested videos are those on
            which thresholds are chosen, which `TEST.SPLIT val` says to be meant.
    """
    lists = _labels_by_path(data, [*splits, "val"])  # a test alone was calibrated on it, too
    for split, labels in lists.items():
        if repeated := len(data.videos(split)) - len(labels):
            logger.warning("%s: %d of its %d lines repeat a video", split, repeated, len(data.videos(split)))
    _check_labels(data.path, lists)
    names = {"mine": mine_split(cfg), "test": cfg.TEST.SPLIT}
    for (one, other), meaning in SHARED.items():
        first, second = names.get(one, one), names.get(other, other)
        if first == second or first not in lists or second not in lists or second not in splits:
            continue
        common = len(lists[first].keys() & lists[second].keys())
        if common and (one, other) == ("val", "test") and common == len(lists[second]):
            raise ValueError(
                f"{data.path}: all {common} videos of {second} are in {first} too, on which thresholds are "
                "chosen; if that is meant, say so with TEST.SPLIT val"
            )
        if common:
            words = (second, common, len(lists[second]), first, meaning)
            logger.warning("%s: %d of its %d videos are in %s too; %s", *words)
    _look_at_groups(cfg, data, splits)
    for split in splits:
        _check_kind(cfg, data, split)
        _check_there(cfg, data, split)


def _look_at_groups(cfg: CfgNode, data: DataFolder, splits: Sequence[str]) -> None:
    """Warns where clips of one recording are in two lists, by `DATA.GROUP` or by how they are called."""
    pattern = cfg.DATA.GROUP
    of_split: dict[str, set[str]] = {}
    for split in splits:
        paths, labels = zip(*labelled_files(data.videos(split)), strict=True)
        found = groups_in(cfg, paths) if pattern else series_of_all(paths, labels)
        of_split[split] = set(found) - {""}
    learned = of_split.pop("train", set())
    for split, groups in of_split.items():
        common = groups & learned
        if common and pattern:
            logger.warning(
                "%s: %d of its %d groups by DATA.GROUP are in train too, such as %s; lists stay as they are",
                *(split, len(common), len(groups), min(common)),
            )
        elif len(common) > 1 and 2 * len(common) > len(groups):
            logger.warning(
                "%s: files such as %s_… look like clips of a recording that is in train too; name what they "
                "share with DATA.GROUP, or the accuracy is that of recordings that were trained on",
                *(split, min(common)),
            )
            return


def remarks(cfg: CfgNode, data: DataFolder, seen: Mapping[str, str]) -> list[str]:
    """What makes the results on the test list too good, in sentences.

    Args:
        seen: by list, what was done with its videos, such as `thresholds were chosen on`.
    """
    lists = _labels_by_path(data, [cfg.TEST.SPLIT, *seen])
    tested = lists[cfg.TEST.SPLIT].keys()
    common = {split: len(tested & lists[split].keys()) for split in seen if split in lists}
    return [
        f"{seen[split]} the tested videos: {count} of {len(tested)} are in {split}"
        for split, count in common.items()
        if count
    ]


def _labels_by_path(data: DataFolder, splits: Sequence[str]) -> dict[str, dict[str, int]]:
    """`_labels` of the lists that are there. Links are followed, unless there are very many files."""
    lists: dict[str, dict[str, int]] = {}
    for split in dict.fromkeys(splits):
        with suppress(ValueError, OSError):
            lists[split] = _labels(data.videos(split))
    if sum(map(len, lists.values())) > RESOLVED:
        return lists
    return {
        split: {os.path.realpath(path): label for path, label in videos.items()}
        for split, videos in lists.items()
    }


def _labels(videos: LabeledVideoPaths) -> dict[str, int]:
    """The label of each path, -1 where it has two."""
    found: dict[str, int] = {}
    for path, label in labelled_files(videos):
        found[path] = label if found.get(path, label) == label else -1
    return found


def _check_labels(folder: str, lists: Mapping[str, Mapping[str, int]]) -> None:
    """ValueError where a path has two labels, in one list or in two."""
    known: dict[str, tuple[str, int]] = {}
    for split, labels in lists.items():
        for path, label in labels.items():
            where, other = known.setdefault(path, (split, label))
            if label == -1 or label != other:
                places = split if label == -1 else f"{where} and {split}"
                raise ValueError(f"{folder}: {path} has two labels ({places}); leave one line of it")


def _check_kind(cfg: CfgNode, data: DataFolder, split: str) -> None:
    """ValueError for images where clips have several frames; a log line for videos where they have one."""
    videos, frames = data.videos(split), cfg.DATA.NUM_FRAMES
    unlike = [path for path, _ in labelled_files(videos) if is_image(path) == (frames > 1)]
    if not unlike:
        return
    count = f"{split}: {len(unlike)} of its {len(videos)} files are"
    if frames > 1:
        raise ValueError(
            f"{count} images, such as {unlike[0]}; the model takes videos, {frames} frames of each "
            "(DATA.NUM_FRAMES; configs/Images is for images)"
        )
    logger.info("%s videos; the model is of images and sees 1 frame of each clip (DATA.NUM_FRAMES)", count)


def _check_there(cfg: CfgNode, data: DataFolder, split: str) -> None:
    """Looks for the files of a list, evenly spaced ones of a long list."""
    videos = data.videos(split)
    rows = range(0, len(videos), -(-len(videos) // SAMPLE))
    paths = [videos[row][0] for row in rows]
    missing = [path for path in paths if not os.path.exists(part[0] if (part := shard_part(path)) else path)]
    if not missing:
        return
    looked = "" if len(rows) == len(videos) else f" that were looked for, of {len(videos)}"
    words = f"{split}: {len(missing)} of {len(paths)} files{looked} are not there, such as {missing[0]}"
    if len(missing) > allowed_unreadable(cfg.DATA.MAX_SKIPPED_FRACTION, len(paths)):
        raise ValueError(f"{words}; see DATA.PATH_TO_DATA_DIR and DATA.PATH_PREFIX")
    logger.warning("%s", words)
