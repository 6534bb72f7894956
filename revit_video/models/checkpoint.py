"""Checkpoints that are either whole or not there; loading never runs code."""

from __future__ import annotations

import glob
import hashlib
import os
import pickle
import re
import zipfile
from contextlib import suppress
from typing import Any

import torch
from iopath.common.file_io import g_pathmgr

from revit_video.runtime.output_dir import UNFINISHED, atomic_write_text, replacing

POINTER = "last"  # in a folder of checkpoints: a text file with the name of the newest one
NAME = re.compile(r"epoch_(\d{5,})(?:_batch_(\d{5,}))?\.pyth")


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; the message has the path and the reason."""


def save(path: str, payload: dict[str, Any]) -> None:
    """Write `payload` (tensors and plain values) to the local `path`, whole or not at all.

    Raises:
        CheckpointError: it could not be written; what was at `path` before is still there, whole.
    """
    try:
        with replacing(path, "wb") as file:
            torch.save(payload, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise CheckpointError(f"{path}: cannot be written: {_one_line(error)}") from error


def load(path: str, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """The payload that `save` wrote.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds more than tensors and plain values.
            Nothing in such a file is ever executed.
    """
    try:
        with g_pathmgr.open(path, "rb") as file:
            payload = torch.load(file, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {_one_line(error)}") from None
    except pickle.UnpicklingError as error:
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            reason = f"it holds a Python object ({refused[1]}), and only tensors and plain values are loaded"
            raise CheckpointError(f"{path}: refused: {reason}") from None
        raise CheckpointError(f"{path}: not a checkpoint, or damaged") from None
    except Exception as error:  # what a reader says of arbitrary bytes has no common type
        reason = f"{type(error).__name__}: {_one_line(error)}"  # a KeyError's is the key alone
        raise CheckpointError(f"{path}: not a checkpoint, or damaged ({reason})") from None
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path}: not a checkpoint: holds a {type(payload).__name__}, not a dict")
    return payload


def save_progress(directory: str, payload: dict[str, Any], epoch: int, batch: int = 0) -> str:
    """Write `<directory>/epoch_00010.pyth`, let `latest` point to it, and return its path.

    In the middle of an epoch it is `epoch_00010_batch_00200.pyth`, which is removed when the next checkpoint
    is whole; those of complete epochs stay.

    Args:
        epoch: epochs that are complete.
        batch: batches of the next epoch that are.

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
        raise CheckpointError(f"{pointer}: cannot be written: {_one_line(error)}") from error
    for other, (_, in_epoch) in _checkpoints(directory).items():
        if in_epoch and other != name:
            os.unlink(os.path.join(directory, other))
    return path


def latest(directory: str) -> str | None:
    """Path of the newest whole checkpoint of `save_progress` in `directory`; None if there is none.

    That is the one that the pointer names, or if the pointer is missing or broken, the whole file with the
    highest epoch and batch. An archive's index is at its end, so a truncated file is told apart without
    reading it all.
    """
    try:
        with g_pathmgr.open(os.path.join(directory, POINTER), "r") as file:
            pointed = file.read().strip()
    except (OSError, UnicodeDecodeError):
        pointed = ""
    with suppress(OSError):
        found = _checkpoints(directory)
        newest_first = sorted(found, key=lambda name: (name == pointed, found[name]), reverse=True)
        for path in (os.path.join(directory, name) for name in newest_first):
            if zipfile.is_zipfile(path):
                return path
    return None


def _checkpoints(directory: str) -> dict[str, tuple[int, int]]:
    """The files of `save_progress`: how many epochs were complete, and how many batches of the next."""
    matches = filter(None, map(NAME.fullmatch, g_pathmgr.ls(directory)))
    return {match[0]: (int(match[1]), int(match[2] or 0)) for match in matches}


def digest(path: str) -> str:
    """First 16 hex digits of the file's SHA-256, to say which checkpoint a result belongs to."""
    sha = hashlib.sha256()
    with g_pathmgr.open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return sha.hexdigest()[:16]


def _one_line(error: Exception) -> str:
    """First line of an error's message, or its type if it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
