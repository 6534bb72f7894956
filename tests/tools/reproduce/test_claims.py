"""Verdicts on claims from values of several seeds."""

from __future__ import annotations

import pytest
from reproduce.claims import AGREES, DISAGREES, EQUAL, WITHIN, Claim, PerSeed


def test_mean_and_deviation_of_a_sample() -> None:
    measure = PerSeed((1.0, 2.0, 3.0))
    assert (measure.mean, measure.deviation, measure.text()) == (2.0, 1.0, "2.0 ± 1.0")
    assert PerSeed((98.06,)).text() == "98.1"


def test_pairs_are_of_the_same_seed() -> None:
    ratio = PerSeed((2.0, 9.0)).by(PerSeed((1.0, 3.0)), lambda a, b: a / b)
    assert ratio.values == (2.0, 3.0)


@pytest.mark.parametrize(
    ("above", "below", "verdict"),
    [
        ((10.0, 12.0), (5.0, 6.0), AGREES),
        ((5.0, 6.0), (10.0, 12.0), DISAGREES),
        ((5.0, 7.0), (5.5, 8.0), WITHIN),
        ((10.0,), (9.9,), AGREES),
        ((10.0,), (10.0,), EQUAL),
    ],
)
def test_verdicts(above: tuple[float, ...], below: tuple[float, ...], verdict: str) -> None:
    assert Claim("", "", PerSeed(above), PerSeed(below)).verdict == verdict


def test_the_deviation_is_the_differences() -> None:
    """With deviations 3 and 4 of the values, 5 is one deviation of their difference."""
    three, four = PerSeed((0.0, 3 * 2**0.5)), PerSeed((0.0, 4 * 2**0.5))
    for more, verdict in ((4.9, WITHIN), (5.1, AGREES)):
        shift = more + four.mean - three.mean
        above = PerSeed(tuple(value + shift for value in three.values))
        assert Claim("", "", above, four).verdict == verdict
