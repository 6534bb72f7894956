from __future__ import annotations

import logging
import pickle
import random
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from pytorchvideo.data.video import Video

from revit_video.data.clips import open_video
from revit_video.data.pyav_video import PyAVVideo
from revit_video.data.sampling import Window, frames_in
from revit_video.data.video import DecodeError
from tests.videos import broken_files, truncated

X264 = {"g": "12", "bf": "3", "b-pyramid": "normal"}
IRREGULAR = np.cumsum([random.Random(0).choice([20, 33, 40, 120]) for _ in range(60)]).tolist()
FILES = {
    "h264_b_frames": dict(name="a.mp4", options=X264),
    "h264_open_gop": dict(name="a.mkv", options=X264 | {"x264-params": "open-gop=1:scenecut=0"}),
    "h264_intra_refresh": dict(name="a.mkv", options=X264 | {"x264-params": "intra-refresh=1"}),
    "h264_transport_stream": dict(name="a.ts", options=X264),
    "mpeg4_b_frames": dict(name="a.mp4", codec="mpeg4", options={"g": "12", "bf": "2"}),
    "mpeg4_b_frames_avi": dict(name="a.avi", codec="mpeg4", options={"g": "12", "bf": "2"}),
    "mpeg2_b_frames": dict(name="a.ts", codec="mpeg2video", options={"g": "12", "bf": "2"}),
    "h264_interlaced": dict(name="a.mp4", options=X264 | {"x264-params": "interlaced=1"}),
    "hevc_b_frames": dict(
        name="a.mp4", codec="libx265", options={"x265-params": "keyint=12:bframes=4:log-level=none"}
    ),
    "vp9": dict(
        name="a.webm", codec="libvpx-vp9", options={"g": "12", "deadline": "realtime", "cpu-used": "8"}
    ),
    "vp8_hidden_frames": dict(
        name="a.webm", codec="libvpx", options={"g": "12", "auto-alt-ref": "1", "lag-in-frames": "8"}
    ),
    "h264_variable_rate": dict(name="a.mp4", frames=60, options=X264, ticks=IRREGULAR),
}


def decode_sequentially(path: str, **reformat: int) -> tuple[list[Fraction], list[np.ndarray]]:
    """Every frame in the order in which a plain decode gives them, with its time from the first one."""
    with av.open(path) as container:
        frames = list(container.decode(video=0))
        rate = container.streams.video[0].average_rate
    pictures = [frame.to_ndarray(format="rgb24", **reformat) for frame in frames]
    if path.endswith(".avi"):  # which holds no presentation times
        return [index / rate for index in range(len(frames))], pictures
    return [(frame.pts - frames[0].pts) * frame.time_base for frame in frames], pictures


def in_time_order(clip: torch.Tensor) -> np.ndarray:
    return clip.permute(1, 2, 3, 0).numpy()


@pytest.mark.parametrize("kind", FILES)
def test_a_clip_is_what_a_sequential_decode_gives(write_video, kind):
    path = write_video(**FILES[kind])
    times, pictures = decode_sequentially(path)
    video = open_video(path)
    assert list(video.times) == times
    for first, stop in [(0, len(times)), (17, 41), (25, 27), (12, 13), (30, 31), (40, len(times))]:
        end = times[stop] if stop < len(times) else video.duration
        clip = video.get_clip(times[first], end)["video"]
        np.testing.assert_array_equal(in_time_order(clip), np.stack(pictures[first:stop]))


@pytest.mark.parametrize("kind", FILES)
def test_frames_left_out_in_between_change_no_other(write_video, kind):
    """What nothing depends on is not decoded; what is wanted is as if it had been."""
    path = write_video(**FILES[kind])
    times, pictures = decode_sequentially(path)
    video = open_video(path)
    for every in (2, 3, 7, 16):
        chosen = range(every - 1, len(times), every)
        clip = video.read(chosen)
        np.testing.assert_array_equal(in_time_order(clip), np.stack([pictures[i] for i in chosen]))


@pytest.mark.parametrize("kind", ["h264_b_frames", "mpeg4_b_frames"])
def test_frames_that_nothing_depends_on_are_not_decoded(write_video, kind):
    path = write_video(**FILES[kind])
    video = PyAVVideo(path)
    decoded = [frame.pts for frame in video._decode(0, wanted={0})]
    assert 1 < len(decoded) < 0.8 * len(decode_sequentially(path)[0])


def test_chosen_frames_come_in_the_chosen_order_and_scaled(write_video):
    path = write_video(size=(48, 64), options=X264)
    times, pictures = decode_sequentially(path, height=24, width=32)
    video, order = open_video(path), [25, 20, 25, 29]
    assert frames_in(video.times, Window(times[20], times[30])) == range(20, 30)
    clip = video.read(order, short_side=24)
    assert clip.dtype == torch.uint8 and clip.shape == (3, 4, 24, 32)
    np.testing.assert_array_equal(in_time_order(clip), np.stack([pictures[i] for i in order]))


def test_window_without_a_new_frame_shows_the_one_on_screen(write_video):
    path = write_video(frames=3, ticks=[0, 40, 4000])
    _, pictures = decode_sequentially(path)
    clip = open_video(path).get_clip(1, 2)["video"]
    np.testing.assert_array_equal(in_time_order(clip), pictures[1][None])


def test_window_past_the_end_shows_the_last_frame(write_video):
    path = write_video(frames=10)
    _, pictures = decode_sequentially(path)
    np.testing.assert_array_equal(
        in_time_order(open_video(path).get_clip(9, 10)["video"]), pictures[-1][None]
    )


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_duration_and_one_frame_videos(write_video, backend):
    if backend == "decord":
        pytest.importorskip("decord")
    video = open_video(write_video(frames=36, fps=24), backend)
    assert isinstance(video, Video)
    assert float(video.duration) == pytest.approx(1.5, abs=1e-3)
    single = open_video(write_video(frames=1, fps=24), backend)
    assert float(single.duration) == pytest.approx(1 / 24, abs=1e-3)
    assert single.get_clip(0, 5)["video"].shape == (3, 1, 48, 64)


def test_decord_gives_the_same_frames(write_video):
    pytest.importorskip("decord")
    path = write_video(options=X264)
    videos = [open_video(path, backend) for backend in ("pyav", "decord")]
    windows = [frames_in(video.times, Window(0.5, 1.5)) for video in videos]
    assert windows[0] == windows[1]
    clips = [video.read([windows[0][n] for n in (0, 3, 7)], short_side=32) for video in videos]
    assert clips[0].shape == clips[1].shape
    assert (clips[0].float() - clips[1].float()).abs().mean() < 4  # two ways to scale and to convert colours


QUARTER_TURNS = {
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
}


@pytest.mark.parametrize("degrees", QUARTER_TURNS)
def test_rotation_metadata_is_applied(write_video, degrees):
    """A track's matrix for 90 asks the player to turn the picture clockwise by 90 degrees."""
    path = write_video(frames=3)
    _, pictures = decode_sequentially(path)
    data = Path(path).read_bytes()
    track = data.index(b"tkhd")
    upright, turned = (
        struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
        for a, b, c, d in (QUARTER_TURNS[0], QUARTER_TURNS[degrees])
    )
    assert upright in data[track:]
    Path(path).write_bytes(data[:track] + data[track:].replace(upright, turned, 1))

    clip = in_time_order(open_video(path).get_clip(0, 1)["video"])
    np.testing.assert_array_equal(clip, np.stack([np.rot90(p, -degrees // 90) for p in pictures]))
    small = open_video(path).read([0], short_side=24)
    assert small.shape[2:] == ((24, 32) if degrees % 180 == 0 else (32, 24))


def test_a_stream_format_that_is_cut_short_is_a_shorter_video(write_video):
    """Matroska and transport streams do not say how many frames follow."""
    path = write_video("cut.mkv")
    _, whole = decode_sequentially(path)
    rest = in_time_order(open_video(truncated(path)).get_clip(0, 2)["video"])
    assert 0 < len(rest) < len(whole)
    np.testing.assert_array_equal(rest[:-3], whole[: len(rest) - 3])  # the last ones lost their references


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_each_broken_file_gives_one_line(tmp_path, capfd, backend):
    if backend == "decord":
        pytest.importorskip("decord")
    for kind, path in broken_files(tmp_path).items():
        if backend == "decord" and "truncated" in kind:
            continue  # decord reads what is left of some of them
        with pytest.raises(DecodeError) as caught:
            open_video(path, backend).get_clip(0, 2)
        assert caught.value.path == path and str(caught.value).startswith(f"{path}: "), kind
        assert caught.value.reason and "\n" not in str(caught.value), kind
    if backend == "pyav":
        assert capfd.readouterr().err == ""


def test_damaged_bytes_never_raise_anything_else(write_video, capfd, caplog):
    caplog.set_level(logging.CRITICAL, "revit_video")  # what FFmpeg itself prints is looked for
    path = write_video(frames=24)
    data = Path(path).read_bytes()
    for seed in range(60):
        draw = random.Random(seed)
        damaged = bytearray(data)
        for _ in range(20):
            damaged[draw.randrange(len(data))] = draw.randrange(256)
        Path(path).write_bytes(damaged)
        try:
            clip = open_video(path).get_clip(0.2, 0.9)["video"]
            assert clip.ndim == 4
        except DecodeError:
            pass
    assert capfd.readouterr().err == ""


def test_names_with_a_colon_are_no_protocols(write_video):
    assert open_video(write_video("pipe:0.mp4", frames=4)).get_clip(0, 1)["video"].shape[1] == 4


def test_errors_survive_pickling_and_backends_are_listed(write_video):
    error = pickle.loads(pickle.dumps(DecodeError("a.mp4", "no such file")))
    assert str(error) == "a.mp4: no such file" and error.reason == "no such file"
    with pytest.raises(ValueError, match="pyav, decord"):
        open_video(write_video(), "opencv")


def test_a_closed_video_holds_no_packets(write_video):
    video = PyAVVideo(write_video())
    video.close()
    with pytest.raises(DecodeError):
        video.get_clip(0, 1)
