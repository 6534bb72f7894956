"""The published recipes' options together, through every stage and into prediction."""

from __future__ import annotations

from pathlib import Path

import pytest

import revit_video
from tests.toy import run_toy, table_of

TIMESFORMER = (
    *(
        "SOLVER.OPTIMIZING_METHOD",
        "sgd",
        "SOLVER.DECAY_ALL",
        True,
        "TRAIN.ACCUMULATE",
        2,
        "MODEL.DROP_PATH",
        0.2,
    ),
    *("MODEL.DROP_PATH_PER", "sequence", "MODEL.INIT", "timesformer", "DATA.SHORT_VIDEOS", "last"),
    *("DATA.SAMPLING_RATE", 16, "TEST.ENSEMBLE", "logits", "TEST.NUM_SPATIAL_CROPS", 3),
)
UNIFORM = ("DATA.SAMPLING", "uniform", "TEST.NUM_ENSEMBLE_VIEWS", 2, "MINE.NUM_CLIPS", 2)


@pytest.mark.parametrize("recipe", [TIMESFORMER, UNIFORM], ids=["timesformer", "uniform"])
def test_a_recipe_holds_from_training_to_prediction(
    recipe: tuple[object, ...], videos: Path, tmp_path: Path
) -> None:
    """The saved model alone answers as the test did."""
    run_toy(videos, tmp_path, *recipe)
    predictor = revit_video.load(str(tmp_path), "cpu")
    rows = table_of(tmp_path / "predictions.csv")
    assert rows
    for row in rows[:6]:
        answer = predictor.predict(videos / row["video"])
        assert predictor.class_names.index(answer.classes[0][0]) == int(row["adaptive_prediction"])
        assert str(answer.length) == row["adaptive_length"]
