"""A VideoMAE that transformers wrote, from its folder to adaptive predictions; and without any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

import revit_video
from revit_video.stages.run import STAGES
from tests.peers import randomised
from tests.toy import LENGTHS, last_checkpoint, options, results_of, run_toy, table_of, tool

OPEN = ("MODEL.EMBED_DIM", 24, "MODEL.NUM_HEADS", 3, "MODEL.MLP_RATIO", 2.0, "DATA.MEAN", [], "DATA.STD", [])
PARTS = dict(tubelet=2, positions="fixed", pool="mean", act="gelu", norm_eps=1e-12, head_norm_eps=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny VideoMAE of the toy's clips and classes."""
    path = tmp_path_factory.mktemp("videomae")
    config = transformers.VideoMAEConfig(
        image_size=32,
        patch_size=8,
        num_frames=2,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=48,
        num_labels=6,
    )
    randomised(transformers.VideoMAEForVideoClassification(config)).save_pretrained(path)
    transformers.VideoMAEImageProcessor(image_mean=[0.2] * 3, image_std=[0.1] * 3).save_pretrained(path)
    return path


def start(folder: Path) -> tuple[Any, ...]:
    return ("MODEL.ARCH", "timesformer_tiny", "TRAIN.CHECKPOINT_FILE_PATH", folder, *OPEN)


def test_it_fine_tunes_mines_assigns_is_tested_and_predicts(
    folder: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its parts are the checkpoint's, whatever the preset's are, in every stage."""
    run = run_toy(videos, tmp_path / "run", *start(folder), stages=list(STAGES))
    assert "copied" in capsys.readouterr().err
    spec = last_checkpoint(run)["model"]["spec"]
    assert {name: spec[name] for name in PARTS} == PARTS and spec["attention"] == "joint_space_time"
    assert last_checkpoint(run)["data"]["mean"] == [0.2] * 3
    results = results_of(run)
    assert set(results["static"]) == set(LENGTHS)
    row = table_of(run / "predictions.csv")[0]
    answer = revit_video.load(run, "cpu").predict(row["video"])
    assert str(answer.length) == row["adaptive_length"]
    again = run_toy(videos, run, *start(folder), "TEST.NAME", "again", stages=["test"])
    assert results_of(again / "tests" / "again")["static"].keys() == results["static"].keys()


def test_what_each_length_keeps_before_any_training(folder: Path, videos: Path, tmp_path: Path) -> None:
    converted = tmp_path / "start.pyth"
    lengths = ("REVIT.TOKEN_LENGTHS", "[4,2]", "REVIT.DISTILL.TOKEN", False)
    done = tool("convert", folder, converted, "--to", "revit", *lengths)
    assert done.code == 0, done.err
    free = ("TEST.CHECKPOINT_FILE_PATH", converted, "TEST.POLICIES", "[static]", *lengths)
    off = [word for stage in ("TRAIN", "MINE", "ASSIGNER") for word in (f"{stage}.ENABLE", False)]
    done = tool("run_net", *options(videos, tmp_path / "run", *start(folder), *free, *off))
    assert done.code == 0, done.err
    assert set(results_of(tmp_path / "run")["static"]) == {"4x4", "2x2"} and "| 2x2 " in done.err + done.out
