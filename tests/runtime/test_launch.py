"""Ranks started from one process: results, mistakes, bugs and Ctrl-C."""

from __future__ import annotations

import multiprocessing
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


def killed() -> None:
    ranks = init("cpu")
    ranks.barrier()
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.barrier()


def test_a_rank_that_was_killed_is_named_and_not_the_one_that_missed_it() -> None:
    with pytest.raises(RankError, match=r"^rank 1: ended by signal 9, Killed; memory may have run out$"):
        launch(killed, 2)


def listening_sockets() -> list[str]:
    """Local addresses, as the kernel lists them, on which any of the ranks listens."""
    ranks = init("cpu")
    own = {os.readlink(link.path) for link in os.scandir("/proc/self/fd") if os.path.islink(link.path)}
    text = "".join(Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6"))
    lines = map(str.split, text.splitlines())
    found = [line[1] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in own]
    with_method = [*found, multiprocessing.get_start_method()]
    return [word for words in ranks.gather(with_method) for word in words]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_listens_to_the_network_and_workers_start_as_usual() -> None:
    *found, method = launch(listening_sockets, 2)
    assert method == multiprocessing.get_start_method()
    addresses = [address for address in found if address != method]
    assert addresses and all(address.startswith("0100007F:") for address in addresses)  # 127.0.0.1, gloo's


def test_variables_that_a_scheduler_left_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun nobody would come."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "4"), ("MASTER_ADDR", "x")):
        monkeypatch.setenv(name, value)
    assert init("cpu").world_size == 1


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
