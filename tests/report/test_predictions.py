"""`predictions.csv` is read back as it was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from revit_video.length import token_lengths
from revit_video.report.predictions import Predictions, parse_predictions, write_predictions

LENGTHS = token_lengths([4, 2])
STATIC = {"4x4": np.array([1, 0]), "2x2": np.array([3, 0])}
ADAPTIVE = Predictions(
    ["a.mp4", "with, comma.mp4"], np.array([1, 0]), STATIC, np.array([1, 0]), np.array([0, 1])
)
STATIC_ALONE = Predictions(ADAPTIVE.videos, ADAPTIVE.truth, STATIC)


def test_predictions_of_all_policies(tmp_path: Path) -> None:
    write_predictions(str(tmp_path / "p.csv"), ADAPTIVE, LENGTHS)
    assert (tmp_path / "p.csv").read_text() == (
        "video,label,adaptive_length,adaptive_prediction,prediction_4x4,prediction_2x2\n"
        "a.mp4,1,4x4,1,1,3\n"
        '"with, comma.mp4",0,2x2,0,0,0\n'
    )


def test_predictions_without_an_assigner(tmp_path: Path) -> None:
    write_predictions(str(tmp_path / "p.csv"), STATIC_ALONE, LENGTHS)
    assert (tmp_path / "p.csv").read_text().splitlines()[1] == "a.mp4,1,,,1,3"


@pytest.mark.parametrize(("predictions", "by"), [(ADAPTIVE, "adaptive"), (STATIC_ALONE, "4x4")])
def test_what_is_written_can_be_read(predictions: Predictions, by: str, tmp_path: Path) -> None:
    write_predictions(str(tmp_path / "p.csv"), predictions, LENGTHS)
    again = parse_predictions((tmp_path / "p.csv").read_text(), LENGTHS)
    assert again.by == predictions.by == by
    for name in ("videos", "truth", "adaptive", "chosen", "predicted", "correct"):
        assert np.array_equal(getattr(again, name), getattr(predictions, name))
    assert {name: classes.tolist() for name, classes in again.static.items()} == {
        "4x4": [1, 0],
        "2x2": [3, 0],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,label\n", "lists no video"),
        (
            "video,label,adaptive_length,adaptive_prediction\na,1,9x9,1\n",
            "predictions.csv:2: adaptive_length is not a token length of 4x4, 2x2: '9x9'",
        ),
        ("video,label,adaptive_length,prediction_2x2\na,1,,1\n", "predictions.csv: no column prediction_4x4"),
        (
            "video,label,adaptive_length,prediction_4x4\na,one,,1\n",
            "predictions.csv:2: label is not a whole number .*: 'one'",
        ),
    ],
)
def test_what_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_predictions(text, LENGTHS)
