"""Every layout in which copies of Kinetics are found; videos by their names alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prepare.files import listed, prepared, touch, write
from tests.toy import table_of

TRAIN = """label,youtube_id,time_start,time_end,split
testifying,---QUuC4vJs,84,94,train
eating spaghetti,--3ouPhoy2A,20,30,train
shooting goal (soccer),--4-0ihtnBU,58,68,train
"""
VAL = """label,youtube_id,time_start,time_end,split
testifying,_0jKzyWkdTk,0,10,val
eating spaghetti,-5mXkFJ1C_A,110,120,validate
"""
TEST = """youtube_id,time_start,time_end,split
--6bJUbfpnQ,17,27,test
"""
CLIPS = {
    "---QUuC4vJs_000084_000094": ("train", "testifying"),
    "--3ouPhoy2A_000020_000030": ("train", "eating spaghetti"),
    "--4-0ihtnBU_000058_000068": ("train", "shooting goal (soccer)"),
    "_0jKzyWkdTk_000000_000010": ("val", "testifying"),
    "-5mXkFJ1C_A_000110_000120": ("val", "eating spaghetti"),
}
# As a function of (split, class, clip).
LAYOUTS = {
    "the official crawler": lambda split, label, clip: f"{split}/{label}/{clip}.mp4",
    "underscores, as several tools rename classes": lambda split, label, clip: (
        f"videos_{split}/{label.replace(' ', '_')}/{clip}.mp4"
    ),
    "a torrent of resized videos": lambda split, label, clip: (
        f"{split}_256/{label.replace(' ', '_')}/{clip}.mp4"
    ),
    "the mirror, extracted": lambda split, label, clip: f"k400/{split}/{clip}.mp4",
    "one folder": lambda split, label, clip: f"{clip}.mp4",
    "containers that a downloader appends": lambda split, label, clip: f"{split}/{clip}.mp4.mkv",
    "no zeros": lambda split, label, clip: f"{clip[:11]}_{int(clip[12:18])}_{int(clip[19:])}.webm",
    "bare ids": lambda split, label, clip: (
        f"compress/{split}/{label.title().replace(' ', '')}/{clip[:11]}.mp4"
    ),
}


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    return write(tmp_path / "annotations", train__csv=TRAIN, val__csv=VAL, test__csv=TEST)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_is_found(layout, tmp_path: Path, annotations: Path) -> None:
    names = {layout(split, label, clip): label for clip, (split, label) in CLIPS.items()}
    videos = touch(tmp_path / "videos", names)
    done = prepared(tmp_path, "kinetics400", videos, annotations)
    assert done.is_complete and done.clips == {"train": 3, "val": 2, "test": 2}
    assert done.same_list == {"test": "val"} and done.duplicates == 0
    assert listed(tmp_path, "train") | listed(tmp_path, "val") == {Path(n).name: c for n, c in names.items()}


def test_classes_are_sorted_and_what_is_odd_is_told(tmp_path: Path, annotations: Path) -> None:
    videos = touch(tmp_path / "videos", [f"{clip}.mp4" for clip in CLIPS])
    done = prepared(tmp_path, "kinetics400", videos, annotations)
    assert list(done.classes) == ["eating spaghetti", "shooting goal (soccer)", "testifying"]
    assert done.classes["testifying"] == {"train": 1, "val": 1, "test": 1}
    assert done.notes == ["test.csv has no labels: left out", "3 of 400 classes"]


def test_missing_clips_are_listed_in_the_crawlers_columns(tmp_path: Path, annotations: Path) -> None:
    gone = "--4-0ihtnBU_000058_000068"
    videos = touch(tmp_path / "videos", [f"{clip}.mp4" for clip in CLIPS if clip != gone])
    done = prepared(tmp_path, "kinetics400", videos, annotations)
    assert done.missing == {"train": 1} and not done.is_complete
    assert table_of(tmp_path / "out" / "missing.csv") == [
        {
            "label": "shooting goal (soccer)",
            "youtube_id": "--4-0ihtnBU",
            "time_start": "58",
            "time_end": "68",
            "split": "train",
            "reason": "missing",
        }
    ]


def test_of_several_files_the_replacement_and_the_split_win(tmp_path: Path, annotations: Path) -> None:
    first, second, third, *rest = CLIPS
    videos = touch(
        tmp_path / "videos",
        [
            f"train/{first}.mp4",
            f"replacement/replacement_for_corrupted_k400/{first}.mp4",
            f"all/{second}.mp4",
            f"train/{second}.mp4",
            f"train/{third}.mp4",
            f"val/{third}.mp4",
            *(f"val/{clip}.mp4" for clip in rest),
        ],
    )
    (videos / "train" / f"{third}.mp4").write_bytes(b"")
    assert prepared(tmp_path, "kinetics400", videos, annotations).duplicates == 3
    paths = [line.rpartition(" ")[0] for line in (tmp_path / "out" / "train.csv").read_text().splitlines()]
    folders = [Path(path).relative_to(videos).parts[0] for path in paths]
    assert folders == ["replacement", "train", "val"]


def test_links_are_no_duplicates(tmp_path: Path, annotations: Path) -> None:
    videos = touch(tmp_path / "videos", [f"{split}/{clip}.mp4" for clip, (split, _) in CLIPS.items()])
    (videos / "by_class").mkdir()
    for clip, (split, _) in CLIPS.items():  # as the mirror's script arranges them
        (videos / "by_class" / f"{clip}.mp4").symlink_to(videos / split / f"{clip}.mp4")
    (videos / "by_class" / "up").symlink_to(videos)
    done = prepared(tmp_path, "kinetics400", videos, annotations)
    assert done.is_complete and done.duplicates == 0


def test_bare_ids_do_not_stand_for_two_clips(tmp_path: Path) -> None:
    rows = "a,abcdefghijk,0,10,train\nb,abcdefghijk,10,20,train\na,bcdefghijkl,0.0,10.0,train\n"
    annotations = write(tmp_path / "annotations", train__csv=TRAIN.splitlines()[0] + "\n" + rows)
    videos = touch(tmp_path / "videos", ["abcdefghijk.mp4", "bcdefghijkl.mp4"])
    assert prepared(tmp_path, "kinetics600", videos, annotations).missing == {"train": 2}


def test_a_labelled_test_split_is_left_out_with_a_note(tmp_path: Path) -> None:
    head, row = TRAIN.splitlines()[:2]
    annotations = write(tmp_path / "annotations", k__csv=f"{head}\n{row}\na,abcdefghijk,0,10,test\n")
    videos = touch(tmp_path / "videos", ["---QUuC4vJs_000084_000094.mp4", "abcdefghijk_000000_000010.mp4"])
    done = prepared(tmp_path, "kinetics700", videos, annotations)
    assert done.clips == {"train": 1} and "test is val" in done.notes[0]


def test_a_table_that_does_not_tell_the_split(tmp_path: Path) -> None:
    rows = "label,youtube_id,time_start,time_end\na,abcdefghijk,0,10\n"
    videos = touch(tmp_path / "videos", ["abcdefghijk.mp4"])
    prepared(tmp_path, "kinetics400", videos, write(tmp_path / "told", kinetics_train__csv=rows))
    with pytest.raises(ValueError, match="neither a column `split` nor the file's name"):
        prepared(tmp_path, "kinetics400", videos, write(tmp_path / "untold", k__csv=rows))


def test_wrong_folders_are_named(tmp_path: Path, annotations: Path) -> None:
    with pytest.raises(ValueError, match="--videos: no videos or images in"):
        prepared(tmp_path, "kinetics400", tmp_path / "nowhere", annotations)
    videos = touch(tmp_path / "videos", ["a.mp4"])
    with pytest.raises(ValueError, match=r"--annotations: no \*\.csv in"):
        prepared(tmp_path, "kinetics400", videos, videos)
    with pytest.raises(ValueError, match="no CSV with the columns label,youtube_id"):
        prepared(tmp_path, "kinetics400", videos, write(tmp_path / "other", a__csv="path,label\nx,0\n"))
    with pytest.raises(ValueError, match="none of the 5 annotated clips can train: see"):
        prepared(tmp_path, "kinetics400", videos, annotations)
