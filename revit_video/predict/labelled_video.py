"""A copy of a video with the class, its probability and the token length written into every frame."""

from __future__ import annotations

import multiprocessing
import os
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from fractions import Fraction

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from revit_video.data.pyav_video import PyAVVideo
from revit_video.data.video import DecodeError, decode_errors
from revit_video.predict.long_videos import VideoTimeline
from revit_video.runtime.output_dir import replacing

TICK = Fraction(1, 90_000)  # seconds
CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}  # by suffix, FFmpeg's names

Label = tuple[float, str]  # second from which on it holds, and its text


def write_labelled_video(timeline: VideoTimeline, path: str) -> None:
    """Write the video to `path`, as many frames at the same times; in a process of its own.

    Raises:
        DecodeError: the file cannot be decoded, or its decoder crashed.
        ValueError: `path` is the video itself, or does not end like a video's.
    """
    if os.path.splitext(path)[1].lower() not in CONTAINERS:
        raise ValueError(f"{path}: must end in {', '.join(CONTAINERS)}")
    if os.path.exists(path) and os.path.samefile(path, timeline.path):
        raise ValueError(f"{path}: is the video that is read; name another file")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as process:
        try:
            process.submit(_write, timeline.path, path, _labels(timeline)).result()
        except BrokenProcessPool:
            raise DecodeError(timeline.path, "its decoder crashed") from None


def _labels(timeline: VideoTimeline) -> list[Label]:
    """What is written, from when on: the segment's class, and the token length at that time."""
    borders = timeline.borders[:-1]
    times = sorted({*borders, *(t for s in timeline.segments for t in (s.start, s.end))})
    labels = []
    for time in times:
        moment = timeline.moments[bisect_right(borders, time) - 1]
        segment = next((s for s in timeline.segments if s.start <= time < s.end), None)
        named = f"{segment.name} {100 * segment.probability:.0f} %  " if segment else ""
        labels.append((time, f"{named}{moment.length}"))
    return labels


def _write(source: str, target: str, labels: list[Label]) -> None:
    kind = CONTAINERS[os.path.splitext(target)[1].lower()]
    with (
        replacing(target, "wb") as file,
        decode_errors(source),
        closing(PyAVVideo(source)) as video,
        av.open(file, "w", kind) as output,
    ):
        stream = None
        for time, picture in _labelled(video, labels):
            if stream is None:
                rate = Fraction(len(video.times) / video.duration).limit_denominator(1001)
                stream = output.add_stream("libx264", rate, options={"crf": "20", "preset": "veryfast"})
                stream.width, stream.height = picture.shape[1], picture.shape[0]
                stream.pix_fmt, stream.time_base = "yuv420p", TICK
                stream.codec_context.time_base = TICK
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = round(time / TICK), TICK
            output.mux(stream.encode(frame))
        if stream is not None:
            output.mux(stream.encode(None))


def _labelled(video: PyAVVideo, labels: list[Label]) -> Iterator[tuple[Fraction, np.ndarray]]:
    """Every frame's time and picture, of even width and height as H.264 wants it, with its label."""
    starts = [start for start, _ in labels]
    for number, picture in video.stream(range(len(video.times))):
        time = Fraction(video.times[number])
        height, width = (side - side % 2 for side in picture.shape[:2])
        image = Image.fromarray(np.ascontiguousarray(picture[:height, :width]))
        text, size = labels[max(bisect_right(starts, float(time)) - 1, 0)][1], max(height // 18, 9)
        font = ImageFont.load_default(size)
        draw = ImageDraw.Draw(image)
        draw.text(
            (size // 2, size // 2), text, "white", font, stroke_width=max(size // 10, 1), stroke_fill="black"
        )
        yield time, np.asarray(image)
