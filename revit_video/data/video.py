"""Video files: the times of their frames, and the wanted frames at the wanted size.

Also behind pytorchvideo's `Video` interface (`get_clip`).
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Container, Iterable, Iterator, Sequence
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

from revit_video.data.sampling import Seconds, Window, frames_in

DECODING_BACKENDS = ("pyav", "decord")

# Containers that store no presentation times: FFmpeg guesses them, wrongly for packed B-frames.
_UNTIMED_CONTAINERS = {"avi"}

# Codecs in which no other frame depends on one that is marked as droppable. (In HEVC a higher layer may.)
_DROPPABLE_CODECS = {"h264", "mpeg4"}

# Raised by PyAV on damaged files; IndexError, because it looks streams up by damaged numbers.
_ERRORS = (av.FFmpegError, OSError, IndexError, MemoryError)

# Only for the duration of the last frame of a file that states no frame rate.
_FALLBACK_FPS = 30

# Data workers run side by side: no extra threads for scaling. The argument exists from PyAV 17 on.
_ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}


class DecodeError(ValueError):
    """A file that cannot be decoded; `path` and a one-line `reason`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoFile(Video):
    """Frames by number; by time through pytorchvideo's `get_clip`.

    Attributes:
        times: seconds at which each frame appears, ascending from 0.
        duration: seconds from the first frame's start to the last one's end.
    """

    times: Sequence[Seconds] = ()
    duration = Fraction(0)

    @abstractmethod
    def read(self, frames: Sequence[int], short_side: int | None = None) -> torch.Tensor:
        """Decode the frames with the given indices into `times`; any order, repeats allowed.

        Args:
            short_side: pixels of the shorter side, aspect ratio kept; None for the file's own size.

        Returns:
            uint8 (C, T, H, W), rotated as the file's metadata says.

        Raises:
            DecodeError: the frames cannot be decoded.
        """

    def get_clip(self, start_sec: Seconds, end_sec: Seconds) -> dict[str, torch.Tensor]:
        """All frames from `start_sec` (included) to `end_sec` (excluded), as {"video": (C, T, H, W)}.

        A window in which no new frame appears holds the one on screen at its start.
        """
        return {"video": self.read(frames_in(self.times, Window(start_sec, end_sec)))}


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


class PyAVVideo(VideoFile):
    """A video decoded by FFmpeg through PyAV.

    Opening reads all packets without decoding them; their timestamps give the time of every frame. Frames
    are decoded in order from the nearest keyframe on, so that they equal those of a plain sequential decode;
    only the wanted ones are converted to RGB, which scales them too.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._reformatter = VideoReformatter()  # one for all frames: its scaler is set up once
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
        self._ticks = _frame_ticks(self._packets, self._is_timed)
        self._size = self._decoder.height, self._decoder.width
        if not self._ticks or 0 in self._size:
            raise DecodeError(self._path, "it has no video frames")
        time_base = stream.time_base or Fraction(1, av.time_base)
        rate = stream.average_rate or stream.guessed_rate or _FALLBACK_FPS
        last_frame = (self._packets[-1].duration or 1 / (rate * time_base)) * time_base
        times = [(tick - self._ticks[0]) * time_base for tick in self._ticks]
        self.times, self.duration = times, times[-1] + last_frame

    def read(self, frames: Sequence[int], short_side: int | None = None) -> torch.Tensor:
        """As `VideoFile.read`."""
        wanted = [self._ticks[n] for n in frames]
        # One size for all frames, even where the stream changes its own half-way.
        size = self._size if short_side is None else scaled(*self._size, short_side)
        try:
            pictures = self._decode(set(wanted), size)
        except _ERRORS as error:
            raise DecodeError(self._path, _reason(error)) from error
        clip = np.stack([pictures[tick] for tick in wanted])
        return torch.from_numpy(clip).permute(3, 0, 1, 2)

    def close(self) -> None:
        """Close the file and free its packets; the video cannot be used after that."""
        self._packets = []
        self._container.close()

    def _decode(self, wanted: set[int], size: tuple[int, int]) -> dict[int, np.ndarray]:
        """Tick -> RGB picture (H, W, C) for every wanted tick."""
        pictures: dict[int, np.ndarray] = {}
        if self._is_timed:
            for frame in self._frames(self._keyframe_before(min(wanted)), wanted):
                if frame.pts in wanted and not frame.is_corrupt:
                    pictures[frame.pts] = self._to_rgb(frame, size)
                    if len(pictures) == len(wanted):
                        return pictures
        # No timestamps, or no frame came for a packet (some packets carry none of their own, some keyframes
        # depend on earlier frames): decoding from the start shows what was on screen.
        return self._decode_from_start(sorted(wanted), size)

    def _decode_from_start(self, wanted: Sequence[int], size: tuple[int, int]) -> dict[int, np.ndarray]:
        """Tick -> RGB picture on screen at that time, for every one of the ascending wanted ticks."""
        pictures: dict[int, np.ndarray] = {}
        on_screen = None
        for tick, frame in self._timed_frames():
            while on_screen and len(pictures) < len(wanted) and wanted[len(pictures)] < tick:
                pictures[wanted[len(pictures)]] = self._to_rgb(on_screen, size)
            if len(pictures) == len(wanted):
                return pictures
            on_screen = frame
        if on_screen is None:
            raise DecodeError(self._path, "none of its frames can be decoded")
        return pictures | {tick: self._to_rgb(on_screen, size) for tick in wanted[len(pictures) :]}

    def _timed_frames(self) -> Iterator[tuple[int, av.VideoFrame]]:
        if self._is_timed:
            return ((frame.pts, frame) for frame in self._frames(0) if frame.pts is not None)
        return zip(self._ticks, self._frames(0), strict=False)

    def _to_rgb(self, frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """A decoded frame as uint8 (H, W, C), scaled during the colour conversion, then turned upright."""
        height, width = size
        picture = self._reformatter.reformat(frame, width, height, "rgb24", **_ONE_THREAD).to_ndarray()
        return np.rot90(picture, round(frame.rotation / 90)) if frame.rotation else picture

    def _frames(self, first_packet: int, wanted: Container[int] | None = None) -> Iterator[av.VideoFrame]:
        """Decode in order; may leave out frames that are neither wanted nor needed for those that are."""
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

    def _keyframe_before(self, tick: int) -> int:
        """Index of the last packet from which the frame at `tick` can be decoded."""
        keys = (
            n for n, p in enumerate(self._packets) if p.is_keyframe and p.pts is not None and p.pts <= tick
        )
        return max(keys, default=0)


def _frame_ticks(packets: Iterable[av.Packet], is_timed: bool) -> list[int]:
    """The ascending display times of all frames, in ticks of the stream's time base."""
    # Without presentation times, the decoding times are those of the frames in display order but for a
    # constant delay, which drops out because a video starts at 0.
    ticks = [p.pts if is_timed else p.dts for p in packets if not p.is_discard]
    return sorted({tick for tick in ticks if tick is not None})


class DecordVideo(VideoFile):
    """A video decoded by decord; prefer `PyAVVideo`.

    decord's random access is off by a few frames on MPEG-4 with B-frames, and it reads fewer formats.
    """

    def __init__(self, path: str) -> None:
        import decord  # has no wheel for some platforms

        self._path = path
        decord.logging.set_level(decord.logging.QUIET)
        try:
            # By path: given a file object, decord can crash the process on a truncated file.
            self._reader = decord.VideoReader(local_file(path), num_threads=1)
            spans = self._reader.get_frame_timestamp(range(len(self._reader)))
        except (decord.DECORDError, RuntimeError, OSError) as error:
            raise DecodeError(path, _reason(error)) from error
        self._errors = (decord.DECORDError, RuntimeError)
        self.times = (spans[:, 0] - spans[0, 0]).tolist()
        self.duration = Fraction(float(spans[-1, 1] - spans[0, 0]))

    def read(self, frames: Sequence[int], short_side: int | None = None) -> torch.Tensor:
        """As `VideoFile.read`."""
        try:
            pictures = self._reader.get_batch(list(frames)).asnumpy()
        except self._errors as error:
            raise DecodeError(self._path, _reason(error)) from error
        clip = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        if short_side is not None:
            height, width = clip.shape[-2:]
            clip = functional.resize(clip, list(scaled(height, width, short_side)))
        return clip.transpose(0, 1)


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


def scaled(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width once the shorter of them is `short_side`."""
    short = min(height, width)
    return round(height * short_side / short), round(width * short_side / short)
