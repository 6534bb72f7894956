"""Fixtures of all tests: one thread, a folder of generated videos, one toy run."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import torch

from revit_video.data.synthetic import write_dataset
from tests.toy import COUNTS, run_toy
from tests.videos import WriteVideo, write_video_to


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums in a fixed order, for bit-identical results."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """A parent (a script, `nohup`) that ignores SIGINT would have the runs ignore it that the tests stop."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder of generated videos, 32 px, 1 s. Shared: do not write to it."""
    folder = tmp_path_factory.mktemp("data") / "actions"
    write_dataset(folder, COUNTS, size=32, num_frames=8, processes=1)
    return folder


@pytest.fixture(scope="session")
def toy_run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUTPUT_DIR of a run of all stages. Shared: do not write to it."""
    return run_toy(videos, tmp_path_factory.mktemp("toy") / "run")


@pytest.fixture
def write_video(tmp_path: Path) -> WriteVideo:
    """A function that writes a small video of a given name and returns its path."""
    return lambda name="video.mp4", **options: write_video_to(tmp_path / name, **options)


@pytest.fixture
def own_videos(videos: Path, tmp_path: Path) -> Path:
    """A copy of the data folder, which the test may change."""
    return Path(shutil.copytree(videos, tmp_path / "actions"))


@pytest.fixture
def own_run(toy_run: Path, tmp_path: Path) -> Path:
    """A copy of the toy run, which the test may change."""
    return Path(shutil.copytree(toy_run, tmp_path / "run"))
