"""A run that was cut off and goes on ends as if it had never stopped."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import revit_video
from revit_video.models import saved_epochs
from revit_video.models.checkpoint import CheckpointError
from revit_video.stages import validation
from revit_video.train import loop
from tests.toy import LENGTHS, last_checkpoint, options, run_toy, start_tool, stats_of

EPOCHS = 6
ALWAYS = ("TRAIN.CHECKPOINT_MINUTES", 1e-9)  # a checkpoint after every iteration
RECIPE = (
    *("SOLVER.MAX_EPOCH", EPOCHS, "TRAIN.EVAL_PERIOD", 2, "LOG_PERIOD", 2, *ALWAYS),
    *("MODEL.DROP_RATE", 0.1, "MODEL.DROP_PATH", 0.3, "TRAIN.EMA_DECAY", 0.8),
)


@pytest.fixture(scope="module")
def straight(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_toy(videos, tmp_path_factory.mktemp("straight"), *RECIPE, stages=["train"])


def steps(output_dir: Path) -> list[tuple[str, int, float]]:
    """The reproducible part of the statistics."""
    return [(line["stage"], line["step"], line.get("loss_2x2", 0)) for line in stats_of(output_dir)]


def assert_same_end(output_dir: Path, straight: Path) -> None:
    ours, theirs = last_checkpoint(output_dir), last_checkpoint(straight)
    parts = [(ours["model"]["weights"], theirs["model"]["weights"])]
    parts += [(ours["training"][part], theirs["training"][part]) for part in ("optimizer", "weights")]
    for one, other in parts:
        assert tensors(one) and all(map(torch.equal, tensors(one), tensors(other)))
    assert (ours["training"]["epoch"], ours["training"]["batch"]) == (EPOCHS, 0)
    assert steps(output_dir) == steps(straight)


def tensors(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    return [tensor for value in values for tensor in tensors(value)]


def interrupting(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """`function`, which Ctrl-C stops after so many calls."""
    calls = iter(range(1, 1 << 30))

    def wrapped(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        if next(calls) == call:
            raise KeyboardInterrupt
        return result

    return wrapped


@pytest.mark.parametrize(
    ("place", "name", "call"),
    [
        (saved_epochs, "save_progress", 6),  # just after an epoch
        (saved_epochs, "save_progress", 9),  # just after an iteration within one
        (torch, "save", 13),  # in the middle of a save
        (validation, "static_top1", 1),  # in a validation
        (loop, "_update", 15),  # in the middle of an iteration
    ],
)
def test_an_interrupted_run_goes_on(
    place: Any, name: str, call: int, videos: Path, tmp_path: Path, straight: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(place, name, interrupting(getattr(place, name), call))
        run_toy(videos, tmp_path, *RECIPE, stages=["train"])
    assert last_checkpoint(tmp_path)["training"]["epoch"] < EPOCHS
    with (tmp_path / "stats.jsonl").open("a") as file:
        file.write('{"stage": "tra')  # as a killed run may leave it
    run_toy(videos, tmp_path, *RECIPE, stages=["train"])
    assert_same_end(tmp_path, straight)
    assert len(list((tmp_path / "checkpoints").iterdir())) == EPOCHS + 1  # and the pointer


def test_the_last_validation_is_made_up_for_too(videos: Path, tmp_path: Path, straight: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(validation, "static_top1", interrupting(validation.static_top1, 3))
        run_toy(videos, tmp_path, *RECIPE, stages=["train"])
    assert last_checkpoint(tmp_path)["training"]["epoch"] == EPOCHS
    for _ in range(2):
        run_toy(videos, tmp_path, *RECIPE, stages=["train"])
        assert_same_end(tmp_path, straight)


@pytest.mark.parametrize("change", [("RNG_SEED", 1), ("SOLVER.OPTIMIZING_METHOD", "sgd"), ("MODEL.DEPTH", 2)])
def test_a_refused_run_leaves_everything_as_it_was(
    change: tuple[str, object], videos: Path, own_run: Path
) -> None:
    before = {path: path.read_bytes() for path in own_run.rglob("*") if path.is_file()}
    for stage in ("train", "mine", "test")[: 3 if change[0] == "MODEL.DEPTH" else 1]:
        with pytest.raises(ValueError):
            run_toy(videos, own_run, *change, stages=[stage])
        assert {path: path.read_bytes() for path in own_run.rglob("*") if path.is_file()} == before


def test_a_full_disk_keeps_the_last_checkpoint(
    videos: Path, tmp_path: Path, straight: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No file may grow beyond what a checkpoint needs: within an epoch a warning, at its end an error."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(saved_epochs, "save_progress", interrupting(saved_epochs.save_progress, 8))
        run_toy(videos, tmp_path, *RECIPE, stages=["train"])
    path = tmp_path / "checkpoints" / "epoch_00001_batch_00002.pyth"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, hard))
    try:
        with pytest.raises(
            CheckpointError, match=r"epoch_00002.pyth: cannot .* what was saved before is whole"
        ):
            run_toy(videos, tmp_path, *RECIPE, stages=["train"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    warnings = [line for line in capfd.readouterr().err.splitlines() if "training goes on" in line]
    assert len(warnings) == 3 and "epoch_00001_batch_00005.pyth: cannot be written: " in warnings[-1]
    assert saved_epochs.latest(str(path.parent)) == str(path)
    assert not list(tmp_path.rglob("*.tmp"))
    run_toy(videos, tmp_path, *RECIPE, stages=["train"])
    assert_same_end(tmp_path, straight)


def test_without_auto_resume_it_starts_again(videos: Path, tmp_path: Path) -> None:
    changes = ("TRAIN.AUTO_RESUME", False, "TRAIN.EVAL_PERIOD", 0)
    for _ in range(2):
        run_toy(videos, tmp_path, *changes, stages=["train"])
        assert [line["step"] for line in stats_of(tmp_path)] == [6]


def test_results_do_not_outlive_the_weights_they_are_of(videos: Path, own_run: Path) -> None:
    run_toy(videos, own_run, stages=["train"])
    assert (own_run / "results.json").exists(), "nothing was left to train"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_update", interrupting(loop._update, 1))
        run_toy(videos, own_run, "SOLVER.MAX_EPOCH", 2, stages=["train"])
    assert not (own_run / "results.json").exists() and not (own_run / "predictions.csv").exists()


def test_a_damaged_last_checkpoint_is_passed_over(
    videos: Path, tmp_path: Path, straight: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a warning where training goes on; what is said of a run is not said of an older checkpoint."""
    run_toy(videos, tmp_path, *RECIPE, "SOLVER.MAX_EPOCH", EPOCHS, stages=["train"])
    for epoch in range(3, EPOCHS + 1):
        path = tmp_path / "checkpoints" / f"epoch_{epoch:05d}.pyth"
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"epoch_00006.pyth: incomplete; name .*epoch_00002.pyth"):
        run_toy(videos, tmp_path, *RECIPE, stages=["test"])
    capfd.readouterr()
    run_toy(videos, tmp_path, *RECIPE, stages=["train"])
    assert "passed over" in (told := capfd.readouterr().err) and "epoch_00006.pyth: incomplete" in told
    assert_same_end(tmp_path, straight)


# ---- Real signals ----------------------------------------------------------------------------------------


@pytest.fixture
def training(videos: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `tools/train_net.py` and returns once it has written its first checkpoint."""
    started = []

    def start(*changes: object) -> subprocess.Popen[str]:
        process = start_tool("train_net", *options(videos, tmp_path, *changes))
        started.append(process)
        deadline = time.monotonic() + 120
        while not (tmp_path / "checkpoints" / "last").is_file():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_run_killed_again_and_again_goes_on(videos: Path, tmp_path: Path, straight: Path) -> None:
    """Soon after a save, many a time in the middle of the next, since there is one after each iteration."""
    moments, kills, last = random.Random(0), 0, tmp_path / "checkpoints" / "last"
    while True:
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = multiprocessing.get_context("fork").Process(
            target=run_toy, args=(videos, tmp_path, *RECIPE), kwargs={"stages": ["train"]}
        )
        process.start()
        while process.is_alive() and (not last.exists() or last.stat().st_mtime_ns == before):
            time.sleep(0.002)
        process.join(moments.uniform(0, 0.1))
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += 1
        assert kills < 100
    assert process.exitcode == 0 and kills >= 2, "killed too late to show anything"
    assert_same_end(tmp_path, straight)


def test_sigterm_saves_before_it_ends(
    training: Callable[..., subprocess.Popen[str]], videos: Path, tmp_path: Path, straight: Path
) -> None:
    """All processes get it, as from SLURM: the data worker too."""
    process = training(*RECIPE, "DATA_LOADER.NUM_WORKERS", 1)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.splitlines()[-1] == "stopped by SIGTERM; the same command goes on from the last checkpoint"
    assert "Traceback" not in err
    state = last_checkpoint(tmp_path)["training"]
    assert state["epoch"] < EPOCHS, "stopped too late to show anything"
    assert stats_of(tmp_path)[-1]["step"] <= 6 * state["epoch"] + state["batch"]
    run_toy(videos, tmp_path, *RECIPE, stages=["train"])
    assert_same_end(tmp_path, straight)


def test_sigterm_to_the_launcher_of_two_ranks(
    training: Callable[..., subprocess.Popen[str]],
    videos: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    changes = ("NUM_GPUS", 2, "DATA_LOADER.NUM_WORKERS", 1, "SOLVER.MAX_EPOCH", 1000)
    process = training(*RECIPE, *changes, "TRAIN.CHECKPOINT_MINUTES", 0)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.count("stopped by SIGTERM") == 1 and "Traceback" not in err
    state = last_checkpoint(tmp_path)["training"]
    stopped = state["epoch"]
    assert stopped < 1000 and state["division"]["ranks"] == 2

    capfd.readouterr()
    last = stopped + 1
    run_toy(videos, tmp_path, *RECIPE, "SOLVER.MAX_EPOCH", last, stages=["train"])  # on one rank
    assert "(ranks 2 -> 1, shares of a batch 2 -> 1)" in capfd.readouterr().err
    assert last_checkpoint(tmp_path)["training"]["epoch"] == last
    lines = [line["step"] for line in stats_of(tmp_path) if line["stage"] == "train"]
    assert lines == list(range(2, 6 * last + 1, 2))


def test_ctrl_c_leaves_a_whole_checkpoint(
    training: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = training("SOLVER.MAX_EPOCH", 100_000, "TRAIN.EVAL_PERIOD", 0, "DATA_LOADER.NUM_WORKERS", 1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the data workers as well
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted; the same command goes on from the last checkpoint"
    assert "Traceback" not in err
    predictor = revit_video.load(str(tmp_path), "cpu")
    assert [str(length) for length in predictor.model.lengths] == LENGTHS
