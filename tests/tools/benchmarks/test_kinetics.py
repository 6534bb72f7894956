"""Training, mining and testing from memory, at toy size: what is timed, and that it ends in time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks import kinetics as suite
from benchmarks.timing import Effort

TOY: dict[str, Any] = suite.REDUCED | {
    "DATA.NUM_FRAMES": 2,
    "DATA.TRAIN_CROP_SIZE": 28,
    "DATA.TEST_CROP_SIZE": 28,
    "TRAIN.ACCUMULATE": 2,
}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {"one": (suite.BASE, ["7x7"], TOY), "two": (suite.BASE, ["7x7", "4x4"], TOY)}
    monkeypatch.setattr(suite, "TINY", cases)
    monkeypatch.setattr(suite, "STEPS", 2)


def test_every_case_is_timed(toy: None, capsys: pytest.CaptureFixture[str]) -> None:
    effort = Effort(2)
    rows = {row.name: row for row in suite.kinetics(torch.device("cpu"), effort)}
    figures = ["training", "mining", "testing at 7x7"]
    assert list(rows) == [f"one: {name}" for name in figures] + [
        f"two: {name}" for name in (*figures, "testing at 4x4")
    ]
    assert all(row.value > 0 and row.low and row.unit == "views/s" for row in rows.values())
    assert not effort.left_out
    assert capsys.readouterr().out.count("takes about ") == 1


def test_without_time_a_case_has_one_round(toy: None) -> None:
    effort = Effort(3, seconds=1e-6)
    assert not suite.kinetics(torch.device("cpu"), effort) and effort.left_out == ["one", "two"]
