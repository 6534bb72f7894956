"""Small videos written with PyAV, ordinary, unusual and broken."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

WriteVideo = Callable[..., str]


def picture(index: int, height: int, width: int) -> np.ndarray:
    """A unique frame: moving gradients, and the index as the brightness of a corner."""
    rows, columns = np.mgrid[:height, :width]
    channels = [(rows * 2 + index * 5) % 256, (columns * 2 - index * 3) % 256, (rows + columns + index) % 256]
    frame = np.stack(channels, axis=-1).astype(np.uint8)
    frame[: height // 4, : width // 4] = index * 4 % 256
    return frame


def write_video_to(
    path: Path,
    frames: int = 48,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    fps: int = 24,
    options: dict[str, str] | None = None,
    ticks: Sequence[int] | None = None,
    container_options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
) -> str:
    """Writes `frames` pictures of `size` (height, width); `ticks` are their times in 1/1000 s."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        if codec in ("mpeg4", "mpeg2video"):
            stream.codec_context.max_b_frames = int((options or {}).get("bf", 0))
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            if ticks is not None:
                frame.pts, frame.time_base = ticks[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def truncated(path: str, keep: float = 0.6) -> str:
    """Truncates a file to the fraction `keep`; returns its path."""
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * keep)])
    return path


def broken_files(folder: Path) -> dict[str, str]:
    """Paths of files that cannot be decoded, by their fault."""
    for name, data in {
        "empty.mp4": b"",
        "garbage.mp4": random.Random(0).randbytes(5000),
        "text.mp4": b"these are no frames\n" * 50,
        "header_only.mp4": struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0),
    }.items():
        (folder / name).write_bytes(data)
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    with av.open(str(folder / "audio.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    names = ["missing", "empty", "garbage", "text", "header_only", "folder", "pipe", "audio"]
    in_front = {"movflags": "faststart"}
    return {name: str(folder / f"{name}.mp4") for name in names} | {
        "truncated, index at the end": truncated(write_video_to(folder / "cut.mp4")),
        "truncated, index in front": truncated(
            write_video_to(folder / "cut_front.mp4", container_options=in_front)
        ),
        "truncated avi": truncated(write_video_to(folder / "cut.avi", codec="mpeg4")),
        "truncated in its first frame": truncated(
            write_video_to(folder / "stub.mp4", container_options=in_front), 0.1
        ),
    }


def unusual_files(folder: Path) -> dict[str, str]:
    """Paths of unusual files that can be decoded, by what is unusual."""
    wrong_extension = folder / "video.txt"
    Path(write_video_to(folder / "named.mp4")).rename(wrong_extension)
    return {
        "one frame": write_video_to(folder / "one_frame.mp4", frames=1),
        "shorter than the clip": write_video_to(folder / "short.mp4", frames=3),
        "tiny": write_video_to(folder / "tiny.mp4", size=(16, 16)),
        "wrong extension": str(wrong_extension),
    }
