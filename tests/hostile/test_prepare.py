"""Official files and names of media that are not what they should be, and label maps that never end."""

from __future__ import annotations

import os
import struct
import time
import zlib
from fractions import Fraction
from pathlib import Path

import pytest
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from revit_video.data.clips import ClipSampling
from revit_video.data.datasets import TrainClips
from revit_video.data.lists import read_class_names, read_list
from revit_video.data.token_labels import TokenLabelMaps
from revit_video.data.transforms import TrainTransform
from revit_video.prepare.parallel import Died, in_processes
from tests.hostile.test_sources import PICKLES
from tests.images import picture
from tests.label_maps import constant_map, write_map
from tests.prepare.files import prepared, touch, write
from tests.prepare.test_parallel import work

NAMES = ["a/x\nforged 1.mp4", "a/y\rz.mp4", "a/\u2028.mp4", "a/z .mp4", "a/é.mp4", os.fsdecode(b"a/\xff.mp4")]


def test_no_file_name_forges_a_line_of_a_list(tmp_path: Path) -> None:
    for name in ("b/0.mp4", *NAMES):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    done = prepared(tmp_path, "folder", tmp_path / "videos", val=0.0, test=0.0)
    assert done.broken == {"its name cannot stand in a line of a list": 3}
    videos = read_list(str(tmp_path / "out" / "train.csv"))
    names = {os.path.basename(videos[row][0]) for row in range(len(videos))}
    assert names == {"\u2028.mp4", "z .mp4", "é.mp4", "0.mp4"}
    assert all(os.path.isfile(videos[row][0]) for row in range(len(videos)))


@pytest.mark.parametrize("label", ["", " b", "a\nb", "a\rb"])
def test_no_class_name_shifts_the_others(label: str, tmp_path: Path) -> None:
    touch(tmp_path / "videos", ["0.mp4", "1.mp4"])
    table = write(tmp_path, table__csv=f'path,label\n0.mp4,c\n1.mp4,"{label}"\n') / "table.csv"
    with pytest.raises(ValueError, match=r"no name for a line of classes.txt; rename it"):
        prepared(tmp_path, "csv", tmp_path / "videos", table, val=0.0, test=0.0)
    assert read_class_names(str(tmp_path / "out")) is None


PACKED = zlib.compress(bytes(1 << 27), 1)
FILES: dict[str, dict[str, str]] = {
    "kinetics400": {"train__csv": "label,youtube_id,time_start,time_end,split\na,b,x,nan,train\n"},
    "kinetics600": {"train__csv": f"label,youtube_id,time_start,time_end\n{'a' * 200_000},b,1,2\n"},
    "ssv2": {"labels__json": "[1]", "train__json": "{}", "validation__json": "3"},
    "diving48": {"vocab__json": "[3]", "x_train__json": '["a"]', "x_test__json": "[]"},
    "ucf101": {"classInd__txt": "1", "trainlist01__txt": "a", "testlist01__txt": "\0"},
    "csv": {"table__csv": "path,label\na\n"},
    "hmdb51": {"a_test_split1__txt": "x"},
    "imagenet": {"ILSVRC2012_validation_ground_truth__txt": "1\n"},
    "lists": {"train__csv": "a.mp4 99999999999999\n", "classes__txt": "a\n"},
}


@pytest.mark.parametrize("dataset", FILES)
def test_an_annotation_that_is_none_is_one_line(dataset: str, tmp_path: Path) -> None:
    videos = ["ILSVRC2012_val_00000001.JPEG", "n00000001/a.JPEG"] if dataset == "imagenet" else ["a.mp4"]
    touch(tmp_path / "videos", videos)
    files = write(tmp_path / "files", **FILES[dataset])
    (files / "meta.mat").write_bytes(bytes(128) + struct.pack("<II", 15, len(PACKED)) + PACKED)
    annotation = files / "table.csv" if dataset == "csv" else files
    with pytest.raises(ValueError, match=r".") as caught:
        prepared(tmp_path, dataset, tmp_path / "videos", annotation)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 500


def test_a_crash_costs_its_item_without_worker_processes_too() -> None:
    results = dict(in_processes(work, [1, 3, 5, 6], processes=0, timeout=1.0))
    assert results.pop(3) == Died("its decoder crashed (signal 11, Segmentation fault)")
    assert results.pop(5) == Died("not decoded within 1 s")
    assert results == {1: 1, 6: 36}


def test_a_label_map_that_never_ends_costs_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [tmp_path / "images" / "a" / f"{n}.png" for n in range(3)]
    images[0].parent.mkdir(parents=True)
    for image in images:
        picture("red disc", 0).save(image)
        write_map(tmp_path / "maps", image, constant_map(0, classes=3))
    maps = TokenLabelMaps(str(tmp_path / "maps"), list(map(str, images)), 3)
    (tmp_path / "maps" / "a" / "1.pt").write_bytes(PICKLES["a deep tuple as a key"])
    read = maps.read
    monkeypatch.setattr(maps, "read", lambda path: time.sleep(600) if path.endswith("2.png") else read(path))
    videos = LabeledVideoPaths([(str(path), 0) for path in images])
    sampling, transform = (
        ClipSampling(num_frames=1, duration=Fraction(1)),
        TrainTransform((), 32, flip=True, areas=(0.2, 1)),
    )
    clips = TrainClips(videos, sampling, transform, timeout=1.0, label_maps=maps)
    for row in (1, 2):
        sample = clips[0, row]
        assert sample.label_map is not None and len(sample.skipped) >= 1
        assert sample.skipped[0].reason.startswith(("not decoded within 1 s", "label map"))
