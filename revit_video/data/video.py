"""Video files behind pytorchvideo's `Video` interface: only the wanted frames, already at the wanted size."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Container, Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from iopath.common.file_io import g_pathmgr
from pytorchvideo.data.video import Video
from torchvision.transforms.v2 import functional

DECODING_BACKENDS = ("pyav", "decord")

# Containers that store no presentation times: FFmpeg guesses them, wrongly for packed B-frames.
_UNTIMED_CONTAINERS = {"avi"}

# Codecs in which nothing at all depends on a frame that is marked so. (In HEVC a higher layer may.)
_DROPPABLE_CODECS = {"h264", "mpeg4"}

# What PyAV raises of a damaged file; IndexError, because it looks streams up by damaged numbers.
_ERRORS = (av.FFmpegError, OSError, IndexError, MemoryError)

# Only for the length of the last frame of a file that tells no rate at all.
_FALLBACK_FPS = 30

# A worker is one of many: no threads of its own for scaling. Before PyAV 17 there were none to ask for.
_ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}

FrameChooser = Callable[[int], torch.Tensor]
"""Number of frames in a window -> indices of the wanted ones, in the wanted order, repeats allowed."""


class DecodeError(ValueError):
    """A video that cannot be read; `path` and a one-line `reason`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def open_video(path: str, backend: str = "pyav") -> PyAVVideo | DecordVideo:
    """Open a video file with one of `DECODING_BACKENDS`.

    Raises:
        DecodeError: the file is missing, damaged or holds no video.
        ValueError: there is no such backend.
    """
    if backend == "pyav":
        return PyAVVideo(path)
    if backend == "decord":
        return DecordVideo(path)
    raise ValueError(f"unknown decoding backend {backend!r}; there is {', '.join(DECODING_BACKENDS)}")


class PyAVVideo(Video):
    """A video decoded by FFmpeg through PyAV.

    Opening reads all packets, which is cheap, and learns every frame's time from them without decoding.
    A clip is then decoded in order from the nearest keyframe on, so that its frames are those of a plain
    sequential decode; only the wanted ones are converted, and they are scaled on the way.

    Times are seconds from the first frame. Use a `Fraction` where a frame boundary must be hit exactly.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._reformatter = VideoReformatter()  # sets its scaler up once, not once a frame
        try:
            # "file:" keeps FFmpeg from reading a protocol into a name such as "a:b.mp4"; titles in metadata
            # need not be UTF-8.
            self._container = av.open("file:" + local_file(path), metadata_errors="replace")
            self._read_packets()
        except _ERRORS as error:
            raise DecodeError(path, _reason(error)) from error

    def _read_packets(self) -> None:
        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise DecodeError(self._path, "it has no video stream")
        stream = streams[0]
        if not stream.codec_context:
            raise DecodeError(self._path, "its video is in a format that this FFmpeg cannot decode")
        self._decoder = stream.codec_context
        self._decoder.thread_count = 1  # data workers run side by side; threads within them only compete
        indexed = len(getattr(stream, "index_entries", ()))  # from PyAV 17 on
        self._packets = [packet for packet in self._container.demux(stream) if packet.size]
        if len(self._packets) < indexed or (self._packets and self._packets[-1].is_corrupt):
            raise DecodeError(self._path, f"truncated after {len(self._packets)} frames")

        self._is_timed = self._container.format.name not in _UNTIMED_CONTAINERS
        # Without presentation times, the decoding times are those of the frames in display order, but for a
        # constant delay, which drops out because a video starts at 0.
        times = [p.pts if self._is_timed else p.dts for p in self._packets if not p.is_discard]
        self._times = sorted({time for time in times if time is not None})
        self._size = self._decoder.height, self._decoder.width
        if not self._times or 0 in self._size:
            raise DecodeError(self._path, "it has no video frames")
        self._time_base = stream.time_base or Fraction(1, av.time_base)
        rate = stream.average_rate or stream.guessed_rate or _FALLBACK_FPS
        self._last_frame_ticks = self._packets[-1].duration or 1 / (rate * self._time_base)

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame's start to the last one's end."""
        return (self._times[-1] - self._times[0] + self._last_frame_ticks) * self._time_base

    def get_clip(
        self,
        start_sec: float | Fraction,
        end_sec: float | Fraction,
        choose: FrameChooser | None = None,
        short_side: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Frames shown from `start_sec` (inclusive) to `end_sec` (exclusive).

        Args:
            choose: picks among the window's frames; all of them without it. A window in which no new
                frame appears holds the one on screen at its start.
            short_side: pixels of the shorter side, aspect ratio kept; the file's own size without it.

        Returns:
            {"video": uint8 (C, T, H, W)}, rotated the way the file's metadata asks for.

        Raises:
            DecodeError: the frames cannot be decoded.
        """
        start = self._times[0] + Fraction(start_sec) / self._time_base
        end = self._times[0] + Fraction(end_sec) / self._time_base
        wanted = [self._times[i] for i in _choose_frames(self._times, start, end, choose)]
        # One size for all frames, even where the stream changes its own half-way.
        size = self._size if short_side is None else scaled(*self._size, short_side)
        try:
            pictures = self._decode(set(wanted), size)
        except _ERRORS as error:
            raise DecodeError(self._path, _reason(error)) from error
        clip = np.stack([pictures[time] for time in wanted])
        return {"video": torch.from_numpy(clip).permute(3, 0, 1, 2)}

    def close(self) -> None:
        """Let go of the file and its packets; the video cannot be used after that."""
        self._packets = []
        self._container.close()

    def _decode(self, wanted: set[int], size: tuple[int, int]) -> dict[int, np.ndarray]:
        """Time -> RGB picture (H, W, C) for every wanted time."""
        pictures: dict[int, np.ndarray] = {}
        if self._is_timed:
            for frame in self._frames(self._keyframe_before(min(wanted)), wanted):
                if frame.pts in wanted and not frame.is_corrupt:
                    pictures[frame.pts] = self._to_rgb(frame, size)
                    if len(pictures) == len(wanted):
                        return pictures
        # No times to go by, or a packet's frame never came (some packets carry none of their own, some
        # keyframes depend on earlier frames): a decode from the start tells what was on screen.
        return self._decode_from_start(sorted(wanted), size)

    def _decode_from_start(self, wanted: Sequence[int], size: tuple[int, int]) -> dict[int, np.ndarray]:
        """Time -> RGB picture on screen at that time, for every one of the ascending wanted times."""
        pictures: dict[int, np.ndarray] = {}
        on_screen = None
        for time, frame in self._timed_frames():
            while on_screen and len(pictures) < len(wanted) and wanted[len(pictures)] < time:
                pictures[wanted[len(pictures)]] = self._to_rgb(on_screen, size)
            if len(pictures) == len(wanted):
                return pictures
            on_screen = frame
        if on_screen is None:
            raise DecodeError(self._path, "none of its frames can be decoded")
        return pictures | {time: self._to_rgb(on_screen, size) for time in wanted[len(pictures) :]}

    def _timed_frames(self) -> Iterator[tuple[int, av.VideoFrame]]:
        if self._is_timed:
            return ((frame.pts, frame) for frame in self._frames(0) if frame.pts is not None)
        return zip(self._times, self._frames(0), strict=False)

    def _to_rgb(self, frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """A decoded frame as uint8 (H, W, C), scaled during the colour conversion, then turned upright."""
        height, width = size
        picture = self._reformatter.reformat(frame, width, height, "rgb24", **_ONE_THREAD).to_ndarray()
        return np.rot90(picture, round(frame.rotation / 90)) if frame.rotation else picture

    def _frames(self, first_packet: int, wanted: Container[int] | None = None) -> Iterator[av.VideoFrame]:
        """Decodes in order; may leave out frames that are neither wanted nor needed for those that are."""
        self._decoder.flush_buffers()
        droppable = wanted is not None and self._decoder.name in _DROPPABLE_CODECS
        was_wanted = True
        for packet in self._packets[first_packet:]:
            is_wanted = wanted is None or packet.pts is None or packet.pts in wanted
            # A packet may hold one field, and the one after it the frame's other field.
            may_drop = droppable and not is_wanted and not was_wanted
            self._decoder.skip_frame = "NONREF" if may_drop else "DEFAULT"
            yield from self._decoder.decode(packet)
            was_wanted = is_wanted
        self._decoder.skip_frame = "DEFAULT"
        yield from self._decoder.decode(None)

    def _keyframe_before(self, time: int) -> int:
        """Index of the last packet from which the frame at `time` can be decoded."""
        keys = (
            i for i, p in enumerate(self._packets) if p.is_keyframe and p.pts is not None and p.pts <= time
        )
        return max(keys, default=0)


class DecordVideo(Video):
    """A video decoded by decord. Same interface as `PyAVVideo`, which is the one to prefer.

    decord's random access is off by a few frames on MPEG-4 with B-frames, and it reads fewer formats.
    """

    def __init__(self, path: str) -> None:
        import decord  # has no wheel for some platforms

        self._path = path
        decord.logging.set_level(decord.logging.QUIET)
        try:
            # By path: given a file object, decord can crash the process on a truncated file.
            self._reader = decord.VideoReader(local_file(path), num_threads=1)
            self._spans = self._reader.get_frame_timestamp(range(len(self._reader)))
        except (decord.DECORDError, RuntimeError, OSError) as error:
            raise DecodeError(path, _reason(error)) from error
        self._errors = (decord.DECORDError, RuntimeError)

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame's start to the last one's end."""
        return Fraction(float(self._spans[-1, 1] - self._spans[0, 0]))

    def get_clip(
        self,
        start_sec: float | Fraction,
        end_sec: float | Fraction,
        choose: FrameChooser | None = None,
        short_side: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """As `PyAVVideo.get_clip`."""
        times = (self._spans[:, 0] - self._spans[0, 0]).tolist()
        try:
            frames = self._reader.get_batch(_choose_frames(times, start_sec, end_sec, choose)).asnumpy()
        except self._errors as error:
            raise DecodeError(self._path, _reason(error)) from error
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
        if short_side is not None:
            height, width = clip.shape[-2:]
            clip = functional.resize(clip, list(scaled(height, width, short_side)))
        return {"video": clip.transpose(0, 1)}


def local_file(path: str) -> str:
    """The file at `path` on this machine; DecodeError if there is none."""
    if g_pathmgr.isdir(path):
        raise DecodeError(path, "it is a directory")
    if not g_pathmgr.isfile(path):  # a pipe might never end
        raise DecodeError(path, "it is no regular file" if g_pathmgr.exists(path) else "no such file")
    return g_pathmgr.get_local_path(path)


def _reason(error: Exception) -> str:
    """An error of the decoder in one line, without the file name that `DecodeError` adds."""
    if isinstance(error, (av.InvalidDataError, av.EOFError, IndexError)):
        return "damaged, truncated, or not a video"
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    text = str(getattr(error, "strerror", None) or error).strip()
    # decord starts with the time of day and a path on the machine it was built on.
    return re.sub(r"^\[[\d:]+\] \S+: ", "", text.splitlines()[0]) if text else type(error).__name__


def _choose_frames(
    times: Sequence[float],
    start: float | Fraction,
    end: float | Fraction,
    choose: FrameChooser | None,
) -> list[int]:
    """Indices into the ascending `times` of the wanted frames of the window [start, end)."""
    first, stop = bisect_left(times, start), bisect_left(times, end)
    if first >= stop:
        first = max(bisect_right(times, start) - 1, 0)
        stop = first + 1
    indices = torch.arange(stop - first) if choose is None else choose(stop - first)
    return (first + indices).tolist()


def scaled(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width once the shorter of them is `short_side`."""
    short = min(height, width)
    return round(height * short_side / short), round(width * short_side / short)
