"""One's own data: a folder for each class, a table, or the lists that a data folder already has."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from revit_video.data.lists import labelled_files, read_class_names, read_list
from revit_video.data.shards import shard_part
from revit_video.prepare.annotation import SPLITS, Annotation, Entry, TableColumns, split_in
from revit_video.prepare.media import MediaFiles, stem_of


def read_folder(media: MediaFiles, group: str = "") -> Annotation:
    """A folder for each class, or a folder for each split (`train`, `val_256`, …) with those in it.

    Args:
        group: regular expression; files in whose path below `media` it finds the same text (its first group,
            if it has one) are of one source. Empty: every file is its own.
    """
    entries, loose = [], 0
    for path in media.paths:
        name = os.path.relpath(path, media.folder)
        first, *rest = name.split(os.sep)
        if not rest:
            loose += 1
            continue
        split = split_in(first) if len(rest) > 1 else ""  # a class may be called "train"
        entries.append(
            Entry(split or "train", rest[0] if split else first, _source(name, group), (name,), path)
        )
    classes = sorted({entry.label for entry in entries})
    if all(map(split_in, classes)):  # none, or videos without a class in folders of splits
        raise ValueError(f"{media.folder}: no folder for each class")
    notes = [f"{loose} files lie outside the folders of classes: left out"] if loose else []
    return Annotation(classes, entries, notes=notes)


def read_table(table: str, media: MediaFiles, columns: TableColumns, group: str = "") -> Annotation:
    """The clips of a CSV or TSV file with a header; sources as of `read_folder` where it has none.

    Raises:
        ValueError: there is no such table, or it lacks a column.
    """
    if not os.path.isfile(table):
        raise ValueError(f"--annotations: no such table: {table!r}")
    with open(table, encoding="utf-8-sig", newline="") as text:
        dialect = "excel-tab" if "\t" in text.readline() else "excel"
        text.seek(0)
        reader = csv.DictReader(text, dialect=dialect)
        header = list(reader.fieldnames or ())
        for column in filter(None, (columns.path, columns.label, columns.source)):
            if column not in header:
                raise ValueError(f"{table}: no column {column!r}; there is {', '.join(header)}")
        entries = []
        for row in reader:
            name, label = row[columns.path], row[columns.label]
            split = split_in(row.get(columns.split) or "") or "train"
            direct = os.path.join(media.folder, name)
            path = direct if os.path.isfile(direct) else media.find(stem_of(name), split, label)
            source = (columns.source and row[columns.source]) or _source(name, group)
            entries.append(Entry(split, label, source, (name,), path))
    labels = {entry.label for entry in entries}
    numbers = all(label.isdecimal() for label in labels)
    return Annotation(sorted(labels, key=int if numbers else str), entries, files=[Path(table)])


def read_lists(folder: str) -> Annotation:
    """The lists and `classes.txt` of a data folder, to be checked, resized or packed.

    Raises:
        ValueError: see `read_list`.
    """
    files = {split: Path(folder) / f"{split}.csv" for split in SPLITS}
    files = {split: file for split, file in files.items() if file.is_file()}
    if not files:
        raise ValueError(f"{folder}: no list (train.csv, …)")
    if "val" in files and "test" in files and files["val"].read_bytes() == files["test"].read_bytes():
        del files["test"]  # one list under two names
    rows = [(split, *row) for split, file in files.items() for row in _rows(file)]
    if any(shard_part(path) for _, path, _ in rows):
        raise ValueError(f"{folder}: lists parts of shards; give the lists from which they were packed")
    names = read_class_names(folder) or [str(label) for label in range(max(row[-1] for row in rows) + 1)]
    entries = [
        Entry(split, names[label], path, (path,), path if os.path.isfile(path) else "")
        for split, path, label in rows
    ]
    return Annotation(names, entries, files=list(files.values()))


def _rows(file: Path) -> Iterator[tuple[str, int]]:
    return labelled_files(read_list(str(file)))


def _source(name: str, group: str) -> str:
    found = re.search(group, name) if group else None
    return (found[1] if found.re.groups else found[0]) if found else name
