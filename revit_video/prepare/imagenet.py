"""ImageNet (ILSVRC 2012) from its folders of images; the validation classes from any usual list."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from revit_video.prepare.annotation import Annotation, Entry, split_in
from revit_video.prepare.media import MediaFiles, stem_of

_SYNSET = re.compile(r"n\d{8}")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})")
_GROUND_TRUTH = (
    "ILSVRC2012_validation_ground_truth.txt",  # the devkit's: numbers of its meta.mat
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    "val.txt",  # Caffe's: `ILSVRC2012_val_00000001.JPEG 65`
)
_LARGEST = 1 << 26  # bytes of an unpacked element of meta.mat
_NAMES = ("LOC_synset_mapping.txt", "synset_words.txt")


def read_imagenet(annotations: str, media: MediaFiles) -> Annotation:
    """Training images in folders of synsets; validation images likewise, or all in one folder.

    For those in one folder, `annotations` holds one of: the devkit's ground truth with `meta.mat`,
    `LOC_val_solution.csv`, a synset a line, or Caffe's `val.txt`. Labels count the sorted synsets.
    """
    entries, flat = [], {}
    for path in media.paths:
        folders = os.path.relpath(path, media.folder).split(os.sep)[:-1]
        if folders and _SYNSET.fullmatch(folders[-1]):
            split = "val" if "val" in map(split_in, folders) else "train"
            name = "/".join((folders[-1], os.path.basename(path)))
            entries.append(Entry(split, folders[-1], name, (name,), path))
        elif found := _VAL_IMAGE.fullmatch(stem_of(path)):
            flat[int(found[1])] = path
    synsets = sorted({entry.label for entry in entries if entry.split == "train"})
    used: list[Path] = []
    if flat and not any(entry.split == "val" for entry in entries):
        file, truth = _ground_truth(annotations, synsets)
        used.append(file)
        for number, label in truth.items():
            name = f"ILSVRC2012_val_{number:08d}"
            entries.append(Entry("val", label, name, (name,), flat.get(number, "")))
    names = _names(annotations)
    classes = [f"{synset} {names[synset]}" if synset in names else synset for synset in synsets]
    renamed = dict(zip(synsets, classes, strict=True))
    if unknown := sorted({entry.label for entry in entries} - set(renamed)):
        raise ValueError(f"no training images of {len(unknown)} classes: {', '.join(unknown[:5])}")
    entries = [Entry(e.split, renamed[e.label], e.source, e.row, e.path) for e in entries]
    return Annotation(classes, entries, files=used)


def _ground_truth(annotations: str, synsets: list[str]) -> tuple[Path, Mapping[int, str]]:
    """Number of a validation image -> its synset."""
    files = {path.name: path for path in Path(annotations).rglob("*")} if annotations else {}
    for name in filter(files.__contains__, _GROUND_TRUTH):
        with files[name].open(encoding="utf-8", newline="") as text:
            rows = [line.replace(",", " ").split() for line in text if line.strip()]
        if name == "LOC_val_solution.csv":
            rows = rows[1:]
        if len(rows[0]) > 1:
            pairs = {int(row[0].split(".")[0][-8:]): row[1] for row in rows}
        else:
            pairs = {number: row[0] for number, row in enumerate(rows, start=1)}
        if all(_SYNSET.fullmatch(value) for value in pairs.values()):
            return files[name], pairs
        if name == "val.txt":
            return files[name], {number: synsets[int(value)] for number, value in pairs.items()}
        if "meta.mat" not in files:
            raise ValueError(
                f"{files[name]} numbers classes as the devkit's meta.mat does, which is not there"
            )
        numbered = _devkit_synsets(files["meta.mat"])
        return files[name], {number: numbered[int(value) - 1] for number, value in pairs.items()}
    raise ValueError(
        f"--annotations: the validation images lie in one folder, and their classes are not in "
        f"{annotations!r}: {', '.join(_GROUND_TRUTH)}"
    )


def _devkit_synsets(meta: Path) -> list[str]:
    """The synsets of the devkit's `meta.mat`, which lists them in the order of their numbers, from 1 on."""
    data = meta.read_bytes()
    texts, at = [], 128  # elements follow a header, in MATLAB's format 5
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        element = data[at + 8 : at + 8 + size]
        texts.append(zlib.decompressobj().decompress(element, _LARGEST) if kind == 15 else element)
        at += 8 + size
    letters = b"".join(texts).replace(b"\0", b"")  # of one byte or two
    return [synset.decode() for synset in re.findall(rb"n\d{8}", letters)]


def _names(annotations: str) -> dict[str, str]:
    """Synset -> its first word, where a list of them is there."""
    for path in sorted(Path(annotations).rglob("*.txt")) if annotations else []:
        if path.name in _NAMES:
            rows = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines())
            return {row[0]: row[1].split(",")[0].strip() for row in rows if len(row) == 2}
    return {}
