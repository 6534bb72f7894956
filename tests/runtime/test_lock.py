"""A folder has one run at a time, and a process that is gone holds nothing."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from revit_video.runtime.lock import only_run_in
from tests.toy import tool

HOLDER = """
import os, sys, time
from revit_video.runtime.lock import only_run_in
with only_run_in(sys.argv[1]):
    if os.fork() == 0:  # such as a data worker, which may outlive the run for a while
        time.sleep(3)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def held_by_another(folder: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def test_a_second_run_is_told_of_the_first(tmp_path: Path, videos: Path) -> None:
    holder = held_by_another(tmp_path)
    try:
        done = tool("train_net", "DATA.PATH_TO_DATA_DIR", videos, "OUTPUT_DIR", tmp_path, "DEVICE", "cpu")
        said = (
            rf"error: OUTPUT_DIR {tmp_path}: another run is in it \(process {holder.pid} on .+, since 2.+\)"
        )
        assert done.code == 2 and re.match(said, done.err.splitlines()[-1])
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]
    finally:
        holder.kill()
        holder.wait()
    with only_run_in(str(tmp_path)):  # although the child of the killed process lives
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert not list(tmp_path.iterdir())


def test_a_lock_is_given_back_whatever_happens(tmp_path: Path) -> None:
    with pytest.raises(KeyError), only_run_in(str(tmp_path)):
        raise KeyError
    with only_run_in(str(tmp_path)):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refuse)
    with only_run_in(str(tmp_path)):
        assert caplog.messages == [
            f"{tmp_path}/.lock: no lock (No locks available); let no other run use this folder"
        ]
