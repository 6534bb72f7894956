"""Which stage a run is at, and how long it will take."""

from __future__ import annotations

import logging

import pytest

from revit_video.stages import outlook
from revit_video.stages.outlook import Outlook


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outlook.time, "monotonic", clock)
    return clock


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(logging.getLogger("revit_video"), "propagate", True)
    caplog.set_level(logging.INFO, "revit_video")
    return caplog.messages


def test_headings_and_the_time_that_equal_passes_will_take(
    clock: Clock, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = Outlook({"train": 800.0, "mine": 100.0, "assigner": 60.0, "test": 40.0})
    run.begin("train")
    clock.now += 200  # 100 passes, so that 900 are left
    run.reached(0.125)
    clock.now += 30  # too soon for another estimate
    run.reached(0.14)
    clock.now += 1370  # 2 s a pass
    run.begin("mine")
    clock.now += 100  # 1 s a pass
    run.begin("assigner")
    assert caplog.messages == [
        "1 of 4: training the backbone",
        "about 30 minutes left of the run",
        "2 of 4: mining; about 7 minutes left of the run",
        "3 of 4: training the assigner; about 2 minutes left of the run",
    ]


def test_what_a_resumed_training_had_done_is_not_counted(
    clock: Clock, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = Outlook({"train": 100.0, "test": 100.0})
    run.begin("train")
    run.resumed(0.5)
    clock.now += 100  # for 25 passes, so that 125 are left
    run.reached(0.75)
    assert caplog.messages[1:] == ["about 8 minutes left of the run"]


def test_other_ranks_and_the_trainings_of_folds_say_nothing(
    said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    silent = Outlook()
    silent.begin("train")
    silent.resumed(0.5)
    silent.reached(0.75)
    assert caplog.messages == []
