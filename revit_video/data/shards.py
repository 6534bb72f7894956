"""Samples inside tar files: a path that says which bytes of which file they are, so that a list is an index.

`shards/train-000000.tar@1536+104857/archery/x.mp4`: 104857 bytes from byte 1536 on; the rest is for people.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import BinaryIO, NamedTuple

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
        file.seek(part.offset)
        return BytesIO(file.read(part.size))
