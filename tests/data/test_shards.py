"""Samples inside tar files, by their paths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from revit_video.data.clips import open_video
from revit_video.data.shards import shard_part, shard_path
from revit_video.data.video import DecodeError
from tests.videos import write_video_to


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_every_backend_opens_a_part_of_a_shard(backend: str, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    video = Path(write_video_to(tmp_path / "a: b,c.mp4"))
    (tmp_path / "s, 1.tar").write_bytes(b"x" * 777 + video.read_bytes() + b"y" * 5000)
    path = shard_path(str(tmp_path / "s, 1.tar"), 777, video.stat().st_size, "a/b.mp4")
    expected, found = open_video(str(video), backend), open_video(path, backend)
    assert torch.equal(found.read(range(48)), expected.read(range(48)))


def test_a_shard_that_is_gone_or_cut_names_the_sample(tmp_path: Path) -> None:
    video = Path(write_video_to(tmp_path / "a.mp4"))
    path = shard_path(str(tmp_path / "s.tar"), 0, video.stat().st_size, "a.mp4")
    with pytest.raises(DecodeError, match="no such file") as failed:
        open_video(path)
    assert failed.value.path == path
    (tmp_path / "s.tar").write_bytes(video.read_bytes()[:2000])
    with pytest.raises(DecodeError, match="damaged, truncated, or not a video"):
        open_video(path)


def test_paths() -> None:
    assert shard_part(shard_path("/a b/x.tar", 512, 7, "c/d.mp4")) == ("/a b/x.tar", 512, 7)
    assert shard_part("/a/x.tar@1/b.mp4") is None and shard_part("/a/x.tar") is None
