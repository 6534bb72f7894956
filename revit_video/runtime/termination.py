"""Signals that end a run: noted, and obeyed where nothing is lost; processes that end with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn, TypeVar

PR_SET_PDEATHSIG = 1  # of Linux' prctl
EXIT_CODE = 128 + signal.SIGTERM  # as a shell reports a process that SIGTERM ended

T = TypeVar("T")


class Termination:
    """Context manager in which SIGTERM and Ctrl-C are only noted; loops look, and leave where it is safe.

    An exception raised by a handler gets lost where Python cannot pass it on, such as in the hooks that run
    while a data worker is forked; raised while a worker hands over a batch, it makes the worker fail as well.
    A second Ctrl-C raises KeyboardInterrupt at once all the same.

    Has no effect outside the main thread, which alone can handle signals.

    Attributes:
        asked: the signal that asked to end, 0 for none.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Termination:
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGTERM, signal.SIGINT)
            heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None:
            self.look()

    def look(self) -> None:
        """Leave if that was asked for; to be called where nothing is to be saved."""
        if self.asked:
            self.leave()

    def watched(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, with a look before each."""
        for batch in batches:
            self.look()
            yield batch
        self.look()

    def leave(self) -> NoReturn:
        """Raise KeyboardInterrupt after Ctrl-C, else exit with the code of SIGTERM."""
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(EXIT_CODE)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = self.asked or number


def leave_on_ctrl_c() -> None:
    """From here on Ctrl-C ends this process with one line, unless whoever started it had it ignored.

    For as long as nothing is to be saved: some imports would answer with a traceback, or not at all.
    """
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    of_torchrun = "TORCHELASTIC_RUN_ID" in os.environ  # without, RANK may be a scheduler's left-over
    if not of_torchrun or os.environ.get("RANK") == "0":
        os.write(2, b"interrupted\n")
    os._exit(128 + number)


def raise_on_ctrl_c() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) == _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started in this block never hear Ctrl-C, not even while their interpreter starts.

    A terminal sends it to all processes; this one decides what it means for the others.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # the start of the first process would, and would unblock the signal
    with held_back(signal.SIGINT):
        yield


@contextmanager
def held_back(*numbers: int) -> Iterator[None]:
    """These signals reach this thread after the block; processes started in it begin with them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    finish the step. It holds SIGTERM back while it starts them: they have none of these words yet.
    """
    end_with_parent(rank)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _silent_where_the_rank_has_gone
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(rank,), daemon=True).start()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _silent_where_the_rank_has_gone(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Where a thread of multiprocessing hands over a batch and the rank is ended in the middle of that."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _end_with(rank: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != rank:
        pass
    os._exit(0)
