"""From official files to a run, and what the whole tells."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from revit_video.prepare.pipeline import Steps
from tests.prepare.files import data_yaml, prepared, touch, write
from tests.toy import run_toy, table_of, tool


def kinetics_of(videos: Path, folder: Path) -> tuple[Path, Path]:
    """The generated videos under Kinetics' names, in the official layout, and their annotation."""
    classes = (videos / "classes.txt").read_text().splitlines()
    head = "label,youtube_id,time_start,time_end,split\n"
    for split in ("train", "val"):
        rows = []
        for line in (videos / f"{split}.csv").read_text().splitlines():
            path, _, label = line.rpartition(" ")
            name = f"{split:>5}{len(rows):06d}".replace(" ", "-")
            target = folder / "videos" / split / classes[int(label)] / f"{name}_000003_000013.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(videos / path, target)
            rows.append(f"{classes[int(label)]},{name},3,13,{split}\n")
        write(folder / "annotations", **{f"{split}__csv": head + "".join(rows)})
    return folder / "videos", folder / "annotations"


def test_from_the_official_files_to_results(videos: Path, tmp_path: Path) -> None:
    source, annotations = kinetics_of(videos, tmp_path)
    out, run = tmp_path / "out", tmp_path / "run"
    arguments = [
        "kinetics400",
        "--videos",
        source,
        "--annotations",
        annotations,
        "--out",
        out,
        "--mine",
        0.25,
    ]
    arguments += ["--check", "--resize", 32, "--pack", 1, "--processes", 0, "--min-frames", 4]
    finished = tool("prepare", *arguments)
    assert finished.code == 0 and "train         18 clips" in finished.out
    assert "test          12 clips (the list of val)" in finished.out
    run_toy(out, run, "MODEL.NUM_CLASSES", 0, "TEST.SPLIT", "val")  # its test list is that of val
    predicted = table_of(run / "predictions.csv")
    assert len(predicted) == 12 and (run / "skipped.csv").read_text().count("\n") <= 1
    told = data_yaml(tmp_path)
    assert told["clips"] == {"train": 18, "mine": 6, "val": 12, "test": 12} and told["same_list"] == {
        "test": "val"
    }
    assert len(told["annotations"]) == 2 and told["settings"]["mine"] == 0.25
    (source / "train").joinpath("left").rename(tmp_path / "gone")
    assert tool("prepare", *arguments).code == 1


def test_mistakes_are_answered_in_one_line(tmp_path: Path) -> None:
    finished = tool("prepare", "folder", "--videos", tmp_path / "none", "--out", tmp_path / "out")
    assert finished.code == 2 and finished.err.startswith("error: --videos: no videos or images in")
    assert not (tmp_path / "out").exists()


def test_leaks_are_listed(tmp_path: Path) -> None:
    videos = touch(
        tmp_path / "videos", ["train/a/p1_x.mp4", "val/a/p1_y.mp4", "train/a/p2.mp4", "val/a/p3.mp4"]
    )
    (videos / "val/a/p3.mp4").write_bytes((videos / "train/a/p2.mp4").read_bytes())
    done = prepared(tmp_path, "folder", videos, group=r"p\d")
    assert done.leaks == {"source": 1}
    (leak,) = table_of(tmp_path / "out" / "leaks.csv")
    assert (leak["kind"], leak["split"], leak["other_split"]) == ("source", "train", "val")
    assert Path(leak["path"]).name == "p1_x.mp4" and Path(leak["other_path"]).name == "p1_y.mp4"


@pytest.mark.parametrize(
    "mistake", [{"mine": 1.0}, {"val": -0.1}, {"mine": 0.5, "val": 0.5}, {"processes": -1}]
)
def test_impossible_steps(mistake: dict) -> None:
    with pytest.raises(ValueError, match="--"):
        Steps(**mistake)
