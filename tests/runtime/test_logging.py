"""Statistics lines that any JSON reader takes, and progress where there is no terminal."""

from __future__ import annotations

import gc
import json
import logging
import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from revit_video.runtime.logging import StatsLog, progress, setup
from revit_video.runtime.output_dir import keep_stats


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def test_lines_are_appended_rounded_and_strict_json(tmp_path: Path) -> None:
    with StatsLog(str(tmp_path), tensorboard=False) as log:
        log.write(stage="train", step=1, loss=1 / 3, big=1234567.8, broken=math.nan, far=-math.inf)
    with StatsLog(str(tmp_path), tensorboard=False) as log:
        log.write(stage="mine", labels={"14x14": 3}, shares=(0.1, 2 / 3))
    assert lines(tmp_path) == [
        {"stage": "train", "step": 1, "loss": 0.333333, "big": 1234570.0, "broken": None, "far": None},
        {"stage": "mine", "labels": {"14x14": 3}, "shares": [0.1, 0.666667]},
    ]


def test_a_line_is_in_the_file_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with StatsLog(str(tmp_path), tensorboard=False) as log:
        log.write(stage="train", step=1)
        assert len(lines(tmp_path)) == 1


def test_tensorboard_gets_the_numbers_at_their_step(tmp_path: Path) -> None:
    with StatsLog(str(tmp_path), tensorboard=True) as log:
        log.write(stage="train", epoch=0, step=7, loss_14x14=0.5, eta="1:00")
    assert scalars(tmp_path, "train") == {"train/loss_14x14": [(7, 0.5)]}


def scalars(folder: Path, stage: str) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder / "tensorboard" / stage))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_has_no_step_twice_after_a_resume(tmp_path: Path) -> None:
    def run(steps: range, loss: float) -> None:
        with StatsLog(str(tmp_path), tensorboard=True) as log:
            for step in steps:
                log.write(stage="train", step=step, loss=loss)

    with StatsLog(str(tmp_path), tensorboard=True) as log:
        log.write(stage="mine", step=9, seconds=1.0)
    run(range(6), 1.0)
    keep_stats(str(tmp_path), lambda line: line["stage"] != "train" or line["step"] < 3)
    run(range(3, 7), 2.0)
    assert scalars(tmp_path, "train") == {"train/loss": [(s, 1.0 if s < 3 else 2.0) for s in range(7)]}
    assert scalars(tmp_path, "mine") == {"mine/seconds": [(9, 1.0)]}


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with StatsLog(str(tmp_path), tensorboard=True, active=False) as log:
        log.write(stage="train", step=1)
    assert list(tmp_path.iterdir()) == []


def test_a_name_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    setup()
    logging.getLogger("revit_video.test").info("read\n  %s", "\x1b[2Ja\udce9.mp4")
    assert capsys.readouterr().err == "read\n  \\x1b[2Ja\\udce9.mp4\n"


def test_progress_yields_everything_and_says_how_far_it_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("revit_video.runtime.logging.LINE_PERIOD", 1e-9)
    with caplog.at_level(logging.INFO):
        bar = progress([5, 6, 7], description="epoch 1")
        seen = []
        for value in bar:
            seen.append(value)
            bar.show(loss=0.5)
    assert seen == [5, 6, 7]
    assert caplog.messages[0].startswith("epoch 1: 1/3")
    assert caplog.messages[-1].startswith("epoch 1: 3/3")
    assert caplog.messages[-1].endswith("loss=0.5")


def test_what_is_done_at_once_needs_no_progress(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert list(progress(range(5))) == list(range(5))
    assert caplog.messages == []


def test_progress_ends_when_the_loop_is_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("revit_video.runtime.logging.LINE_PERIOD", 1e-9)
    with caplog.at_level(logging.INFO), progress(range(5)) as bar:
        for value in bar:
            if value == 2:
                break
    assert caplog.messages[-1].startswith("2/5, ")


def test_progress_of_other_ranks_is_silent(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        assert list(progress(iter(range(3)), active=False)) == [0, 1, 2]
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")


class InterruptedLock:
    """A lock that Ctrl-C interrupts when it is entered for the n-th time."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __enter__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def __exit__(self, *exception: object) -> None:
        pass


@pytest.mark.parametrize("moment", [1, 2])
def test_ctrl_c_while_a_bar_is_made_is_all_that_is_said(moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-made bar is deleted without "Exception ignored in ... __del__"."""
    ignored: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", ignored.append)
    monkeypatch.setattr("revit_video.runtime.logging.Progress._lock", InterruptedLock(moment))
    with pytest.raises(KeyboardInterrupt):
        progress(range(3))
    gc.collect()
    assert not ignored
