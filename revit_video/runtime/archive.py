"""The archive (a zip file) in which torch saves: checked before anything in it is read or believed.

PyTorch reads tensors without a look at the archive's checksums, and believes the sizes that it states.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import re
import zipfile
from contextlib import suppress
from functools import cache, lru_cache
from typing import IO, Any

CHUNK = 1 << 20
RESAVE = (
    "where you trust it, keep its weights alone: "
    "torch.save(torch.load('a.pth', weights_only=False)['model'], 'weights.pth')"
)
TUPLES = ("TUPLE", "FROZENSET")  # the latter become the former
MOST_IN_TUPLE = 10_000
LATER = (b"\x80\x03", b"\x80\x04", b"\x80\x05")  # how pickles of protocol 3 to 5 begin
LARGE, ON_DISK = 1 << 28, 1 / 8  # bytes; a larger file has at least this share of them on the disk


def damage(path: str) -> str:
    """What is wrong with the file at `path`, in a few words; empty if every byte is as it was written.

    Of a file as PyTorch saved before 1.6, or of any other file, as far as it shows. Reading an archive takes
    about a second per GB; one that has not changed since is not read again.

    Raises:
        OSError: the file cannot be read.
    """
    if problem := hollow(path):
        return problem
    if not zipfile.is_zipfile(path):
        return _damage_before_archives(path)
    stat = os.stat(path)
    return _damage_of_version(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


def hollow(*paths: str) -> str:
    """Says that files are much longer than what is on the disk of them; empty if not, or not known."""
    stats = [os.stat(path) for path in paths]
    size, there = (sum(getattr(s, name, s.st_size) for s in stats) for name in ("st_size", "st_blocks"))
    if size > LARGE and 512 * there < ON_DISK * size:
        return f"{size} bytes long, of which only {512 * there} are on the disk"
    return ""


def _damage_before_archives(path: str) -> str:
    with open(path, "rb") as file, suppress(Exception):  # no pickle, or a damaged one: PyTorch says so
        for _ in range(5):
            if problem := entangled(file):
                return problem
    return ""


@lru_cache(maxsize=64)
def _damage_of_version(path: str, *version: int) -> str:
    with open(path, "rb") as file:
        return _damage_of(file)


def _damage_of(file: IO[Any]) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            return _wrong_sizes(archive, file) or _wrong_pickles(archive) or _wrong_content(archive)
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
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        return (
            "refused: it is a TorchScript archive, a program; where you trust it, keep its weights alone: "
            "torch.save(torch.jit.load('a.pt', 'cpu').state_dict(), 'weights.pth')"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "refused: it holds compressed entries, which torch does not write"
    if len({entry.filename for entry in entries}) < len(entries):
        return "refused: it holds two entries of one name"
    if (stated := sum(entry.file_size for entry in entries)) > size:
        return f"refused: its entries claim {stated} bytes, and the file has {size}"
    return ""


def _wrong_pickles(archive: zipfile.ZipFile) -> str:
    for entry in archive.infolist():
        if entry.filename.endswith(".pkl"):
            with archive.open(entry) as content:
                if problem := entangled(content):
                    return problem
    return ""


def entangled(pickled: IO[Any]) -> str:
    """Says that a pickle holds a tuple of too many parts, each counted as often as it is used.

    As the key of a dict, a pair of one pair twice, and so on sixty times, takes years; a tuple within a
    tuple, and so on, ends the process. Everything else that can be a key is flat.
    """
    stack: list[int] = []  # the sizes of what is on the unpickler's
    marks: list[int] = []  # where its marks are, which have no place of their own here
    memo: dict[int, int] = {}
    for code, argument, _ in pickletools.genops(pickled):
        name, (takes, marked, gives) = code.name, _effect(code)
        if name.endswith(("PUT", "MEMOIZE")):
            memo[len(memo) if argument is None else argument] = stack[-1]
            continue
        start = (marks.pop() if marked else len(stack)) - takes
        if start < 0:
            raise pickle.UnpicklingError("takes more than there is")
        taken, stack[start:] = stack[start:], []
        size = 1 + sum(taken) if name.startswith(TUPLES) else 1
        if size > MOST_IN_TUPLE:
            return f"refused: it holds a tuple of more than {MOST_IN_TUPLE} parts"
        if name == "MARK":
            marks.append(len(stack))
        else:
            stack += [memo[argument or 0] if name.endswith("GET") else size] * gives
    return ""


@cache
def _effect(code: pickletools.OpcodeInfo) -> tuple[int, bool, int]:
    """How many it takes (below a mark, if it takes a mark and all above), whether to a mark, and gives."""
    before = code.stack_before
    marked = pickletools.markobject in before
    return before.index(pickletools.markobject) if marked else len(before), marked, len(code.stack_after)


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
    from revit_video.runtime import pickles  # few files need it

    return pickles.archive(file, pickled) if pickled else pickles.legacy(file)


def _wrong_content(archive: zipfile.ZipFile) -> str:
    for entry in archive.infolist():
        with archive.open(entry) as content:  # compares the checksum at its end
            while content.read(CHUNK):
                pass
    return ""


def refusal(said: str) -> str:
    """What PyTorch's words about a pickle that it does not load mean, and what to do."""
    if refused := re.search(r"GLOBAL (\S+)", said):
        why = f"it holds a Python object ({refused[1]}), and only tensors and plain values are loaded"
        return f"refused: {why}; {RESAVE}"
    return "not a checkpoint, or damaged"
