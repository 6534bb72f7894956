"""Kinetics-style list files and class names."""

from __future__ import annotations

import os
from collections import Counter

from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

_REPORTED_LINES = 5


def read_list(
    path: str, prefix: str = "", separator: str = " ", num_classes: int | None = None
) -> LabeledVideoPaths:
    """Read a list with one `<video path><separator><label>` per line; blank lines are skipped.

    Args:
        prefix: folder of relative video paths; the list's own folder if empty.
        num_classes: labels must be below it, if given.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is empty, not UTF-8, or has bad lines (the first five are listed).
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"video list not found: {path}")
    videos: list[tuple[str, int | None]] = []
    mistakes = []
    for number, line in enumerate(_lines(path), start=1):
        if not line:
            continue
        try:
            videos.append(_parse_line(line, separator, num_classes))
        except ValueError as error:
            mistakes.append(f"{os.path.basename(path)}:{number}: {error}")
    if mistakes:
        more = len(mistakes) - _REPORTED_LINES
        shown = mistakes[:_REPORTED_LINES] + ([f"… and {more} more"] if more > 0 else [])
        raise ValueError(f"bad lines in {path}:\n  " + "\n  ".join(shown))
    if not videos:
        raise ValueError(f"video list is empty: {path}")
    return LabeledVideoPaths(videos, prefix or os.path.dirname(path))


def _parse_line(line: str, separator: str, num_classes: int | None) -> tuple[str, int]:
    video, found, text = (part.strip() for part in line.rpartition(separator))
    if not video:
        raise ValueError(f"no label in {line!r}; write '<video path>{separator}<label>'")
    try:
        label = int(text)
    except ValueError:
        raise ValueError(f"label {text!r} is not a whole number") from None
    if label < 0 or (num_classes is not None and label >= num_classes):
        allowed = f"0 to {num_classes - 1}" if num_classes is not None else "0 or more"
        raise ValueError(f"label {label} is out of range, allowed is {allowed}")
    return video, label


def read_class_names(data_dir: str, num_classes: int | None = None) -> list[str] | None:
    """Class names from `classes.txt` in `data_dir`, one per line in the order of the labels; None without it.

    Raises:
        ValueError: it is not UTF-8, names a class twice, or does not hold `num_classes` names (if given).
    """
    path = os.path.join(data_dir, "classes.txt")
    if not os.path.isfile(path):
        return None
    names = [line for line in _lines(path) if line]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{path} names the class {twice[0]!r} twice; each class needs a name of its own")
    if num_classes is not None and len(names) != num_classes:
        raise ValueError(f"{path} names {len(names)} classes, the model has {num_classes}")
    return names


def _lines(path: str) -> list[str]:
    """The lines of a UTF-8 file, stripped; a byte order mark is allowed."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line.strip() for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from None
