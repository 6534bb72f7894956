"""Processes that may crash or hang."""

from __future__ import annotations

import os
import signal
import time

import pytest

from revit_video.prepare.parallel import Died, in_processes


def work(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == 5:
        time.sleep(600)
    if item == 7:
        raise KeyError("a bug")
    return item * item


def test_one_that_dies_or_hangs_costs_its_item_only() -> None:
    items = [0, 1, 2, 3, 4, 5, 6]
    results = dict(in_processes(work, items, processes=2, timeout=2.0))
    assert results.pop(3) == Died("it ended its process (-11)")
    assert results.pop(5) == Died("not done within 2 s")
    assert results == {item: item * item for item in (0, 1, 2, 4, 6)}


def test_a_bug_is_raised() -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'a bug'"):
        list(in_processes(work, [7], processes=2))


def test_items_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []
    results = in_processes(work, (taken.append(n) or 2 for n in range(1000)), processes=0)
    assert next(results) == (2, 4) and len(taken) == 1
