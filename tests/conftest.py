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

# What a shorter test, or the pretended GPU's runs of all stages, shows as well: `make test-slow`.
SLOW = (
    "test_replicas.py::test_ranks_do_what_one_rank_does[two by two",
    "test_replicas.py::test_ranks_train_the_assigner_as_one_does[two by two",
    "test_command.py::test_table2_trains_each_row_once",
    "test_compile.py::test_all_modes_fit_into_dynamos_limit",
    "test_journey.py::test_other_attention",
    "test_journey.py::test_three_lengths_with_everything_shared",
    "test_mine.py::test_two_ranks_mine_what_one_does",
    "test_presets.py::test_it_trains_mines_assigns_and_is_tested[lvvit_small",
    "test_presets.py::test_it_trains_mines_assigns_and_is_tested[timesformer_base",
    "test_presets.py::test_it_trains_mines_assigns_and_is_tested[timesformer_tiny-dvt",
    "test_presets.py::test_it_trains_mines_assigns_and_is_tested[videomae_small",
    "test_ranks.py::test_two_machines_share_the_clips",
    "test_recipes.py::test_a_recipe_holds_from_training_to_prediction[uniform",
    "test_resume.py::test_a_run_killed_again_and_again_goes_on",
    "test_resume.py::test_sigterm_to_the_launcher_of_two_ranks",
    "test_stream.py::test_torchrun_splits_the_list",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(name in item.nodeid for name in SLOW):
            item.add_marker(pytest.mark.slow)


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
