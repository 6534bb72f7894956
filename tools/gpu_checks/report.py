"""What the sections found: printed as it comes, kept for a JSON file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Figure = float | int | str


@dataclass
class Report:
    """The device that is looked at, and what was seen on it.

    Attributes:
        tiny: small models and one round, to try the command where there is no GPU.
        folder: where longer outputs are written.
        seconds: the budget; a section that would begin after it is left out and named.
    """

    device: torch.device
    tiny: bool
    folder: Path
    seconds: float
    found: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    section: str = ""

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.seconds - (time.monotonic() - self.started)

    def figure(self, what: str, **figures: Figure) -> None:
        """A measurement."""
        shown = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()]
        print("   ", what, *shown, flush=True)
        self.found.setdefault(self.section, []).append({"what": what, **figures})

    def check(self, what: str, good: bool, **figures: Figure) -> None:
        """A figure that is right or wrong."""
        self.figure(f"{'ok ' if good else 'BAD'} {what}", **figures)
        if not good:
            self.failed.append(f"{self.section}: {what} {figures}")

    def wait(self) -> None:
        """Until the device has done all it was asked for."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def milliseconds(self, action: Callable[[], object], rounds: int = 20, warm: int = 4) -> float:
        """Median wall-clock time of `action`, the device's work included."""
        if self.tiny:
            rounds, warm = 1, 1
        for _ in range(warm):
            action()
        times = []
        for _ in range(rounds):
            self.wait()
            start = time.perf_counter()
            action()
            self.wait()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)

    def peak_gib(self) -> float:
        """Most memory allocated since the last call."""
        if not self.is_gpu:
            return 0.0
        peak = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return peak


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Norm of the difference over the norm of `b`."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return float((a - b).norm() / b.norm())
