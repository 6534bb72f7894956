"""Folders of classes, tables and lists; videos by their names alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from revit_video.prepare.annotation import TableColumns
from tests.prepare.files import listed, prepared, touch, write

CLIPS = [f"{label}/person{n:02d}_{k}.avi" for label in ("run", "walk") for n in range(10) for k in range(2)]


def test_folders_of_classes_are_split_by_the_pattern(tmp_path: Path) -> None:
    videos = touch(tmp_path / "videos", [*CLIPS, "readme.mp4"])
    done = prepared(tmp_path, "folder", videos, group=r"(person\d+)_", mine=0.1, val=0.1, test=0.2)
    assert done.clips == {"train": 24, "mine": 4, "val": 4, "test": 8}
    assert done.classes["run"] == {"train": 12, "mine": 2, "val": 2, "test": 4}
    people = [{name.split("_")[0] for name in listed(tmp_path, split)} for split in done.clips]
    assert sum(map(len, people)) == len(set.union(*people)) == 10
    assert done.notes == ["1 files lie outside the folders of classes: left out"] and not done.leaks


@pytest.mark.parametrize(
    "names", [("train", "val"), ("train_256", "val_256"), ("videos_train", "validation")]
)
def test_folders_of_splits_are_kept(names: tuple[str, str], tmp_path: Path) -> None:
    videos = touch(tmp_path / "videos", [f"{name}/a b/{name}{n}.mp4" for name in names for n in range(2)])
    done = prepared(tmp_path, "folder", videos)
    assert done.clips == {"train": 2, "val": 2, "test": 2} and list(done.classes) == ["a b"]


def test_folders_of_splits_without_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder for each class"):
        prepared(tmp_path, "folder", touch(tmp_path / "videos", ["train/a.mp4", "val/b.mp4"]))


def test_images_beside_videos_are_thumbnails(tmp_path: Path) -> None:
    prepared(tmp_path, "folder", touch(tmp_path / "videos", [*CLIPS, "run/person00_0.jpg"]))
    assert "person00_0.jpg" not in listed(tmp_path, "train")


@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_table(separator: str, tmp_path: Path) -> None:
    rows = ["file,class,fold,who", "run/person00_0.mkv,Run,train,p0", "person00_1,Run,training,p0"]
    rows += ["walk/person03_0.avi,Walk,test,p3", "walk/gone.avi,Walk,train,p9"]
    table = write(tmp_path, table__csv="\n".join(rows).replace(",", separator)) / "table.csv"
    columns = TableColumns("file", "class", "fold", "who")
    done = prepared(tmp_path, "csv", touch(tmp_path / "videos", CLIPS), table, columns=columns)
    assert listed(tmp_path, "train") == {"person00_0.avi": "Run", "person00_1.avi": "Run"}
    assert listed(tmp_path, "test") == {"person03_0.avi": "Walk"} and done.missing == {"train": 1}


def test_numbers_as_labels_keep_their_order(tmp_path: Path) -> None:
    rows = [f"{path},{n}" for n, path in enumerate(CLIPS[:12])]
    table = write(tmp_path, t__csv="\n".join(["path,label", *rows])) / "t.csv"
    done = prepared(tmp_path, "csv", touch(tmp_path / "videos", CLIPS), table, val=0.0, test=0.0)
    assert list(done.classes) == [str(n) for n in range(12)]


def test_a_table_without_a_column(tmp_path: Path) -> None:
    table = write(tmp_path, t__csv="video,label\na,b\n") / "t.csv"
    with pytest.raises(ValueError, match="no column 'path'; there is video, label"):
        prepared(tmp_path, "csv", touch(tmp_path / "videos", CLIPS), table)
    with pytest.raises(ValueError, match="no such table"):
        prepared(tmp_path, "csv", tmp_path / "videos", tmp_path / "none.csv")


def test_lists_are_taken_as_they_are(tmp_path: Path) -> None:
    videos = touch(tmp_path / "videos", CLIPS)
    prepared(tmp_path, "folder", videos, mine=0.2)
    before = {file.name: file.read_text() for file in (tmp_path / "out").glob("*.csv")}
    first = (tmp_path / "out").rename(tmp_path / "first")
    done = prepared(tmp_path, "lists", "", first, mine=0.2)
    assert {file.name: file.read_text() for file in (tmp_path / "out").glob("*.csv")} == before
    assert list(done.classes) == ["run", "walk"] and done.is_complete
    again = prepared(tmp_path, "lists", "", tmp_path / "out", shard_bytes=10**9)  # onto themselves
    assert again.clips == done.clips and again.is_complete
    assert (tmp_path / "out" / "train.csv").read_text().startswith("shards/train-000000.tar@512+")
    with pytest.raises(ValueError, match="lists parts of shards"):
        prepared(tmp_path, "lists", "", tmp_path / "out")


def test_one_list_under_two_names_is_no_leak(tmp_path: Path) -> None:
    names = [f"{split}/a/{split}{n}.mp4" for split in ("train", "val") for n in range(2)]
    videos = touch(tmp_path / "videos", names)
    prepared(tmp_path, "folder", videos)
    (tmp_path / "out").rename(tmp_path / "first")
    done = prepared(tmp_path, "lists", "", tmp_path / "first", mine=0.5)
    assert done.clips == {"train": 1, "mine": 1, "val": 2, "test": 2} and done.same_list == {"test": "val"}
    assert not done.leaks


def test_lists_of_an_earlier_call_do_not_stay(tmp_path: Path) -> None:
    videos = touch(tmp_path / "videos", CLIPS)
    prepared(tmp_path, "folder", videos, mine=0.2)
    prepared(tmp_path, "folder", videos, mine=0.0)
    assert not (tmp_path / "out" / "mine.csv").exists()
