"""The checkpoints of a training: a file for each epoch, and which of them is the newest whole one."""

from __future__ import annotations

import glob
import os
import re
import zipfile
from contextlib import suppress
from typing import Any

from revit_video.models.checkpoint import save
from revit_video.models.untrusted import CheckpointError, one_line
from revit_video.runtime.archive import damage
from revit_video.runtime.output_dir import UNFINISHED, atomic_write_text, open_ordinary

BEST = "best.pyth"  # a model without the state of its training
POINTER = "last"  # a text file with the name of the newest checkpoint
NAME = re.compile(r"epoch_(\d{5,})(?:_batch_(\d{5,}))?\.pyth")


def save_progress(directory: str, payload: dict[str, Any], epoch: int, batch: int = 0, keep: int = 0) -> str:
    """Write `<directory>/epoch_00010.pyth`, let `latest` point to it, and return its path.

    In the middle of an epoch it is `epoch_00010_batch_00200.pyth`, which is removed when the next checkpoint
    is whole; those of complete epochs stay, or the newest `keep` of them.

    Args:
        epoch: epochs that are complete.
        batch: batches of the next epoch that are.
        keep: 0 for all.

    Raises:
        CheckpointError: it could not be written; what `latest` gave before, it gives still.
    """
    name = f"epoch_{epoch:05d}_batch_{batch:05d}.pyth" if batch else f"epoch_{epoch:05d}.pyth"
    path, pointer = os.path.join(directory, name), os.path.join(directory, POINTER)
    for left_over in glob.glob(os.path.join(glob.escape(directory), f"epoch_*{UNFINISHED}")):
        os.unlink(left_over)  # of a save that was killed
    save(path, payload)
    try:
        atomic_write_text(pointer, f"{name}\n")
    except OSError as error:
        raise CheckpointError(f"{pointer}: cannot be written: {error.strerror or error}") from error
    there = _checkpoints(directory)
    whole_epochs = sorted((other for other in there if not there[other][1]), key=there.__getitem__)
    for other in there.keys() - {name, *whole_epochs[-keep:]}:  # [-0:] is all
        os.unlink(os.path.join(directory, other))
    return path


def latest(directory: str) -> str | None:
    """Path of the newest whole checkpoint of `save_progress` in `directory`; None if there is none.

    That is the one that the pointer names, or if the pointer is missing or broken, the whole file with the
    highest epoch and batch. A file is whole if every byte agrees with its checksum.
    """
    return latest_and_damaged(directory)[0]


def newest(directory: str) -> str | None:
    """As `latest`, for what is to be said of a run: an older checkpoint does not stand in for the newest.

    Raises:
        CheckpointError: the newest is damaged.
    """
    whole, damaged = latest_and_damaged(directory)
    if damaged:
        instead = f"name {whole} to use that, or train" if whole else "train"
        raise CheckpointError(f"{damaged[0]}; {instead} again (TRAIN.ENABLE True)")
    return whole


def latest_and_damaged(directory: str) -> tuple[str | None, list[str]]:
    """What `latest` gives, and one line for every newer file that was passed over: its path, and why."""
    damaged: list[str] = []
    try:
        with open_ordinary(os.path.join(directory, POINTER), "r", encoding="utf-8") as file:
            pointed = file.read().strip()
    except (OSError, UnicodeDecodeError):
        pointed = ""
    with suppress(OSError):
        found = _checkpoints(directory)
        newest_first = sorted(found, key=lambda name: (name == pointed, found[name]), reverse=True)
        for path in (os.path.join(directory, name) for name in newest_first):
            reason = _why_not_whole(path)
            if not reason:
                return path, damaged
            damaged.append(f"{path}: {reason}")
    return None, damaged


def _why_not_whole(path: str) -> str:
    try:
        with open_ordinary(path) as file:
            if not zipfile.is_zipfile(file):  # its index is at its end
                return "incomplete"
        return damage(path)
    except OSError as error:
        return f"cannot be read: {one_line(error)}"


def _checkpoints(directory: str) -> dict[str, tuple[int, int]]:
    """The files of `save_progress`: how many epochs were complete, and how many batches of the next."""
    matches = filter(None, map(NAME.fullmatch, os.listdir(directory)))
    return {match[0]: (int(match[1]), int(match[2] or 0)) for match in matches}
