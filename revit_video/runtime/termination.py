"""SIGTERM, which schedulers and launchers send to end a run: save a checkpoint first, then exit."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1  # of Linux' prctl
EXIT_CODE = 128 + signal.SIGTERM  # as a shell reports a process that SIGTERM ended

logger = logging.getLogger(__name__)


class Termination:
    """Context manager in which SIGTERM only sets `asked`; on exit, raises `SystemExit` if it is set.

    Has no effect outside the main thread, which alone can handle signals.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None
        self._nothing_to_save = False

    def __enter__(self) -> Termination:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if self.asked and kind is None:
            self.leave()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A block with nothing to save: SIGTERM, also an earlier one, ends the process immediately."""
        self._nothing_to_save = True
        if self.asked:
            self.leave()
        try:
            yield
        finally:
            self._nothing_to_save = False

    def leave(self) -> NoReturn:
        """Exit with the code of SIGTERM."""
        logger.info("stopped by SIGTERM; the same command goes on from the last checkpoint")
        raise SystemExit(EXIT_CODE)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._nothing_to_save:
            self.leave()


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when process `parent`, which started it, ends; it may have by now.

    Where the kernel is not Linux, only the latter is noticed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def start_worker(rank: int, worker: int = 0) -> None:
    """Make a data worker of process `rank` end with it, and on SIGTERM from it alone.

    Schedulers send SIGTERM to all processes of a run, and terminals Ctrl-C, but a rank needs its workers to
    finish the step.
    """
    end_with_parent(rank)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(rank,), daemon=True).start()


def _end_with(rank: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != rank:
        pass
    os._exit(0)
