"""The stages of a run, as one process sees them."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from revit_video import flops
from revit_video.stages import job, train
from revit_video.stages.job import Job
from tests.toy import LENGTHS, last_checkpoint, run_toy


def test_sigterm_ends_any_stage_and_lets_it_clean_up(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a handler a process ends where it is, and its data workers outlive it for seconds."""
    seen: list[str] = []

    def stage(job: Job, *_: object) -> None:
        try:
            for batch in job.termination.watched(range(3)):
                os.kill(os.getpid(), signal.SIGTERM)
                seen.append(f"batch {batch}")
        finally:
            seen.append("cleaned up")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("revit_video.stages.run.mine", stage)
    with pytest.raises(SystemExit) as left:
        run_toy(videos, tmp_path, stages=["mine", "assigner"])
    assert left.value.code == 143 and seen == ["batch 0", "cleaned up"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_counts_each_cost_once_and_copies_the_trained_model_once(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one stage knows, the later ones are handed."""
    calls: Counter[str] = Counter()

    def counted(module: ModuleType, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments: object) -> object:
            calls[name] += 1
            return real(*arguments)

        monkeypatch.setattr(module, name, call)

    for module, name in ((flops, "revit_macs"), (flops, "assigner_macs"), (job, "reader")):
        counted(module, name)
    run_toy(videos, tmp_path / "run", "TRAIN.EVAL_PERIOD", 0)
    assert calls == {"revit_macs": len(LENGTHS), "assigner_macs": 1, "reader": 1}


def test_what_was_trained_before_a_validation_is_saved_where_that_is_left(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validate(job: Job, *_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        job.termination.look()

    monkeypatch.setattr(train, "validate", validate)
    changes = ("SOLVER.MAX_EPOCH", 9, "TRAIN.CHECKPOINT_PERIOD", 9, "TRAIN.EVAL_PERIOD", 1)
    with pytest.raises(KeyboardInterrupt):
        run_toy(videos, tmp_path, *changes, stages=["train"])
    assert last_checkpoint(tmp_path)["training"]["epoch"] == 1
