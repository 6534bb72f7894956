"""The campaign's counts and its own tools; attacks themselves are run by `.ci/run`."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from campaign.damage import _damaged
from campaign.toy import Ended, Process

from tests.toy import tool


def test_an_unknown_campaign() -> None:
    finished = tool("campaign", "war")
    assert finished.code == 2
    assert finished.err == "error: no campaign 'war'; there are kills, signals, disk, damage, hostile\n"


@pytest.mark.parametrize(
    ("code", "said", "clean"),
    [
        (0, "", True),
        (130, "interrupted\n", True),
        (1, "Traceback (most\n", False),
        (-9, "", False),
        (None, "", False),
    ],
)
def test_what_counts_as_clean(code: int | None, said: str, clean: bool) -> None:
    assert Ended(code, said, 1.0).is_clean == clean


def test_each_damage_changes_the_file(tmp_path: Path) -> None:
    path, chance, whole = tmp_path / "a.csv", random.Random(0), b"a,b\n1,2\n3,4\n"
    for _ in range(30):
        path.write_bytes(whole)
        how = _damaged(path, chance)
        assert how == "removed" if not path.exists() else path.read_bytes() != whole


def test_a_process_of_its_own_is_stopped_in_one_line(tmp_path: Path) -> None:
    process = Process("config_reference", ["--help"], tmp_path / "log", lambda: signal.pause())
    assert process.ended(0.3) is None
    process.send(signal.SIGTERM, whole_group=True)
    ended = process.end()
    assert (ended.code, process.left_overs()) == (-signal.SIGTERM, False)
