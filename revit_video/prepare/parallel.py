"""A function on many files in many processes, any of which may crash or hang without ending the rest."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from revit_video.data.isolate import isolated, limit_memory
from revit_video.data.video import LIMITS, DecodeError
from revit_video.runtime.termination import deaf_children, end_with_parent

STARTING = 120.0  # seconds for a process to import what it needs
ENDING = 5.0  # seconds for one that was killed; a network disk may keep it longer

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
        processes: 0 forks one, which starts at once and shares what this process has imported.
        timeout: seconds that a call may take, by this process's clock: a stopped one has none.
    """
    if processes == 0:
        yield from _in_one(function, items, timeout)
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
            for line in _answered(workers.values()):
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


def _in_one(
    function: Callable[[Item], Result], items: Iterable[Item], timeout: float
) -> Iterator[tuple[Item, Result | Died]]:
    call = isolated(lambda row, _, item: function(item), 0, 0, timeout)
    for item in items:
        try:
            yield item, call(None, str(item), item)
        except DecodeError as error:
            yield item, Died(error.reason)


def _answered(workers: Collection[_Worker]) -> list[Any]:
    """The lines of workers that have answered, died, or are late; waits for the first."""
    while True:
        first = min(worker.deadline for worker in workers)
        told = wait([worker.line for worker in workers], max(first - time.monotonic(), 0))
        lines = [w.line for w in workers if w.line in told and not w.has_begun()]
        lines += [w.line for w in workers if w.line not in told and w.deadline < time.monotonic()]
        if lines:
            return lines


class _Worker:
    """A process that calls `function` on item after item, for as long as its line is open."""

    def __init__(self, function: Callable[[Any], Any], timeout: float) -> None:
        # spawn: a fork of a process that has run torch's threads can hang
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self._timeout, self.deadline, self._begins = timeout, 0.0, True
        work = function, theirs, os.getpid()
        self._process = context.Process(target=_serve_calls, args=work, daemon=True)
        with deaf_children():  # this process hears Ctrl-C, and ends that one
            self._process.start()
        theirs.close()

    def start(self, item: Any) -> None:
        self.item, self.deadline = item, time.monotonic() + self._timeout + (STARTING if self._begins else 0)
        self.line.send(item)

    def has_begun(self) -> bool:
        """Whether all that the process has to tell is that it has started; the time runs from there."""
        begins, self._begins = self._begins, False
        if begins:
            self.deadline = time.monotonic() + self._timeout
            with suppress(EOFError, ConnectionError):
                self.line.recv()
        return begins

    def result(self) -> Any:
        if not self.line.poll():
            return Died(f"not done within {self._timeout:g} s")
        try:
            failure, result = self.line.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            return Died(f"it ended its process ({self._process.exitcode})")
        if failure:
            raise RuntimeError(f"{self.item}:\n{failure}")
        return result

    def end(self) -> None:
        self.line.close()
        self._process.kill()
        self._process.join(ENDING)


def _serve_calls(function: Callable[[Any], Any], line: Connection, parent: int) -> None:
    end_with_parent(parent)
    limit_memory(LIMITS.memory)
    line.send(None)
    while True:
        try:
            item = line.recv()
        except EOFError:
            return
        try:
            answer = "", function(item)
        except Exception:
            answer = traceback.format_exc(), None
        line.send(answer)
