"""A run that was cut off and goes on ends as if it had never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import revit_video
from revit_video.build import train as train_stage
from revit_video.runtime import checkpoint
from revit_video.train import loop
from tests.toy import LENGTHS, last_checkpoint, options, run_toy, start_tool, stats_of

EPOCHS = 6
RECIPE = ("SOLVER.MAX_EPOCH", EPOCHS, "TRAIN.EVAL_PERIOD", 2, "MODEL.DROP_RATE", 0.1, "LOG_PERIOD", 2)


@pytest.fixture(scope="module")
def straight(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_toy(videos, tmp_path_factory.mktemp("straight"), *RECIPE, stages=["train"])


def steps(output_dir: Path) -> list[tuple[str, int, float]]:
    """The reproducible part of the statistics."""
    return [(line["stage"], line["step"], line.get("loss_2x2", 0)) for line in stats_of(output_dir)]


def assert_same_end(output_dir: Path, straight: Path) -> None:
    ours, theirs = last_checkpoint(output_dir), last_checkpoint(straight)
    for part in ("weights", "optimizer"):
        one, other = (
            payload["model"]["weights"] if part == "weights" else payload["training"]["optimizer"]
            for payload in (ours, theirs)
        )
        assert tensors(one) and all(
            torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True)
        ), f"{part} differ"
    assert ours["training"]["epoch"] == EPOCHS
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
        (checkpoint, "save_epoch", 1),  # just after an epoch
        (train_stage, "static_top1", 1),  # in a validation
        (loop, "reduce_gradients", 15),  # in the middle of the third epoch
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
    if name == "static_top1":  # the validation that was cut off is not made up for
        assert ("val", 12) not in {step[:2] for step in steps(tmp_path)}
        return
    assert_same_end(tmp_path, straight)


def test_without_auto_resume_it_starts_again(videos: Path, tmp_path: Path) -> None:
    changes = ("TRAIN.AUTO_RESUME", False, "TRAIN.EVAL_PERIOD", 0)
    for _ in range(2):
        run_toy(videos, tmp_path, *changes, stages=["train"])
        assert [line["step"] for line in stats_of(tmp_path)] == [6]


def test_a_damaged_last_checkpoint_is_passed_over(videos: Path, tmp_path: Path, straight: Path) -> None:
    run_toy(videos, tmp_path, *RECIPE, "SOLVER.MAX_EPOCH", EPOCHS, stages=["train"])
    for epoch in range(3, EPOCHS + 1):
        path = tmp_path / "checkpoints" / f"epoch_{epoch:05d}.pyth"
        path.write_bytes(path.read_bytes()[:1000])
    run_toy(videos, tmp_path, *RECIPE, stages=["train"])
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


def test_a_killed_run_goes_on(
    training: Callable[..., subprocess.Popen[str]], videos: Path, tmp_path: Path, straight: Path
) -> None:
    os.killpg(training(*RECIPE).pid, signal.SIGKILL)
    time.sleep(0.1)
    assert last_checkpoint(tmp_path)["training"]["epoch"] < EPOCHS, "killed too late to show anything"
    run_toy(videos, tmp_path, *RECIPE, stages=["train"])
    ours, theirs = (tensors(last_checkpoint(run)["model"]["weights"]) for run in (tmp_path, straight))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


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
