from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from revit_video.data.folders import VIDEO_SUFFIXES, ClassFolders, DataFolder, find_videos, split_by_name

SHARES = {"train": 0.6, "mine": 0.15, "val": 0.1, "test": 0.15}


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(folder: ClassFolders, split: str) -> list[tuple[str, int]]:
    videos = folder.videos(split)
    return [
        (str(Path(path).relative_to(folder.path)), info["label"])
        for path, info in map(videos.__getitem__, range(len(videos)))
    ]


# ---- A folder for each split -----------------------------------------------------------------------------


def test_classes_are_numbered_over_all_splits(tmp_path: Path) -> None:
    names = ["train/run/b.mp4", "train/jump/a.MOV", "train/hop/c.webm", "val/run/d.avi", "val/hop/e.mkv"]
    folder = ClassFolders(str(touch(tmp_path, *names, "train/run/notes.txt", "train/.trash/x.mp4")), SHARES)
    assert folder.names == ["hop", "jump", "run"]
    assert found(folder, "train") == [
        ("train/hop/c.webm", 0),
        ("train/jump/a.MOV", 1),
        ("train/run/b.mp4", 2),
    ]
    assert found(folder, "val") == [("val/hop/e.mkv", 0), ("val/run/d.avi", 2)]


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    folder = ClassFolders(str(touch(tmp_path, "train/run/b.mp4", "test/run/a.mp4")), SHARES)
    with pytest.raises(
        ValueError, match="val: no such folder with a folder for each class; there is train, test"
    ):
        folder.videos("val")


def test_a_class_that_cannot_be_learned(tmp_path: Path) -> None:
    folder = ClassFolders(str(touch(tmp_path, "train/run/b.mp4", "test/jump/a.mp4")), SHARES)
    assert found(folder, "test") == [("test/jump/a.mp4", 0)]
    with pytest.raises(ValueError, match="train/jump: nothing to learn this class from"):
        folder.videos("train")


def test_a_name_that_no_result_file_could_hold(tmp_path: Path) -> None:
    touch(tmp_path, "train/läuft schnell/跳 1.mp4", "val/läuft schnell/2.mp4")
    folder = ClassFolders(str(tmp_path), SHARES)
    assert found(folder, "train") == [("train/läuft schnell/跳 1.mp4", 0)]
    try:
        touch(tmp_path, os.fsdecode(b"train/l\xc3\xa4uft schnell/\xff.mp4"))
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(ValueError, match="is not UTF-8; rename it"):
        ClassFolders(str(tmp_path), SHARES)


def test_a_split_of_another_name(tmp_path: Path) -> None:
    touch(tmp_path, "train/run/b.mp4", "extra/run/a.mp4", "outputs/logs/x.txt")
    folder = ClassFolders(str(tmp_path), SHARES | {"extra": 0.0})
    assert folder.names == ["run"] and found(folder, "extra") == [("extra/run/a.mp4", 0)]


def test_images_count_where_there_are_no_videos(tmp_path: Path) -> None:
    names = ["train/cat/b.JPEG", "train/cat/a.png", "train/dog/c.webp", "val/cat/d.bmp", "val/dog/e.jpg"]
    folder = ClassFolders(str(touch(tmp_path, *names, "train/cat/notes.txt")), SHARES)
    assert found(folder, "train") == [
        ("train/cat/a.png", 0),
        ("train/cat/b.JPEG", 0),
        ("train/dog/c.webp", 1),
    ]
    folder = ClassFolders(str(touch(tmp_path, "train/cat/clip.mp4")), SHARES)
    assert found(folder, "train") == [("train/cat/clip.mp4", 0), ("train/dog/c.webp", 1)], "thumbnails"


# ---- A folder for each class -----------------------------------------------------------------------------


def test_what_is_left_out_is_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clips = [f"{kind}/{n}.mp4" for kind in ("jump", "run") for n in range(4)]
    others = ["run/a.jpg", "run/b.JPG", "run/notes.txt", "run/raw", "__MACOSX/run/._0.mp4", "outputs/log.txt"]
    with caplog.at_level("INFO"):
        folder = ClassFolders(str(touch(tmp_path, *clips, *others)), SHARES)
    assert folder.names == ["jump", "run"]
    assert caplog.messages == [
        f"{tmp_path}: left out: 2 .jpg, 1 .txt, 1 without a suffix",
        f"{tmp_path}: folders without videos or images: __MACOSX, outputs",
    ]


def test_videos_in_sub_folders_belong_to_the_class(tmp_path: Path) -> None:
    names = [f"sport/{kind}/{n}.mp4" for kind in ("jump", "run") for n in range(4)]
    touch(tmp_path, *names, *(f"car/{n}.mp4" for n in range(4)))
    (tmp_path / "sport" / "run" / "back").symlink_to(tmp_path / "sport")
    folder = ClassFolders(str(tmp_path), SHARES)
    assert folder.names == ["car", "sport"]
    everything = [name for split in SHARES for name, label in found(folder, split) if label == 1]
    assert sorted(everything) == sorted(names)


@pytest.mark.parametrize(
    "suffix", [".3gp", ".MTS", ".ts", ".m2ts", ".ogv", ".gif", ".divx", ".vob", ".MP4", ".h264"]
)
def test_suffixes_of_cameras_and_recorders(suffix: str, tmp_path: Path) -> None:
    folder = ClassFolders(str(touch(tmp_path, f"train/run/a{suffix}", "train/run/b.mp4")), SHARES)
    assert len(found(folder, "train")) == 2


def test_each_video_is_in_one_split(tmp_path: Path) -> None:
    names = [f"{kind}/{n}{VIDEO_SUFFIXES[n % 10]}" for kind in ("run", "jump") for n in range(20)]
    folder = ClassFolders(str(touch(tmp_path, *names)), SHARES)
    parts = {split: found(folder, split) for split in SHARES}
    assert [len(parts[split]) for split in SHARES] == [24, 6, 4, 6]
    everything = [video for part in parts.values() for video in part]
    assert sorted(name for name, _ in everything) == sorted(names)
    assert {(name.split("/")[0], label) for name, label in everything} == {("jump", 0), ("run", 1)}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    names = [f"{kind}/{n}.mp4" for kind in ("car", "train") for n in range(4)]
    folder = ClassFolders(str(touch(tmp_path, *names)), SHARES)
    assert folder.names == ["car", "train"] and len(found(folder, "train")) == 2


def test_videos_without_classes_are_no_classes(tmp_path: Path) -> None:
    folder = ClassFolders(str(touch(tmp_path, "train/a.mp4", "test/b.mp4")), SHARES)
    assert folder.names == []
    with pytest.raises(ValueError, match="neither lists .* nor a folder for each class"):
        folder.videos("train")


def test_a_class_too_small_to_be_split(tmp_path: Path) -> None:
    names = [*(f"run/{n}.mp4" for n in range(9)), "jump/a.mp4", "jump/b.mp4"]
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match="jump: 2 files are too few for 4 splits; add some, or"):
        ClassFolders(str(tmp_path), SHARES).videos("test")
    two = ClassFolders(str(tmp_path), {"train": 0.8, "mine": 0.0, "val": 0.0, "test": 0.2})
    assert len(found(two, "train")) == 8 and len(found(two, "test")) == 3
    with pytest.raises(ValueError, match=r"nothing is split off for val \(DATA.SPLIT: train 0.8, mine 0,"):
        two.videos("val")


# ---- Splitting -------------------------------------------------------------------------------------------


def test_shares_are_rounded_and_no_part_is_empty() -> None:
    shares = list(SHARES.values())
    for count, expected in {
        4: [1, 1, 1, 1],
        5: [2, 1, 1, 1],
        10: [6, 2, 1, 1],
        100: [60, 15, 10, 15],
    }.items():
        sizes = [len(part) for part in split_by_name([f"{n}" for n in range(count)], shares)]
        assert sum(sizes) == count and all(abs(a - b) <= 1 for a, b in zip(sizes, expected, strict=True))
        assert min(sizes) >= 1
    assert [len(part) for part in split_by_name(list("abcdefg"), [0.5, 0, 0, 0.5])][1:3] == [0, 0]


def test_a_split_does_not_depend_on_the_order_and_hardly_on_more_names() -> None:
    names, shares = [f"{n}.mp4" for n in range(100)], list(SHARES.values())
    parts = split_by_name(names, shares)
    assert split_by_name(random.Random(0).sample(names, 100), shares) == parts
    more = split_by_name([*names, "new.mp4"], shares)
    moved = sum(len(set(part) - set(new)) for part, new in zip(parts, more, strict=True))
    assert moved <= 3
    few = split_by_name(names[:10], shares)
    assert few[1:] == [["2.mp4", "6.mp4"], ["3.mp4"], ["1.mp4"]], (
        "whoever has split by an earlier release wants the same"
    )


# ---- Files to classify -----------------------------------------------------------------------------------


def test_folders_are_searched_for_videos(tmp_path: Path) -> None:
    for name in ("b.MP4", "a.webm", "notes.txt"):
        (tmp_path / name).touch()
    folder = str(tmp_path)
    assert find_videos([folder, "c.avi"]) == [f"{folder}/a.webm", f"{folder}/b.MP4", "c.avi"]
    assert find_videos(["~/c.avi"]) == [os.path.expanduser("~/c.avi")]
    (tmp_path / "pictures").mkdir()
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / "pictures" / name).touch()
    assert find_videos([f"{folder}/pictures"]) == [f"{folder}/pictures/{name}" for name in ("a.png", "b.JPG")]
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="nothing to classify in this folder"):
        find_videos([str(tmp_path / "none")])


def test_class_names_are_the_same_however_their_accents_are_written(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("a.mp4 0\nb.mp4 1\n")
    composed, decomposed = ["h\u00fcpft", "l\u00e4uft"], ["hu\u0308pft", "la\u0308uft"]
    for names, labels in ((decomposed, [0, 1]), (decomposed[::-1], [1, 0])):
        (tmp_path / "classes.txt").write_text("\n".join(names), encoding="utf-8")
        folder = DataFolder(str(tmp_path), {"test": 0.0}, model_classes=composed)
        assert folder.class_names == composed
        assert [folder.videos("test")[row][1]["label"] for row in range(2)] == labels


def test_a_recording_is_in_one_split_whatever_its_classes(tmp_path: Path) -> None:
    names = [f"{c}/seq{n:02d}_{k}.mp4" for c in ("kick", "push") for n in range(10) for k in range(2)]
    folder = ClassFolders(str(touch(tmp_path, *names)), SHARES, group=r"seq\d+")
    of_split = {split: {path[5:10] for path, _ in found(folder, split)} for split in SHARES}
    assert sum(len(folder.videos(split)) for split in SHARES) == 40
    assert sorted(group for groups in of_split.values() for group in groups) == [
        f"seq{n:02d}" for n in range(10)
    ]
    assert [len(of_split[split]) for split in SHARES] == [6, 2, 1, 1]


def test_a_recording_stays_whole_where_val_is_set_aside_of_train(tmp_path: Path) -> None:
    names = [f"train/{c}/seq{n}_{k}.mp4" for c in ("kick", "push") for n in range(5) for k in range(2)]
    folder = ClassFolders(
        str(touch(tmp_path, *names, "test/kick/x.mp4")), SHARES, ["train", "val"], r"seq\d|x"
    )
    sides = [{path[11:15] for path, _ in found(folder, split)} for split in ("train", "val")]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 5


def test_too_few_groups_and_a_class_of_one(tmp_path: Path) -> None:
    touch(tmp_path, *(f"kick/seq{n}_0.mp4" for n in range(6)), "push/seq0_1.mp4", "push/seq1_1.mp4")
    with pytest.raises(
        ValueError, match=r"DATA.GROUP 'mp4': 1 groups in .* are too few for the splits; give"
    ):
        ClassFolders(str(tmp_path), SHARES, group="mp4").videos("train")
    shares = {"train": 0.1, "test": 0.9}
    with pytest.raises(ValueError, match=r"leaves nothing to learn this class from, its groups are all"):
        ClassFolders(str(tmp_path), shares, group=r"seq\d").videos("train")
