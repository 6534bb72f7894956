"""Starting one process per rank, and turning their failures into one error.

The ranks of one machine meet through a file in a folder that only their user can enter: no socket listens to
the network, and what a rank sends to its launcher goes through a pipe of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, TypeVar

import torch.distributed as dist

from revit_video.runtime.deadline import RANK, ended_within
from revit_video.runtime.ranks import MEETING, shutdown
from revit_video.runtime.termination import deaf_children, end_with_parent

LISTENING = 1.0  # seconds after a failure in which other ranks may tell an earlier one
ENDING = 20.0  # seconds that a rank has to end in after SIGTERM, which it may need for a checkpoint
T = TypeVar("T")


class RankError(RuntimeError):
    """A rank failed for another reason than a user's mistake; the message holds its traceback."""


class FailedLater(Exception):
    """Another rank failed before this one and reports the error."""


def launch(function: Callable[..., T], num_ranks: int, *args: Any) -> T:
    """Run `function(*args)` on `num_ranks` ranks of this machine and return the result of rank 0.

    A single rank, or a process that torchrun has started, calls `function` directly. Otherwise every rank is
    a new process; `function` must be importable, `args` and the result picklable. On Linux no rank outlives
    this process, however it ends.

    Raises:
        ValueError: the first rank that failed raised a ValueError or OSError; same message.
        RankError: the first rank that failed raised anything else, or died.
        KeyboardInterrupt: Ctrl-C; all ranks have ended.
    """
    if num_ranks == 1 or dist.is_torchelastic_launched():
        return function(*args)
    ranks = _Ranks()
    with ranks.stopped_by_signals(), tempfile.TemporaryDirectory(prefix="revit_video_") as folder:  # 0700
        ranks.start(num_ranks, os.path.join(folder, "meeting"), function, args)
        endings = ranks.endings()
    failed = [ending for ending in endings if ending.kind != "result"]
    if ranks.stopped_by:  # then ranks end in many ways; that one could not save is told
        failed = [ending for ending in failed if ending.kind == "mistake"]
    if ranks.stopped_by and not failed:
        raise _left(128 + ranks.stopped_by)
    if failed:
        raise _error(min(failed, key=lambda ending: ending.when))
    return next(ending.content for ending in endings if ending.rank == 0)


@dataclass(frozen=True)
class _Ending:
    """How a rank ended: `kind` is `result`, `mistake`, `bug`, `left` (with an exit code) or `died`."""

    rank: int
    kind: str
    content: Any
    when: float = 0.0  # by the machine's monotonic clock; a rank that died did so before others noticed


@dataclass
class _Ranks:
    """The processes of the ranks, and their pipes to this one."""

    processes: list[BaseProcess] = field(default_factory=list)
    lines: list[Connection] = field(default_factory=list)
    stopped_by: int = 0  # the signal, 0 for none

    def start(self, count: int, meeting: str, function: Callable[..., Any], args: Sequence[Any]) -> None:
        context = multiprocessing.get_context("spawn")
        method = multiprocessing.get_start_method()
        for rank in range(count):
            line, theirs = context.Pipe(duplex=False)
            environment = _environment(rank, count, meeting)
            work = (theirs, environment, os.getpid(), method, function, args)
            process = context.Process(target=_run_rank, args=work)
            self.processes.append(process)
            self.lines.append(line)
            with deaf_children():  # Ctrl-C reaches them as this process's SIGTERM
                process.start()
            theirs.close()
            if self.stopped_by:  # while it started
                process.terminate()
                return

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM ask the ranks to end, which may save first; the second kills them."""

        def stop(number: int, frame: FrameType | None) -> None:
            again, self.stopped_by = self.stopped_by, self.stopped_by or number
            for process in self.processes:
                if process.is_alive():
                    (process.kill if again else process.terminate)()

        numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for process in self.processes:
                if process.is_alive():
                    process.kill()

    def endings(self) -> list[_Ending]:
        """Waits for all ranks; after the first that failed, the others are ended."""
        endings: dict[int, _Ending] = {}
        failed_at = 0.0
        while running := [rank for rank in range(len(self.lines)) if rank not in endings]:
            wait([self.lines[rank] for rank in running], timeout=0.2)
            since = time.monotonic() - failed_at if failed_at else 0.0
            for rank in running:
                if ending := self._ending(rank, asked=since > LISTENING):
                    endings[rank] = ending
                    if ending.kind != "result":
                        failed_at = failed_at or time.monotonic()
                elif since > LISTENING:
                    process = self.processes[rank]
                    (process.terminate if since < ENDING else process.kill)()
        for process in self.processes:
            process.join(ENDING)
        return list(endings.values())

    def _ending(self, rank: int, asked: bool) -> _Ending | None:
        """What a rank told, or how it died; None while it runs. `asked`: it may have been told to end."""
        line, process = self.lines[rank], self.processes[rank]
        ended = not process.is_alive()  # before the pipe is looked at: it may tell, then end
        try:
            if line.poll():
                return _Ending(rank, *pickle.loads(line.recv_bytes()))
        except (EOFError, ConnectionError):
            process.join(LISTENING)
            ended = True
        when = time.monotonic() if asked else 0.0
        return _Ending(rank, "died", process.exitcode, when) if ended else None


def _environment(rank: int, count: int, meeting: str) -> dict[str, str]:
    """Environment variables of a rank, as torchrun's; all traffic stays on this machine."""
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    interface = {
        name: os.environ.get(name, loopback) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    }
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    return {name: str(value) for name, value in place.items()} | interface | {MEETING: meeting}


def _run_rank(
    line: Connection,
    environment: dict[str, str],
    launcher: int,
    start_method: str,
    function: Callable[..., Any],
    args: Sequence[Any],
) -> None:
    """Main function of a rank's process: call `function` and tell the launcher how it ended."""
    end_with_parent(launcher)
    # Data workers start as those of any process: by the rank's own method, `spawn`, each imports PyTorch.
    multiprocessing.set_start_method(start_method, force=True)
    os.environ.update(environment)
    ending, when = ("result", None), 0.0
    with ended_within(RANK):
        try:
            result = function(*args)
            shutdown()
            if environment["RANK"] == "0":
                ending = ("result", result)
        except BaseException as error:
            when = time.monotonic()
            ending = _told(error)
        line.send_bytes(pickle.dumps((*ending, when)))


def _told(error: BaseException) -> tuple[str, Any]:
    if isinstance(error, ValueError | OSError):
        return "mistake", str(error)
    if isinstance(error, KeyboardInterrupt):
        return "left", 128 + signal.SIGINT
    if isinstance(error, SystemExit):
        return "left", error.code
    (last,) = traceback.format_exception_only(error)[-1:]
    return "bug", last + "".join(traceback.format_exception(error))


def _error(ending: _Ending) -> BaseException:
    if ending.kind == "left":
        return _left(ending.content)
    if ending.kind == "mistake":
        return ValueError(ending.content)
    if ending.kind == "bug":
        return RankError(f"rank {ending.rank}: {ending.content}")
    code = ending.content
    how = f"ended with exit code {code}" if code is None or code >= 0 else f"ended by {_signal_name(-code)}"
    hint = "; memory may have run out" if code == -signal.SIGKILL else ""
    return RankError(f"rank {ending.rank}: {how}{hint}")


def _left(code: Any) -> BaseException:
    return KeyboardInterrupt() if code == 128 + signal.SIGINT else SystemExit(code)


def _signal_name(number: int) -> str:
    return f"signal {number}, {signal.strsignal(number)}"


# ---- torchrun --------------------------------------------------------------------------------------------


def torchrun_ranks() -> int | None:
    """Number of ranks on all machines if torchrun has started this process, else None."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else None


@contextmanager
def first_error_only() -> Iterator[None]:
    """Only the first failing rank of torchrun raises its error; destroys the process group on exit.

    torchrun ends all ranks when one fails, and every rank may fail with the same error.

    Raises:
        FailedLater: on every other failing rank, instead of its error.
    """
    try:
        yield
    except Exception as error:
        if not _fails_first():
            raise FailedLater from error
        raise
    finally:
        shutdown()


def _fails_first() -> bool:
    if not dist.is_torchelastic_launched():
        return True
    host, port, run, restart = (
        os.environ[name]
        for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
    )
    try:
        store = dist.TCPStore(host, int(port), timeout=timedelta(seconds=10))
        return store.add(f"revit_video/{run}/{restart}/failed", 1) == 1
    except RuntimeError:  # the launcher, which hosts the store, has ended already
        return True
