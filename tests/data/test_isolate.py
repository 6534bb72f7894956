"""A decoder that crashes or hangs: real processes that do."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from fractions import Fraction
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch.utils.data import DataLoader

from revit_video.data import clips as clips_module
from revit_video.data.batch import Batch, collate
from revit_video.data.clips import ClipSampling, VideoViews, ViewGrid, open_video
from revit_video.data.datasets import EvalClips, TrainClips
from revit_video.data.isolate import Isolated
from revit_video.data.order import TrainOrder
from revit_video.data.transforms import TrainTransform
from revit_video.data.video import DecodeError, Limits

SHAPE = (2, 3, 4, 8, 8)
LARGEST = 2 * 3 * 4 * 8 * 8
CRASHES = {
    "segfault": "signal 11, Segmentation fault",
    "killed": "signal 9, Killed",
    "aborted": "signal 6, Aborted",
    "exit": "exited",
}


def decode(row: int, path: str, log: str = "", number: int = 0) -> VideoViews:
    """Clips full of `number`, unless the name of the video asks for something worse."""
    if log:
        with open(log, "a") as file:
            file.write(f"{path}\n")
    misbehave(path)
    if path == "unreadable":
        raise DecodeError(path, "no such file")
    if path == "bug":
        raise ZeroDivisionError("our own")
    index, boxes = torch.arange(2), torch.tensor([[0.1, 0, 1, 0.7], [1, 1 / 3, 0, 1]])
    return VideoViews(
        torch.full(SHAPE, number, dtype=torch.uint8), torch.tensor([0.1, 7.3]), index, index, boxes
    )


def misbehave(path: str) -> None:
    name = Path(path).stem
    if name == "hang":
        ctypes.PyDLL(None).sleep(1000)  # in C, and holding the interpreter
    if name == "exit":
        os._exit(3)
    numbers = {"segfault": signal.SIGSEGV, "killed": signal.SIGKILL, "aborted": signal.SIGABRT}
    if name in numbers:
        os.kill(os.getpid(), numbers[name])


def same_views(one: VideoViews, other: VideoViews) -> bool:
    return all(
        a.dtype == b.dtype and torch.equal(a, b)
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )


def test_views_and_errors_are_those_of_the_function() -> None:
    isolated = Isolated(decode, 3, LARGEST)
    first, second = isolated(0, "a", "", 17), isolated(1, "b", "", 18)
    assert same_views(first, decode(0, "a", number=17)) and same_views(second, decode(1, "b", number=18))
    with pytest.raises(DecodeError, match="unreadable: no such file"):
        isolated(2, "unreadable")
    with pytest.raises(RuntimeError, match=r"while decoding bug:\n.*(\n.*)*ZeroDivisionError: our own"):
        isolated(2, "bug")
    assert same_views(isolated(0, "a", "", 17), first)


@pytest.mark.parametrize("kind", CRASHES)
def test_a_crash_is_tried_twice_and_then_known(kind: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    isolated = Isolated(decode, 2, LARGEST)
    for _ in range(3):
        with pytest.raises(DecodeError) as caught:
            isolated(1, kind, str(log))
        assert str(caught.value) == f"{kind}: its decoder crashed ({CRASHES[kind]})"
        assert same_views(isolated(0, "a"), decode(0, "a"))
    assert log.read_text().splitlines() == [kind] * 2


def test_a_hang_ends_with_the_time(tmp_path: Path) -> None:
    isolated = Isolated(decode, 2, LARGEST, timeout=0.3)
    start = time.monotonic()
    with pytest.raises(DecodeError, match="^hang: not decoded within 0.3 s$"):
        isolated(1, "hang")
    assert 0.6 < time.monotonic() - start < 5
    time.sleep(0.4)  # the time runs only while a video is decoded
    assert same_views(isolated(0, "a"), decode(0, "a"))


def killed_once(row: int, path: str, log: str) -> VideoViews:
    if not os.path.exists(log):
        Path(log).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(row, path)


def test_a_video_whose_decoder_was_killed_by_chance_is_read(tmp_path: Path) -> None:
    isolated = Isolated(killed_once, 1, LARGEST)
    assert same_views(isolated(0, "a", str(tmp_path / "log")), decode(0, "a"))


def all_closed(read_end: int, within: float = 5.0) -> bool:
    """Whether all processes that had the other end of a pipe are gone."""
    deadline = time.monotonic() + within
    os.set_blocking(read_end, False)
    while time.monotonic() < deadline:
        try:
            return os.read(read_end, 1) == b""
        except BlockingIOError:
            time.sleep(0.01)
    return False


def test_ctrl_c_while_the_child_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    isolated, status = Isolated(decode, 1, LARGEST), os.waitpid
    isolated(0, "a")
    waits: list[int] = []

    def interrupted_once(pid: int, options: int) -> tuple[int, int]:
        waits.append(pid)
        if len(waits) == 1:
            raise KeyboardInterrupt
        return status(pid, options)

    monkeypatch.setattr(os, "waitpid", interrupted_once)
    del isolated
    assert len(waits) == 2, "a zombie is left"


def test_the_child_ends_with_its_owner() -> None:
    read_end, write_end = os.pipe()
    isolated = Isolated(decode, 1, LARGEST)
    isolated(0, "a")
    os.close(write_end)
    assert not all_closed(read_end, within=0.1)
    del isolated
    assert all_closed(read_end)
    os.close(read_end)


def own_and_wait(ready: object) -> None:
    isolated = Isolated(decode, 1, LARGEST)
    isolated(0, "a")
    ready.set()  # type: ignore[attr-defined]
    time.sleep(1000)


def test_the_child_ends_with_a_worker_that_is_killed() -> None:
    context = get_context("fork")
    read_end, write_end = os.pipe()
    ready = context.Event()
    worker = context.Process(target=own_and_wait, args=(ready,), daemon=True)
    worker.start()
    os.close(write_end)
    assert ready.wait(20)
    worker.kill()
    assert all_closed(read_end)
    os.close(read_end)


def send_numbers(isolated: Isolated, first: int, line: Connection) -> None:
    line.send([int(isolated(1, "b", "", n).clips.max()) for n in range(first, first + 20)])


def test_processes_that_inherit_it_start_children_of_their_own() -> None:
    isolated = Isolated(decode, 2, LARGEST)
    isolated(0, "a", "", 1)
    lines = []
    for first in (100, 200):
        ours, theirs = Pipe()
        get_context("fork").Process(target=send_numbers, args=(isolated, first, theirs)).start()
        lines.append(ours)
    assert [line.recv() for line in lines] == [list(range(100, 120)), list(range(200, 220))]
    assert same_views(isolated(0, "a", "", 2), decode(0, "a", number=2))


def crashes(isolated: Isolated, log: str) -> bool:
    try:
        isolated(1, "segfault", log)
    except DecodeError:
        return True
    return False


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_ends_a_decoder_is_known_to_all_processes(method: str, tmp_path: Path) -> None:
    isolated = Isolated(decode, 2, LARGEST)
    isolated(0, "a")
    log = tmp_path / "log"
    with get_context(method).Pool(1) as pool:
        assert pool.apply(crashes, (isolated, str(log)))
    assert crashes(isolated, str(log))
    assert len(log.read_text().splitlines()) == 2


# ---- In the workers of a loader --------------------------------------------------------------------------

SPEC = ClipSampling(num_frames=4, duration=Fraction(1, 2))
TRANSFORM = TrainTransform((34, 44), 32, flip=True, brightness=0.3)
BROKEN = {"hang": "not decoded within 2 s", "segfault": f"its decoder crashed ({CRASHES['segfault']})"}


@pytest.fixture
def videos(write_video) -> LabeledVideoPaths:
    names = ["a.mp4", "hang.mp4", "b.mp4", "c.mp4", "segfault.mp4", "d.mp4"]
    return LabeledVideoPaths([(write_video(name, frames=24), n % 3) for n, name in enumerate(names)])


def batches(videos: LabeledVideoPaths, split: str, workers: int, timeout: float | None) -> list[Batch]:
    """Two epochs of training, or one evaluation."""
    if split == "eval":
        clips = EvalClips(videos, SPEC, ViewGrid(32, num_clips=2, num_crops=3), timeout=timeout)
        return list(DataLoader(clips, 2, num_workers=workers, collate_fn=collate))
    clips = TrainClips(videos, SPEC, TRANSFORM, frame_jitter=True, seed=5, timeout=timeout)
    order = TrainOrder(len(clips), batch_size=2, seed=5)
    loader = DataLoader(
        clips, 2, sampler=order, num_workers=workers, persistent_workers=True, collate_fn=collate
    )
    delivered = []
    for epoch in range(2):
        order.set_epoch(epoch)
        delivered += list(loader)
    return delivered


@pytest.mark.skipif(get_context().get_start_method() != "fork", reason="workers do not inherit the patch")
@pytest.mark.parametrize("split", ["train", "eval"])
def test_the_other_videos_are_as_if_the_bad_ones_were_merely_unreadable(
    split: str, videos: LabeledVideoPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(path: str, backend: str, limits: Limits):
        if Path(path).stem in BROKEN:
            raise DecodeError(path, BROKEN[Path(path).stem])
        return open_video(path, backend, limits)

    def misbehaving(path: str, backend: str, limits: Limits):
        misbehave(path)
        return open_video(path, backend, limits)

    monkeypatch.setattr(clips_module, "open_video", misbehaving)
    isolated = batches(videos, split, workers=2, timeout=2)
    monkeypatch.setattr(clips_module, "open_video", refusing)
    expected = batches(videos, split, workers=1, timeout=0)
    assert len(isolated) == len(expected) == (3 if split == "eval" else 6)
    for ours, theirs in zip(isolated, expected, strict=True):
        for name, value in vars(ours).items():
            other = vars(theirs)[name]
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name
    skipped = {(Path(path).stem, reason) for batch in isolated for path, reason in batch.skipped}
    assert skipped == set(BROKEN.items())
