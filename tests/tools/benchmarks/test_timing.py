"""Actions are timed in turn; values are compared with their targets."""

from __future__ import annotations

from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest
from benchmarks import timing
from benchmarks.timing import (
    Effort,
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
        {name: lambda name=name: order.append(name) for name in "abc"},
        Effort(4),
        clock=lambda: float(next(ticks)),
    )
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"  # once to warm up, then the rounds
    assert {name: timing.seconds for name, timing in times.items()} == {name: (1.0,) * 4 for name in "abc"}


def test_a_suite_ends_in_time_and_says_what_it_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three parts share 60 s: the first ends after 20, the second takes the rest, the third is left out."""
    now = 0.0

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: now))
    effort = Effort(9, 60.0, started=0.0)
    for name, seconds in effort.parts({"a": 4, "b": 20, "c": 4}):
        times = interleaved({f"work on {name}": partial(work, seconds)}, effort, clock=lambda: now)
        assert times[f"work on {name}"].seconds == (seconds,) * {"a": 4, "b": 1}[name]
    assert effort.left_out == ["5 of 9 rounds of work on a", "8 of 9 rounds of work on b", "c"] and now == 60
    assert capsys.readouterr().out == "takes about 2 min: 9 rounds of 4 s, of which it has 1\n\n"


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
