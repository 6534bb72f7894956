"""What an annotation says: clips with a class, a split and a source; one form for all data sets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "mine", "val", "test")

_SPLIT = re.compile(r"(?<![a-z])(train|val|test)(?:ing|id|idate|idation)?(?![a-z])")


@dataclass(frozen=True)
class TableColumns:
    """Columns of a table by their names.

    Attributes:
        path: relative to the folder of the videos; its suffix may differ.
        label: a name or a number.
        split: need not be there.
        source: empty for none.
    """

    path: str = "path"
    label: str = "label"
    split: str = "split"
    source: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One annotated video or image.

    Attributes:
        split: `train`, `val` or `test`; `mine` once it is held out of `train`.
        source: the recording it was cut from. Entries of one source are held out together.
        row: the entry in the annotation's own columns, for `missing.csv`.
        path: its file; empty if there is none.
    """

    split: str
    label: str
    source: str
    row: tuple[str, ...]
    path: str


@dataclass(frozen=True)
class Annotation:
    """The entries of a data set.

    Attributes:
        classes: names in the order of their labels.
        columns: header of the entries' `row`.
        files: the annotation files that were read.
        notes: what a user should know of them, one line each.
    """

    classes: Sequence[str]
    entries: Sequence[Entry]
    columns: tuple[str, ...] = ("name",)
    files: Sequence[Path] = ()
    notes: Sequence[str] = ()


def split_in(name: str) -> str:
    """The split that a file or folder name tells (`videos_train`, `val_256`, `validate.csv`); "" for none."""
    found = _SPLIT.search(name.lower())
    return found[1] if found else ""


def annotation_files(annotations: str, pattern: str) -> list[Path]:
    """The files below a folder whose names match, sorted; or the one file that `annotations` is.

    Raises:
        ValueError: there is none.
    """
    path = Path(annotations)
    found = [path] if path.is_file() else sorted(path.rglob(pattern)) if annotations else []
    if not found:
        raise ValueError(f"--annotations: no {pattern} in {annotations!r}")
    return found
