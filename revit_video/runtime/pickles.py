"""Pickles of protocol 3 to 5 said again in protocol 2, the one that PyTorch reads without running code.

The pickle is rewritten, instruction by instruction, not run; what PyTorch then allows is PyTorch's decision.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import shutil
import struct
import zipfile
from typing import IO, Any

LEGACY_PICKLES = 5  # at the start of torch's files that are no archives: three of its version, data, keys
LARGEST = 8  # times as long as before, and no longer
ALIKE = {"EMPTY_SET": pickle.EMPTY_LIST, "ADDITEMS": pickle.APPENDS, "FROZENSET": pickle.TUPLE}  # lists do
TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8")


def archive(file: IO[bytes], pickled: str) -> IO[bytes]:
    """torch's archive in `file`, whose entry `pickled` is translated, in memory."""
    copy = io.BytesIO()
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(copy, "w") as target:
        for entry in source.infolist():
            if entry.filename == pickled:
                target.writestr(pickled, _translated(io.BytesIO(source.read(entry))))
                continue
            with source.open(entry) as content, target.open(entry.filename, "w", force_zip64=True) as to:
                shutil.copyfileobj(content, to, 1 << 20)
    copy.seek(0)
    return copy


def legacy(file: IO[bytes]) -> IO[bytes]:
    """torch's file that is no archive: its pickles translated, then what follows them, in memory.

    Raises:
        pickle.UnpicklingError, ValueError: no pickles, or instructions that protocol 2 has no words for.
    """
    stream, copy = io.BytesIO(file.read()), io.BytesIO()
    for _ in range(LEGACY_PICKLES):
        copy.write(_translated(stream))
    shutil.copyfileobj(stream, copy)
    copy.seek(0)
    return copy


def _translated(stream: io.BytesIO) -> bytes:
    """The pickle at the stream's place, in protocol 2; the stream is then behind it."""
    parts: list[tuple[bytes, str | None, int | None]] = []  # instruction, its text, where that is kept
    kept: dict[int, str | None] = {}  # the memo: its texts
    gone: set[int] = set()  # texts that became names of objects
    start, length = stream.tell(), 0
    for op, found, position in pickletools.genops(stream):
        argument: Any = found  # of the kind that the instruction has
        text: str | None = None
        place: int | None = None
        if op.name in TEXTS:
            said, text = _text(argument), argument
        elif op.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            place = len(kept) if argument is None else argument
            before, text, _ = parts.pop()
            said = before + pickle.LONG_BINPUT + struct.pack("<I", place)
            kept[place] = text
        elif op.name in ("BINGET", "LONG_BINGET"):
            text = kept.get(argument)
            said = pickle.LONG_BINGET + struct.pack("<I", argument)
            if text is not None and argument in gone:
                said = _text(text)
        elif op.name == "STACK_GLOBAL":
            said = _global(parts, gone)
        elif op.name in BYTES:
            said = b"c_codecs\nencode\n" + _text(argument.decode("latin1")) + _text("latin1")
            said += pickle.TUPLE2 + pickle.REDUCE
        elif op.name == "FRAME":
            continue
        else:
            said = ALIKE.get(op.name, bytes(stream.getbuffer()[position : stream.tell()]))
        said = pickle.PROTO + b"\x02" if op.name == "PROTO" else said
        parts.append((said, text, place))
        length += len(said)
        if length > LARGEST * (stream.tell() - start) + (1 << 16):
            raise pickle.UnpicklingError("it would become far longer in protocol 2")
    return b"".join(said for said, _, _ in parts)


def _global(parts: list[tuple[bytes, str | None, int | None]], gone: set[int]) -> bytes:
    """The object that the last two parts, which are taken off, name: its module and its name."""
    (_, module, first), (_, name, second) = parts.pop(-2), parts.pop()
    if module is None or name is None or "\n" in module + name:
        raise pickle.UnpicklingError("it names an object by what is no text")
    gone |= {place for place in (first, second) if place is not None}
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded
