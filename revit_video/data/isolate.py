"""Decoding in a child process, so that a decoder that crashes or hangs ends nothing else."""

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

from revit_video.data.clips import VideoViews
from revit_video.data.video import DecodeError

_EXITED = 255  # in place of a signal number, for a process that exited without a signal

Decode = Callable[..., VideoViews]
"""Row in the list, path, further arguments -> the video's views."""


class Isolated:
    """`decode(row, path, *arguments)`, called in a child process that is forked from this one.

    One child serves all calls. If it dies or a call takes too long, the video is tried once more in a new
    child, because the first may have been killed for lack of memory. The signal that ends a second child is
    stored in memory shared by all workers, and no worker tries that video again.

    Args:
        num_videos: length of the list.
        largest: maximal number of bytes of a call's clips.
        timeout: seconds that a call may take; 0 for no limit.
    """

    def __init__(self, decode: Decode, num_videos: int, largest: int, timeout: float = 0.0) -> None:
        self._decode, self._largest, self._timeout = decode, largest, timeout
        self._ended_by = torch.zeros(num_videos, dtype=torch.uint8)
        with suppress(RuntimeError):  # no shared memory is left: each worker finds out by itself
            self._ended_by.share_memory_()
        self._child: _Child | None = None

    def __call__(self, row: int, path: str, *arguments: Any) -> VideoViews:
        """`decode(row, path, *arguments)`.

        Raises:
            DecodeError: `decode` raised it, or this video crashed its decoder or took too long.
        """
        for _ in range(2):
            if self._ended_by[row]:
                break
            child = self._own_child()
            try:
                return child.call(row, path, *arguments)
            except (EOFError, ConnectionError):
                self._child, ended_by = None, child.ended_by()
        else:
            self._ended_by[row] = ended_by
        raise DecodeError(path, self._reason(int(self._ended_by[row])))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_child": None}  # for spawned workers

    def _own_child(self) -> _Child:
        if self._child is None or self._child.owner != os.getpid():
            self._child = _Child(self._decode, self._largest, self._timeout)
        return self._child

    def _reason(self, ended_by: int) -> str:
        if ended_by == signal.SIGALRM:
            return f"not decoded within {self._timeout:g} s"
        how = "exited" if ended_by == _EXITED else f"signal {ended_by}, {signal.strsignal(ended_by)}"
        return f"its decoder crashed ({how})"


class _Child:
    """A decoding process. It ends with this object, and with the process that started it.

    Pixels return through shared memory, everything else through a pipe.
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
            self._end()  # else the next call would receive this one's answer
            raise
        if isinstance(answer, DecodeError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"while decoding {arguments[1]}:\n{answer}")
        shape, rest, boxes = answer
        pixels = self._memory[: shape.numel()].view(shape).clone()
        starts, clip_index, crops = map(torch.tensor, rest)
        return VideoViews(pixels, starts, clip_index, crops, None if boxes is None else torch.tensor(boxes))

    def ended_by(self) -> int:
        """The signal that ended the process."""
        status = self._end()
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else _EXITED


def _end(line: Connection, pid: int) -> int:
    """Kill the child, unless it is dead, and return its exit status."""
    line.close()
    os.kill(pid, signal.SIGKILL)
    while True:
        with suppress(KeyboardInterrupt):  # the rank handles it; here it would leave a zombie
            return os.waitpid(pid, 0)[1]


def _serve(decode: Decode, line: Connection, memory: Tensor, timeout: float) -> NoReturn:
    """Main loop of the child: decode until the line is closed or a call takes too long."""
    try:
        # The child ends when the line closes. A crash or a time-out kills it silently.
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
    """The message to the parent: the views without their pixels, or the error."""
    try:
        views = decode(*arguments)
        memory[: views.clips.numel()] = views.clips.flatten()
        rest = [part.tolist() for part in (views.starts, views.clip_index, views.crops)]
        return views.clips.shape, rest, None if views.boxes is None else views.boxes.tolist()
    except DecodeError as error:
        return error
    except Exception:
        return traceback.format_exc()
