"""What a container leaves of the machine, from the kernel's files of both versions of control groups."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from revit_video.runtime import machine
from revit_video.runtime.machine import free_memory, usable_cores, whole_memory

GIB = 1 << 30


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel's files: 8 GiB, of which 6 are free; 16 cores."""
    monkeypatch.setattr(machine, "ROOT", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    put(tmp_path / "proc" / "meminfo", f"MemTotal: {8 << 20} kB\nMemFree: 1 kB\nMemAvailable: {6 << 20} kB\n")
    return tmp_path


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_groups_it_is_the_machine(root: Path) -> None:
    assert (usable_cores(), whole_memory(), free_memory()) == (16, 8 * GIB, 6 * GIB)
    (root / "proc" / "meminfo").unlink()
    assert whole_memory() == free_memory() == math.inf


@pytest.mark.parametrize("place", ["/", "/a/b", "/host/only"])
def test_version_2(place: str, root: Path) -> None:
    groups = root / "sys" / "fs" / "cgroup"
    put(root / "proc" / "self" / "cgroup", f"0::{place}\n")
    put(groups / "cpu.max", "max 100000\n")
    put(groups / "memory.max", "max\n")
    (groups / "a" / "b").mkdir(parents=True)
    here = groups / "a" if place == "/a/b" else groups  # that of a parent counts as well
    put(here / "cpu.max", "250000 100000\n")
    put(here / "memory.max", f"{2 * GIB}\n")
    put(here / "memory.current", f"{3 * GIB // 2}\n")
    put(here / "memory.stat", f"anon 5\ninactive_file {GIB}\n")
    assert (usable_cores(), whole_memory(), free_memory()) == (2, 2 * GIB, 3 * GIB // 2)
    put(here / "cpu.max", "50000 100000\n")
    assert usable_cores() == 1


def test_version_1(root: Path) -> None:
    put(root / "proc" / "self" / "cgroup", "4:memory:/job/1\n1:cpu,cpuacct:/job/1\n0::/\n")
    groups = root / "sys" / "fs" / "cgroup"
    put(groups / "cpu" / "cpu.cfs_quota_us", "-1\n")
    put(groups / "cpu" / "cpu.cfs_period_us", "100000\n")
    put(groups / "memory" / "memory.limit_in_bytes", "9223372036854771712\n")
    put(groups / "memory" / "memory.usage_in_bytes", "5\n")
    assert (usable_cores(), whole_memory(), free_memory()) == (16, 8 * GIB, 6 * GIB)
    put(groups / "cpu" / "job" / "1" / "cpu.cfs_quota_us", "400000\n")
    put(groups / "cpu" / "job" / "1" / "cpu.cfs_period_us", "100000\n")
    put(groups / "memory" / "job" / "memory.limit_in_bytes", f"{GIB}\n")
    put(groups / "memory" / "job" / "memory.usage_in_bytes", f"{GIB // 2}\n")
    assert (usable_cores(), whole_memory(), free_memory()) == (4, GIB, GIB // 2)


@pytest.mark.parametrize("text", ["", "\n", "x y\n", "0 0\n", "-1 5\n", "1e5 1e5\n"])
def test_odd_files_say_nothing(text: str, root: Path) -> None:
    put(root / "proc" / "self" / "cgroup", "0::/\n")
    for name in ("cpu.max", "memory.max", "memory.current", "memory.stat"):
        put(root / "sys" / "fs" / "cgroup" / name, text)
    assert usable_cores() == 16
