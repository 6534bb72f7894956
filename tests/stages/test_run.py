"""The stages of a run, as one process sees them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from revit_video.stages.job import Job
from revit_video.stages.run import STAGES
from tests.toy import run_toy


def test_sigterm_ends_any_stage_and_lets_it_clean_up(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a handler a process ends where it is, and its data workers outlive it for seconds."""
    seen: list[str] = []

    def stage(job: Job) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            seen.append("gone on")
        finally:
            seen.append("cleaned up")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setitem(STAGES, "mine", stage)
    with pytest.raises(SystemExit) as left:
        run_toy(videos, tmp_path, stages=["mine", "assigner"])
    assert left.value.code == 143 and seen == ["cleaned up"]
    assert signal.getsignal(signal.SIGTERM) is before
