"""Groups of clips that belong together, such as those of one recording or person, by their file names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Hashable, Sequence

# seq01_02, g01_c02: numbers of a recording and a clip
SERIES = re.compile(r"(.*\d.*)[ _.-][a-z]?\d+", re.IGNORECASE)
# person01_boxing_d1_uncomp: a word with a number comes first
LEADING = re.compile(r"([a-z]+\d+)[ _.-].*", re.IGNORECASE)


def groups_of(paths: Sequence[str], pattern: str, folder: str) -> list[str]:
    """The group of each file: what `pattern` finds in its path within `folder`.

    Args:
        pattern: a regular expression; its first group, if it has one, names the clip's group. Empty: each
            file is its own group.

        folder: `.` where the paths are relative already.

    Raises:
        ValueError: the pattern finds nothing in some path.
    """
    if not pattern:
        return list(paths)
    found = []
    for path in paths:
        name = os.path.relpath(path, folder)
        match = re.search(pattern, name)
        if match is None or match[match.re.groups and 1] is None:
            raise ValueError(f"DATA.GROUP {pattern!r} finds no group in {name}")
        found.append(match[match.re.groups and 1])
    return found


def series_of(path: str) -> str:
    """What a file is called but for its clip, `seq01` of seq01_02.mp4 and seq01_hug.mp4; else empty."""
    stem = os.path.splitext(os.path.basename(path))[0]
    match = SERIES.fullmatch(stem) or LEADING.fullmatch(stem)
    return match[1] if match else ""


def series_of_all(paths: Sequence[str], labels: Sequence[Hashable]) -> list[str]:
    """`series_of` of each file; all empty where it tells no more than the class, as in class1_001."""
    found = list(map(series_of, paths))
    pairs = {pair for pair in zip(found, labels, strict=True) if pair[0]}
    if 1 < len(pairs) == len({series for series, _ in pairs}) == len({label for _, label in pairs}):
        return [""] * len(found)
    return found


def series_in(paths: Sequence[str], labels: Sequence[Hashable]) -> str:
    """A part that the names of several files share as clips of one recording would; empty if few do."""
    shared = Counter(filter(None, series_of_all(paths, labels)))
    common = {name: count for name, count in shared.items() if count > 1}
    return max(common, key=common.__getitem__) if sum(common.values()) > len(paths) / 2 else ""
