"""Decoding in a child process, so that a decoder that crashes or hangs takes nothing else with it."""

from __future__ import annotations

import mmap
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any, NoReturn

import torch
from torch import Tensor

from revit_video.data.batch import VideoViews
from revit_video.data.video import DecodeError

_LEFT = 255  # stands among the signals for a process that ended without one

Decode = Callable[..., VideoViews]


class Isolated:
    """`decode(path, *arguments)`, called in a child process that is forked from this one.

    The child serves call after call. Where it dies, or a call takes too long, the video is tried once more
    in a new child, because the first may have been killed for the memory that others took. What ends a
    second child is kept in memory shared with all workers: none of them tries that video again.

    Args:
        num_videos: how many videos there are; calls say which of them they are about.
        largest: bytes of the most clips that a call gives.
        timeout: seconds that a call may take; 0 for any.
    """

    def __init__(self, decode: Decode, num_videos: int, largest: int, timeout: float = 0.0) -> None:
        self._decode = decode
        self._largest = largest
        self._timeout = timeout
        self._ended_by = torch.zeros(num_videos, dtype=torch.uint8).share_memory_()
        self._child: _Child | None = None

    @staticmethod
    def is_possible() -> bool:
        """Whether this platform forks processes."""
        return hasattr(os, "fork")

    def __call__(self, row: int, path: str, *arguments: Any) -> VideoViews:
        """The views that `decode(path, *arguments)` gives of video `row`.

        Raises:
            DecodeError: as `decode` raised it, or because this video ends its decoder.
        """
        for _ in range(2):
            if self._ended_by[row]:
                break
            child = self._own_child()
            try:
                return child.call(path, *arguments)
            except (EOFError, ConnectionError):
                self._child, ended_by = None, child.ended_by()
        else:
            self._ended_by[row] = ended_by
        raise DecodeError(path, self._reason(int(self._ended_by[row])))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_child": None}  # for workers that are not forked

    def _own_child(self) -> _Child:
        if self._child is None or self._child.owner != os.getpid():
            self._child = _Child(self._decode, self._largest, self._timeout)
        return self._child

    def _reason(self, ended_by: int) -> str:
        if ended_by == signal.SIGALRM:
            return f"not decoded within {self._timeout:g} s"
        how = "exited" if ended_by == _LEFT else f"signal {ended_by}, {signal.strsignal(ended_by)}"
        return f"its decoder crashed ({how})"


class _Child:
    """A process that decodes. It ends with this object, and with the process that started it.

    Pixels come back through memory that both share, everything else through a pipe.
    """

    def __init__(self, decode: Decode, largest: int, timeout: float) -> None:
        self.owner = os.getpid()
        memory = torch.frombuffer(mmap.mmap(-1, max(largest, 1)), dtype=torch.uint8)
        line, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            line.close()
            _serve(decode, theirs, memory, timeout)
        theirs.close()
        self._line, self._memory = line, memory
        self._end = Finalize(self, _end, (line, pid), exitpriority=1)

    def call(self, *arguments: Any) -> VideoViews:
        """`decode(*arguments)`. Raises EOFError or ConnectionError if the process is gone."""
        try:
            self._line.send(arguments)
            answer = self._line.recv()
        except KeyboardInterrupt:
            self._end()  # the answer that is still to come would be taken for the next call's
            raise
        if isinstance(answer, DecodeError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"while decoding {arguments[0]}:\n{answer}")
        shape, rest, boxes = answer
        pixels = self._memory[: shape.numel()].view(shape).clone()
        starts, clip_index, crops = map(torch.tensor, rest)
        return VideoViews(pixels, starts, clip_index, crops, None if boxes is None else torch.tensor(boxes))

    def ended_by(self) -> int:
        """The signal that ended the process, which is over."""
        status = self._end()
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else _LEFT


def _end(line: Connection, pid: int) -> int:
    """The exit status of a child that is dead, or is killed here."""
    line.close()
    os.kill(pid, signal.SIGKILL)
    while True:
        with suppress(KeyboardInterrupt):  # the rank obeys it; a worker would leave a zombie and a traceback
            return os.waitpid(pid, 0)[1]


def _serve(decode: Decode, line: Connection, memory: Tensor, timeout: float) -> NoReturn:
    """The child's whole life: decodes until the line is closed, or until one video takes too long."""
    try:
        # It ends with the line. A crash or a time-out kills it at once and says nothing.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGALRM, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT):
            signal.signal(number, signal.SIG_DFL)
        while True:
            arguments = line.recv()
            signal.setitimer(signal.ITIMER_REAL, timeout)
            answer = _answer(decode, memory, arguments)
            signal.setitimer(signal.ITIMER_REAL, 0)
            line.send(answer)
    finally:
        os._exit(0)


def _answer(decode: Decode, memory: Tensor, arguments: tuple[Any, ...]) -> Any:
    """What travels back: the views without their pixels, or what went wrong."""
    try:
        views = decode(*arguments)
        memory[: views.clips.numel()] = views.clips.flatten()
        rest = [part.tolist() for part in (views.starts, views.clip_index, views.crops)]
        return views.clips.shape, rest, None if views.boxes is None else views.boxes.tolist()
    except DecodeError as error:
        return error
    except Exception:
        return traceback.format_exc()
