"""Tar shards: the same pixels in the same order as loose files."""

from __future__ import annotations

import os
import tarfile
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from revit_video.data.clips import ClipSampling, ViewGrid
from revit_video.data.datasets import EvalClips, TrainClips
from revit_video.data.images import ImageFile
from revit_video.data.lists import read_list
from revit_video.data.transforms import TrainTransform
from tests.images import write_pictures
from tests.prepare.files import prepared
from tests.toy import table_of
from tests.videos import write_video_to


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for label in ("run", "walk fast"):
        (tmp_path / "videos" / label).mkdir(parents=True)
        for n in range(6):
            write_video_to(tmp_path / "videos" / label / f"{n} {label[0]}.mp4", frames=8 + n)
    return tmp_path / "videos"


def test_the_same_clips_in_the_same_order(videos: Path, tmp_path: Path) -> None:
    prepared(tmp_path, "folder", videos, mine=0.2)
    (tmp_path / "out").rename(tmp_path / "loose")
    prepared(tmp_path, "folder", videos, mine=0.2, shard_bytes=10_000)
    shards = sorted(path.name for path in (tmp_path / "out" / "shards").glob("*.tar"))
    assert "train-000001.tar" in shards and {name.split("-")[0] for name in shards} == {
        "train",
        "mine",
        "val",
        "test",
    }
    sampling = ClipSampling(num_frames=4, duration=Fraction(1, 4))
    transform = TrainTransform((34, 44), 32, flip=True)
    for split in ("train", "mine", "val", "test"):
        loose, packed = (read_list(str(tmp_path / name / f"{split}.csv")) for name in ("loose", "out"))
        assert [loose[n][1] for n in range(len(loose))] == [packed[n][1] for n in range(len(packed))]
        ones, others = (TrainClips(each, sampling, transform, seed=7) for each in (loose, packed))
        for row in range(len(loose)):
            assert torch.equal(ones[2, row].views.clips, others[2, row].views.clips)
            assert others[2, row].path.endswith(
                f"/{Path(loose[row][0]).parent.name}/{Path(loose[row][0]).name}"
            )
        ones, others = (EvalClips(each, sampling, ViewGrid(32)) for each in (loose, packed))
        assert torch.equal(ones[0].views.clips, others[0].views.clips)


def test_shards_are_plain_tar_files_with_an_index(videos: Path, tmp_path: Path) -> None:
    prepared(tmp_path, "folder", videos, mine=0.0, val=0.0, test=0.2, shard_bytes=10**9)
    shard = tmp_path / "out" / "shards" / "train-000000.tar"
    rows = table_of(shard.with_suffix(".csv"))
    with tarfile.open(shard) as tar:
        names = tar.getnames()
        assert names[:4] == ["000000000.mp4", "000000000.cls", "000000001.mp4", "000000001.cls"]
        for row in rows:
            member = tar.getmember(row["member"])
            assert (member.offset_data, member.size) == (int(row["offset"]), int(row["size"]))
            assert tar.extractfile(member).read() == Path(row["path"]).read_bytes()
            assert tar.extractfile(row["member"][:-4] + ".cls").read() == row["label"].encode()
    assert not list(shard.parent.glob("test-*"))  # the same list as val


def test_a_finished_shard_is_kept_and_another_replaced(videos: Path, tmp_path: Path) -> None:
    prepared(tmp_path, "folder", videos, shard_bytes=10**9)
    shard = tmp_path / "out" / "shards" / "train-000000.tar"
    data = shard.read_bytes()
    os.utime(shard, ns=(1, 1))
    prepared(tmp_path, "folder", videos, shard_bytes=10**9)
    assert shard.stat().st_mtime_ns == 1
    shard.with_suffix(".csv").unlink()  # killed between the two
    prepared(tmp_path, "folder", videos, shard_bytes=10**9)
    assert shard.stat().st_mtime_ns != 1 and shard.read_bytes() == data
    prepared(tmp_path, "folder", videos, shard_bytes=10**9, seed=1)
    assert shard.read_bytes() != data


def test_images(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 5)
    prepared(tmp_path, "folder", tmp_path / "images", shard_bytes=10**9)
    packed = read_list(str(tmp_path / "out" / "train.csv"))
    for row, line in enumerate(table_of(tmp_path / "out" / "shards" / "train-000000.csv")):
        one, other = ImageFile(line["path"]), ImageFile(packed[row][0])
        assert torch.equal(one.read([0]), other.read([0]))
