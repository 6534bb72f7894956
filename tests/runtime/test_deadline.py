"""SIGTERM ends a process in time, even one whose main thread runs no handler any more."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

WAITING = """
import ctypes, os, sys, threading
from revit_video.runtime.deadline import ended_within
from revit_video.runtime.termination import Termination

def for_a_lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def in_foreign_code():
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)

def after_the_block():
    os.kill(os.getpid(), 15)

def a_childs_signal():
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), 15)
        os._exit(0)
    os.waitpid(child, 0)
    threading.Event().wait(1)
    print("alive", flush=True)
    for_a_lock()

with ended_within(0.3), Termination() as termination:
    print("ready", flush=True)
    globals()[sys.argv[1]]()
    termination.asked = 0
print("left", flush=True)
for_a_lock()
"""


@pytest.mark.parametrize("where", ["for_a_lock", "in_foreign_code", "after_the_block", "a_childs_signal"])
def test_sigterm_ends_what_waits_for_ever(where: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    try:
        if where == "after_the_block":
            assert process.stdout.readline() == "left\n"
        else:
            if where == "a_childs_signal":
                assert process.stdout.readline() == "alive\n"
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 143
    assert said == "ended 0.3 s after SIGTERM; what was saved before is whole\n"
