"""Smaller copies of videos that decode fast: a short side, H.264, a keyframe every few frames, no sound."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain
from math import lcm

import av

from revit_video.data.pyav_video import PyAVVideo
from revit_video.data.video import DecodeError, is_image
from revit_video.prepare.parallel import Died, in_processes
from revit_video.runtime.logging import progress
from revit_video.runtime.output_dir import replacing

_AT_ONCE = 128  # frames in memory: 52 MB at 320 x 426


@dataclass(frozen=True)
class Encoding:
    """How copies are encoded.

    Attributes:
        short_side: pixels, even; smaller videos keep their size.
        crf: quality of x264, 0 (lossless) to 51.
        keyframe_every: frames; fewer decode faster at random places, and take more space.
    """

    short_side: int = 320
    crf: int = 23
    keyframe_every: int = 12

    def __post_init__(self) -> None:
        if self.short_side < 16 or self.short_side % 2:
            raise ValueError(f"--resize: must be even and at least 16, got {self.short_side}")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"--crf: must be 0 to 51, got {self.crf}")
        if self.keyframe_every < 1:
            raise ValueError(f"--keyframe-every: must be at least 1, got {self.keyframe_every}")

    @property
    def folder(self) -> str:
        """Name of the folder of copies, so that no copy is taken for one encoded otherwise."""
        return f"videos_{self.short_side}_crf{self.crf}_key{self.keyframe_every}"


def resize_all(
    paths: Iterable[str], root: str, folder: str, encoding: Encoding, processes: int
) -> Iterator[tuple[str, str, str]]:
    """Copies of all videos below `root`, at the same places below `folder`, as (video, copy, problem).

    Copies that are newer than their videos are kept: each was written whole.

    Raises:
        ValueError: one is an image, or two copies would have one name.
    """
    targets: dict[str, str] = {}
    for path in paths:
        if is_image(path):
            raise ValueError(f"--resize: videos only, but {path} is an image")
        name = os.path.splitext(os.path.relpath(path, root).replace(os.pardir + os.sep, ""))[0] + ".mp4"
        if (other := targets.setdefault(os.path.join(folder, name), path)) != path:
            raise ValueError(f"--resize: the copies of {other} and {path} would both be {name}")
    todo = {target: path for target, path in targets.items() if not _is_newer(target, path)}
    yield from ((path, target, "") for target, path in targets.items() if target not in todo)
    done = in_processes(partial(_resize, encoding=encoding), todo.items(), processes)
    for (target, path), result in progress(done, len(todo), "resize"):
        yield path, target, result.reason if isinstance(result, Died) else result


def _is_newer(target: str, source: str) -> bool:
    return os.path.isfile(target) and os.path.getmtime(target) >= os.path.getmtime(source)


def _resize(pair: tuple[str, str], encoding: Encoding) -> str:
    target, source = pair
    try:
        resize_video(source, target, encoding)
    except DecodeError as error:
        return error.reason
    return ""


def resize_video(source: str, target: str, encoding: Encoding) -> None:
    """Writes the copy of one video, whole or not at all: the frames as they are seen, at their times.

    Raises:
        DecodeError: the source cannot be decoded.
    """
    with closing(PyAVVideo(source)) as video, replacing(target, "wb") as file:
        times = video.times
        frames = _frames(video, encoding.short_side)
        first = next(frames)
        # The longest unit of time of which all frames' times are multiples.
        time_base = Fraction(1, lcm(*(Fraction(time).denominator for time in times)))
        rate = max(1, round(len(times) / video.duration)) if video.duration else 1
        options = {"crf": str(encoding.crf), "g": str(encoding.keyframe_every)}
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.height, stream.width, stream.pix_fmt = first.height, first.width, "yuv420p"
            stream.codec_context.thread_count = 1
            stream.codec_context.time_base = time_base
            for time, frame in zip(times, chain([first], frames), strict=True):
                frame.pts, frame.time_base = int(time / time_base), time_base
                container.mux(stream.encode(frame))
            *packets, last = stream.encode(None)
            last.duration = int((video.duration - times[-1]) / last.time_base)
            container.mux([*packets, last])


def _frames(video: PyAVVideo, short_side: int) -> Iterator[av.VideoFrame]:
    """All frames as they are seen; an odd row or column, which the copy cannot hold, is cut off."""
    short_side = min(short_side, *video.read([0]).shape[2:])
    for start in range(0, len(video.times), _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, len(video.times)))
        for picture in video.read(numbers, short_side).unbind(1):
            height, width = (max(side // 2 * 2, 2) for side in picture.shape[1:])
            pixels = picture[:, :height, :width].permute(1, 2, 0).contiguous().numpy()
            yield av.VideoFrame.from_ndarray(pixels, format="rgb24")
