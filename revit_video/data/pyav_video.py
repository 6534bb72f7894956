"""Videos decoded by FFmpeg through PyAV. `docs/videos.md` states the rules."""

from __future__ import annotations

from bisect import bisect
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any, TypeVar

import av
import numpy as np
import torch
from av.buffer import Buffer
from av.video.reformatter import VideoReformatter

from revit_video.data.orientation import UPRIGHT, Orientation, orientation
from revit_video.data.packets import PacketFile
from revit_video.data.timeline import timeline
from revit_video.data.video import LIMITS, DecodeError, Limits, VideoFile, decode_errors, log_once, scaled

# Containers whose presentation times FFmpeg guesses, wrongly for packed B-frames.
_CONTAINERS_WITHOUT_PTS = {"avi"}

# Codecs in which no other frame depends on one that is marked as droppable. (In HEVC a higher layer may.)
_DROPPABLE_CODECS = {"h264", "mpeg4"}

# Only for files that state no frame rate.
_FALLBACK_FPS = 30

# A frame that cannot be decoded is replaced by the nearest one, at most so many frames away.
_NEIGHBOURHOOD = 12

# Packets that may fail to decode, as a share of the file's; two may always.
_DAMAGED_SHARE = 0.1

# Packets that are rather decoded than jumped over: seeking costs about as much.
_WORTH_SEEKING = 16

# Colour matrices that FFmpeg does not convert, read as others: reserved as unspecified, BT.2020 with constant
# luminance as that without.
_READ_AS = {3: 2, 10: 9}

# Data workers run side by side: no extra threads for scaling. The argument exists from PyAV 17 on.
_ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}

T = TypeVar("T")


class _Untrusted(Exception):
    """The decoder contradicts what the container says of keyframes or times."""


class PyAVVideo(VideoFile):
    """A video decoded by FFmpeg through PyAV: the frames of a plain sequential decode.

    Opening demuxes all packets without keeping or decoding them; their timestamps give the time of every
    frame. A read seeks to the keyframe before a wanted frame and decodes from there; where the decoder shows
    that a keyframe is none, from the start; where it shows that the times are wrong, counting frames. Only
    the wanted frames are converted to RGB, which scales them too.

    Attributes:
        packets: of the video stream.
        timeline: when its frames are shown.
        damaged: packets that could not be decoded in the latest read.
    """

    def __init__(self, path: str, limits: Limits = LIMITS) -> None:
        self._path, self._limits = path, limits
        self._reformatter = VideoReformatter()  # one for all frames: its scaler is set up once
        self.damaged: list[int] = []
        with decode_errors(path, limits):
            self.packets = PacketFile(path, limits.pixels)
            self._index = self.packets.index
            self._check()
            stream = self.packets.stream
            self._decoder = stream.codec_context  # outlives the container, which may be opened again
            self.timeline = timeline(
                self._index,
                time_base=stream.time_base or Fraction(1, av.time_base),
                frame_rate=stream.average_rate or stream.guessed_rate or Fraction(_FALLBACK_FPS),
                has_b_frames=bool(self._decoder.has_b_frames),
                has_pts=self.packets.container.format.name not in _CONTAINERS_WITHOUT_PTS,
            )
            if not self._index.is_key[0]:
                self.timeline = self.timeline.starting_at(self._first_shown())
            self.times = self.timeline.times
            self.duration = self.times[-1] + self.timeline.last_duration
            ratio = stream.sample_aspect_ratio or 1
            self._pixel_aspect = ratio if Fraction(1, 10) <= ratio <= 10 else Fraction(1)

    def _check(self) -> None:
        """Raise DecodeError where frames are missing or the codec is unknown."""
        stream, found = self.packets.stream, len(self._index)
        if not stream.codec_context:
            raise DecodeError(self._path, "its video is in a format that this FFmpeg cannot decode")
        announced = len(getattr(stream, "index_entries", ()))  # from PyAV 17 on
        if found < announced or self._index.is_cut:
            raise DecodeError(self._path, f"truncated after {found} frames")
        if not found or self._index.is_discard.all() or not stream.width * stream.height:
            raise DecodeError(self._path, "it has no video frames")
        self._limits.check_frame(self._path, stream.height, stream.width)

    def _first_shown(self) -> int:
        """Number of the first frame that can be decoded, in a recording that starts between keyframes."""
        packets = [frame.pts or 0 for frame in islice(self._decode(0), 1 + _NEIGHBOURHOOD)]
        if self.timeline.are_counted or not packets:
            return min(packets, default=0)
        return max(int(self.timeline.frame_of[packets].min()), 0)

    def read(self, frames: Sequence[int], short_side: int | None = None) -> torch.Tensor:
        """As `VideoFile.read`. All pictures get the upright size of the first one in time."""
        wanted = sorted(set(frames))
        attempts = [self._from_keyframes, self._from_start, self._counted]
        with decode_errors(self._path, self._limits):
            for attempt in attempts[-1:] if self.timeline.are_counted else attempts:
                self.damaged = []
                try:
                    pictures = self._pictures(attempt(wanted), len(wanted), short_side)
                    break
                except _Untrusted:
                    continue
            clip = np.stack([pictures[number] for number in frames])
        if self.damaged:
            log_once(self._path, "damaged frames were replaced by their neighbours")
        return torch.from_numpy(clip).permute(3, 0, 1, 2)

    def stream(
        self, frames: Sequence[int], short_side: int | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Each frame's number and upright picture (H, W, C) of the ascending `frames`, in one pass.

        As `read`, but nothing is kept: memory does not grow with their number.
        """
        attempts = [self._from_keyframes, self._from_start, self._counted]
        reached, size = -1, None
        with decode_errors(self._path):
            for attempt in attempts[-1:] if self.timeline.are_counted else attempts:
                self.damaged = []
                try:
                    for number, frame in attempt([n for n in frames if n > reached]):
                        turned = _orientation(frame)
                        size = size or self._upright_size(frame, turned, short_side)
                        yield number, self._to_rgb(frame, turned, size)
                        reached = number
                    return
                except _Untrusted:
                    continue

    @property
    def has_plain_pictures(self) -> bool:
        """Whether the first picture is shown as it is decoded, neither turned nor stretched."""
        frame = next(iter(self._decode(0)), None)
        return self._pixel_aspect == 1 and (frame is None or _orientation(frame) == UPRIGHT)

    def close(self) -> None:
        """Close the file; the video cannot be used after that."""
        self.packets.close()

    # ---- The wanted frames, each with its number ----------------------------------------------------------

    def _from_keyframes(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode each stretch of frames from the keyframe before it on."""
        for first, stretch in self._stretches(wanted):
            known_damage = len(self.damaged)
            frames = self._decode(first, set(stretch))
            if first > 0:
                frames = _from_a_keyframe(first, frames)
            try:
                for number, found, frame in nearest(self._by_packet(frames), stretch):
                    # Some packets carry no frame of their own, some keyframes need earlier frames.
                    if len(self.damaged) == known_damage and (found != number or frame.is_corrupt):
                        raise _Untrusted
                    yield number, frame
            except LookupError:
                raise _Untrusted from None

    def _from_start(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode from the start."""
        for number, _, frame in nearest(self._by_packet(self._decode(0)), wanted):
            yield number, frame

    def _counted(self, wanted: list[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode from the start and number the frames as the decoder returns them."""
        frames = (
            (n + bisect(self.damaged, frame.pts or 0), frame) for n, frame in enumerate(self._decode(0))
        )
        for number, _, frame in nearest(frames, wanted):
            yield number, frame

    def _stretches(self, wanted: list[int]) -> list[tuple[int, list[int]]]:
        """(packet of a keyframe, ascending frames to decode in one go from it on)."""
        frame_of = self.timeline.frame_of
        keys = np.flatnonzero(self._index.is_key & (frame_of >= 0))
        stretches: list[tuple[int, list[int]]] = []
        reached = -1
        for number in wanted:
            before = keys[frame_of[keys] <= number]
            first = int(before.max()) if len(before) else 0
            if stretches and first <= reached + _WORTH_SEEKING:
                stretches[-1][1].append(number)
            else:
                stretches.append((first, [number]))
            reached = int(np.flatnonzero(frame_of == number)[-1])
        return stretches

    def _by_packet(self, frames: Iterable[av.VideoFrame]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Number frames by their packets' times."""
        for frame in frames:
            number = int(self.timeline.frame_of[frame.pts])
            if number >= 0:
                yield number, frame

    def _decode(self, first: int, wanted: Container[int] | None = None) -> Iterator[av.VideoFrame]:
        """Decode from packet `first` on; `frame.pts` is the number of the packet.

        Args:
            wanted: frames to return; others may be left out unless these need them. None for all.
        """
        decoder = self._decoder
        decoder.flush_buffers()
        droppable = wanted is not None and decoder.name in _DROPPABLE_CODECS
        was_wanted = True
        for number, packet in self.packets.packets_from(first):
            frame = int(self.timeline.frame_of[number])
            is_wanted = wanted is None or frame < 0 or frame in wanted
            # A packet may hold one field, and the one after it the frame's other field.
            may_drop = droppable and not (is_wanted or was_wanted or self.damaged)
            decoder.skip_frame = "NONREF" if may_drop else "DEFAULT"
            packet.pts = packet.dts = number
            try:
                frames = decoder.decode(packet)
            except av.FFmpegError:
                if number == first > 0:
                    raise _Untrusted from None  # what came before may stand in for this keyframe
                frames = []
                self._count_damaged(number)
            yield from frames
            was_wanted = is_wanted
        decoder.skip_frame = "DEFAULT"
        yield from decoder.decode(None)

    def _count_damaged(self, number: int) -> None:
        self.damaged.append(number)
        if len(self.damaged) > max(2, _DAMAGED_SHARE * len(self._index)):
            raise DecodeError(self._path, f"damaged: {len(self.damaged)} of {len(self._index)} frames")

    # ---- From frames to pictures --------------------------------------------------------------------------

    def _pictures(
        self, frames: Iterable[tuple[int, av.VideoFrame]], count: int, short_side: int | None
    ) -> dict[int, np.ndarray]:
        """Number -> upright RGB picture (H, W, C)."""
        pictures: dict[int, np.ndarray] = {}
        size = None
        for number, frame in frames:
            turned = _orientation(frame)
            if size is None:
                size = self._upright_size(frame, turned, short_side)
                self._limits.check_clip(self._path, count, *size)
            pictures[number] = self._to_rgb(frame, turned, size)
        return pictures

    def _upright_size(
        self, frame: av.VideoFrame, turned: Orientation, short_side: int | None
    ) -> tuple[int, int]:
        """Height and width of a frame as it is seen, with square pixels."""
        size = frame.height, max(round(frame.width * self._pixel_aspect), 1)
        height, width = size[::-1] if turned.transposes else size
        self._limits.check_frame(self._path, height, width)
        return (height, width) if short_side is None else scaled(height, width, short_side)

    def _to_rgb(self, frame: av.VideoFrame, turned: Orientation, size: tuple[int, int]) -> np.ndarray:
        """A decoded frame as uint8 (H, W, C), scaled during the colour conversion, then turned upright."""
        height, width = size[::-1] if turned.transposes else size
        frame.colorspace = _READ_AS.get(frame.colorspace, frame.colorspace)
        try:
            picture = self._reformatter.reformat(frame, width, height, "rgb24", **_ONE_THREAD).to_ndarray()
        except av.FFmpegError:
            told = f"{frame.format.name}, colour matrix {frame.colorspace}"
            raise DecodeError(self._path, f"this FFmpeg cannot convert its colours ({told})") from None
        return turned.apply(picture)


def _orientation(frame: av.VideoFrame) -> Orientation:
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return orientation(bytes(matrix)) if isinstance(matrix, Buffer) else UPRIGHT


def nearest(frames: Iterable[tuple[int, T]], wanted: Sequence[int]) -> Iterator[tuple[int, int, T]]:
    """Find the wanted among numbered frames; where one is missing, the nearest takes its place.

    Args:
        frames: in ascending order; no more are taken than needed.
        wanted: ascending.

    Returns:
        (wanted number, number found, frame) for each.

    Raises:
        _Untrusted: the numbers of the frames descend.
        LookupError: there is no frame near a wanted one.
    """
    remaining = deque(wanted)
    before: tuple[int, T] | None = None
    for number, frame in frames:
        if before and number < before[0]:
            raise _Untrusted
        while remaining and remaining[0] <= number:
            target = remaining.popleft()
            is_nearer = before is None or number - target <= target - before[0]
            yield _near(target, (number, frame) if is_nearer else before)
        if not remaining:
            return
        before = number, frame
    for target in remaining:
        yield _near(target, before)


def _near(target: int, found: tuple[int, T] | None) -> tuple[int, int, T]:
    if found is None:
        raise LookupError("none of its frames can be decoded")
    if abs(found[0] - target) > _NEIGHBOURHOOD:
        raise LookupError(f"damaged: no frame from {target - _NEIGHBOURHOOD} to {target + _NEIGHBOURHOOD}")
    return target, *found


def _from_a_keyframe(packet: int, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Pass frames on if the first is that of `packet` and a keyframe indeed; else all after it are wrong."""
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None or first.pts != packet or not first.key_frame:
        raise _Untrusted
    yield first
    yield from remaining
