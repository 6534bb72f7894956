"""What the lists of a run have in common is said, or refused, before anything is trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from revit_video.from_cfg.inputs import check_lists, data_folder
from tests.toy import COUNTS, run_toy, toy_cfg

STAGES = ["train", "mine", "assigner", "test"]


def check(folder: Path, *changes: object, stages: list[str] = STAGES) -> None:
    cfg = toy_cfg(folder, folder / "run", *changes)
    check_lists(cfg, data_folder(cfg), stages)


def add(folder: Path, split: str, lines: str) -> None:
    path = folder / f"{split}.csv"
    path.write_text(path.read_text() + lines)


def test_lists_without_common_videos_say_nothing(videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    check(videos)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("train", "mine", "mine: 3 of its 15 videos are in train too; a backbone has memorised some of them"),
        ("train", "test", "test: 3 of its 15 videos are in train too; the results on them are those of"),
        ("val", "test", "test: 3 of its 15 videos are in val too; thresholds are chosen on videos that are"),
    ],
)
def test_common_videos_are_counted(
    one: str, other: str, said: str, own_videos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (own_videos / "link").symlink_to(own_videos / one)
    lines = (own_videos / f"{one}.csv").read_text().splitlines(keepends=True)[:3]
    add(own_videos, other, "".join(line.replace(f"{one}/", "link/") for line in lines))  # not by their text
    check(own_videos)
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(said)


def test_thresholds_chosen_on_the_test_list_must_be_meant(own_videos: Path) -> None:
    shutil.copy(own_videos / "val.csv", own_videos / "test.csv")
    for stages in (STAGES, ["test"]):
        with pytest.raises(ValueError, match="all 12 videos of test are in val too, .* with TEST.SPLIT val$"):
            check(own_videos, stages=stages)
    check(own_videos, "TEST.SPLIT", "val")


def test_a_video_with_two_labels(own_videos: Path) -> None:
    name, label = (own_videos / "train.csv").read_text().split()[:2]
    for split, places in (("train", "train"), ("test", "train and test")):
        before = (own_videos / f"{split}.csv").read_text()
        add(own_videos, split, f"{name} {(int(label) + 1) % 6}\n")
        with pytest.raises(ValueError, match=rf"{name} has two labels \({places}\); leave one line of it"):
            check(own_videos)
        (own_videos / f"{split}.csv").write_text(before)


def test_a_line_that_stands_twice(own_videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(own_videos, "train", (own_videos / "train.csv").read_text())
    check(own_videos)
    assert caplog.messages == [f"train: {COUNTS['train']} of its {2 * COUNTS['train']} lines repeat a video"]


@pytest.mark.parametrize("split", ["train", "mine", "val", "test"])
def test_files_that_are_not_there(split: str, own_videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (own_videos / split / "away").mkdir()
    first, *others = sorted((own_videos / split).glob("*.mp4"))
    first.rename(first.parent / "away" / first.name)
    check(own_videos)
    assert [f"{split}: 1 of " in message for message in caplog.messages] == [True]
    for path in others[: len(others) // 2]:
        path.rename(path.parent / "away" / path.name)
    with pytest.raises(ValueError, match=rf"{split}: \d+ of {COUNTS[split]} files are not there, such as "):
        check(own_videos)


def test_a_run_on_two_split_folders_alone(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """train/ and val/, the commonest layout: mine is set aside of train, test of val."""
    folder = tmp_path / "data"
    for split in ("train", "val"):
        for line in (videos / f"{split}.csv").read_text().splitlines():
            name, label = line.split()
            at = folder / split / f"class {label}"
            at.mkdir(parents=True, exist_ok=True)
            shutil.copy(videos / name, at)
    run = run_toy(folder, tmp_path / "run", "DATA.SPLIT", [0.5, 0.25, 0.125, 0.125])
    assert (run / "results.json").is_file()
    said = capsys.readouterr().err
    assert "no folder mine; its videos are set aside of those of train" in said
    assert "no folder test; its videos are set aside of those of val" in said
    data = data_folder(toy_cfg(folder, run))
    lists = {split: {path for path, _ in data.videos(split)} for split in STAGES[:2] + ["val", "test"]}
    assert not lists["train"] & lists["mine"] and len(lists["train"] | lists["mine"]) == COUNTS["train"]
    assert not lists["val"] & lists["test"] and len(lists["val"] | lists["test"]) == COUNTS["val"]
    whole = data_folder(toy_cfg(folder, run, "MINE.HOLDOUT", "", "TEST.SPLIT", "val"))
    assert (len(whole.videos("train")), len(whole.videos("val"))) == (COUNTS["train"], COUNTS["val"])


@pytest.mark.parametrize("split", ["train", "mine", "val", "test"])
def test_images_are_no_clips_of_several_frames(split: str, own_videos: Path) -> None:
    Image.new("RGB", (40, 40)).save(own_videos / split / "a.png")
    add(own_videos, split, f"{split}/a.png 0\n")
    count = COUNTS[split] + 1
    with pytest.raises(
        ValueError, match=rf"^{split}: 1 of its {count} files are images, .*a.png; .* 2 frames of"
    ):
        check(own_videos)


def test_videos_for_a_model_of_images_are_said(videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        check(videos, "DATA.NUM_FRAMES", 1, stages=["test"])
    said = "the model is of images and sees 1 frame of each clip (DATA.NUM_FRAMES)"
    assert caplog.messages == [f"test: 12 of its 12 files are videos; {said}"]


def test_recordings_on_both_sides_are_said(own_videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By DATA.GROUP, or by how files are called."""
    for split in ("train", "test"):
        lines = (own_videos / f"{split}.csv").read_text().splitlines()
        for n, line in enumerate(lines):
            path, label = line.rsplit(" ", 1)
            target = own_videos / f"rec{n % 4}_{split[1]}{n:02d}.mp4"
            (own_videos / path).rename(target)
            lines[n] = f"{target} {label}"
        (own_videos / f"{split}.csv").write_text("\n".join(lines) + "\n")
    check(own_videos, stages=["train", "test"])
    (message,) = caplog.messages
    assert message.startswith(
        "test: files such as rec0_… look like clips of a recording that is in train too"
    )
    caplog.clear()
    shutil.copy(own_videos / "train.csv", own_videos / "val.csv")
    check(own_videos, "DATA.GROUP", r"rec\d", "TRAIN.EVAL_PERIOD", 0, stages=["train", "test"])
    assert "test: 4 of its 4 groups by DATA.GROUP are in train too, such as rec0" in caplog.text
