"""Copies with a smaller short side."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import av
import pytest
import torch

from revit_video.data.pyav_video import PyAVVideo
from revit_video.data.video import DecodeError
from revit_video.prepare.check import check_file
from revit_video.prepare.resize import Encoding, resize_all, resize_video
from tests.prepare.files import prepared
from tests.prepare.test_check import write_rotated
from tests.videos import WriteVideo, write_video_to

FINE = Encoding(short_side=32, crf=1, keyframe_every=4)


def frames(path: str, short_side: int | None = None) -> tuple[list, torch.Tensor]:
    with closing(PyAVVideo(path)) as video:
        return list(video.times), video.read(range(len(video.times)), short_side)


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(-10 * ((one.float() - other.float()) / 255).square().mean().log10())


@pytest.mark.parametrize(
    "options",
    [
        {"options": {"g": "250"}},
        {"codec": "mpeg4", "name": "b.avi"},
        {"codec": "mpeg4", "name": "b.avi", "options": {"bf": "2"}},
        {"frames": 6, "ticks": [0, 40, 80, 200, 205, 1000], "name": "variable.mkv"},
        {"codec": "libvpx-vp9", "name": "c.webm"},
        {"fps": 25, "size": (72, 48)},
    ],
    ids=["H.264", "AVI", "AVI with B-frames", "variable rate", "WebM", "upright"],
)
def test_frames_and_times_are_kept(options: dict, tmp_path: Path, write_video: WriteVideo) -> None:
    source, target = write_video(**{"size": (48, 72)} | options), str(tmp_path / "small.mp4")
    resize_video(source, target, FINE)
    times, small = frames(target)
    expected_times, expected = frames(source, 32)
    assert times == expected_times
    assert small.shape == expected.shape and min(small.shape[2:]) == 32
    assert psnr(small, expected) > 30
    with closing(PyAVVideo(source)) as before, closing(PyAVVideo(target)) as after:
        assert abs(after.duration - before.duration) < 0.01


def test_a_turned_video_stands_upright(tmp_path: Path) -> None:
    source = write_rotated(tmp_path / "plain.mp4", tmp_path / "turned.mp4")
    resize_video(source, str(tmp_path / "small.mp4"), FINE)
    assert psnr(frames(str(tmp_path / "small.mp4"))[1], frames(source, 32)[1]) > 33
    assert check_file(source).odd == "rotated" and not check_file(str(tmp_path / "small.mp4")).odd


def test_h264_with_keyframes_and_without_sound(tmp_path: Path, write_video: WriteVideo) -> None:
    resize_video(write_video(frames=24), str(tmp_path / "small.mp4"), FINE)
    with av.open(str(tmp_path / "small.mp4")) as container:
        (stream,) = container.streams
        keys = [n for n, frame in enumerate(container.decode(stream)) if frame.key_frame]
        assert stream.codec_context.name == "h264"
    assert len(keys) >= 6 and max(b - a for a, b in zip(keys, keys[1:], strict=False)) <= 4


def test_small_videos_keep_their_size(tmp_path: Path, write_video: WriteVideo) -> None:
    resize_video(write_video(size=(22, 30)), str(tmp_path / "copy.mp4"), FINE)
    assert frames(str(tmp_path / "copy.mp4"))[1].shape[2:] == (22, 30)


def test_colours_keep_their_meaning(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "hd.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace = 1  # BT.709
        for _ in range(3):
            frame = av.VideoFrame(64, 64, "yuv420p")
            for plane, value in zip(frame.planes, (120, 70, 70), strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    resize_video(str(tmp_path / "hd.mp4"), str(tmp_path / "small.mp4"), FINE)
    before, after = (
        frames(str(tmp_path / name), 32)[1].float().mean((1, 2, 3)) for name in ("hd.mp4", "small.mp4")
    )
    assert (before - after).abs().max() < 5  # the other matrix: 27


def test_copies_are_whole_and_resumed(tmp_path: Path) -> None:
    (tmp_path / "videos" / "a").mkdir(parents=True)
    paths = [write_video_to(tmp_path / "videos" / "a" / f"{n}.mp4", frames=4) for n in range(3)]
    Path(paths[1]).write_bytes(b"no video")
    root, folder = str(tmp_path / "videos"), str(tmp_path / "small")
    first = sorted(resize_all(paths, root, folder, FINE, 0))
    assert [problem for *_, problem in first] == ["", "damaged, truncated, or not a video", ""]
    assert sorted(path.name for path in (tmp_path / "small" / "a").iterdir()) == ["0.mp4", "2.mp4"]
    kept = (tmp_path / "small" / "a" / "0.mp4").stat().st_mtime_ns
    assert sorted(resize_all(paths, root, folder, FINE, 0)) == first
    assert (tmp_path / "small" / "a" / "0.mp4").stat().st_mtime_ns == kept
    write_video_to(tmp_path / "videos" / "a" / "0.mp4", frames=6)  # fetched again
    assert sorted(resize_all(paths, root, folder, FINE, 0)) == first
    assert len(frames(str(tmp_path / "small" / "a" / "0.mp4"))[0]) == 6
    with pytest.raises(DecodeError):
        resize_video(paths[1], str(tmp_path / "x.mp4"), FINE)


def test_copies_are_listed(tmp_path: Path) -> None:
    (tmp_path / "videos" / "run").mkdir(parents=True)
    for n in range(4):
        write_video_to(tmp_path / "videos" / "run" / f"{n}.mkv", frames=4)
    prepared(tmp_path, "folder", tmp_path / "videos", resize=FINE)
    line = (tmp_path / "out" / "val.csv").read_text().splitlines()[0]
    path = tmp_path / "out" / line.rpartition(" ")[0]
    assert line.startswith("videos_32_crf1_key4/run/") and frames(str(path))[1].shape[2] == 32
    with pytest.raises(ValueError, match="would be taken for videos"):
        prepared(tmp_path, "folder", tmp_path, resize=FINE)


@pytest.mark.parametrize("arguments", [(15, 23, 12), (33, 23, 12), (320, 52, 12), (320, 23, 0)])
def test_impossible_encodings(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="--(resize|crf|keyframe-every): must be"):
        Encoding(*arguments)
