"""Timing by interleaved rounds in one process: medians, quartiles and targets."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from typing import Any, TypeVar

import torch

from revit_video.runtime.ranks import Ranks

Part = TypeVar("Part")


@dataclass
class Effort:
    """How often a suite times each of its actions, and within which time.

    The parts of a suite share the time. What has begun takes one round at least, so that there is a figure.

    Attributes:
        rounds: of each action, or as many as there is time for.
        seconds: that the suite may take.
        ranks: those that time together; they end after the same round.
        left_out: what there was no time for.
    """

    rounds: int
    seconds: float = math.inf
    ranks: Ranks | None = None
    left_out: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    _coming: int = 1  # parts of the suite, this one included
    _until: float = math.inf  # when this part should end
    _least: float = 0.0  # what one round of a part took, warming up included
    _is_told: bool = False

    def __post_init__(self) -> None:
        self._until = self.started + self.seconds

    def parts(self, parts: Mapping[str, Part]) -> Iterator[tuple[str, Part]]:
        """The parts of a suite by name, as long as there is time for one round of another."""
        for n, (name, part) in enumerate(parts.items()):
            now, end, self._coming = time.monotonic(), self.started + self.seconds, len(parts) - n
            self._until = now + (end - now) / self._coming
            if now + self._least > end:
                self.left_out.append(name)
            else:
                yield name, part

    def goes_on(self, what: str, done: int, rounds: int, warming_up: float, took: float) -> bool:
        """Whether another round follows `done` ones, of which the last took so many seconds.

        After the first one of a suite, says what the suite will take.
        """
        if done == 1:
            self._least = max(self._least, warming_up + took)
        if not self._is_told and (self.ranks is None or self.ranks.is_main):
            self._is_told = True
            minutes = self._coming * (warming_up + rounds * took) / 60
            end = f", of which it has {self.seconds / 60:.3g}" if self.seconds < math.inf else ""
            print(f"takes about {minutes:.2g} min: {rounds} rounds of {took:.2g} s{end}\n", flush=True)
        short = time.monotonic() + took > self._until
        if done < rounds and (any(self.ranks.gather(short)) if self.ranks else short):
            self.left_out.append(f"{rounds - done} of {rounds} rounds of {what}")
            return False
        return done < rounds


@dataclass(frozen=True)
class Timing:
    """Seconds of one action, one value per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)


def interleaved(
    actions: Mapping[str, Callable[[], object]],
    effort: Effort,
    device: torch.device | None = None,
    clock: Callable[[], float] = time.perf_counter,
    rounds: int | None = None,
) -> dict[str, Timing]:
    """Times all actions in turn, `effort.rounds` times, after one warm-up call of each.

    Each round starts with another action, so that no action always follows the same one and other load on
    the machine falls on all of them alike.

    Args:
        device: synchronised after each action if it is a GPU.
        clock: `time.process_time` for CPU time, on a machine shared with other programs.
        rounds: other than `effort.rounds`.
    """
    names, rounds = list(actions), rounds or effort.rounds
    wait = torch.cuda.synchronize if device is not None and device.type == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in names}
    begun = time.monotonic()
    for name in names:
        actions[name]()
    gc.collect()
    warming_up, goes_on, n = time.monotonic() - begun, True, 0
    while goes_on:
        begun = time.monotonic()
        for name in names[n % len(names) :] + names[: n % len(names)]:
            wait()
            start = clock()
            actions[name]()
            wait()
            seconds[name].append(clock() - start)
        n += 1
        goes_on = effort.goes_on(", ".join(names), n, rounds, warming_up, time.monotonic() - begun)
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
