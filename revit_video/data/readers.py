"""The reader of a video file, by decoding backend."""

from __future__ import annotations

from revit_video.data.decord_video import DecordVideo
from revit_video.data.pyav_video import PyAVVideo
from revit_video.data.video import VideoFile

DECODING_BACKENDS = ("pyav", "decord")


def open_video(path: str, backend: str = "pyav") -> VideoFile:
    """Open a video file with one of `DECODING_BACKENDS`.

    Raises:
        DecodeError: the file is missing, damaged or holds no video.
        ValueError: unknown backend.
    """
    if backend == "pyav":
        return PyAVVideo(path)
    if backend == "decord":
        return DecordVideo(path)
    raise ValueError(f"unknown decoding backend {backend!r}; there is {', '.join(DECODING_BACKENDS)}")
