"""An archive is believed only where every byte is as it was written and no size is a lie."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest
import torch

from revit_video.models import checkpoint, saved_epochs
from revit_video.models.checkpoint import CheckpointError
from revit_video.runtime.archive import damage


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "a.pyth"
    checkpoint.save(str(path), {"weights": torch.randn(3000), "optimizer": {"exp_avg": torch.randn(3000)}})
    return path


def test_a_flipped_bit_in_any_tensor_or_record_is_noticed(saved: Path) -> None:
    assert damage(str(saved)) == ""
    with zipfile.ZipFile(saved) as archive:
        entries = [entry for entry in archive.infolist() if entry.file_size]
    whole, draw = saved.read_bytes(), random.Random(0)
    for entry in entries:
        with saved.open("rb") as file:
            file.seek(entry.header_offset + 26)
            lengths = file.read(4)
        start = entry.header_offset + 30 + sum(int.from_bytes(lengths[n : n + 2], "little") for n in (0, 2))
        for _ in range(8):
            data = bytearray(whole)
            data[start + draw.randrange(entry.file_size)] ^= 1 << draw.randrange(8)
            saved.write_bytes(data)
            with pytest.raises(CheckpointError, match=r"a.pyth: damaged: Bad CRC-32 for file 'a"):
                checkpoint.load_payload(str(saved))
    saved.write_bytes(whole)
    assert torch.equal(checkpoint.load_payload(str(saved))["weights"].isfinite(), torch.ones(3000).bool())


def test_sizes_are_compared_with_the_file_before_anything_is_read(saved: Path, tmp_path: Path) -> None:
    packed, twice = tmp_path / "packed.pyth", tmp_path / "twice.pyth"
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as copy:
        for name in archive.namelist():
            copy.writestr(name, bytes(1 << 20))
    with pytest.raises(CheckpointError, match=r"packed.pyth: refused: it holds compressed entries"):
        checkpoint.load_payload(str(packed))
    with (
        zipfile.ZipFile(twice, "w") as copy,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        for _ in range(2):
            copy.writestr("archive/data.pkl", b"x")
    with pytest.raises(CheckpointError, match=r"twice.pyth: refused: it holds two entries of one name"):
        checkpoint.load_payload(str(twice))


def test_of_a_torchscript_archive_the_weights_alone_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/a.py"):
            archive.writestr(f"program/{name}", b"x")
    with pytest.raises(
        CheckpointError, match=r"program.pt: refused: it is a TorchScript archive.*jit.load\("
    ):
        checkpoint.load_payload(str(path))


def test_a_file_of_holes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sparse.pyth"
    with path.open("wb") as file:
        file.truncate(10 << 30)
    if 512 * path.stat().st_blocks > 1 << 20:
        pytest.skip("this disk has no holes")
    assert damage(str(path)) == "10737418240 bytes long, of which only 0 are on the disk"


def test_an_older_checkpoint_does_not_stand_in_for_the_newest(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert saved_epochs.newest(folder) is None
    for epoch in (1, 2):
        saved_epochs.save_progress(folder, {"weights": torch.randn(100)}, epoch)
    first, second = (tmp_path / f"epoch_0000{epoch}.pyth" for epoch in (1, 2))
    assert saved_epochs.newest(folder) == str(second)
    whole = second.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"data/0") + 200] ^= 1
    for content, reason in ((whole[:-50], "incomplete"), (flipped, "damaged: Bad CRC-32")):
        second.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"00002.pyth: {reason}.*; name .*00001.pyth to use that"):
            saved_epochs.newest(folder)
        found, damaged = saved_epochs.latest_and_damaged(folder)
        assert found == str(first) and len(damaged) == 1
