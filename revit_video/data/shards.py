"""Where a sample is: a file, or bytes of a tar file that its path names, so that a list is an index.

`shards/train-000000.tar@1536+104857/archery/x.mp4`: 104857 bytes from byte 1536 on; the rest is for people.
"""

from __future__ import annotations

import os
import re
from io import BytesIO
from typing import BinaryIO, NamedTuple

from revit_video.data.video import DecodeError

_SHARD_PATH = re.compile(r"(.+\.tar)@(\d+)\+(\d+)/")


class ShardPart(NamedTuple):
    """`size` bytes of a file from `offset` on."""

    shard: str
    offset: int
    size: int


def shard_path(shard: str, offset: int, size: int, name: str) -> str:
    """The path of a sample inside a shard."""
    return f"{shard}@{offset}+{size}/{name}"


def shard_part(path: str) -> ShardPart | None:
    """Where the sample at `path` stands; None for a file of its own."""
    found = _SHARD_PATH.match(path)
    return ShardPart(found[1], int(found[2]), int(found[3])) if found else None


def open_bytes(part: ShardPart) -> BinaryIO:
    """A sample's bytes as a file."""
    with open(part.shard, "rb") as file:
        there = os.fstat(file.fileno()).st_size - part.offset
        file.seek(part.offset)
        return BytesIO(file.read(max(min(part.size, there), 0)))


def local_file(path: str) -> str:
    """The file at `path`, or the shard that holds the sample there; DecodeError if there is none."""
    part = shard_part(path)
    file = part.shard if part else path
    if os.path.isdir(file):
        raise DecodeError(path, "it is a directory")
    if not os.path.isfile(file):  # a pipe might never end
        raise DecodeError(path, "it is no regular file" if os.path.exists(file) else "no such file")
    return file


def ffmpeg_url(path: str) -> str:
    """`path` for FFmpeg: part of a shard, or a file, whose name may look like a protocol's (`a:b.mp4`)."""
    if part := shard_part(path):
        return f"subfile,,start,{part.offset},end,{part.offset + part.size},,:file:{local_file(path)}"
    return "file:" + local_file(path)
