"""Videos decoded by decord, where it shows the right frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing

import torch
from torchvision.transforms.v2 import functional

from revit_video.data.packets import PacketFile
from revit_video.data.pyav_video import PyAVVideo
from revit_video.data.shards import ffmpeg_url, local_file, shard_part
from revit_video.data.video import LIMITS, DecodeError, Limits, VideoFile, decode_errors, scaled

# decord seeks to whatever the container marks as a keyframe, and elsewhere numbers frames wrongly.
_CONTAINERS = {"mov", "matroska"}
_CODECS = {"h264", "vp8", "vp9", "mjpeg", "prores", "ffv1"}

_MOV_STARTS = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"}
_EBML_START = b"\x1a\x45\xdf\xa3"

_H264_IDR = 5


class DecordVideo(VideoFile):
    """A video decoded by decord; prefer `PyAVVideo`, which reads every video that ffmpeg reads.

    The times are those of `PyAVVideo`. A file in which decord would find other frames is refused. decord is
    unmaintained, and its FFmpeg of 2018 opens whatever a playlist or script names: it is given only files
    whose first bytes are those of a container that names no others.
    """

    def __init__(self, path: str, limits: Limits = LIMITS) -> None:
        import decord  # has no wheel for some platforms

        self._path, self._limits = path, limits
        decord.logging.set_level(decord.logging.QUIET)
        with decode_errors(path, limits):
            with closing(PyAVVideo(path, limits)) as video:
                self.times, self.duration = video.times, video.duration
                self._size = video.packets.stream.height, video.packets.stream.width
                objection = _objection(video) if _is_plain_container(path) else "no MP4, MOV, MKV or WebM"
            if objection is None:
                # By path: given a file object, decord can crash the process on a truncated file.
                self._reader = decord.VideoReader(ffmpeg_url(os.path.abspath(path)), num_threads=1)
                if len(self._reader) != len(self.times):
                    objection = f"{len(self._reader)} frames instead of {len(self.times)}"
            if objection is not None:
                raise DecodeError(path, f"decord may show wrong frames ({objection}); use pyav")

    def read(self, frames: Sequence[int], short_side: int | None = None) -> torch.Tensor:
        """As `VideoFile.read`."""
        with decode_errors(self._path, self._limits):
            self._limits.check_clip(self._path, len(frames), *self._size)
            pictures = self._reader.get_batch(list(frames)).asnumpy()
        clip = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        if short_side is not None:
            height, width = clip.shape[-2:]
            clip = functional.resize(clip, list(scaled(height, width, short_side)))
        return clip.transpose(0, 1)


def _is_plain_container(path: str) -> bool:
    """Whether the first bytes of the sample at `path` are those of MP4, MOV, MKV or WebM."""
    part = shard_part(path)
    with open(local_file(path), "rb") as file:
        file.seek(part.offset if part else 0)
        start = file.read(8)
    return start[4:] in _MOV_STARTS or start[:4] == _EBML_START


def _objection(video: PyAVVideo) -> str | None:
    """Why decord would not show the frames of `video`; None if nothing speaks against it."""
    file = video.packets
    container, codec = file.container.format.name.split(",")[0], file.stream.codec_context.name
    if container not in _CONTAINERS:
        return f"container {container}"
    if codec not in _CODECS:
        return f"codec {codec}"
    if len(file.container.streams.video) > 1:
        return "several video streams"
    if file.index.is_discard.any():
        return "trimmed by an edit list"
    if not video.has_plain_pictures:
        return "rotated, mirrored or with pixels that are not square"
    if video.timeline.are_counted:
        return "wrong timestamps"
    if codec == "h264" and not _keys_are_idr(file):
        return "keyframes that need earlier frames"
    return None


def _keys_are_idr(file: PacketFile) -> bool:
    """Whether the container marks as keyframes only H.264 packets that hold an IDR picture."""
    marks = [entry.is_keyframe for entry in getattr(file.stream, "index_entries", ())]
    if len(marks) == len(file.index) and sum(marks) != file.index.is_key.sum():
        return False  # FFmpeg's parser knows better
    extradata = file.stream.codec_context.extradata or b""
    size = (extradata[4] & 3) + 1 if len(extradata) > 4 else 4
    keys = (packet for _, packet in file.packets_from(0) if packet.is_keyframe)
    return all(_H264_IDR in _unit_types(bytes(packet), size) for packet in keys)


def _unit_types(data: bytes, size: int) -> set[int]:
    """Types of the NAL units in a packet, each after its length in `size` bytes."""
    types, at = set(), 0
    while at + size < len(data):
        types.add(data[at + size] & 31)
        at += size + int.from_bytes(data[at : at + size], "big")
    return types
