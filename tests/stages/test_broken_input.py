"""Files that are no ordinary videos, through the loaders that training and evaluation use."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing import active_children, get_context
from pathlib import Path

import pytest
import torch

from revit_video.data import clips
from revit_video.data.clips import open_video
from revit_video.data.loader import killed_workers_explained
from revit_video.data.video import Limits
from revit_video.from_cfg.inputs import data_folder, eval_batches
from revit_video.runtime.ranks import Ranks
from tests.toy import CONFIG, options, results_of, table_of, tool, toy_cfg, training_batches
from tests.videos import broken_files, unusual_files

ALONE = Ranks(0, 1, torch.device("cpu"))
WORKERS = ("DATA_LOADER.NUM_WORKERS", 2, "DATA.MAX_SKIPPED_FRACTION", 1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


def write_lists(folder: Path, paths: list[str]) -> None:
    for split in ("train", "test"):
        lines = [f"{path} {n % CONFIG['MODEL.NUM_CLASSES']}\n" for n, path in enumerate(paths)]
        (folder / f"{split}.csv").write_text("".join(lines))


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_every_kind_of_broken_file_among_readable_ones(backend: str, folder: Path, tmp_path: Path) -> None:
    broken, readable = broken_files(folder), unusual_files(folder)
    if backend == "decord":
        pytest.importorskip("decord")  # which reads what is left of some files, and refuses narrow ones
        broken = {kind: path for kind, path in broken.items() if "truncated" not in kind}
        broken["tiny"] = readable.pop("tiny")
    write_lists(folder, [*broken.values(), *list(readable.values()) * 3])
    cfg = toy_cfg(folder, tmp_path, *WORKERS, "DATA.DECODING_BACKEND", backend)

    evaluated, skipped = [], []
    for batch in eval_batches(cfg, data_folder(cfg).videos("test"), ALONE, 2, 3, 4):
        evaluated += batch.paths
        skipped += batch.skipped
    assert sorted(evaluated) == sorted([*readable.values()] * 3 * 6)
    assert sorted(path for path, _ in skipped) == sorted(broken.values())
    assert all(reason and "\n" not in reason for _, reason in skipped)

    batches = training_batches(cfg, ALONE)
    epoch = list(batches(0))
    assert len(epoch) == len(batches) and all(len(clips) == 4 for clips, *_ in epoch)
    assert {path for path, _ in batches.skipped} == set(broken.values())


# ---- Decoders that end their process, or do not end ------------------------------------------------------

forked = pytest.mark.skipif(
    get_context().get_start_method() != "fork", reason="workers do not inherit patches"
)


def crash_or_hang(path: str, backend: str, limits: Limits):
    if path.endswith("crash.mp4"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.endswith("hang.mp4"):
        signal.pause()
    return open_video(path, backend, limits)


@forked
def test_a_run_goes_on_past_decoders_that_crash_or_hang(
    own_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        crash, hang, *_ = sorted((own_videos / split).glob("*.mp4"))
        for path, name in ((crash, "crash"), (hang, "hang")):
            lines = (own_videos / f"{split}.csv").read_text()
            (own_videos / f"{split}.csv").write_text(lines.replace(path.stem, name))
            path.rename(path.with_stem(name))
    monkeypatch.setattr(clips, "open_video", crash_or_hang)
    changes = ("DATA.MAX_SKIPPED_FRACTION", 0.2, "DATA_LOADER.TIMEOUT", 0.5, "DATA_LOADER.NUM_WORKERS", 1)
    stages = ("MINE.ENABLE", False, "ASSIGNER.ENABLE", False, "TRAIN.EVAL_PERIOD", 0)
    finished = tool("run_net", *options(own_videos, tmp_path / "run", *changes, *stages))
    assert finished.code == 0, finished.err
    rows = table_of(tmp_path / "run" / "skipped.csv")
    for split in ("train", "test"):
        assert {row["path"]: row["reason"] for row in rows if row["stage"] == split} == {
            str(own_videos / split / "crash.mp4"): "its decoder crashed (signal 11, Segmentation fault)",
            str(own_videos / split / "hang.mp4"): "not decoded within 0.5 s",
        }
    assert results_of(tmp_path / "run")["skipped"] == 2


def test_a_worker_that_is_killed_gives_one_clear_error(videos: Path, tmp_path: Path) -> None:
    cfg = toy_cfg(videos, tmp_path, "DATA_LOADER.NUM_WORKERS", 1)
    before = set(active_children())
    with (
        pytest.raises(ChildProcessError, match="is killed by signal: Killed.*lower DATA_LOADER") as caught,
        killed_workers_explained(),
    ):
        for _ in eval_batches(cfg, data_folder(cfg).videos("test"), ALONE, 1, 1, 1):
            for worker in set(active_children()) - before:
                os.kill(worker.pid, signal.SIGKILL)
            time.sleep(1)  # torch raises in the middle of anything
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="^our own$"), killed_workers_explained():
        raise RuntimeError("our own")
