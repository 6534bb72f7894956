"""What a run says of its time, its lists, and whether it learns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from revit_video.runtime.text import time_in_words
from revit_video.stages.watch import loss_of_guessing
from tests.toy import run_toy


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (89.4, "89 s"), (720, "12 minutes"), (12600, "3.5 hours")]
)
def test_time_in_words(seconds: float, words: str) -> None:
    assert time_in_words(seconds) == words


def test_a_run_tells_its_lists_and_its_time(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_toy(videos, tmp_path, "SOLVER.MAX_EPOCH", 2, stages=["train"])
    said = capsys.readouterr().err
    assert "train: 24 clips: left 4, right 4, " in said and "val: 12 clips: left 2, " in said
    assert "training takes about " in said and " s in all, as its first batches went; memory " in said
    assert "not learning" not in said  # of 12 steps nothing is expected


def test_guessing_follows_the_classes_shares() -> None:
    """By hand: nine of ten clips of one class are 0.33 nats, not the ln 2 of two even classes."""
    assert loss_of_guessing([0, 1, 2, 3], 4) == pytest.approx(math.log(4))
    assert loss_of_guessing([0, 1, 2, 3], 4, smoothing=0.1) == pytest.approx(math.log(4))
    assert loss_of_guessing([0] * 9 + [1], 2) == pytest.approx(0.3251, abs=1e-4)
    several = loss_of_guessing([(0,), (0, 1), (0,), (0, 1)], 3)
    assert several == pytest.approx(math.log(2) / 3)  # the second class alone is not known before


def test_a_training_that_stays_at_chance_is_said(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """24 steps so small that nothing is learned, and as many that learn the clips by heart."""
    steps = ("SOLVER.MAX_EPOCH", 4, "LOG_PERIOD", 2, "TRAIN.EVAL_PERIOD", 0)
    run_toy(videos, tmp_path / "still", *steps, "SOLVER.BASE_LR", 1e-7, stages=["train"])
    said = capsys.readouterr().err
    assert "not learning: after 24 steps the training loss of 4x4 is 1." in said
    assert "that of guessing is 1.79. 24 steps are few: more (SOLVER.MIN_STEPS 500)" in said
    assert "it starts from random weights and has seen 96 clips: TRAIN.CHECKPOINT_FILE_PATH" in said
    assert "24 clips are few for a whole model: configs/Custom/cpu.yaml" in said
    run_toy(videos, tmp_path / "learns", *steps, "SOLVER.BASE_LR", 0.02, stages=["train"])
    assert "not learning" not in capsys.readouterr().err
