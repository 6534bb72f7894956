"""Decoding in a child process: a decoder that crashes, hangs or takes all memory ends nothing else."""

from __future__ import annotations

import mmap
import os
import select
import signal
import sys
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
from revit_video.data.video import LIMITS, DecodeError, Limits, is_out_of_memory
from revit_video.runtime.machine import whole_memory
from revit_video.runtime.termination import held_back

_EXITED = 255  # in place of a signal number, for a process that exited without a signal
_LATE = signal.SIGALRM  # in place of the signal that ended a process which took too long
_ENDING = 5.0  # seconds for a killed process to end; one that waits for a network disk does so later

Decode = Callable[..., Any]
"""Row in the list, path, further arguments -> the video's views, or anything small that can be pickled."""


def isolated(
    decode: Decode, num_videos: int, largest: int, timeout: float | None, limits: Limits = LIMITS
) -> Decode:
    """`decode`, see `Isolated`, in a child process if `timeout` is given and the platform can fork."""
    if timeout is None or not hasattr(os, "fork"):
        return decode
    return Isolated(decode, num_videos, largest, timeout, limits)


class Isolated:
    """`decode(row, path, *arguments)`, called in a child process that is forked from this one.

    One child serves all calls. If it dies or a call takes too long, the video is tried once more in a new
    child, because the first may have been killed for lack of memory. The signal that ends a second child is
    stored in memory shared by all workers, and no worker tries that video again.

    This process holds the clock, so that a child that is stopped is noticed too. On Linux the kernel refuses
    the child more memory than the limits allow beyond what this process has.

    Args:
        num_videos: length of the list; 0 where there is none, and every row is None.
        largest: maximal number of bytes of a call's clips.
        timeout: seconds that a call may take; 0 for no limit.
    """

    def __init__(
        self,
        decode: Decode,
        num_videos: int,
        largest: int,
        timeout: float = 0.0,
        limits: Limits = LIMITS,
    ) -> None:
        self._decode, self._largest, self._timeout, self._limits = decode, largest, timeout, limits
        self._ended_by = torch.zeros(num_videos, dtype=torch.uint8)
        with suppress(RuntimeError):  # no shared memory is left: each worker finds out by itself
            self._ended_by.share_memory_()
        self._child: _Child | None = None

    def __call__(self, row: int | None, path: str, *arguments: Any) -> Any:
        """`decode(row, path, *arguments)`.

        Raises:
            DecodeError: `decode` raised it, or this video crashed its decoder, took too long or too much
                memory.
        """
        ended_by = 0 if row is None else int(self._ended_by[row])
        for _ in range(0 if ended_by else 2):
            child = self._own_child()
            try:
                return child.call(row, path, *arguments)
            except TimeoutError:
                self._child, ended_by = None, child.ended_by() and int(_LATE)
            except (EOFError, ConnectionError):
                self._child, ended_by = None, child.ended_by()
        if row is not None:
            self._ended_by[row] = ended_by
        raise DecodeError(path, self._reason(ended_by))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_child": None}  # for spawned workers

    def _own_child(self) -> _Child:
        if self._child is None or self._child.owner != os.getpid():
            self._child = _Child(self._decode, self._largest, self._timeout, self._limits)
        return self._child

    def _reason(self, ended_by: int) -> str:
        if ended_by == _LATE:
            return f"not decoded within {self._timeout:g} s"
        how = "exited" if ended_by == _EXITED else f"signal {ended_by}, {signal.strsignal(ended_by)}"
        return f"its decoder crashed ({how})"


class _Child:
    """A decoding process. It ends with this object, and with the process that started it.

    Pixels return through shared memory, everything else through a pipe.
    """

    def __init__(self, decode: Decode, largest: int, timeout: float, limits: Limits) -> None:
        self.owner, self._timeout = os.getpid(), timeout
        memory = torch.frombuffer(mmap.mmap(-1, max(largest, 1)), dtype=torch.uint8)
        line, theirs = Pipe()
        # No signal reaches the child while it still runs this process's handlers.
        with held_back(signal.SIGINT, signal.SIGTERM):
            pid = os.fork()
            if pid == 0:
                line.close()
                _serve(decode, theirs, memory, timeout, limits)
        theirs.close()
        self._line, self._memory = line, memory
        self._end = Finalize(self, _end, (line, pid), exitpriority=1)

    def call(self, *arguments: Any) -> Any:
        """`decode(*arguments)`.

        Raises:
            EOFError, ConnectionError: the process is gone.
            TimeoutError: it has not answered in time.
        """
        try:
            self._line.send(arguments)
            if not self._line.poll(self._timeout or None):
                raise TimeoutError
            kind, answer = self._line.recv()
        except KeyboardInterrupt:
            self._end()  # else the next call would receive this one's answer
            raise
        if kind == "error":
            raise answer
        if kind == "bug":
            raise RuntimeError(f"while decoding {arguments[1]}:\n{answer}")
        return self._views(*answer) if kind == "views" else answer

    def _views(self, shape: torch.Size, rest: list[Any], boxes: list[Any] | None) -> VideoViews:
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
            return os.waitpid(pid, 0)[1] if _ends(pid) else signal.SIGKILL


def _ends(pid: int) -> bool:
    """Whether a process that was killed ends soon, as far as the platform can tell."""
    if not hasattr(os, "pidfd_open"):
        return True
    try:
        process = os.pidfd_open(pid)
    except OSError:  # not in this kernel, or no files left
        return True
    try:
        return bool(select.select([process], [], [], _ENDING)[0])
    except ValueError:  # too many open files for select
        return True
    finally:
        os.close(process)


def _serve(decode: Decode, line: Connection, memory: Tensor, timeout: float, limits: Limits) -> NoReturn:
    """Main loop of the child: decode until the line is closed."""
    try:
        # The child ends when the line closes. A crash kills it silently.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGALRM, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGABRT):
            signal.signal(number, signal.SIG_DFL)
        torch.set_num_threads(1)  # the parent's threads are not here
        limit_memory(limits.memory)
        with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
            score.write("1000")  # where memory runs out nevertheless, the kernel ends this process first
        while True:
            arguments = line.recv()
            signal.setitimer(signal.ITIMER_REAL, 2 * timeout)  # should the parent be gone by then
            answer = _answer(decode, memory, arguments, limits)
            signal.setitimer(signal.ITIMER_REAL, 0)
            line.send(answer)
    finally:
        os._exit(0)


def limit_memory(more: int) -> None:
    """Let this process take so many bytes beyond those it has, or all there are here, on Linux."""
    if sys.platform != "linux":
        return
    import resource

    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([taken + int(min(more, whole_memory())), *known]), hard))


def _answer(decode: Decode, memory: Tensor, arguments: tuple[Any, ...], limits: Limits) -> tuple[str, Any]:
    """The message to the parent: its kind; the views without their pixels, another result, or an error."""
    try:
        result = decode(*arguments)
        if not isinstance(result, VideoViews):
            return "other", result
        memory[: result.clips.numel()] = result.clips.flatten()
        rest = [part.tolist() for part in (result.starts, result.clip_index, result.crops)]
        return "views", (result.clips.shape, rest, None if result.boxes is None else result.boxes.tolist())
    except DecodeError as error:
        return "error", error
    except Exception as error:
        if is_out_of_memory(error):
            return "error", limits.out_of_memory(arguments[1])
        return "bug", traceback.format_exc()
