"""The packets of a video file: indexed without their payload, and demuxed again from any of them on."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import av
import numpy as np
from av.stream import Disposition

from revit_video.data.shards import ffmpeg_url, local_file
from revit_video.data.video import LIMITS

UNKNOWN = np.iinfo(np.int64).min
"""Stands for a time or position that a packet does not have."""

CONTAINERS = (
    *("mov", "matroska", "avi", "asf", "flv", "mpeg", "mpegts", "ogg", "mxf", "rm", "gif", "dv", "ivf"),
    *("yuv4mpegpipe", "mpegvideo", "m4v", "mjpeg", "h264", "hevc", "nut", "obu", "apng"),
)
"""FFmpeg's names of those that are read; playlists, scripts and lists of files would open other files."""

MOST_STREAMS = 256  # a whole transponder has fewer; FFmpeg takes up to a megabyte for each
MOST_PACKETS = 1 << 22  # 19 hours of 60 frames/s
MOST_INFLATED, SPARE_BYTES = (
    16,
    64 << 20,
)  # Matroska may compress packets; all others are no larger than the file

# Between streams, being the default one counts as so many pixels.
_DEFAULT_STREAM_PIXELS = 5_000_000


@dataclass(frozen=True)
class PacketIndex:
    """The P packets of a stream in decoding order, as arrays (P,); 34 bytes per packet.

    Attributes:
        pts, dts: presentation and decoding time in ticks of the stream's time base, or `UNKNOWN`.
        position: offset in the file, or `UNKNOWN`.
        size: bytes.
        is_key: said to be decodable without the packets before it.
        is_discard: decoded for others' sake, not shown (cut off by an edit list; VP8's hidden frames).
        last_duration: ticks that the last packet is shown; 0 if unknown.
        is_cut: the last packet is incomplete.
    """

    pts: np.ndarray
    dts: np.ndarray
    position: np.ndarray
    size: np.ndarray
    is_key: np.ndarray
    is_discard: np.ndarray
    last_duration: int = 0
    is_cut: bool = False

    @classmethod
    def of(cls, packets: Iterable[av.Packet], file_size: int) -> PacketIndex:
        """Index packets as they are demuxed; none is kept. Packets without data are passed over.

        Raises:
            LookupError: there are more of them, or more bytes in them, than a file of that size holds.
        """
        pts, dts, position, size, flags = (array(code) for code in "qqqqb")
        packet, remaining = None, MOST_INFLATED * file_size + SPARE_BYTES
        for packet in _with_data(packets):
            remaining -= packet.size
            if remaining < 0:
                raise LookupError(f"its packets claim many times the {file_size} bytes that it has")
            check_count(len(size) + 1, file_size)
            pts.append(UNKNOWN if packet.pts is None else packet.pts)
            dts.append(UNKNOWN if packet.dts is None else packet.dts)
            position.append(UNKNOWN if packet.pos is None else packet.pos)
            size.append(packet.size)
            flags.append(packet.is_keyframe + 2 * (packet.is_discard or _is_hidden(packet)))
        bits = np.array(flags)
        return cls(
            np.array(pts),
            np.array(dts),
            np.array(position),
            np.array(size),
            is_key=bits & 1 > 0,
            is_discard=bits & 2 > 0,
            last_duration=(packet.duration or 0) if packet else 0,
            is_cut=packet is not None and packet.is_corrupt,
        )

    def __len__(self) -> int:
        return len(self.size)

    def find(self, packet: av.Packet) -> int | None:
        """The number of a packet that was demuxed again; None if it cannot be told from others."""
        same = self.size == packet.size
        if packet.pos is not None:
            same &= self.position == packet.pos
        else:
            same &= (self.pts == packet.pts) & (self.dts == packet.dts)
        numbers = np.flatnonzero(same)
        return int(numbers[0]) if len(numbers) == 1 else None


def check_count(packets: int, file_size: int) -> None:
    """LookupError for more packets than are read, or than a file of that size can hold."""
    if packets > file_size:
        raise LookupError(f"it claims more frames than the {file_size} bytes that it has")
    if packets > MOST_PACKETS:
        raise LookupError(f"it claims more than {MOST_PACKETS} frames")


class PacketFile:
    """The packets of a file's video stream; of several streams, the one that ffmpeg chooses.

    Args:
        path: of a file, or of a sample in a shard.
        most_pixels: of a frame; the decoder refuses larger ones.

    Attributes:
        stream: with its decoder in `stream.codec_context`.
        index: all packets of the stream.

    Raises:
        LookupError: the file has no video stream, or is in none of `CONTAINERS`.
        av.FFmpegError: it cannot be read.
    """

    def __init__(self, path: str, most_pixels: int = LIMITS.pixels) -> None:
        self._path, self._place = path, _place(path)
        self._options = {
            "format_whitelist": ",".join(CONTAINERS),
            "protocol_whitelist": "file,subfile",
            "max_pixels": str(most_pixels),
            "max_streams": str(MOST_STREAMS + 1),
        }
        self._open()
        numbers = _by_preference(self.container)
        if not numbers:
            raise LookupError("it has no video stream")
        for self._stream_number in [*numbers, numbers[0]]:
            announced = len(getattr(self.stream, "index_entries", ()))  # from PyAV 17 on
            check_count(announced, self.container.size)
            self.index = PacketIndex.of(self.container.demux(self.stream), self.container.size)
            if len(self.index) > 1:
                break
            self._open()  # beside a video, a stream of one picture is its thumbnail

    @property
    def stream(self) -> av.VideoStream:
        """The stream in the container that is open now."""
        stream = self.container.streams[self._stream_number]
        assert isinstance(stream, av.VideoStream)
        return stream

    def packets_from(self, first: int) -> Iterator[tuple[int, av.Packet]]:
        """Demux packet number `first` and all after it, each with its number."""
        start, packets = self._seek(first)
        for number, packet in enumerate(packets, start):
            if number >= first:
                yield number, packet
                first = number + 1
        if first < len(self.index):  # after a seek, joined files end with the first of them
            for number, packet in enumerate(self._from_start()):
                if number >= first:
                    yield number, packet

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def _open(self) -> None:
        try:
            # Titles in metadata need not be UTF-8.
            self.container = av.open(ffmpeg_url(self._path), metadata_errors="replace", options=self._options)
        except av.ArgumentError:
            raise LookupError("not a video, or in a container that is not read (docs/videos.md)") from None
        except MemoryError:
            raise LookupError(
                f"it has over {MOST_STREAMS} streams, or takes more memory than there is"
            ) from None
        if len(self.container.streams) > MOST_STREAMS:
            raise LookupError(f"it has over {MOST_STREAMS} streams")
        for stream in self.container.streams.video:
            if stream.codec_context:
                stream.codec_context.thread_count = 1  # data workers run side by side; more would compete
                stream.codec_context.options = {"max_pixels": self._options["max_pixels"]}

    def _seek(self, first: int) -> tuple[int, Iterator[av.Packet]]:
        """The number of a packet not after `first`, and the packets from it on."""
        # Containers index one or the other.
        for time in (self.index.pts[first], self.index.dts[first]):
            if time == UNKNOWN:
                continue
            with suppress(av.FFmpegError):  # not every format can seek
                self.container.seek(int(time), stream=self.stream)
                packets = _with_data(self.container.demux(self.stream))
                packet = next(packets, None)
                number = self.index.find(packet) if packet else None
                if packet and number is not None and number <= first:
                    return number, chain([packet], packets)
        return 0, self._from_start()

    def _from_start(self) -> Iterator[av.Packet]:
        """The packets of the index once more; LookupError where the file is another one by now."""
        self.container.close()
        self._open()
        changed = LookupError("it was changed while it was read")
        if _place(self._path) != self._place or self._stream_number >= len(self.container.streams):
            raise changed
        packets = _with_data(self.container.demux(self.stream))
        for packet, size in zip(packets, self.index.size, strict=False):  # a file that grows has more
            if packet.size != size:
                raise changed
            yield packet


def _place(path: str) -> tuple[int, int]:
    """Where the file at `path` is on the disk: elsewhere, once another one has taken its name."""
    status = os.stat(local_file(path))
    return status.st_dev, status.st_ino


def _by_preference(container: av.container.InputContainer) -> list[int]:
    """Numbers of the video streams, best first: the largest, or the default one (`ffmpeg`'s rule)."""
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails)
    ]
    return [stream.index for stream in sorted(streams, key=_preference, reverse=True)]


def _preference(stream: av.VideoStream) -> int:
    decoder = stream.codec_context
    pixels = decoder.width * decoder.height if decoder else 0
    return pixels + _DEFAULT_STREAM_PIXELS * bool(stream.disposition & Disposition.default)


def _is_hidden(packet: av.Packet) -> bool:
    """Whether a VP8 frame is for others to refer to alone (RFC 6386, 9.1: `show_frame` is 0)."""
    decoder = packet.stream.codec_context
    return decoder is not None and decoder.name == "vp8" and not memoryview(packet)[0] & 0x10


def _with_data(packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
    """The packets that hold data; a demuxer ends with one that does not."""
    return (packet for packet in packets if packet.size)
