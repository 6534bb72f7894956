"""Actions are timed in turn; values are compared with their targets."""

from __future__ import annotations

from itertools import count

import pytest
from benchmarks.timing import (
    Measurement,
    Target,
    Timing,
    as_json,
    format_rows,
    interleaved,
    ratio,
)


def test_every_round_begins_with_another_action() -> None:
    order: list[str] = []
    ticks = count()
    times = interleaved(
        {name: lambda name=name: order.append(name) for name in "abc"}, 4, clock=lambda: float(next(ticks))
    )
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"  # once to warm up, then the rounds
    assert {name: timing.seconds for name, timing in times.items()} == {name: (1.0,) * 4 for name in "abc"}


def test_ratios_are_of_the_same_round() -> None:
    """A round at half the speed does not change the ratio."""
    row = ratio("speed-up", Timing((2.0, 4.0, 2.0)), Timing((1.0, 2.0, 1.0)), Target(at_least=2))
    assert (row.value, row.low, row.high, row.met) == (2, 2, 2, True)


def test_median_and_quartiles() -> None:
    row = Measurement.of("time", [5.0, 1.0, 3.0, 2.0, 4.0], "ms")
    assert (row.low, row.value, row.high, row.met) == (2, 3, 4, None)
    assert Measurement.of("once", [7.0], "ms") == Measurement("once", 7, "ms")


@pytest.mark.parametrize(("target", "met"), [(Target(at_least=2), False), (Target(at_most=2), True)])
def test_target_beside_figure(target: Target, met: bool) -> None:
    row = Measurement("a", 1.5, "x", target=target)
    assert row.met is met and as_json([row])[0]["met"] is met
    assert (
        format_rows([row]).splitlines()[-1] == f"| a | 1.5 x |  | {target} | {'yes' if met else '**no**'} |"
    )
