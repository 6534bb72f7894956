"""A data set's official files and its videos -> a data folder that a run takes as it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from revit_video.prepare.action_sets import read_diving48, read_hmdb51, read_ssv2, read_ucf101
from revit_video.prepare.annotation import Annotation, Entry, TableColumns
from revit_video.prepare.check import check_files
from revit_video.prepare.data_folder import (
    Prepared,
    by_split,
    count_by,
    stands_in_a_line,
    write_data_folder,
)
from revit_video.prepare.holdout import hold_out
from revit_video.prepare.imagenet import read_imagenet
from revit_video.prepare.kinetics import read_kinetics
from revit_video.prepare.leaks import Leak, find_leaks, sha256
from revit_video.prepare.media import MediaFiles
from revit_video.prepare.own_sets import read_folder, read_lists, read_table
from revit_video.prepare.pack import pack
from revit_video.prepare.packed_images import PACKED, unpack
from revit_video.prepare.resize import Encoding, resize_all
from revit_video.runtime.output_dir import write_csv


@dataclass(frozen=True)
class DatasetFiles:
    """Where a data set is.

    Attributes:
        dataset: one of `READERS`.
        videos: folder of the videos or images, in any of the usual layouts; not needed by `lists`.
        annotations: folder or file of the official annotation; a table for `csv`, a data folder for `lists`.
        official_split: 1 to 3, of `ucf101` and `hmdb51`.
        group: of `folder` and `csv`, see `read_folder`.
        columns: of `csv`.
    """

    dataset: str
    videos: str = ""
    annotations: str = ""
    official_split: int = 1
    group: str = ""
    columns: TableColumns = TableColumns()


@dataclass(frozen=True)
class Steps:
    """What is done with a data set.

    Attributes:
        mine: share of each class's training clips that is held out of training, to mine labels on.
        val, test: likewise, of a data set that has neither.
        seed: of the draw.
        check: open every file; what cannot be read is not listed.
        min_frames: checked videos with fewer count as short.
        resize: encoding of smaller copies, which are listed instead; None for none.
        shard_bytes: size of tar shards, whose parts are listed instead; 0 for none.
        processes: that open, encode and pack; 0 does so in this process, where a crash ends it.
    """

    mine: float = 0.1
    val: float = 0.1
    test: float = 0.1
    seed: int = 0
    check: bool = False
    min_frames: int = 8
    resize: Encoding | None = None
    shard_bytes: int = 0
    processes: int = 0

    def __post_init__(self) -> None:
        shares = {"--mine": self.mine, "--val": self.val, "--test": self.test}
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise ValueError(f"{name}: must be a share from 0 to below 1, got {share:g}")
        if sum(shares.values()) >= 1:
            raise ValueError(f"{', '.join(shares)}: leave nothing to train on")
        if self.processes < 0:
            raise ValueError(f"--processes: must be 0 or more, got {self.processes}")


UNLISTED = "its name cannot stand in a line of a list"
READERS: dict[str, Callable[[DatasetFiles, MediaFiles], Annotation]] = {
    "kinetics400": lambda source, media: read_kinetics(source.annotations, media, 400),
    "kinetics600": lambda source, media: read_kinetics(source.annotations, media, 600),
    "kinetics700": lambda source, media: read_kinetics(source.annotations, media, 700),
    "ssv2": lambda source, media: read_ssv2(source.annotations, media),
    "ucf101": lambda source, media: read_ucf101(source.annotations, media, source.official_split),
    "hmdb51": lambda source, media: read_hmdb51(source.annotations, media, source.official_split),
    "diving48": lambda source, media: read_diving48(source.annotations, media),
    "imagenet": lambda source, media: read_imagenet(source.annotations, media),
    **dict.fromkeys(PACKED, lambda source, media: read_folder(media)),
    "folder": lambda source, media: read_folder(media, source.group),
    "csv": lambda source, media: read_table(source.annotations, media, source.columns, source.group),
    "lists": lambda source, media: read_lists(source.annotations),
}


def prepare_data(source: DatasetFiles, out: str, steps: Steps) -> Prepared:
    """Writes `train.csv mine.csv val.csv test.csv classes.txt` and `data.yaml` into the folder `out`.

    Beside them `missing.csv`, files to fetch again in the annotation's own columns, `odd.csv` and
    `leaks.csv`. Where a data set has only one of `val` and `test`, both are that list, as in the literature.

    Raises:
        ValueError: something that `source` or `steps` names is not there, or contradicts itself.
    """
    out, used = os.path.abspath(out), list[Path]()
    if source.dataset in PACKED:
        used, unpacked = unpack(source.dataset, source.videos, os.path.join(out, "images"))
        source = replace(source, videos=unpacked)
    media = MediaFiles(source.videos)
    annotation = _read(source, media)
    prepared = Prepared(
        dataset=source.dataset,
        settings={**asdict(source), **asdict(steps)},
        annotations={str(file): sha256(file) for file in (*used, *annotation.files)},
        duplicates=len(media.duplicates),
        notes=list(annotation.notes),
        classes={name: {} for name in annotation.classes},
    )
    os.makedirs(out, exist_ok=True)
    root = media.folder if source.videos else _common_folder(annotation.entries)
    entries = _drawn(_usable(annotation, root, out, steps, prepared), steps, source.dataset in PACKED)
    leaks = list(find_leaks(entries, compare_files=steps.check))
    prepared.leaks = count_by(leak.kind for leak in leaks)
    write_csv(os.path.join(out, "leaks.csv"), Leak._fields, leaks)

    lists, prepared.same_list = by_split(entries)
    if "train" not in lists:
        raise ValueError(
            f"none of the {len(annotation.entries)} annotated clips can train: see {out}/missing.csv"
        )
    packed = {}
    if steps.shard_bytes:
        root = os.path.join(out, steps.resize.folder) if steps.resize else root
        shards = os.path.join(out, "shards")
        packed = pack(lists, annotation.classes, root, shards, steps.shard_bytes, steps.processes)
    write_data_folder(out, lists, packed, prepared)
    return prepared


def _read(source: DatasetFiles, media: MediaFiles) -> Annotation:
    """What the official files say; ValueError for files that are none, whatever is in them."""
    try:
        return READERS[source.dataset](source, media)
    except OSError:
        raise
    except Exception as error:  # a line without a field, an object without a key, a table of other kinds
        places = filter(None, (source.annotations, source.videos, "--"))
        if isinstance(error, ValueError) and any(place in str(error) for place in places):
            raise
        raise ValueError(f"{source.annotations!r} is not of {source.dataset}: {error!r:.200}") from error


def _common_folder(entries: Sequence[Entry]) -> str:
    folders = {os.path.dirname(entry.path) for entry in entries if entry.path}
    return os.path.commonpath(folders) if folders else ""


def _usable(annotation: Annotation, root: str, out: str, steps: Steps, prepared: Prepared) -> list[Entry]:
    """The entries whose files are there and not known to be broken, with the paths of copies, if any."""
    found = [entry for entry in annotation.entries if entry.path]
    unlisted = {entry.path: UNLISTED for entry in found if not stands_in_a_line(entry.path)}
    found = [entry for entry in found if entry.path not in unlisted]
    problems = unlisted | (_check(found, out, steps, prepared) if steps.check else {})
    readable = [entry for entry in found if entry.path not in problems]
    copies, failed = _resize(readable, root, out, steps) if steps.resize else ({}, {})
    problems |= failed
    prepared.missing = count_by(entry.split for entry in annotation.entries if not entry.path)
    prepared.broken = count_by(problems.values())
    reasons = {"": "missing"} | problems
    rows = ([*e.row, reasons[e.path]] for e in annotation.entries if e.path in reasons)
    write_csv(os.path.join(out, "missing.csv"), [*annotation.columns, "reason"], rows)
    return [replace(e, path=copies.get(e.path, e.path)) for e in readable if e.path not in failed]


def _check(entries: Sequence[Entry], out: str, steps: Steps, prepared: Prepared) -> dict[str, str]:
    """Path -> why it cannot be read; what can but is unusual goes to `odd.csv`."""
    problems: dict[str, str] = {}
    odd: list[tuple[str, str]] = []
    paths = dict.fromkeys(entry.path for entry in entries)
    for file in check_files(paths, os.path.join(out, "checked.csv"), steps.processes):
        if file.problem:
            problems[file.path] = file.problem
            continue
        is_short = file.seconds and file.frames < steps.min_frames
        odd += [(file.path, word) for word in (["short"] if is_short else []) + file.odd.split()]
    prepared.odd = count_by(word for _, word in odd)
    write_csv(os.path.join(out, "odd.csv"), ["path", "odd"], sorted(odd))
    return problems


def _resize(
    entries: Sequence[Entry], root: str, out: str, steps: Steps
) -> tuple[dict[str, str], dict[str, str]]:
    """Path -> its copy, and path -> why it has none."""
    assert steps.resize is not None
    if os.path.commonpath([out, root]) == root:
        raise ValueError(f"--out: {out} is inside {root}, where the copies would be taken for videos")
    copies, failed = {}, {}
    paths, folder = [entry.path for entry in entries], os.path.join(out, steps.resize.folder)
    for path, copy, problem in resize_all(paths, root, folder, steps.resize, steps.processes):
        if problem:
            failed[path] = problem
        else:
            copies[path] = copy
    return copies, failed


def _drawn(entries: Sequence[Entry], steps: Steps, only_tested: bool) -> list[Entry]:
    """The entries, those that are held out of training in their new splits.

    Args:
        only_tested: the data set has a list for testing alone, and thresholds are not to be chosen on it.
    """
    own = {entry.split for entry in entries}
    shares = {} if own & {"val", "test"} else {"test": steps.test, "val": steps.val}
    shares |= {"val": steps.val} if only_tested else {}
    return hold_out(entries, shares if "mine" in own else shares | {"mine": steps.mine}, steps.seed)
