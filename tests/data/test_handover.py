"""Batches arrive whole whether or not there is shared memory for them."""

from __future__ import annotations

import os
import pickle
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from revit_video.data import handover
from revit_video.data.batch import Batch
from revit_video.data.clips import ClipSampling, ViewGrid
from revit_video.data.datasets import EvalClips
from revit_video.data.loader import EvalBatches, Loading
from revit_video.data.transforms import Normalize
from tests.toy import COUNTS


def batches(videos: Path, workers: int, **loading: float) -> EvalBatches:
    paths = sorted(map(str, (videos / "test").glob("*.mp4")))
    clips = EvalClips(
        LabeledVideoPaths([(path, 0) for path in paths]), ClipSampling(2, Fraction(1)), ViewGrid(32)
    )
    own = Loading(torch.device("cpu"), workers, **loading)
    return EvalBatches(clips, range(len(paths)), 5, Normalize([0.5] * 3, [0.2] * 3), own)


def free(size: int) -> object:
    return lambda _: SimpleNamespace(f_bavail=size, f_frsize=1)


def full(tensor: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("unable to allocate shared memory(shm) for file: No space left on device (28)")


@pytest.mark.parametrize(
    ("collated", "kind"), [(handover.collate_shared, Batch), (handover.collate_bytes, handover.AsBytes)]
)
def test_batches_of_workers_are_those_of_this_process(
    collated: object, kind: type, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover.os, "statvfs", free(2**30 if kind is Batch else 100))
    by_workers = batches(videos, 2)
    assert by_workers.loader.collate_fn is collated
    assert isinstance(collated([by_workers.loader.dataset[0]]), kind)  # type: ignore[operator]
    found, expected = list(by_workers), list(batches(videos, 0))
    assert sum(map(len, found)) == COUNTS["test"]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.clips, other.clips) and one.paths == other.paths
        assert torch.equal(one.rows, other.rows)


def test_what_finds_no_shared_memory_goes_as_bytes(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may have used it up since it was measured."""
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    samples = [batches(videos, 1).loader.dataset[row] for row in range(2)]
    sent = handover.collate_shared(samples)
    assert isinstance(sent, handover.AsBytes)
    received = pickle.loads(pickle.dumps(sent))
    assert isinstance(received, Batch) and torch.equal(received.clips, handover.collate(samples).clips)


def test_too_little_is_said_once_with_what_to_do(
    videos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handover.os, "statvfs", free(2**20))
    monkeypatch.setattr("revit_video.data.loader.ranks_here", lambda: 40)
    for _ in range(2):  # 2 workers x 7 batches of 5 clips of 2 x 3 x 32 x 32 bytes, on each of 40 ranks
        batches(videos, 2, prefetch=7)
    (said,) = caplog.messages
    assert said.startswith(
        "/dev/shm has 1.0 MiB free, and the data workers' batches take up to 16.4 MiB: they go"
    )
    assert "--shm-size" in said and "DATA_LOADER.NUM_WORKERS" in said


def test_no_batch_is_waited_for_for_ever(
    videos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    owner = os.getpid()
    monkeypatch.setattr("revit_video.data.loader.QUIET", 0.4)
    monkeypatch.setattr(EvalClips, "__getitem__", lambda *_: time.sleep(60) if os.getpid() != owner else None)
    with pytest.raises(
        TimeoutError, match="^no batch from the data workers for 1.2 s; is the disk or network"
    ):
        list(batches(videos, 1, timeout=0.08))
    assert caplog.messages == [f"no batch from the data workers for {waited} s" for waited in (0.4, 0.8)]
