"""The compared decoders give the same frames; speed is for `tools/benchmark.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
import simplejson
import torch
from benchmarks import decode as suite

from tests.toy import tool

HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    return suite.write_moving_texture(tmp_path_factory.mktemp("video") / "a.mp4", size=(HEIGHT, WIDTH))


@pytest.mark.parametrize("backend", suite.available_backends())
def test_both_give_the_same_frames(backend: str, video: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "SIZE", (HEIGHT, WIDTH))
    theirs = suite.pytorchvideo_clip(video)
    ours = suite.ours(video, backend).clips[0]
    assert theirs.shape == (3, 8, HEIGHT, WIDTH) and ours.shape == (3, 8, HEIGHT, HEIGHT)
    left = (WIDTH - HEIGHT) // 2
    difference = (theirs[..., left : left + HEIGHT].float() - ours.float()).abs()
    assert difference.mean() < (1e-6 if backend == "pyav" else 2)
    assert (theirs[:, 1:].float() - theirs[:, :-1].float()).abs().mean() > 10, "frames should differ"


def test_bare_decoding_ends_at_the_last_wanted_frame(video: str) -> None:
    assert suite.decode_bare(video) == 256


def test_a_core_is_given_back() -> None:
    threads = torch.get_num_threads()
    with suite.one_core():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads


def test_the_table_shows_each_target(video: str, tmp_path: Path) -> None:
    finished = tool(
        "benchmark",
        "decode",
        "--rounds",
        1,
        "--device",
        "cpu",
        "--video",
        video,
        "--json",
        tmp_path / "a.json",
    )
    assert finished.code == 0 and finished.out.count(">= 3 |") == finished.out.count(">= 0.8 |") == 1
    content = simplejson.loads((tmp_path / "a.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert rows["pytorchvideo's time, of ours"]["met"] in (True, False)
    assert all(row["value"] > 0 for row in rows.values())
    assert "takes about " in finished.out and content["left_out"] == []
    assert tool("benchmark", "kinetics", "--video", video).code == 2
    assert tool("benchmark", "kinetics", "--minutes", 0).code == 2
