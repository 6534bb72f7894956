"""Which classes and clips lose by adapting, on tables that can be checked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from revit_video.report.files import Missing, Run
from revit_video.report.per_class import class_results, mistakes, paired_points


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """4 videos of `a`, of which adapting loses one; 2 of `b`, both right; none of `c`."""
    (tmp_path / "results.json").write_text(
        '{"lengths": ["4x4", "2x2"], "static": {}, "classes": ["a", "b", "c"]}'
    )
    rows = ["0,2x2,0,0,0", "0,2x2,0,0,0", "0,2x2,1,0,1", "0,4x4,1,1,1", "1,4x4,1,1,0", "1,2x2,1,0,1"]
    head = "video,label,adaptive_length,adaptive_prediction,prediction_4x4,prediction_2x2"
    lines = [f"dir/{n}.mp4,{row}" for n, row in enumerate(rows)]
    (tmp_path / "predictions.csv").write_text("\n".join([head, *lines]) + "\n")
    return Run(str(tmp_path))


def test_classes_that_lose_stand_first(run: Run) -> None:
    found = class_results(run)
    assert [(one.name, one.videos, one.longest, one.adaptive, one.points) for one in found] == [
        ("a", 4, 75.0, 50.0, -25.0),
        ("b", 2, 50.0, 100.0, 50.0),
    ]
    assert found[0].low < 50 < found[0].high


def test_the_interval_of_the_difference_is_that_of_pairs(run: Run) -> None:
    gain = np.array([0, 0, -1, 0, 0, 1])
    mean, low, high = paired_points(run)
    assert mean == pytest.approx(0) and high == pytest.approx(1.96 * 100 * gain.std() / np.sqrt(6))
    assert low == pytest.approx(-high)


def test_mistakes_are_named_with_their_length(run: Run) -> None:
    assert mistakes(run) == (2, [("2.mp4", "a", "b", "2x2"), ("3.mp4", "a", "b", "4x4")])


def test_without_the_longest_length_nothing_is_compared(run: Run) -> None:
    del run.predictions.static["4x4"]  # type: ignore[attr-defined]
    for compared in (class_results, paired_points):
        with pytest.raises(Missing, match="always 4x4"):
            compared(run)
