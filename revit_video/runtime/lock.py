"""One run at a time in an OUTPUT_DIR: two would overwrite each other's checkpoints."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EAGAIN

from revit_video.runtime.output_dir import LOCK, open_own
from revit_video.runtime.text import printable

logger = logging.getLogger(__name__)


@contextmanager
def only_run_in(folder: str) -> Iterator[None]:
    """Hold the lock of `folder`; the system frees it with this process, however that ends.

    The file names the process for those who find it held. Data workers do not share the lock: it is the
    process's, not the file's.

    Raises:
        ValueError: another process holds it.
    """
    path = os.path.join(folder, LOCK)
    file = _locked(path, folder)
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)  # before another process can have it
        os.close(file)


def _locked(path: str, folder: str) -> int:
    """The open lock file, held; not held where the file system has no locks, which is logged."""
    while True:
        file = open_own(path, os.O_RDWR)
        before = printable(os.read(file, 200).decode(errors="replace"))
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (EACCES, EAGAIN):
                logger.warning("%s: no lock (%s); let no other run use this folder", path, error.strerror)
                return file
            os.close(file)
            raise ValueError(
                f"OUTPUT_DIR {folder}: another run is in it ({before or 'just starting'}); let it end, or "
                "take another OUTPUT_DIR"
            ) from None
        if _is_there(file, path):
            break
        os.close(file)  # its holder has just removed it
    if before:
        logger.info("%s: taken over from a run that did not end by itself (%s)", path, before)
    os.truncate(file, 0)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}, since {started}".encode(), 0)
    return file


def _is_there(file: int, path: str) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), os.stat(path))
    return False
