"""SIGTERM ends a process within a time, whatever it waits for: a batch, a disk, another rank."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from revit_video.runtime.termination import EXIT_CODE

RANK, RUN = 25.0, 28.0  # seconds; schedulers send SIGKILL 30 s after SIGTERM


@contextmanager
def ended_within(seconds: float) -> Iterator[None]:
    """Ends this process `seconds` after a SIGTERM, should it still be there, even if that is after the block.

    Whoever handles the signal has this long to save and to leave. The system notes its arrival in a pipe
    that a thread reads, since handlers do not run while the main thread is in foreign code. Has no effect
    outside the main thread, which alone can handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader, seconds), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)


def _watch(reader: int, seconds: float) -> None:
    while numbers := os.read(reader, 64):
        if signal.SIGTERM in numbers:
            time.sleep(seconds)
            with suppress(OSError):
                os.write(2, f"ended {seconds:g} s after SIGTERM; what was saved before is whole\n".encode())
            os._exit(EXIT_CODE)
    os.close(reader)


def _hears_nothing() -> None:
    """A forked child shares the pipe: what it is sent is no signal to this process."""
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_hears_nothing)
