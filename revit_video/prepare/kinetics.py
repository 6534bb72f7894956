"""Kinetics-400, -600 and -700 from their CSV files and any of the public copies of the videos."""

from __future__ import annotations

import csv
from collections import Counter

from revit_video.prepare.annotation import Annotation, Entry, annotation_files, split_in
from revit_video.prepare.media import MediaFiles

COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
_NO_TEST = "test is val, on which results are published; the annotated test split is left out"


def read_kinetics(annotations: str, media: MediaFiles, num_classes: int) -> Annotation:
    """The training and validation clips of `label,youtube_id,time_start,time_end,split` files.

    Files are named as the official crawler and the public mirror do it, `<id>_000010_000020.mp4`, or without
    zeros, or by the bare id where only one clip has it; in folders of classes, of splits, or in one.
    """
    clips: dict[tuple[str, int, int], tuple[str, ...]] = {}
    notes, used = [], []
    for file in annotation_files(annotations, "*.csv"):
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text)
            header = set(reader.fieldnames or ())
            if not header.issuperset(COLUMNS[1:4]):
                continue
            if "label" not in header:
                notes.append(f"{file.name} has no labels: left out")
                continue
            used.append(file)
            for line in reader:
                label, video, start, end = (line[column] for column in COLUMNS[:4])
                split = split_in(line.get("split") or file.name)
                if not split:
                    raise ValueError(f"{file}: neither a column `split` nor the file's name tells the split")
                clips.setdefault(
                    (video, int(float(start)), int(float(end))), (label, video, start, end, split)
                )
    if not used:
        raise ValueError(f"--annotations: no CSV with the columns {','.join(COLUMNS)} in {annotations!r}")
    if any(row[-1] == "test" for row in clips.values()):
        notes.append(_NO_TEST)
    clips_of_video = Counter(video for video, _, _ in clips)
    entries = []
    for (video, first, last), row in clips.items():
        label, split = row[0], row[-1]
        names = [f"{video}_{first:06d}_{last:06d}", f"{video}_{first}_{last}"]
        names += [video] if clips_of_video[video] == 1 else []
        path = next(filter(None, (media.find(name, split, label) for name in names)), "")
        if split != "test":
            entries.append(Entry(split, label, video, row, path))
    classes = sorted({entry.label for entry in entries})
    if len(classes) != num_classes:
        notes.append(f"{len(classes)} of {num_classes} classes")
    return Annotation(classes, entries, COLUMNS, used, notes)
