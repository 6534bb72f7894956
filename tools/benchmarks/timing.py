"""Timing by interleaved rounds in one process: medians, quartiles and targets."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one action, one value per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)


def interleaved(
    actions: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times all actions in turn, `rounds` times, after one warm-up call of each.

    Each round starts with another action, so that no action always follows the same one and other load on
    the machine falls on all of them alike.

    Args:
        device: synchronised after each action if it is a GPU.
        clock: `time.process_time` for CPU time, on a machine shared with other programs.
    """
    names = list(actions)
    wait = torch.cuda.synchronize if device is not None and device.type == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        actions[name]()
    gc.collect()
    for n in range(rounds):
        for name in names[n % len(names) :] + names[: n % len(names)]:
            wait()
            start = clock()
            actions[name]()
            wait()
            seconds[name].append(clock() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


@dataclass(frozen=True)
class Target:
    """A bound on a measurement; None leaves that side open."""

    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )

    def __str__(self) -> str:
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"


@dataclass(frozen=True)
class Measurement:
    """One line of a suite's table.

    Attributes:
        value: median over the rounds.
        low, high: quartiles; None after a single round.
    """

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    target: Target | None = None

    @classmethod
    def of(cls, name: str, values: Sequence[float], unit: str, target: Target | None = None) -> Measurement:
        """Median and quartiles of `values`, one from each round."""
        if len(values) < 2:
            return cls(name, values[0], unit, target=target)
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(name, median(values), unit, low, high, target)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.target.met(self.value)


def milliseconds(name: str, timing: Timing, clips: int = 1) -> Measurement:
    """Milliseconds of an action, or per clip of an action on several `clips`."""
    unit = "ms" if clips == 1 else "ms/clip"
    return Measurement.of(name, [1e3 * seconds / clips for seconds in timing.seconds], unit)


def ratio(name: str, above: Timing, below: Timing, target: Target | None = None) -> Measurement:
    """Time of `above` over that of `below`, taken within each round."""
    each = [a / b for a, b in zip(above.seconds, below.seconds, strict=True)]
    return Measurement.of(name, each, "x", target)


def format_rows(rows: Sequence[Measurement]) -> str:
    """Markdown table: median, quartiles, target, and whether it is met."""
    lines = ["| figure | median | quartiles | target | met |", "|---|---|---|---|---|"]
    for row in rows:
        quartiles = "" if row.low is None or row.high is None else f"{row.low:.4g} to {row.high:.4g}"
        verdict = {None: "", True: "yes", False: "**no**"}[row.met]
        figure = f"{row.value:.4g} {row.unit}".strip()
        lines.append(f"| {row.name} | {figure} | {quartiles} | {row.target or ''} | {verdict} |")
    return "\n".join(lines)


def as_json(rows: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Rows as JSON values, with `met`."""
    return [asdict(row) | {"met": row.met} for row in rows]
