"""A function on many files in many processes, any of which may crash or hang without ending the rest."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from revit_video.runtime.termination import deaf_children

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Died:
    """Stands for the result of a call that ended its process."""

    reason: str


def in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], processes: int, timeout: float = 600.0
) -> Iterator[tuple[Item, Result | Died]]:
    """Every item with its result, as they come; only as many items as processes are taken at a time.

    Args:
        function: importable by name. What it raises is raised here.
        processes: 0 calls it in this process, where nothing protects from a crash.
        timeout: seconds that a call may take.
    """
    if processes == 0:
        yield from ((item, function(item)) for item in items)
        return
    waiting = iter(items)
    workers: dict[Any, _Worker] = {}
    try:
        while True:
            for item in islice(waiting, processes - len(workers)):
                worker = _Worker(function, timeout)
                workers[worker.line] = worker
                worker.start(item)
            if not workers:
                return
            for line in wait(list(workers)):
                worker = workers[line]
                result = worker.result()
                yield worker.item, result
                following = [] if isinstance(result, Died) else list(islice(waiting, 1))
                if following:
                    worker.start(following[0])
                else:
                    workers.pop(line).end()
    finally:
        for worker in workers.values():
            worker.end()


class _Worker:
    """A process that calls `function` on item after item, for as long as its line is open."""

    def __init__(self, function: Callable[[Any], Any], timeout: float) -> None:
        # spawn: a fork of a process that has run torch's threads can hang
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self._timeout = timeout
        self._process = context.Process(target=_serve_calls, args=(function, theirs, timeout), daemon=True)
        with deaf_children():  # this process hears Ctrl-C, and ends that one
            self._process.start()
        theirs.close()

    def start(self, item: Any) -> None:
        self.item = item
        self.line.send(item)

    def result(self) -> Any:
        try:
            failure, result = self.line.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            late = code == -signal.SIGALRM
            return Died(f"not done within {self._timeout:g} s" if late else f"it ended its process ({code})")
        if failure:
            raise RuntimeError(f"{self.item}:\n{failure}")
        return result

    def end(self) -> None:
        self.line.close()
        self._process.kill()
        self._process.join()


def _serve_calls(function: Callable[[Any], Any], line: Connection, timeout: float) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while True:
        try:
            item = line.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, timeout)
        try:
            answer = "", function(item)
        except Exception:
            answer = traceback.format_exc(), None
        signal.setitimer(signal.ITIMER_REAL, 0)
        line.send(answer)
