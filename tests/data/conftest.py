"""Small real videos, written with PyAV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

WriteVideo = Callable[..., str]


def picture(index: int, height: int, width: int) -> np.ndarray:
    """A frame that differs from every other: moving gradients, and the index as brightness in a corner."""
    rows, columns = np.mgrid[:height, :width]
    channels = [(rows * 2 + index * 5) % 256, (columns * 2 - index * 3) % 256, (rows + columns + index) % 256]
    frame = np.stack(channels, axis=-1).astype(np.uint8)
    frame[: height // 4, : width // 4] = index * 4 % 256
    return frame


@pytest.fixture
def write_video(tmp_path: Path) -> WriteVideo:
    def write(
        name: str = "video.mp4",
        frames: int = 48,
        size: tuple[int, int] = (48, 64),
        codec: str = "libx264",
        fps: int = 24,
        options: dict[str, str] | None = None,
        ticks: Sequence[int] | None = None,
        container_options: dict[str, str] | None = None,
    ) -> str:
        """Write `frames` pictures (height, width) = `size`; `ticks` gives their times in 1/1000 s."""
        if codec not in av.codecs_available:
            pytest.skip(f"this FFmpeg has no {codec}")
        path = tmp_path / name
        with av.open(str(path), "w", options=container_options or {}) as container:
            stream = container.add_stream(codec, rate=fps, options=options or {})
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"
            if codec == "mpeg4":
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

    return write
