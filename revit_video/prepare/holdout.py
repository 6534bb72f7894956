"""Holding clips out of the training split: stratified by class, whole sources, the same for the same seed."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from revit_video.prepare.annotation import Entry


def hold_out(entries: Sequence[Entry], shares: Mapping[str, float], seed: int = 0) -> list[Entry]:
    """The entries, some of the split `train` moved to others.

    Sources are visited in the order of their hashes with the seed, so that a few files more or fewer change
    few draws. A source is taken where at least half of its clips are wanted; where that leaves a class
    without any, its first source is. The last clips of a class stay.

    Args:
        shares: split -> share of each class's training clips that it gets, rounded, at least one.
    """
    by_source: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        if entry.split == "train":
            by_source[entry.source][entry.label] += 1
    in_class: Counter[str] = sum(by_source.values(), Counter())
    left = Counter(in_class)
    order = sorted(by_source, key=lambda source: hashlib.sha256(f"{seed}/{source}".encode()).digest())
    moved: dict[str, str] = {}
    for split, share in shares.items():
        wanted = {label: max(1, round(share * count)) if share else 0 for label, count in in_class.items()}
        drawn: Counter[str] = Counter()
        for any_of_undrawn in (False, True):
            for source in order:
                clips = by_source[source]
                useful = sum(min(count, max(wanted[k] - drawn[k], 0)) for k, count in clips.items())
                is_due = any(wanted[k] and not drawn[k] for k in clips)
                takes = is_due if any_of_undrawn else 2 * useful >= clips.total()
                if takes and source not in moved and all(left[k] > count for k, count in clips.items()):
                    moved[source] = split
                    left -= clips
                    drawn += clips
    return [
        replace(entry, split=moved.get(entry.source, "train")) if entry.split == "train" else entry
        for entry in entries
    ]
