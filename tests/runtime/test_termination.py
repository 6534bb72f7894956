"""SIGTERM waits until what has to be saved is saved."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from revit_video.runtime.termination import Termination, start_worker


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_it_is_noted_and_obeyed_at_the_end() -> None:
    before, reached = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(SystemExit) as left, Termination() as termination:
        assert not termination.asked
        ask()
        assert termination.asked
        reached.append("the end")
    assert left.value.code == 143 and reached
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("early", [True, False])
def test_where_nothing_is_to_be_saved_it_is_obeyed_at_the_next_look(early: bool) -> None:
    reached = []
    with pytest.raises(SystemExit), Termination() as termination:
        if early:
            ask()
        for batch in termination.watched(range(3)):
            reached.append(batch)
            if batch == 1:
                ask()
        reached.append("the end")
    assert reached == ([] if early else [0, 1])


def test_ctrl_c_is_noted_too_and_the_second_is_obeyed_at_once() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), Termination() as termination:
        os.kill(os.getpid(), signal.SIGINT)
        assert termination.asked == signal.SIGINT
        ask()
        assert termination.asked == signal.SIGINT
        reached.append("first")
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("second")
    assert reached == ["first"]


during_fork: list[int] = []  # signals that this process gets in the hooks of its next fork


def ask_while_forking() -> None:
    while during_fork:
        os.kill(os.getpid(), during_fork.pop())


os.register_at_fork(before=ask_while_forking)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_a_fork_is_not_lost(number: int) -> None:
    """Python drops an exception that a handler raises in the hooks of a fork, such as logging's."""
    with pytest.raises((SystemExit, KeyboardInterrupt)), Termination() as termination:
        during_fork.append(number)
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
        termination.look()
        pytest.fail("lost")


def test_other_errors_go_first() -> None:
    with pytest.raises(KeyError), Termination():
        ask()
        raise KeyError
    with Termination() as termination:
        termination.look()


def test_other_threads_are_left_alone() -> None:
    before, errors = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        try:
            with Termination():
                assert signal.getsignal(signal.SIGTERM) is before
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not errors


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="Linux alone tells who sent a signal")
def test_a_data_worker_ends_with_its_rank_alone() -> None:
    process = multiprocessing.get_context("fork").Process(target=work, args=(os.getpid(),))
    process.start()
    time.sleep(0.1)
    subprocess.run(["sh", "-c", f"kill {process.pid}"], check=True)  # from another process
    process.join(0.2)
    assert process.is_alive()
    process.terminate()
    process.join(10)
    assert process.exitcode == 0


def work(rank: int) -> None:
    start_worker(rank)
    time.sleep(60)


def test_a_worker_whose_rank_has_ended_ends_too() -> None:
    """Also where the rank ended before the worker could look."""
    context = multiprocessing.get_context("fork")
    orphan = context.Process(target=work, args=(1 << 22,))
    orphan.start()
    orphan.join(10)
    assert orphan.exitcode == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's doing")
def test_a_worker_ends_with_its_rank() -> None:
    read, write = os.pipe()
    rank = multiprocessing.get_context("fork").Process(target=rank_with_worker, args=(write,))
    rank.start()
    os.close(write)
    worker = int(os.read(read, 20))
    rank.kill()
    assert select.select([read], [], [], 10)[0], f"process {worker} still runs"
    assert os.read(read, 20) == b"", "closed by the end of both"


def rank_with_worker(write: int) -> None:
    worker = os.fork()
    if worker == 0:
        start_worker(os.getppid())
        os.write(write, str(os.getpid()).encode())
    time.sleep(60)
