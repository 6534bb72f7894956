"""Clips of two splits that are not independent."""

from __future__ import annotations

from pathlib import Path

from revit_video.prepare.annotation import Entry
from revit_video.prepare.leaks import Leak, find_leaks


def test_pairs_of_splits(tmp_path: Path) -> None:
    texts = {"a": "same", "b": "same", "c": "size", "d": "other"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    path = {name: str(tmp_path / name) for name in texts}
    entries = [
        Entry("train", "x", "1", (), path["a"]),
        Entry("train", "x", "2", (), path["c"]),
        Entry("val", "x", "2", (), path["d"]),
        Entry("val", "x", "3", (), path["b"]),
        Entry("val", "y", "3", (), path["b"]),
    ]
    by_source = Leak("source", "train", path["c"], "val", path["d"])
    assert list(find_leaks(entries, compare_files=False)) == [by_source]
    by_file = Leak("file", "train", path["a"], "val", path["b"])
    assert list(find_leaks(entries, compare_files=True)) == [by_source, by_file]
