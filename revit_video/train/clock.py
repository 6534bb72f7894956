"""The clock of the training loop: clips per second, waits for clips, time left."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from revit_video.runtime.machine import usable_cores
from revit_video.runtime.ranks import Ranks

STARVED = 0.1  # share of a window that is waited for clips, from which that is said
SHORT = 2.0  # seconds of a window, up to which it shows nothing

logger = logging.getLogger(__name__)


class Clock:
    """Times a loop, whose body holds no clock code.

    Args:
        first, total: iterations that are done already, and all of them.
    """

    def __init__(self, first: int, total: int, ranks: Ranks) -> None:
        self.first, self.total, self.device = first, total, ranks.device
        self.start = self.since = time.perf_counter()
        self.clips = 0
        self.waited = self.device_waited = 0.0
        self.batches = 0
        self.is_first, self.has_said = True, not ranks.is_main

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches and add up the time spent waiting for them."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += time.perf_counter() - asked
            self.batches += 1
            yield batch

    @contextmanager
    def for_device(self) -> Iterator[None]:
        """A block in which the host waits for what it has asked of the device."""
        asked = time.perf_counter()
        yield
        self.device_waited += time.perf_counter() - asked

    def _say_starved(self, seconds: float) -> None:
        """Said once. What the device was behind in the end, it had to do while the host waited for clips."""
        starved = (self.waited - self.device_waited) / seconds
        if starved > STARVED and seconds > SHORT and not self.is_first and not self.has_said:
            self.has_said = True
            logger.warning(
                "waiting for clips took %.0f %% of the last %d batches' time: raise DATA_LOADER.NUM_WORKERS "
                "where cores are idle (%d here), or read resized copies (revit-video prepare --resize)",
                *(100 * starved, self.batches, usable_cores()),
            )
        self.is_first = False

    def window(self, step: int) -> dict[str, float]:
        """clips/s, mean wait per batch (s) and peak memory (GiB) since the last call; seconds left."""
        now = time.perf_counter()
        times = {
            "clips_per_sec": self.clips / (now - self.since),
            "data_time": self.waited / max(self.batches, 1),
            "eta": (now - self.start) / (step - self.first) * (self.total - step),
        }
        if self.device.type == "cuda":
            times["gpu_mem"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self._say_starved(now - self.since)
        self.since, self.clips, self.batches = now, 0, 0
        self.waited = self.device_waited = 0.0
        return times
