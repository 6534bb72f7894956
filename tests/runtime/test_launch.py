"""Ranks started from one process: results, mistakes, bugs and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from revit_video.runtime.launch import RankError, launch
from revit_video.runtime.ranks import init


def test_one_rank_runs_here() -> None:
    assert launch(os.getpid, 1) == os.getpid()


def test_under_torchrun_nothing_more_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert launch(os.getpid, 2) == os.getpid()


class SlowToTell(FileNotFoundError):
    def __str__(self) -> str:
        time.sleep(1)  # the other rank, whose peer has gone, could end before
        return "videos/train.csv: no such list"


def fail_on_rank_1(kind: str) -> None:
    ranks = init("cpu")
    if ranks.rank == 1:
        if kind == "mistake":
            raise SlowToTell
        raise KeyError("a bug")
    ranks.barrier()  # waits for a rank that never comes


def test_a_users_mistake_on_a_rank_is_told_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError) as caught:
        launch(fail_on_rank_1, 2, "mistake")
    assert str(caught.value) == "videos/train.csv: no such list"
    assert "Traceback" not in capfd.readouterr().err


def test_a_bug_on_a_rank_comes_with_its_traceback() -> None:
    with pytest.raises(RankError, match=r"(?s)rank 1: KeyError: 'a bug'\nTraceback.*in fail_on_rank_1"):
        launch(fail_on_rank_1, 2, "bug")


def test_ctrl_c_ends_all_ranks(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import os, pathlib, sys, time
        from revit_video.runtime.launch import launch

        def wait(folder):
            pathlib.Path(folder, f"{os.getpid()}.pid").touch()
            time.sleep(60)

        if __name__ == "__main__":
            try:
                launch(wait, 2, sys.argv[1])
            except KeyboardInterrupt:
                sys.exit(7)
        """)
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(root), "TMPDIR": tempfile.gettempdir()},
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that the signal reaches the ranks as well, as from a terminal
        text=True,
    )
    deadline = time.monotonic() + 60
    while len(pids := list(tmp_path.glob("*.pid"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 7
    assert "Traceback" not in errors
    for pid in (int(file.stem) for file in pids):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
