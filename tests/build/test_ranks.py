"""Two ranks do what one does."""

from __future__ import annotations

import shutil
from pathlib import Path

from revit_video.runtime import checkpoint
from tests.toy import accuracies, options, results_of, run_toy, start_tool, stats_of


def test_two_ranks_through_all_stages(videos: Path, tmp_path: Path) -> None:
    pair, alone = tmp_path / "pair", tmp_path / "alone"
    process = start_tool("run_net", *options(videos, pair, "NUM_GPUS", 2))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("adaptive:") == 1, "one rank alone should talk"
    assert (pair / "report.html").is_file()
    assert [line["step"] for line in stats_of(pair) if line["stage"] == "train"] == [6]

    # Mining and test of the same weights on one rank.
    alone.mkdir()
    shutil.copy(pair / "assigner.pyth", alone)
    weights = checkpoint.latest(str(pair / "checkpoints"))
    run_toy(videos, alone, "TEST.CHECKPOINT_FILE_PATH", weights, stages=["mine", "test"])
    assert (alone / "labels.csv").read_bytes() == (pair / "labels.csv").read_bytes()
    assert (alone / "predictions.csv").read_bytes() == (pair / "predictions.csv").read_bytes()
    assert accuracies(alone) == accuracies(pair)
    for name in ("clips", "videos", "skipped", "lengths", "views"):
        assert results_of(alone)[name] == results_of(pair)[name]
