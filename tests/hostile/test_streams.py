"""Streams that no video needs, streams that change, and files that are exchanged while they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from revit_video.data import packets as packets_module
from revit_video.data.clips import open_video
from revit_video.data.video import DecodeError
from tests.videos import picture, write_video_to

FRAMES, SIZE = 24, (32, 48)


def frames_of(path: Path | str, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Every frame of the largest stream, decoded from start to end, in one size, (T, H, W, C)."""
    with av.open(str(path)) as container:
        stream = max(container.streams.video, key=lambda stream: stream.width)
        frames = [
            frame.to_ndarray(format="rgb24", height=size[0], width=size[1])
            for frame in container.decode(stream)
        ]
    return np.stack(frames)


def read(path: Path | str, frames: list[int] | None = None) -> np.ndarray:
    video = open_video(str(path))
    return video.read(frames or range(len(video.times))).permute(1, 2, 3, 0).numpy()


# ---- Other streams ---------------------------------------------------------------------------------------


def with_streams(
    path: Path, add: Callable[[av.container.OutputContainer], list[tuple[av.Stream, bytes]]]
) -> Path:
    """A video beside whose frames there are other streams, one packet in each; those come first."""
    with av.open(str(path), "w") as container:
        others = add(container)
        stream = container.add_stream("libx264", 24)
        (stream.height, stream.width), stream.pix_fmt = SIZE, "yuv420p"
        container.start_encoding()
        for other, content in others:
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.duration = other, 0, 0, 1
            container.mux(packet)
        for index in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index, *SIZE))))
        container.mux(stream.encode(None))
    return path


OTHERS = {
    "a.mkv": lambda file: [(file.add_mux_stream("ass"), b"0,0,Default,,0,0,0,," + b"x" * (1 << 22))],
    "b.mkv": lambda file: [(file.add_mux_stream("subrip"), b"<font size=99999999>" * 9999)],
    "c.mkv": lambda file: [(file.add_mux_stream("webvtt"), b"\xff\xfe" * 9)],
    "d.mkv": lambda file: file.add_attachment("../../font.ttf", "font/ttf", b"\0" * (1 << 22)) and [],
    "e.mkv": lambda file: file.add_attachment("cover.jpg", "image/jpeg", b"\xff\xd8\xff" + b"x" * 999) and [],
    "f.mp4": lambda file: [(file.add_mux_stream("mov_text"), b"\xff\xff" + b"x" * (1 << 22))],
    "g.mov": lambda file: [(file.add_mux_stream("mov_text"), b"\0")],
    "h.ts": lambda file: [(file.add_data_stream("klv"), b"\x06\x0e\x2b\x34" * 99)],
    "i.mp4": lambda file: [(file.add_mux_stream("pcm_s16le", 8000), b"\0")],
}


@pytest.mark.parametrize("name", OTHERS)
def test_streams_beside_the_video_are_not_looked_into(name: str, tmp_path: Path) -> None:
    path = with_streams(tmp_path / name, OTHERS[name])
    np.testing.assert_array_equal(read(path), frames_of(path))


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_streams_are_bounded_in_number(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand streams of video take a gigabyte once they are open."""
    path = with_streams(
        tmp_path / f"a.{suffix}",
        lambda file: [(file.add_mux_stream("subrip" if suffix == "mkv" else "mov_text"), b"\0\1x")] * 9,
    )
    with av.open(str(path)) as container:
        count = len(container.streams)
    monkeypatch.setattr(packets_module, "MOST_STREAMS", count)
    assert len(read(path)) == FRAMES
    monkeypatch.setattr(packets_module, "MOST_STREAMS", count - 1)
    with pytest.raises(DecodeError, match=f"it has over {count - 1} streams"):
        read(path)


def test_subtitles_alone_are_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_mux_stream("ass")
        container.start_encoding()
        packet = av.Packet(b"0,0,Default,,0,0,0,,text")
        packet.stream, packet.pts, packet.dts = stream, 0, 0
        container.mux(packet)
    with pytest.raises(DecodeError, match="no video stream"):
        read(path)


# ---- A stream that changes -------------------------------------------------------------------------------

KINDS = {  # of the first and of the second half: height, width, format of the pixels
    "another size": [(32, 48, "yuvj420p"), (64, 48, "yuvj420p")],
    "another format": [(32, 48, "yuvj420p"), (32, 48, "yuvj444p")],
    "both, and smaller": [(32, 48, "yuvj444p"), (16, 16, "yuvj422p")],
    "odd sides": [(32, 48, "yuvj420p"), (31, 47, "yuvj420p")],
}


@pytest.mark.parametrize("suffix", ["mkv", "mov", "avi"])
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_that_change_half_way_have_the_first_ones_size(
    kind: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        height, width, pixels = KINDS[kind][0]
        stream = container.add_mux_stream("mjpeg", 24, width=width, height=height, time_base=Fraction(1, 24))
        container.start_encoding()
        for number, content in enumerate(pictures_of(KINDS[kind])):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.duration, packet.is_keyframe = Fraction(1, 24), 1, True
            container.mux(packet)
    expected = frames_of(path)
    assert len(expected) == FRAMES
    np.testing.assert_array_equal(read(path), expected)
    np.testing.assert_array_equal(read(path, [20, 3]), expected[[20, 3]])


def pictures_of(halves: list[tuple[int, int, str]]) -> Iterator[bytes]:
    """JPEGs."""
    for half, (height, width, pixels) in enumerate(halves):
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.height, encoder.width, encoder.pix_fmt = height, width, pixels
        encoder.time_base = Fraction(1, 24)
        for index in range(half * FRAMES // 2, (half + 1) * FRAMES // 2):
            frame = av.VideoFrame.from_ndarray(picture(index, height, width)).reformat(format=pixels)
            frame.pts, frame.time_base = index, Fraction(1, 24)
            yield from map(bytes, encoder.encode(frame))


# ---- A file that is exchanged ----------------------------------------------------------------------------


def other_video(path: Path) -> None:
    other = write_video_to(path.with_name(f"other{path.suffix}"), 30, SIZE, options={"g": "5"})
    os.replace(other, path)


def overwritten(path: Path) -> None:
    path.write_bytes(Path(write_video_to(path.with_name(f"other{path.suffix}"), 30, SIZE)).read_bytes())


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


EXCHANGES: dict[str, Callable[[Path], object]] = {
    "another video": other_video,
    "overwritten": overwritten,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "removed": Path.unlink,
    "a pipe": pipe,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a script": lambda path: path.write_text("ffconcat version 1.0\nfile /etc/hostname\n"),
    "longer": lambda path: path.write_bytes(path.read_bytes() * 2),
}


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "h264", "avi"])
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_file_that_is_exchanged_gives_its_frames_or_an_error(
    exchange: str, suffix: str, tmp_path: Path
) -> None:
    """Between the index and the frames: those of the file that was indexed, or the file's own error."""
    path = Path(write_video_to(tmp_path / f"a.{suffix}", FRAMES, SIZE, options={"g": "8", "bf": "0"}))
    expected = read(path)
    for wanted in ([0, 3], [20], list(range(FRAMES))):
        video = open_video(str(path))
        saved = path.read_bytes()
        EXCHANGES[exchange](path)
        try:
            clip = video.read(wanted).permute(1, 2, 3, 0).numpy()
        except DecodeError as error:
            assert error.path == str(path) and len(error.reason.splitlines()) == 1
        else:
            np.testing.assert_array_equal(clip, expected[wanted])
        finally:
            if path.is_dir():
                path.rmdir()
            path.unlink(missing_ok=True)
            path.write_bytes(saved)


def test_a_file_of_another_place_is_told_as_such(tmp_path: Path) -> None:
    path = Path(write_video_to(tmp_path / "a.h264", FRAMES, SIZE))
    video = open_video(str(path))
    other_video(path)
    with pytest.raises(DecodeError, match="it was changed while it was read"):
        video.read([20])
