"""Loaders of plain arguments."""

from __future__ import annotations

import os
import signal
from fractions import Fraction

import pytest
import torch
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from revit_video.data.batch import Skipped
from revit_video.data.clips import ClipSampling, ViewGrid
from revit_video.data.datasets import EvalClips
from revit_video.data.loader import EvalBatches, Loading, TooManyUnreadable, allowed_unreadable, check_skipped
from revit_video.data.transforms import Normalize


@pytest.mark.parametrize(("device", "asked"), [("cuda", True), ("cuda", False), ("cpu", True)])
def test_memory_is_pinned_for_a_gpu_if_asked(device: str, asked: bool) -> None:
    clips = EvalClips(LabeledVideoPaths([("a.mp4", 0)]), ClipSampling(4, Fraction(1)), ViewGrid(32))
    loading = Loading(torch.device(device), pin_memory=asked)
    batches = EvalBatches(clips, [0], 1, Normalize([0.5] * 3, [0.2] * 3), loading)
    assert batches.loader.pin_memory == (asked and device == "cuda")


@pytest.mark.parametrize(
    ("fraction", "files", "allowed"), [(0.1, 3, 1), (0.1, 36, 3), (0.29, 100, 29), (0, 1000, 0), (1, 3, 3)]
)
def test_one_unreadable_file_is_allowed_unless_none_is(fraction: float, files: int, allowed: int) -> None:
    assert allowed_unreadable(fraction, files) == allowed


def test_images_are_called_images() -> None:
    with pytest.raises(TooManyUnreadable, match="^1 unreadable images, "):
        check_skipped([Skipped("a.png", "empty")], 0, [Skipped("a.png", "empty")])


def test_the_allowed_number_of_unreadable_videos() -> None:
    latest = [("a.mp4", "damaged")]
    skipped = [*latest, ("b.mp4", "empty"), ("c.mp4", "empty")]
    check_skipped(skipped[:2], 2, latest)
    with pytest.raises(
        TooManyUnreadable, match=r"3 unreadable .* allows \(2\); the latest: a.mp4: damaged"
    ) as e:
        check_skipped(skipped, 2, latest)
    assert e.value.skipped == skipped


while_starting: list[int] = []  # signals that a forked process gets before it runs anything


def signalled() -> None:
    for number in while_starting:
        os.kill(os.getpid(), number)


os.register_at_fork(after_in_child=signalled)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="Linux alone tells who sent a signal")
def test_sigterm_to_all_processes_ends_no_worker_that_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch would print that a worker was killed; the rank needs its workers to finish the step."""
    monkeypatch.setitem(globals(), "while_starting", [signal.SIGTERM])
    clips = EvalClips(LabeledVideoPaths([("a.mp4", 0)] * 4), ClipSampling(4, Fraction(1)), ViewGrid(32))
    loading = Loading(torch.device("cpu"), num_workers=2, max_skipped=1.0)
    batches = EvalBatches(clips, range(4), 1, Normalize([0.5] * 3, [0.2] * 3), loading)
    assert [len(batch.skipped) for batch in batches] == [1] * 4
