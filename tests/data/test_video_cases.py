"""Unusual and broken files: the frames and times are those of ffmpeg, or the file is named in an error."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from revit_video.data.clips import ClipSampling, ViewGrid, eval_views, open_video
from revit_video.data.datasets import EvalClips
from revit_video.data.packets import PacketFile
from revit_video.data.pyav_video import PyAVVideo
from revit_video.data.transforms import spatial_crops
from revit_video.data.video import DecodeError, VideoFile

FRAMES, FPS = 48, 24
B_FRAMES = {
    "h264": {"codec": "libx264", "options": {"g": "12", "bf": "3"}},
    "mpeg4": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
}
VP9 = {"codec": "libvpx-vp9", "options": {"g": "12", "deadline": "realtime", "cpu-used": "8"}}


def decoded(path: str) -> list[np.ndarray]:
    """Every picture in the order of a plain decode, as the decoder returns it."""
    with av.open(path) as container:
        stream = max(container.streams.video, key=lambda stream: stream.width)
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def pictures(video: VideoFile, frames: list[int] | None = None) -> np.ndarray:
    """(T, H, W, C)"""
    return video.read(frames or range(len(video.times))).permute(1, 2, 3, 0).numpy()


def assert_all_frames(path: str, expected: list[np.ndarray], seconds_per_frame: Fraction) -> None:
    """All frames in order and evenly in time; any few of them are the same."""
    video = open_video(path)
    assert np.allclose(
        np.asarray(video.times), np.arange(len(expected)) * float(seconds_per_frame), atol=2e-3
    )
    np.testing.assert_array_equal(pictures(video), np.stack(expected))
    draw = random.Random(0)
    for _ in range(4):
        few = [draw.randrange(len(expected)) for _ in range(3)]
        np.testing.assert_array_equal(pictures(video, few), np.stack([expected[n] for n in few]))


def remuxed(path: str, name: str, change: Callable[[av.Packet], None]) -> str:
    """The packets of a file in another one."""
    target = str(Path(path).parent / name)
    with av.open(path) as old, av.open(target, "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                change(packet)
                packet.stream = stream
                new.mux(packet)
    return target


def lose_the_order(packet: av.Packet) -> None:
    """Times as an AVI has them: those of decoding, from 0."""
    packet.dts += 4 * packet.duration  # none is negative, which would become an edit list
    packet.pts = packet.dts


def joined(path: Path, *parts: str) -> str:
    path.write_bytes(b"".join(Path(part).read_bytes() for part in parts))
    return str(path)


def patched(path: str, name: str, old: bytes, new: bytes) -> str:
    data = Path(path).read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    target = Path(path).parent / name
    target.write_bytes(data.replace(old, new))
    return str(target)


# ---- Times -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "name"),
    [*product(B_FRAMES, ("b.mp4", "b.mov", "b.mkv")), ("h264", "b.ts"), ("h264", "b.flv")],
)
def test_times_in_decoding_order_are_not_believed(write_video, codec, name):
    """B-frames whose presentation times are those of decoding, as copied out of an AVI."""
    path = write_video("a.mp4", **B_FRAMES[codec])
    wrong = remuxed(path, name, lose_the_order)
    assert_all_frames(wrong, decoded(path), Fraction(1, FPS))


def test_times_that_run_backwards_in_one_part_only(write_video, tmp_path):
    """The container looks right at large; the decoder shows that it is not."""
    path, count = write_video("a.mp4", **B_FRAMES["h264"]), iter(range(FRAMES))

    def lose_the_order_later(packet: av.Packet) -> None:
        if next(count) >= 24:
            packet.pts = packet.dts + 2 * packet.duration + 1

    wrong = remuxed(path, "b.mp4", lose_the_order_later)
    np.testing.assert_array_equal(pictures(open_video(wrong)), np.stack(decoded(path)))


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".ts", "libx264"), (".ts", "mpeg2video"), (".mpg", "mpeg2video")]
)
def test_joined_recordings_have_one_clock(write_video, tmp_path, suffix, codec):
    parts = [
        write_video(f"{n}{suffix}", frames=n, codec=codec, options={"g": "12", "bf": "2"}) for n in (30, 20)
    ]
    path = joined(tmp_path / f"joined{suffix}", *parts)
    assert_all_frames(path, decoded(path), Fraction(1, FPS))
    assert len(open_video(path).times) == 50


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_a_recording_that_starts_between_keyframes_starts_at_the_next(write_video, codec):
    path = write_video("a.ts", codec=codec, frames=120, options={"g": "40", "bf": "2", "sc_threshold": "0"})
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[len(data) // 10 // 188 * 188 :])
    rest = decoded(path)
    assert 60 < len(rest) < 100
    assert_all_frames(path, rest, Fraction(1, FPS))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("last", [False, True])
def test_a_jump_of_the_clock_is_no_still_picture(write_video, name, last):
    """By 100 s in the middle, or before the last frame."""
    first = FRAMES - 1 if last else 20
    ticks = [n * 40 + 100_000 * (n >= first) for n in range(FRAMES)]
    path = write_video(name, ticks=ticks, options={"bf": "0"})
    assert_all_frames(path, decoded(path), Fraction(1, 25))
    video = open_video(path)
    assert float(video.duration) == pytest.approx(FRAMES / 25, abs=0.05)


@pytest.mark.parametrize("suffix", [".h264", ".264", ".mp4"])
def test_a_raw_stream_has_a_frame_rate(write_video, tmp_path, suffix):
    path = write_video("a.mp4", **B_FRAMES["h264"])
    raw = str(tmp_path / f"raw{suffix}")
    with av.open(path) as old, av.open(raw, "w", format="h264") as new:
        to_start_codes = av.BitStreamFilterContext("h264_mp4toannexb", old.streams.video[0])
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            for each in to_start_codes.filter(packet if packet.size else None):
                each.stream = stream
                new.mux(each)
    assert_all_frames(raw, decoded(path), Fraction(1, FPS))


def test_a_raw_hevc_stream(write_video):
    options = {"x265-params": "keyint=12:bframes=4:log-level=none"}
    path = write_video("a.hevc", codec="libx265", options=options)
    assert_all_frames(path, decoded(path), Fraction(1, FPS))


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
@pytest.mark.parametrize("name", ["a.mpg", "a.vob"])
def test_a_program_stream_has_a_time_for_groups_of_frames(write_video, codec, name):
    path = write_video(name, frames=100, **B_FRAMES[codec])
    assert_all_frames(path, decoded(path), Fraction(1, FPS))
    assert len(open_video(path).times) == 100


def test_frames_of_one_time_are_all_there(write_video):
    path, count = write_video("a.mp4", options={"bf": "0"}), iter(range(FRAMES))

    def run_together(packet: av.Packet) -> None:
        packet.pts = packet.dts = packet.duration * (next(count) // 3)

    np.testing.assert_array_equal(
        pictures(open_video(remuxed(path, "b.mkv", run_together))), np.stack(decoded(path))
    )


def test_hidden_frames_of_vp8_are_not_counted(write_video, tmp_path):
    """An alternate reference has the time of the frame after it."""
    path = str(tmp_path / "b.webm")
    with (
        av.open(write_video("a.webm", codec="libvpx", options={"g": "12"})) as old,
        av.open(path, "w") as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
            data, hidden = bytearray(bytes(packet)), number % 12 == 7
            data[0] &= 0xEF if hidden else 0xFF
            copy = av.Packet(bytes(data))
            copy.stream, copy.time_base, copy.is_keyframe = stream, packet.time_base, packet.is_keyframe
            copy.pts = copy.dts = (number + hidden) * 1000 // FPS
            new.mux(copy)
    expected = decoded(path)
    video = open_video(path)
    assert len(video.times) == len(expected) == FRAMES - 4
    np.testing.assert_array_equal(pictures(video), np.stack(expected))
    np.testing.assert_array_equal(pictures(video, [20]), expected[20:21])


# ---- Pictures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "matrix", [*product((1, -1), (0,), (0,), (1, -1)), *product((0,), (1, -1), (1, -1), (0,))]
)
def test_all_eight_orientations(write_video, matrix):
    """A point moves from (x, y) to (a x + c y, b x + d y)."""
    a, b, c, d = matrix
    path = write_video(frames=3)
    upright = decoded(path)
    turned = patched_matrix(path, matrix)
    expected = [p.swapaxes(0, 1)[:: b or 1, :: c or 1] if b else p[::d, ::a] for p in upright]
    np.testing.assert_array_equal(pictures(open_video(turned)), np.stack(expected))


def patched_matrix(path: str, matrix: tuple[float, ...]) -> str:
    """The track's display matrix set to a, b, c, d."""
    data = Path(path).read_bytes()
    track = data.index(b"tkhd")
    old, new = (
        struct.pack(">9i", *(round(65536 * value) for value in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
        for a, b, c, d in ((1, 0, 0, 1), matrix)
    )
    assert old in data[track:]
    target = Path(path).parent / "turned.mp4"
    target.write_bytes(data[:track] + data[track:].replace(old, new, 1))
    return str(target)


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1), (1, 1, 1, 1), (2, 0, 0, 2)])
def test_a_degenerate_matrix_is_ignored(write_video, matrix):
    path = write_video(frames=3)
    np.testing.assert_array_equal(pictures(open_video(patched_matrix(path, matrix))), np.stack(decoded(path)))


@pytest.mark.parametrize(("matrix", "like"), [(3, 2), (10, 9), (8, None)])
def test_colour_matrices_that_ffmpeg_does_not_convert(write_video, tmp_path, matrix, like):
    path = write_video("a.ts")

    def tagged(name: str, number: int) -> str:
        with av.open(path) as old, av.open(str(tmp_path / name), "w") as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            tag = av.BitStreamFilterContext(f"h264_metadata=matrix_coefficients={number}", stream)
            for packet in old.demux(video=0):
                for each in tag.filter(packet if packet.size else None):
                    each.stream = stream
                    new.mux(each)
        return str(tmp_path / name)

    video = open_video(tagged("b.ts", matrix))
    if like is None:
        with pytest.raises(DecodeError, match="cannot convert its colours .yuv420p, colour matrix"):
            video.read([0])
    else:
        expected = pictures(open_video(tagged("c.ts", like)))
        np.testing.assert_array_equal(pictures(video), expected)


def test_a_size_that_changes_within_the_stream(write_video, tmp_path):
    """Pictures are brought to the size of the first one, as ffmpeg does it."""
    parts = [write_video(f"{size[0]}.ts", frames=12, size=size) for size in ((48, 64), (64, 48))]
    video = open_video(joined(tmp_path / "joined.ts", *parts))
    clip = pictures(video)
    assert clip.shape == (24, 48, 64, 3)
    np.testing.assert_array_equal(clip[:12], np.stack(decoded(parts[0])))
    assert pictures(video, [12, 20]).shape == (2, 64, 48, 3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_pixels_become_square(tmp_path, name):
    path = str(tmp_path / name)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = 48, 128, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(1, 2)
        for n in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((48, 128, 3), 40 * n, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert pictures(open_video(path)).shape == (4, 48, 64, 3)
    assert open_video(path).read([0], short_side=24).shape == (3, 1, 24, 32)


# ---- Streams and packets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mkv", "a.ts"])
def test_the_largest_stream_is_read(tmp_path, name):
    path = str(tmp_path / name)
    with av.open(path, "w") as container:
        streams = [container.add_stream("libx264", rate=FPS) for _ in range(2)]
        for stream, side in zip(streams, (32, 64), strict=True):
            stream.height, stream.width, stream.pix_fmt = side, side, "yuv420p"
        for n in range(12):
            for stream in streams:
                grey = np.full((stream.height, stream.width, 3), 20 * n, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    clip = pictures(open_video(path))
    assert clip.shape == (12, 64, 64, 3)
    np.testing.assert_array_equal(clip, np.stack(decoded(path)))


FALSE_KEYS = {
    "h264": ("k.mkv", B_FRAMES["h264"]),
    "mpeg4": ("k.mkv", B_FRAMES["mpeg4"]),
    "hevc": ("k.mp4", {"codec": "libx265", "options": {"x265-params": "keyint=12:bframes=2:log-level=none"}}),
    "vp9": (
        "k.webm",
        VP9,
    ),
}


@pytest.mark.parametrize("kind", FALSE_KEYS)
def test_a_container_in_which_all_packets_are_keyframes(write_video, kind):
    name, settings = FALSE_KEYS[kind]
    path = write_video(f"a{name[1:]}", **settings)
    wrong = remuxed(path, name, lambda packet: setattr(packet, "is_keyframe", True))
    assert_all_frames(wrong, decoded(path), Fraction(1, FPS))


def test_a_damaged_keyframe(write_video):
    """The frames after it are those that a decode from the start shows."""
    path = damaged(write_video("a.webm", **VP9), [24])
    whole = pictures(open_video(path))
    for number in (23, 24, 26, 40):
        np.testing.assert_array_equal(pictures(open_video(path), [number])[0], whole[number])


@pytest.mark.parametrize("codec", B_FRAMES)
def test_packets_falsely_marked_as_keyframes(write_video, codec):
    """Without its table of keyframes, an MP4 claims that every frame is one."""
    path = write_video(**B_FRAMES[codec])
    assert_all_frames(patched(path, "b.mp4", b"stss", b"free"), decoded(path), Fraction(1, FPS))


DAMAGEABLE = {
    "h264": ("a.mp4", {"codec": "libx264", "options": {"g": "12", "bf": "0"}}),
    "flv": ("a.flv", {"codec": "libx264", "options": {"g": "12", "bf": "0"}}),
    "vp9": (
        "a.webm",
        VP9,
    ),
    "mjpeg": ("a.mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "prores": ("a.mov", {"codec": "prores", "pix_fmt": "yuv422p10le"}),
}


def damaged(path: str, numbers: range | list[int]) -> str:
    """Invert the bytes of packets, but for their first ones, by which the container may find them."""
    with av.open(path) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = bytearray(Path(path).read_bytes())
    for number in numbers:
        start = data.find(packets[number])
        assert start >= 0
        for at in range(start + min(8, len(packets[number]) - 1), start + min(len(packets[number]), 120)):
            data[at] ^= 0xFF
    Path(path).write_bytes(data)
    return path


@pytest.mark.parametrize("kind", DAMAGEABLE)
def test_a_damaged_packet_costs_little_more_than_its_frame(write_video, kind):
    name, settings = DAMAGEABLE[kind]
    path = write_video(name, **settings)
    whole = decoded(path)
    video = open_video(damaged(path, [30]))
    clip = pictures(video)
    assert len(clip) == FRAMES and len(video.damaged) == 1
    np.testing.assert_array_equal(clip[:30], np.stack(whole[:30]))
    np.testing.assert_array_equal(clip[36:], np.stack(whole[36:]))
    assert any(np.array_equal(pictures(video, [30])[0], clip[n]) for n in (29, 31)), "the nearest one"


def test_a_file_with_much_damage_is_refused(write_video):
    path = write_video("a.mov", codec="mjpeg", pix_fmt="yuvj420p")
    with pytest.raises(DecodeError, match=r"a\.mov: damaged: \d of 48 frames"):
        pictures(open_video(damaged(path, range(3, 40, 4))))


def test_a_frame_far_from_any_other_is_refused(write_video):
    path = write_video("a.mov", codec="mjpeg", pix_fmt="yuvj420p", frames=400)
    video = open_video(damaged(path, range(100, 140)))
    assert np.array_equal(pictures(video, [110, 130])[0], pictures(video, [99])[0])
    with pytest.raises(DecodeError, match=r"damaged: no frame from 108 to 132"):
        pictures(video, [120])


# ---- Cost ------------------------------------------------------------------------------------------------

OPEN = """
import resource, sys
from revit_video.data.pyav_video import PyAVVideo
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
PyAVVideo(sys.argv[2]).read([0])
before = peak()
video = PyAVVideo(sys.argv[1])
print(len(video.times), (peak() - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts in other units")
def test_opening_keeps_no_payload(write_video):
    large = write_video("large.avi", codec="rawvideo", size=(720, 1280), frames=100)
    small = write_video("small.avi", codec="rawvideo", size=(720, 1280), frames=2)
    assert Path(large).stat().st_size > 130e6
    out = subprocess.run(
        [sys.executable, "-c", OPEN, large, small], capture_output=True, text=True, check=True
    )
    frames, mebibytes = map(int, out.stdout.split())
    assert frames == 100 and mebibytes < 20


def test_one_pass_serves_all_clips_of_a_file(write_video, monkeypatch):
    path = write_video("a.mkv", frames=100, options={"g": "1000", "keyint_min": "1000"})
    demuxed = []
    packets_from = PacketFile.packets_from
    monkeypatch.setattr(
        PacketFile,
        "packets_from",
        lambda file, first: (demuxed.append(each[0]) or each for each in packets_from(file, first)),
    )
    views = eval_views(path, ClipSampling(4, Fraction(1, 2)), ViewGrid(32, num_clips=10))
    assert len(views) == 10 and len(demuxed) <= 100
    start = float(views.starts[7])
    alone = PyAVVideo(path)
    first = next(n for n, time in enumerate(alone.times) if time >= start - 1e-6)
    assert torch.equal(views.clips[7][:, :1], spatial_crops(alone.read([first], 32), 32, 1)[0])


def test_a_clip_far_inside_a_long_file_is_sought(write_video, monkeypatch):
    path = write_video("a.mp4", frames=200, options={"g": "10"})
    video, decode, fed = PyAVVideo(path), PacketFile.packets_from, []
    monkeypatch.setattr(
        PacketFile,
        "packets_from",
        lambda file, first: (fed.append(each[0]) or each for each in decode(file, first)),
    )
    np.testing.assert_array_equal(pictures(video, [33, 171, 175]), np.stack(decoded(path))[[33, 171, 175]])
    assert len(fed) < 30


# ---- Nothing stops the others ----------------------------------------------------------------------------


def test_any_exception_costs_its_file_alone(write_video, monkeypatch):
    paths = [write_video(f"{n}.mp4", frames=12) for n in range(3)]
    read = PyAVVideo.read

    def fail(video: PyAVVideo, *arguments: object) -> torch.Tensor:
        if video._path == paths[1]:
            raise ZeroDivisionError("in the reader")
        return read(video, *arguments)

    monkeypatch.setattr(PyAVVideo, "read", fail)
    clips = EvalClips(
        LabeledVideoPaths([(path, 0) for path in paths]), ClipSampling(4, Fraction(1, 4)), ViewGrid(32)
    )
    assert [len(clips[row].views) for row in range(3)] == [1, 0, 1]
    assert clips[1].skipped == [(paths[1], "its reader failed: ZeroDivisionError in the reader")]


# ---- decord ----------------------------------------------------------------------------------------------


def test_decord_refuses_what_it_reads_wrongly(write_video):
    pytest.importorskip("decord")
    plain = write_video("plain.mp4", **B_FRAMES["h264"])

    open_gop = {"g": "12", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}
    for path in [
        write_video("b.ts", **B_FRAMES["h264"]),
        write_video("b.avi", **B_FRAMES["mpeg4"]),
        write_video("b.mp4", **B_FRAMES["mpeg4"]),
        write_video("open.mkv", options=open_gop),
        remuxed(plain, "disorder.mp4", lose_the_order),
        patched(plain, "keys.mp4", b"stss", b"free"),
        patched_matrix(plain, (0, 1, -1, 0)),
    ]:
        with pytest.raises(DecodeError, match=r"decord may show wrong frames \(.+\); use pyav$"):
            open_video(path, "decord")
    difference = (
        pictures(open_video(plain, "decord"), [3, 40, 17]).astype(int) - np.stack(decoded(plain))[[3, 40, 17]]
    )
    assert abs(difference).mean() < 4
