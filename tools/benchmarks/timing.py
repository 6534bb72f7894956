"""How things are timed: in turn, in one run, by their medians, each figure beside its target."""

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
    """Seconds of one action, a value for each round."""

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
    """Times all actions in turn, `rounds` times, after each has run once to warm up.

    Every round starts with another action, so that none always follows the same one; what the machine does
    meanwhile falls on all of them alike.

    Args:
        device: waited for after each action where it is a GPU.
        clock: `time.process_time` for processor time, where other programs share the machine.
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
    """`at_least` or `at_most` some value; None leaves that side open."""

    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )

    def __str__(self) -> str:
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        low, high: quartiles over the rounds, where there are several.
    """

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    target: Target | None = None

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.target.met(self.value)


def measured(name: str, values: Sequence[float], unit: str, target: Target | None = None) -> Row:
    """The row of a figure that every round gave: its median, with its quartiles."""
    if len(values) < 2:
        return Row(name, values[0], unit, target=target)
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Row(name, median(values), unit, low, high, target)


def ratio(name: str, above: Timing, below: Timing, target: Target | None = None) -> Row:
    """How many times as long `above` takes as `below`: the median over rounds of their ratio in a round."""
    each = [a / b for a, b in zip(above.seconds, below.seconds, strict=True)]
    return measured(name, each, "x", target)


def format_rows(rows: Sequence[Row]) -> str:
    """A Markdown table, each figure with its quartiles and beside its target."""
    lines = ["| figure | median | quartiles | target | met |", "|---|---|---|---|---|"]
    for row in rows:
        spread = "" if row.low is None or row.high is None else f"{row.low:.4g} to {row.high:.4g}"
        verdict = {None: "", True: "yes", False: "**no**"}[row.met]
        figure = f"{row.value:.4g} {row.unit}".strip()
        lines.append(f"| {row.name} | {figure} | {spread} | {row.target or ''} | {verdict} |")
    return "\n".join(lines)


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain values, with `met`."""
    return [asdict(row) | {"met": row.met} for row in rows]
