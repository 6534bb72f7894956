"""A run on the terminal and on TensorBoard."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.toy import results_of, run_toy


def test_a_test_on_the_terminal_and_on_tensorboard(
    toy_run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(toy_run, tmp_path / "a run"))
    (run / "results.json").unlink()
    run_toy(videos, run, "TENSORBOARD.ENABLE", True, stages=["mine", "assigner", "test"])
    said = capsys.readouterr().err
    heading = ["1 of 3: mining", "2 of 3: training the assigner; about", "3 of 3: testing; about"]
    assert all(words in said for words in heading)
    assert said.rstrip().endswith(f"to classify videos: revit-video predict '{run}' VIDEO")
    board = EventAccumulator(str(run / "tensorboard" / "test")).Reload()
    results, tags = results_of(run), board.Tags()
    for name, entry in (results["static"] | {"adaptive": results["adaptive"]}).items():
        (event,) = board.Scalars(f"test top1/{name}")
        assert event.value == pytest.approx(entry["top1"], rel=1e-6)
    assert tags["images"] == ["confusion"]
    assert "REVIT" in str(board.Tensors("config/text_summary")[0].tensor_proto.string_val[0])
    assert "_hparams_/session_start_info" in board.summary_metadata
