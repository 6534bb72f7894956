"""The archive (a zip file) in which torch saves: checked before anything in it is read or believed.

PyTorch reads tensors without a look at the archive's checksums, and believes the sizes that it states.
"""

from __future__ import annotations

import os
import zipfile
from functools import lru_cache
from typing import IO, Any

CHUNK = 1 << 20
LATER = (b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how pickles of protocol 3 to 5 begin
LARGE, ON_DISK = 1 << 28, 1 / 8  # bytes; a larger file has at least this share of them on the disk


def damage(path: str) -> str:
    """What is wrong with the archive at `path`, in a few words; empty if every byte is as it was written.

    About a second per GB. A file that has not changed since is not read again.

    Raises:
        OSError: the file cannot be read.
    """
    stat = os.stat(path)
    if stat.st_size > LARGE and hasattr(stat, "st_blocks") and 512 * stat.st_blocks < ON_DISK * stat.st_size:
        return f"{stat.st_size} bytes long, of which only {512 * stat.st_blocks} are on the disk"
    return _damage_of_version(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=64)
def _damage_of_version(path: str, *version: int) -> str:
    with open(path, "rb") as file:
        return _damage_of(file)


def _damage_of(file: IO[Any]) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            return _wrong_sizes(archive, file) or _wrong_content(archive)
    except OSError:
        raise
    except zipfile.BadZipFile as error:
        return f"damaged: {error}"
    except Exception as error:  # zipfile raises many kinds for damaged directories
        return f"damaged: {type(error).__name__}"


def _wrong_sizes(archive: zipfile.ZipFile, file: IO[Any]) -> str:
    """Entries that would become larger in memory than the file is."""
    entries = archive.infolist()
    size = file.seek(0, os.SEEK_END)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "refused: it holds compressed entries, which torch does not write"
    if len({entry.filename for entry in entries}) < len(entries):
        return "refused: it holds two entries of one name"
    if (stated := sum(entry.file_size for entry in entries)) > size:
        return f"refused: its entries claim {stated} bytes, and the file has {size}"
    return ""


def in_protocol_2(file: IO[bytes]) -> IO[bytes]:
    """`file` from its start; where it was pickled in a later protocol, its content in protocol 2, in memory.

    PyTorch reads protocol 2 alone without running code.

    Raises:
        pickle.UnpicklingError, ValueError: it holds no pickle, or one that protocol 2 has no words for.
    """
    pickled = ""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name.split("/", 1)[-1] == "data.pkl"]
            pickled = names[0] if len(names) == 1 else ""
            start = archive.open(pickled).read(2) if pickled else b""
    else:
        file.seek(0)
        start = file.read(2)
    file.seek(0)
    if start not in LATER:
        return file
    from revit_video.models import pickles  # few files need it

    return pickles.archive(file, pickled) if pickled else pickles.legacy(file)


def _wrong_content(archive: zipfile.ZipFile) -> str:
    for entry in archive.infolist():
        with archive.open(entry) as content:  # compares the checksum at its end
            while content.read(CHUNK):
                pass
    return ""
