"""The data folder that a run takes: lists, class names, and what is known of them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from revit_video.prepare.annotation import SPLITS, Entry
from revit_video.runtime.output_dir import atomic_write_text

Lists = Mapping[str, Sequence[Entry]]
"""Split -> its clips, for each of `SPLITS` that has some."""


@dataclass
class Prepared:
    """What became of a data set; the content of `data.yaml`.

    Attributes:
        annotations: file -> SHA-256.
        clips: split -> number in its list.
        same_list: split -> the split whose list it repeats, because the data set has none of its own.
        missing: split -> annotated clips without a file.
        broken: reason -> files that cannot be read.
        odd: `short`, or a word of `Checked.odd` -> files.
        duplicates: clips with several files, of which one was taken.
        leaks: kind -> how many, see `find_leaks`.
        classes: name -> split -> clips.
    """

    dataset: str
    settings: dict[str, Any]
    annotations: dict[str, str]
    clips: dict[str, int] = field(default_factory=dict)
    same_list: dict[str, str] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    odd: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    leaks: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every annotated file is there and none is known to be broken."""
        return not self.missing and not self.broken

    def __str__(self) -> str:
        """A few lines for the terminal."""
        lines = [f"{self.dataset}: {len(self.classes)} classes"]
        for split, count in self.clips.items():
            same = f" (the list of {self.same_list[split]})" if split in self.same_list else ""
            lines.append(f"  {split:<6} {count:>9,} clips{same}")
        tables = {"missing": self.missing, "broken": self.broken, "odd": self.odd, "leaks": self.leaks}
        for name, table in tables.items():
            lines += [f"  {name}: {count:,} ({key})" for key, count in table.items()]
        if self.duplicates:
            lines.append(f"  duplicates: {self.duplicates:,} clips have several files; one was taken")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def write_data_folder(out: str, lists: Lists, paths: Mapping[str, str], prepared: Prepared) -> None:
    """Writes the lists, `classes.txt` and `data.yaml`; completes the counts of `prepared`.

    Args:
        paths: a clip's path -> the one to list. Those inside `out` are listed relative to it.
    """
    if odd := [name for name in prepared.classes if not stands_in_a_line(name)]:
        raise ValueError(f"class {odd[0]!r}: no name for a line of classes.txt; rename it")
    numbers = {name: number for number, name in enumerate(prepared.classes)}
    inside = os.path.join(os.path.abspath(out), "")
    for split in set(SPLITS) - set(lists):
        Path(out, f"{split}.csv").unlink(missing_ok=True)  # of an earlier call
    for split, entries in lists.items():
        rows = ((paths.get(e.path, e.path).removeprefix(inside), numbers[e.label]) for e in entries)
        atomic_write_text(os.path.join(out, f"{split}.csv"), "".join(f"{path} {n}\n" for path, n in rows))
        prepared.clips[split] = len(entries)
        for label, count in count_by(entry.label for entry in entries).items():
            prepared.classes[label][split] = count
    atomic_write_text(os.path.join(out, "classes.txt"), "".join(f"{name}\n" for name in numbers))
    text = yaml.safe_dump(asdict(prepared), sort_keys=False, allow_unicode=True, width=110)
    atomic_write_text(os.path.join(out, "data.yaml"), text)


def stands_in_a_line(name: str) -> bool:
    """Whether a class name or a path is what a reader takes from a line of UTF-8 that holds it."""
    is_text = name.encode("utf-8", "replace").decode() == name
    return is_text and bool(name) and name.strip() == name and not set(name) & {"\n", "\r"}


def by_split(entries: Iterable[Entry]) -> tuple[dict[str, list[Entry]], dict[str, str]]:
    """The lists, and which of `val` and `test` repeats the other because it has no clips of its own."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        found[entry.split].append(entry)
    same = {}
    for split, other in (("val", "test"), ("test", "val")):
        if not found.get(split) and found.get(other):
            found[split], same[split] = found[other], other
    return {split: found[split] for split in SPLITS if found.get(split)}, same


def count_by(keys: Iterable[str]) -> dict[str, int]:
    """Key -> how often it comes, the most frequent first."""
    return dict(Counter(keys).most_common())
