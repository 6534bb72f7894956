"""Checkpoints are whole or not there, and loading one runs nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from revit_video.models import checkpoint, saved_epochs
from revit_video.models.checkpoint import CheckpointError
from revit_video.runtime import output_dir


def test_round_trip_leaves_one_file(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "a.pyth")
    checkpoint.save(path, {"model": {"weight": torch.arange(3.0)}, "epoch": 2, "lengths": ["14x14"]})
    payload = checkpoint.load_payload(path)
    assert torch.equal(payload["model"]["weight"], torch.arange(3.0))
    assert (payload["epoch"], payload["lengths"]) == (2, ["14x14"])
    assert os.listdir(tmp_path / "deep") == ["a.pyth"]


def test_a_failing_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "a.pyth")
    checkpoint.save(path, {"epoch": 1})

    def full_disk(payload: object, file: object) -> None:
        file.write(b"half of it")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(CheckpointError, match="a.pyth: cannot be written: .*No space left"):
        checkpoint.save(path, {"epoch": 2})
    assert checkpoint.load_payload(path) == {"epoch": 1}
    assert os.listdir(tmp_path) == ["a.pyth"]


def test_an_interrupt_during_the_write_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "results.json")
    output_dir.atomic_write_text(path, "old")

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        output_dir.atomic_write_text(path, "new")
    assert Path(path).read_text() == "old"
    assert os.listdir(tmp_path) == ["results.json"]


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.pyth", tmp_path / "cut.pyth"
    checkpoint.save(str(whole), {"model": {"weight": torch.randn(200)}})
    data = whole.read_bytes()
    for size in range(0, len(data), 61):
        cut.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="cut.pyth: not a checkpoint, or damaged"):
            checkpoint.load_payload(str(cut))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02.", b"(lp0\n.", os.urandom(300)])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pyth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="other.pyth: not a checkpoint"):
        checkpoint.load_payload(str(path))


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load_payload(str(tmp_path / "nothing.pyth"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load_payload(str(tmp_path))


class RunsCode:
    """Unpickling it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pyth", tmp_path / "trace"
    torch.save({"model": RunsCode(str(trace))}, path)
    with pytest.raises(
        CheckpointError, match=r"evil.pyth: refused: it holds a Python object \(posix.mkdir\)"
    ):
        checkpoint.load_payload(str(path))
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_with_code_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    path, trace = tmp_path / "evil.pyth", tmp_path / "trace"
    path.write_bytes(pickle.dumps({"model": RunsCode(str(trace))}, protocol))
    with pytest.raises(CheckpointError, match=r"evil.pyth: "):
        checkpoint.load_payload(str(path))
    assert not trace.exists()


def test_a_checkpoint_is_a_dict(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pyth")
    with pytest.raises(CheckpointError, match="holds a list, not a dict"):
        checkpoint.load_payload(str(tmp_path / "list.pyth"))


def test_latest_follows_the_pointer(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert saved_epochs.latest(folder) is None
    assert saved_epochs.latest(str(tmp_path / "nowhere")) is None
    assert saved_epochs.save_progress(folder, {"epoch": 12}, 12) == str(tmp_path / "epoch_00012.pyth")
    saved_epochs.save_progress(folder, {"epoch": 3}, 3)  # a run that started anew
    assert saved_epochs.latest(folder) == str(tmp_path / "epoch_00003.pyth")


def test_of_those_within_an_epoch_the_newest_alone_is_kept(tmp_path: Path) -> None:
    (tmp_path / "epoch_00001_batch_00003.pyth.tmp").write_bytes(b"of a save that was killed")
    kept = {"last"}
    for epoch, batch in ((1, 0), (1, 7), (1, 12), (2, 0), (2, 5)):
        path = saved_epochs.save_progress(str(tmp_path), {"epoch": epoch}, epoch, batch)
        assert saved_epochs.latest(str(tmp_path)) == path
        kept = {name for name in kept if "batch" not in name} | {os.path.basename(path)}
        assert set(os.listdir(tmp_path)) == kept


@pytest.mark.parametrize("pointer", [None, b"", b"epoch_00099.pyth", b"epoch_00003.pyth", b"\xff", b"../x"])
@pytest.mark.parametrize("batch", [0, 9])
def test_latest_without_a_usable_pointer_is_the_newest_whole_file(
    tmp_path: Path, pointer: bytes | None, batch: int
) -> None:
    for epoch in (1, 2, 3):
        saved_epochs.save_progress(str(tmp_path), {"epoch": epoch}, epoch)
    expected = tmp_path / "epoch_00002.pyth"
    if batch:
        within = saved_epochs.save_progress(str(tmp_path), {"epoch": 2}, 2, batch)
        expected = tmp_path / "epoch_00002_batch_00009.pyth"
        assert within == str(expected)
    newest = tmp_path / "epoch_00003.pyth"
    newest.write_bytes(newest.read_bytes()[:-100])
    (tmp_path / "epoch_00004.pyth.tmp").write_bytes(b"half")
    if pointer is None:
        (tmp_path / "last").unlink()
    else:
        (tmp_path / "last").write_bytes(pointer)
    assert saved_epochs.latest(str(tmp_path)) == str(expected)


def test_a_pointer_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved_epochs.save_progress(str(tmp_path), {"epoch": 1}, 1)

    def full_disk(path: str, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved_epochs, "atomic_write_text", full_disk)
    with pytest.raises(CheckpointError, match="last: cannot be written: .*No space left"):
        saved_epochs.save_progress(str(tmp_path), {"epoch": 1}, 1, 5)
    assert saved_epochs.latest(str(tmp_path)) == path


def test_the_digest_is_of_the_weights_alone() -> None:
    """Not of their order, their file or their memory; any name, shape, type or bit makes another."""
    weights = {
        "a": torch.arange(6.0).view(2, 3),
        "b": torch.tensor(1),
        "c": torch.ones(2, dtype=torch.bfloat16),
    }
    digest = checkpoint.weights_digest(weights)
    assert len(digest) == 16
    assert checkpoint.weights_digest(dict(reversed(weights.items()))) == digest
    assert checkpoint.weights_digest(weights | {"a": weights["a"].t().contiguous().t()}) == digest
    changed = weights["a"].clone()
    changed.view(torch.int32)[1, 2] ^= 1
    for other in (
        {"a": changed},
        {"a": weights["a"].view(3, 2)},
        {"b": torch.tensor(1.0)},
        {"d": torch.ones(1)},
    ):
        assert checkpoint.weights_digest(weights | other) != digest
