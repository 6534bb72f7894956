"""A stranger's OUTPUT_DIR: links that lead elsewhere, videos that are not its business, names that steer."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from revit_video.config import load_cfg
from revit_video.data.folders import find_videos
from revit_video.from_cfg.model import build_model
from revit_video.models import checkpoint, saved_epochs
from revit_video.models.checkpoint import CheckpointError
from revit_video.report import write_report
from revit_video.report.files import OwnVideos
from revit_video.report.page import command_without_places, without_place
from revit_video.runtime.lock import only_run_in
from revit_video.runtime.output_dir import (
    LOCK,
    atomic_write_text,
    ensure_writable,
    open_to_append,
    read_csv,
    read_stats,
)
from revit_video.runtime.text import printable_lines
from tests.report.conftest import fake_run
from tests.toy import tool
from tests.videos import write_video_to


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere.txt"
    path.write_text("mine")
    return path


# ---- Links and pipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.json", "x.json.tmp"])
def test_nothing_is_written_through_a_link(name: str, elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(elsewhere)
    atomic_write_text(str(tmp_path / "x.json"), "theirs")
    assert elsewhere.read_text() == "mine"
    assert (tmp_path / "x.json").read_text() == "theirs" and not (tmp_path / "x.json").is_symlink()


@pytest.mark.parametrize("name", ["stats.jsonl", "checkpoints", "tensorboard", "tests/a", "folds"])
def test_a_run_refuses_links_through_which_it_would_write(name: str, tmp_path: Path) -> None:
    (tmp_path / "run" / "tests").mkdir(parents=True)
    (tmp_path / "target").mkdir()
    link = tmp_path / "run" / name
    link.symlink_to(tmp_path / "target")
    if name == "stats.jsonl":
        from revit_video.runtime.logging import StatsLog

        with pytest.raises(ValueError, match="a link, or no ordinary file"):
            StatsLog(str(tmp_path / "run"), tensorboard=False)
    else:
        with pytest.raises(ValueError, match=f"{re.escape(str(link))} is a link"):
            ensure_writable(str(tmp_path / "run"))
    assert not list((tmp_path / "target").iterdir())


@pytest.mark.parametrize("kind", ["link", "second name", "pipe", "folder"])
def test_what_grows_or_locks_is_a_file_of_its_own(kind: str, elsewhere: Path, tmp_path: Path) -> None:
    make = {"link": Path.symlink_to, "second name": Path.hardlink_to}
    for name in (LOCK, "stats.jsonl"):
        path = tmp_path / name
        if kind in make:
            make[kind](path, elsewhere)
        else:
            (os.mkfifo if kind == "pipe" else os.mkdir)(path)
    with pytest.raises(ValueError, match=r"\.lock: a link"), only_run_in(str(tmp_path)):
        pytest.fail("taken")
    with pytest.raises(ValueError, match=r"stats\.jsonl: a link"):
        open_to_append(str(tmp_path / "stats.jsonl"))
    assert elsewhere.read_text() == "mine"


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stats.jsonl"
    os.mkfifo(path)
    monkeypatch.setattr(os.path, "isfile", lambda _: True)  # it was one when that was asked
    monkeypatch.setattr(os.path, "islink", lambda _: False)
    for read in (read_stats, read_csv):
        with pytest.raises(OSError, match="no ordinary file"):
            read(str(path if read is read_csv else tmp_path))
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="a link"):
        open_to_append(str(path))
    assert not (tmp_path / "elsewhere").exists()


def test_links_multiply_no_folders(tmp_path: Path) -> None:
    """Each folder has two links to the next one: 2^40 ways to the last."""
    for n in range(40):
        (tmp_path / "all" / f"{n:02}").mkdir(parents=True)
        for name in "ab" if n < 39 else ():
            (tmp_path / "all" / f"{n:02}" / name).symlink_to(tmp_path / "all" / f"{n + 1:02}")
    with pytest.raises(ValueError, match="links by which one of them is found in over 64 ways"):
        find_videos([str(tmp_path / "all")])


def test_folders_are_bounded_in_depth_and_links_may_lead_back(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.mp4").touch()
    (tmp_path / "a" / "b" / "pipe.mp4").touch()
    for name in ("again", "more"):
        (tmp_path / "a" / "b" / name).symlink_to(tmp_path / "a")
        (tmp_path / "a" / f"{name}.mp4").symlink_to(tmp_path / "nowhere")
    names = [os.path.relpath(path, tmp_path) for path in find_videos([str(tmp_path)])]
    assert names == ["a/again.mp4", "a/b/pipe.mp4", "a/b/x.mp4", "a/more.mp4"]
    tmp_path.joinpath(*"d" * 80).mkdir(parents=True)
    with pytest.raises(ValueError, match="it has folders over 64 deep"):
        find_videos([str(tmp_path)])


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "last")
    os.mkfifo(tmp_path / "epoch_00001.pyth")
    with pytest.raises(CheckpointError, match="no ordinary file"):
        saved_epochs.newest(str(tmp_path))
    with pytest.raises(CheckpointError, match="no ordinary file"):
        checkpoint.read(str(tmp_path / "epoch_00001.pyth"))


# ---- The report ------------------------------------------------------------------------------------------


def test_the_report_shows_no_video_outside_the_data_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "data" / "test", tmp_path / "private"
    inside.mkdir(parents=True)
    outside.mkdir()
    theirs = [write_video_to(outside / f"{n}.mp4", 6) for n in range(8)]
    run = tmp_path / "run"
    run.mkdir()
    fake_run(run, ["a", "b"], theirs, 30)  # its config.yaml names their folder
    config = (run / "config.yaml").read_text()
    assert "data:image/jpeg" in Path(write_report(str(run))).read_text()
    folders = (str(tmp_path / "data"), "/", str(Path.home()), "''")
    for folder in folders:
        changed = re.sub("(?m)PATH_TO_DATA_DIR: .*$", f"PATH_TO_DATA_DIR: {folder}", config)
        (run / "config.yaml").write_text(changed)
        assert "data:image/jpeg" not in Path(write_report(str(run))).read_text(), folder
    (run / "config.yaml").write_text(config)
    assert "data:image/jpeg" not in Path(write_report(str(run), str(tmp_path / "data"))).read_text()
    (run / "config.yaml").unlink()
    (run / "config.yaml").symlink_to("/etc/hostname")
    assert "config.yaml is a link" in Path(write_report(str(run))).read_text()


def test_videos_that_the_lists_name_are_of_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.csv").write_text("/videos/a.mp4 0\nb.mp4 1\n")
    own = OwnVideos.of(str(tmp_path / "data"))
    assert "/videos/a.mp4" in own and str(tmp_path / "data" / "b.mp4") in own
    assert "/videos/c.mp4" not in own and f"{tmp_path}/data/../c.mp4" not in own


def test_a_strangers_data_folder_leads_nowhere(tmp_path: Path) -> None:
    """What comes with an OUTPUT_DIR may list or link to anything, until the user names it."""
    (tmp_path / "private").mkdir()
    theirs = [write_video_to(tmp_path / "private" / f"{n}.mp4", 6) for n in range(8)]
    run = tmp_path / "run"
    for data in (run / "data", tmp_path / "data"):
        (data / "test").mkdir(parents=True)
        listed = [str(data / "test" / Path(video).name) for video in theirs[:4]]
        for link, video in zip(listed, theirs[:4], strict=True):
            Path(link).symlink_to(video)
        listed += theirs[4:]
        (data / "test.csv").write_text("".join(f"{video} 0\n" for video in listed))
        fake_run(run, ["a", "b"], listed, 30)
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(
            re.sub("(?m)PATH_TO_DATA_DIR: .*$", f"PATH_TO_DATA_DIR: {data}", config)
        )
        assert "data:image/jpeg" not in Path(write_report(str(run))).read_text()
        assert "data:image/jpeg" in Path(write_report(str(run), str(data))).read_text()
        assert "data:image/jpeg" in Path(write_report(str(run), own=True)).read_text()


def test_the_page_tells_no_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert without_place(str(tmp_path / "outputs" / "a")) == "outputs/a"
    assert without_place("/mnt/secret/weights.pyth") == "…/weights.pyth" and without_place("x y") == "x y"
    command = f"python {tmp_path}/tools/run_net.py OUTPUT_DIR '/mnt/my secret/run'"
    assert command_without_places(command) == "python tools/run_net.py OUTPUT_DIR '…/run'"
    (tmp_path / "run").mkdir()
    (tmp_path / "data").mkdir()
    fake_run(tmp_path / "run", ["a", "b"], [str(tmp_path / "data" / "test" / "a.mp4")], 30)
    for name in ("config.yaml", "labels.csv", "predictions.csv"):
        assert str(tmp_path) not in Path(write_report(str(tmp_path / "run"))).read_text()
        (tmp_path / "run" / name).write_text("damaged\n")


# ---- The terminal ----------------------------------------------------------------------------------------

STEERING = "\x1b]52;c;aGk=\x07\x1b[2J\u202eerror: all is well"


def test_names_forge_no_line_and_steer_no_terminal(tmp_path: Path) -> None:
    name = f"{STEERING}\nerror: forged"
    assert "\n" not in printable_lines(name) and "\x1b" not in printable_lines(name)
    assert printable_lines("a:\n  b") == "a:\n  b"
    (tmp_path / "c.yaml").write_text(f'"KEY{chr(92)}n{chr(92)}e[2J": 1\n')
    refused = [
        tool("train_net", "--cfg", tmp_path / "c.yaml"),
        tool("train_net", "--cfg", tmp_path / name),
        tool("train_net", name, 1),
        tool("train_net", f"-{name}"),
        tool("predict", tmp_path / name, tmp_path),
        tool("report", tmp_path / name),
        tool("convert", tmp_path / name, tmp_path / "x", "--to", "revit"),
    ]
    for finished in refused:
        assert finished.code == 2 and "\x1b" not in finished.err and "\u202e" not in finished.err, finished
        assert not any(line.startswith("error: forged") for line in finished.err.splitlines()), finished


def test_a_name_that_begins_with_a_dash_is_a_file(
    toy_run: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-x.mp4").write_bytes(next(iter(videos.glob("test/*.mp4"))).read_bytes())
    finished = tool("predict", toy_run, "--device", "cpu", "--", "-x.mp4")
    assert finished.code == 0 and finished.out.startswith("-x.mp4: ")


# ---- Memory ----------------------------------------------------------------------------------------------


def test_a_models_memory_is_estimated_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = load_cfg(None, ["MODEL.EMBED_DIM", 65536, "MODEL.DEPTH", 1000, "MODEL.NUM_HEADS", 64])

    def build(*_: object) -> None:
        raise AssertionError("it was built")

    monkeypatch.setattr("revit_video.from_cfg.model.ReViT", build)
    with pytest.raises(ValueError, match="the model's weights alone take .* are free here; make it smaller"):
        build_model(cfg)


def test_label_maps_are_bounded(tmp_path: Path) -> None:
    from revit_video.data.token_labels import TokenLabelMaps

    images = [str(tmp_path / "images" / "a" / "x.jpg")]
    (tmp_path / "maps" / "a").mkdir(parents=True)
    path = tmp_path / "maps" / "a" / "x.pt"
    for hostile in (torch.zeros(1).expand(2, 5, 1 << 15, 1 << 15), torch.zeros(2, 5, 400, 400)):
        torch.save(hostile, path)
        with pytest.raises(ValueError, match="than any map"):
            TokenLabelMaps(str(tmp_path / "maps"), images, 10)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="no ordinary file"):
        TokenLabelMaps(str(tmp_path / "maps"), images, 10)
