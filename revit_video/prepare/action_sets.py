"""Something-Something V2, UCF101, HMDB51 and Diving48 from their official split files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import simplejson

from revit_video.prepare.annotation import Annotation, Entry, annotation_files
from revit_video.prepare.media import MediaFiles, stem_of

# HMDB51: _<body part>_<camera motion>_<people>_<view>_<quality>_<number>, after the movie and the class.
_HMDB_ATTRIBUTES = re.compile(r"_[fhlu]_[cn]m_np\d_(ba|fr|le|ri)_(bad|med|goo)_\d+$")
_HMDB_SPLITS = {"1": "train", "2": "test"}


def read_ssv2(annotations: str, media: MediaFiles) -> Annotation:
    """Something-Something V2: `…train.json`, `…validation.json` and `…labels.json`, videos `<id>.webm`.

    A clip's class is its template without brackets. The test split has no public labels.
    """
    used = annotation_files(annotations, "*labels.json")[:1]
    numbers = {name: int(number) for name, number in _json(used[0]).items()}
    entries = []
    for split, pattern in (("train", "*train.json"), ("val", "*validation.json")):
        used += annotation_files(annotations, pattern)[:1]
        for clip in _json(used[-1]):
            name, label = str(clip["id"]), clip["template"].replace("[", "").replace("]", "")
            if label not in numbers:
                raise ValueError(f"{used[-1]}: {used[0].name} has no class {label!r}")
            entries.append(Entry(split, label, name, (name,), media.find(name)))
    return Annotation(sorted(numbers, key=numbers.__getitem__), entries, files=used)


def read_ucf101(annotations: str, media: MediaFiles, split: int) -> Annotation:
    """UCF101: `classInd.txt`, `trainlist0N.txt` and `testlist0N.txt`; clips of one group are one source."""
    used = annotation_files(annotations, "classInd.txt")[:1]
    classes = [line.split()[1] for line in _lines(used[0])]
    entries = []
    for part in ("train", "test"):
        used += annotation_files(annotations, f"{part}list{split:02d}.txt")[:1]
        for line in _lines(used[-1]):
            name = line.split()[0]
            label, stem = name.split("/")[0], stem_of(name)
            # The lists write HandStandPushups, some copies' files HandstandPushups.
            path = media.find(stem, label=label) or media.find(stem.replace("HandStand", "Handstand"))
            entries.append(Entry(part, label, stem.rpartition("_c")[0], (name,), path))
    return Annotation(classes, entries, files=used)


def read_hmdb51(annotations: str, media: MediaFiles, split: int) -> Annotation:
    """HMDB51: `<class>_test_splitN.txt`, whose lines end in 1 (train), 2 (test) or 0 (neither)."""
    ending = f"_test_split{split}.txt"
    used = annotation_files(annotations, f"*{ending}")
    classes = [file.name.removesuffix(ending) for file in used]
    entries = []
    for label, file in zip(classes, used, strict=True):
        for line in _lines(file):
            name, _, part = line.rpartition(" ")
            if part in _HMDB_SPLITS:
                stem = stem_of(name)
                movie = _HMDB_ATTRIBUTES.sub("", stem).removesuffix(f"_{label}")
                path = media.find(stem, label=label)
                entries.append(Entry(_HMDB_SPLITS[part], label, movie, (name,), path))
    return Annotation(classes, entries, files=used)


def read_diving48(annotations: str, media: MediaFiles) -> Annotation:
    """Diving48: `Diving48_V2_train.json`, `Diving48_V2_test.json` and `Diving48_vocab.json`.

    Without V2's files the first version's are taken. Dives from one recording are one source.
    """
    used = annotation_files(annotations, "*vocab.json")[:1]
    classes = [word if isinstance(word, str) else "_".join(word) for word in _json(used[0])]
    entries = []
    for split in ("train", "test"):
        used += annotation_files(annotations, f"*{split}.json")[:1]  # "_V2_" sorts before "_t"
        for clip in _json(used[-1]):
            name, label = clip["vid_name"], classes[clip["label"]]
            entries.append(Entry(split, label, name.rpartition("_")[0], (name,), media.find(name)))
    return Annotation(classes, entries, files=used)


def _json(file: Path) -> Any:
    try:
        return simplejson.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from None


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
