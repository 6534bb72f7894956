"""The cores and memory that this process may use: what a container or a scheduler leaves of the machine's."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

ROOT = "/"


def usable_cores() -> int:
    """Cores that this process may use, as `taskset`, Slurm, or a container's share of time leave them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _groups("cpu"):
        both = _words(folder, "cpu.max")  # of control groups of version 2; before, two files
        both = both or _words(folder, "cpu.cfs_quota_us") + _words(folder, "cpu.cfs_period_us")
        if len(both) == 2 and all(word.isdecimal() and int(word) for word in both):  # not "max" or -1
            cores = min(cores, max(1, int(both[0]) // int(both[1])))
    return cores


def whole_memory() -> float:
    """Bytes of memory that this process and its neighbours may have at all; infinite if nothing tells."""
    return min([_of_machine("MemTotal"), *(limit for limit, _ in _limits())])


def free_memory() -> float:
    """Bytes of it that are left now, with what the kernel would give back."""
    return min([_of_machine("MemAvailable"), *(limit - taken for limit, taken in _limits())])


def _of_machine(name: str) -> float:
    found = _table(ROOT, "proc/meminfo").get(f"{name}:", "")
    return 1024.0 * int(found) if found.isdecimal() else math.inf


def _limits() -> Iterator[tuple[int, int]]:
    """Limit and use of the memory of each control group that has a limit, in bytes."""
    for folder in _groups("memory"):
        for limit, taken, kept in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            figures = _words(folder, limit) + _words(folder, taken)
            if len(figures) == 2 and all(map(str.isdecimal, figures)):
                given_back = _table(folder, "memory.stat").get(kept, "0")  # files that are also on the disk
                yield int(figures[0]), int(figures[1]) - int(given_back)


def _groups(controller: str) -> Iterator[str]:
    """Folders of the control groups of this process, its own first."""
    groups = os.path.join(ROOT, "sys/fs/cgroup")
    for line in _lines(ROOT, "proc/self/cgroup"):
        _, names, place = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        base = os.path.join(groups, controller) if names else groups
        parts = place.strip("/").split("/")
        for count in range(len(parts), -1, -1):  # in a container, its own may be seen as the root
            folder = os.path.join(base, *parts[:count])
            if os.path.isdir(folder):
                yield folder


def _lines(folder: str, name: str) -> list[str]:
    """The lines of a small file of the kernel's; none if it is not there."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            return [line.strip() for line in file]
    except OSError:
        return []


def _words(folder: str, name: str) -> list[str]:
    """The words in its first line."""
    return [word for line in _lines(folder, name)[:1] for word in line.split()]


def _table(folder: str, name: str) -> dict[str, str]:
    """First word of each line -> the second."""
    return {words[0]: words[1] for line in _lines(folder, name) if len(words := line.split()) > 1}
