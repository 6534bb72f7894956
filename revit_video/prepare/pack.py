"""Few large tar files instead of many small ones, for file systems that suffer from those."""

from __future__ import annotations

import csv
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO

from revit_video.data.shards import shard_path
from revit_video.prepare.data_folder import Lists
from revit_video.prepare.parallel import Died, in_processes
from revit_video.runtime.logging import progress
from revit_video.runtime.output_dir import replacing, write_csv

_BLOCK = tarfile.BLOCKSIZE
INDEX = ["member", "offset", "size", "label", "path"]


@dataclass
class Shard:
    """A tar file to be written, with webdataset's names: `000000012.mp4` beside `000000012.cls`."""

    path: str
    rows: list[tuple[str, int, int, int, str]] = field(default_factory=list)  # as INDEX says
    size: int = 0

    def add(self, number: int, path: str, label: int, size: int) -> int:
        """Plans a member for a file of `size` bytes; the offset at which its bytes will stand."""
        suffix = os.path.splitext(path)[1].lower()
        offset = self.size + _BLOCK  # after its header
        self.rows.append((f"{number:09d}{suffix}", offset, size, label, path))
        self.size = offset + _padded(size) + _BLOCK + _padded(len(str(label)))
        return offset


def pack(
    lists: Lists, classes: Sequence[str], root: str, folder: str, shard_bytes: int, processes: int
) -> dict[str, str]:
    """Writes the files of all lists into shards `<split>-000000.tar`, … with an index beside each.

    A file in several lists is written once. Shards that are there with the same index are kept.

    Args:
        classes: names in the order of their labels.
        root: the folder below which the files lie.

    Returns:
        Path of a file -> its path in a shard, see `data.shards`.
    """
    labels = {name: label for label, name in enumerate(classes)}
    shards: list[Shard] = []
    packed: dict[str, str] = {}
    for split, entries in lists.items():
        first = len(shards)
        for number, entry in enumerate(entries):
            path = entry.path
            if path in packed:
                continue
            size = os.path.getsize(path)
            if len(shards) == first or shards[-1].size + size > shard_bytes:
                shards.append(Shard(os.path.join(folder, f"{split}-{len(shards) - first:06d}.tar")))
            offset = shards[-1].add(number, path, labels[entry.label], size)
            packed[path] = shard_path(shards[-1].path, offset, size, os.path.relpath(path, root))
    for shard, result in progress(in_processes(_write, shards, processes, 86_400), len(shards), "pack"):
        if isinstance(result, Died):
            raise OSError(f"{shard.path}: {result.reason}")
    return packed


def _write(shard: Shard) -> None:
    index = os.path.splitext(shard.path)[0] + ".csv"
    if os.path.isfile(shard.path) and _is_index(index, shard):
        return
    with (
        replacing(shard.path, "wb") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for member, offset, size, label, path in shard.rows:
            with open(path, "rb") as media:
                tar.addfile(_member(member, size), media)
            assert tar.offset == offset + _padded(size)
            text = str(label).encode()
            tar.addfile(_member(os.path.splitext(member)[0] + ".cls", len(text)), BytesIO(text))
    write_csv(index, INDEX, shard.rows)


def _is_index(path: str, shard: Shard) -> bool:
    """Whether the index at `path` is the shard's; it is written after the shard."""
    if not os.path.isfile(path):
        return False
    with open(path, encoding="utf-8", newline="") as file:
        there = list(csv.reader(file))
    return there == [INDEX, *([str(value) for value in row] for row in shard.rows)]


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
