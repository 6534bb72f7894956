"""Kinetics-style list files and class names."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from revit_video.runtime.text import printable

_REPORTED_LINES = 5
_SEPARATORS = (" ", ",", "\t", ";")
_SAMPLE = 100  # lines that tell how a list is separated


def labelled_files(videos: LabeledVideoPaths) -> Iterator[tuple[str, Any]]:
    """Path of each video of a list, and its label, or tuple of labels."""
    return ((path, info["label"]) for path, info in map(videos.__getitem__, range(len(videos))))


def read_list(
    path: str,
    prefix: str = "",
    separator: str = " ",
    num_classes: int | None = None,
    multi_label: bool = False,
) -> LabeledVideoPaths:
    """Read a list with one `<video path><separator><label>` per line; blank lines are skipped.

    Paths and labels may be quoted as in CSV files; `~/` is the home folder. A path that is not there as
    written is taken with `/` for `\\`, or with its accents composed or decomposed, if that file is there.

    Args:
        prefix: folder of relative video paths; the list's own folder if empty.
        separator: `\\t` may be written as these two characters.
        num_classes: labels must be below it, if given.
        multi_label: a line may have several labels, `a.mp4 3,17`; each video's are a tuple, ascending.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is empty, not UTF-8, separated otherwise, or has bad lines (five are shown).
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"video list not found: {path}")
    separator = "\t" if separator == "\\t" else separator
    folder = prefix or os.path.dirname(path)
    lines = [(number, line) for number, line in enumerate(_lines(path), start=1) if line]
    if not lines:
        raise ValueError(f"video list is empty: {path}")
    _check_separator(path, [line for _, line in lines[:_SAMPLE]], separator)
    videos: list[tuple[str, Any]] = []
    mistakes = []
    for number, line in lines:
        try:
            videos.append(_parse_line(line, separator, num_classes, folder, multi_label))
        except ValueError as error:
            mistakes.append(f"{os.path.basename(path)}:{number}: {error}")
    if mistakes:
        more = len(mistakes) - _REPORTED_LINES
        shown = mistakes[:_REPORTED_LINES] + ([f"… and {more} more"] if more > 0 else [])
        raise ValueError(f"bad lines in {path}:\n  " + "\n  ".join(map(printable, shown)))
    return LabeledVideoPaths(videos, folder)


def _check_separator(path: str, lines: Sequence[str], separator: str) -> None:
    """ValueError where another separator than the given one divides every line, but for a header."""
    if any(_label(_columns(line, separator)[1].split(",")[0]) is not None for line in lines):
        return
    for other in _SEPARATORS:
        if all(_label(_columns(line, other)[1]) is not None for line in lines[1:] or lines):
            raise ValueError(
                f"{path}: {other!r} divides path and label there, not {separator!r}; "
                f"give DATA.PATH_LABEL_SEPARATOR {other!r}"
            )


def _parse_line(
    line: str, separator: str, num_classes: int | None, folder: str, multi_label: bool
) -> tuple[str, int | tuple[int, ...]]:
    video, text = _columns(line, separator)
    form = f"a line is '<video path>{separator}<label>'"
    if not video:
        raise ValueError(f"no label in {line!r}; {form}")
    labels = [_label(part.strip()) for part in text.split(",")] if multi_label else [_label(text)]
    if None in labels:
        several = re.fullmatch(r"\d+(,\d+)+", text) and "; several labels need DATA.MULTI_LABEL True"
        raise ValueError(
            f"label {text!r} is not a whole number; {form}, and labels are numbered from 0{several or ''}"
        )
    for label in (label for label in labels if label is not None):
        if label < 0 or (num_classes is not None and label >= num_classes):
            allowed = f"0 to {num_classes - 1}" if num_classes is not None else "0 or more"
            raise ValueError(f"label {label} is out of range, allowed is {allowed}")
    video = _found(os.path.expanduser(video) if video.startswith("~/") else video, folder)
    more, number = _columns(video, separator) if separator in video else ("", "")
    if more and re.search(r"\.\w+$", more) and _label(number) is not None and not _exists(folder, video):
        raise ValueError(f"3 columns in {line!r}; {form} and nothing else")
    found = sorted({label for label in labels if label is not None})
    return video, tuple(found) if multi_label else found[0]


def _columns(line: str, separator: str) -> tuple[str, str]:
    """What stands before and after the last separator; the first is empty where there is none."""
    video, _, text = line.rpartition(separator)
    return _unquoted(video.strip()), _unquoted(text.strip())


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].replace('""', '"') if quoted else text


def _label(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None


def _found(video: str, folder: str) -> str:
    """The spelling of a path that there is a file for; as it is if there is none for any."""
    if (video.isascii() and "\\" not in video) or _exists(folder, video):
        return video
    spellings = [unicodedata.normalize(form, video) for form in ("NFC", "NFD")]
    spellings += [text.replace("\\", "/") for text in (video, *spellings)]
    return next((text for text in spellings if _exists(folder, text)), video)


def _exists(folder: str, video: str) -> bool:
    return os.path.exists(os.path.join(folder, video))


def read_class_names(data_dir: str, num_classes: int | None = None) -> list[str] | None:
    """Class names from `classes.txt` in `data_dir`, one per line in the order of the labels; None without it.

    Raises:
        ValueError: it is not UTF-8, names a class twice, or does not hold `num_classes` names (if given).
    """
    path = os.path.join(data_dir, "classes.txt")
    if not os.path.isfile(path):
        return None
    names = [line for line in _lines(path) if line]
    if twice := [name for name, count in Counter(map(composed, names)).items() if count > 1]:
        raise ValueError(f"{path} names the class {twice[0]!r} twice; each class needs a name of its own")
    if num_classes is not None and len(names) != num_classes:
        raise ValueError(f"{path} names {len(names)} classes, the model has {num_classes}")
    return names


def composed(name: str) -> str:
    """A class name with its accents composed (NFC): file systems and editors differ in that."""
    return unicodedata.normalize("NFC", name)


def _lines(path: str) -> list[str]:
    """The lines of a UTF-8 file, stripped; a byte order mark is allowed."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line.strip() for line in file]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from None
