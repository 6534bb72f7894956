"""The same file, or clips of the same source, in two splits."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from revit_video.prepare.annotation import Entry


class Leak(NamedTuple):
    """Clips of two splits that are not independent; `kind` is `source` or `file`."""

    kind: str
    split: str
    path: str
    other_split: str
    other_path: str


def find_leaks(entries: Iterable[Entry], compare_files: bool) -> Iterator[Leak]:
    """A leak for each source, and each content of files, that is in several splits: one pair of splits each.

    Args:
        compare_files: read the files that are of equal size as well.
    """
    of_source: dict[str, list[Entry]] = defaultdict(list)
    of_size: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        of_source[entry.source].append(entry)
        if compare_files:
            of_size[os.path.getsize(entry.path)].append(entry)
    for group in of_source.values():
        yield from _across_splits("source", group)
    for group in of_size.values():
        of_digest: dict[str, list[Entry]] = defaultdict(list)
        if len({entry.split for entry in group}) > 1:
            for entry in group:
                of_digest[sha256(entry.path)].append(entry)
        for same in of_digest.values():
            yield from _across_splits("file", same)


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, hexadecimal."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()


def _across_splits(kind: str, group: list[Entry]) -> Iterator[Leak]:
    firsts = {entry.split: entry for entry in reversed(group)}
    first, *others = (firsts[split] for split in sorted(firsts))
    for other in others:
        yield Leak(kind, first.split, first.path, other.split, other.path)
