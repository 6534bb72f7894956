"""Several labels a video, from lists through every stage to prediction; the epoch that is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import revit_video
from revit_video.config import ConfigError
from revit_video.report.files import Missing, Run
from tests.toy import COUNTS, last_checkpoint, options, results_of, run_toy, stats_of, table_of, tool, toy_cfg

MANY = ("DATA.MULTI_LABEL", True)


@pytest.fixture(scope="module")
def labelled(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every video's class, and of every second one the next class too."""
    folder = Path(shutil.copytree(videos, tmp_path_factory.mktemp("several") / "actions"))
    for path in (folder / f"{split}.csv" for split in COUNTS):
        lines = []
        for n, line in enumerate(path.read_text().splitlines()):
            video, label = line.rsplit(" ", 1)
            lines.append(f"{video} {label},{(int(label) + 1) % 6}\n" if n % 2 else f"{line}\n")
        path.write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def run(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = ("SOLVER.MAX_EPOCH", 3, "TRAIN.BEST", "mean", "TRAIN.KEEP", 2, "ASSIGNER.OBJECTIVE", "label")
    return run_toy(labelled, tmp_path_factory.mktemp("run") / "out", *MANY, *changes)


def test_every_stage_knows_several_labels(run: Path, labelled: Path) -> None:
    results = results_of(run)
    for entry in (*results["static"].values(), results["adaptive"]):
        assert 0 < entry["mAP"] <= 100 and entry["top1"] <= entry["top5"]
    given = [line.rsplit(" ", 1)[1] for line in (labelled / "test.csv").read_text().splitlines()]
    as_written = {",".join(sorted(label.split(","), key=int)) for label in given}
    rows = table_of(run / "predictions.csv")
    assert {row["label"] for row in rows} == as_written
    for row in rows:
        assert row["adaptive_prediction"].count(",") == row["label"].count(",")
    right = sum(row["adaptive_prediction"] == row["label"] for row in rows)
    assert results["adaptive"]["top1"] == pytest.approx(100 * right / len(rows))
    mined = table_of(run / "labels.csv")
    assert any("," in row["label"] for row in mined)
    for row in mined:
        shortest = "2x2" if row["correct_2x2"] == "1" else "4x4"
        assert row["token_length"] == shortest
    with pytest.raises(Missing, match="several labels"):
        _ = Run(str(run)).predictions
    assert "mAP" in (run / "report.html").read_text()


def test_prediction_gives_each_class_its_probability(run: Path) -> None:
    predictor = revit_video.load(run, "cpu")
    row = table_of(run / "predictions.csv")[1]
    answer = predictor.predict(row["video"])
    count = row["label"].count(",") + 1
    best = sorted(predictor.class_names.index(name) for name, _ in answer.classes[:count])
    assert best == list(map(int, row["adaptive_prediction"].split(",")))
    assert all(0 < share < 1 for _, share in answer.classes)
    assert answer.logits.sigmoid().max().item() == pytest.approx(answer.classes[0][1], abs=1e-5)


def test_the_best_epoch_goes_on_and_the_last_ones_are_kept(run: Path, labelled: Path) -> None:
    kept = sorted(path.name for path in (run / "checkpoints").glob("*.pyth"))
    assert kept == ["best.pyth", "epoch_00002.pyth", "epoch_00003.pyth"]
    lines = [line for line in stats_of(run) if line["stage"] == "val"]
    means = [(line["mAP_4x4"] + line["mAP_2x2"]) / 2 for line in lines]
    best = means.index(max(means)) + 1
    digest = (run / "labels.csv").read_text().splitlines()[0].split()[-1]
    weights = revit_video.models.checkpoint.load_payload(str(run / "checkpoints" / "best.pyth"))["model"][
        "weights"
    ]
    assert digest == revit_video.models.checkpoint.weights_digest(weights)
    if best == 3:
        last = last_checkpoint(run)["model"]["weights"]
        assert digest == revit_video.models.checkpoint.weights_digest(last)
    again = ("SOLVER.MAX_EPOCH", 3, "TRAIN.BEST", "mean", "TRAIN.KEEP", 2)
    done = tool(
        "test_net", *options(labelled, run, *MANY, *again, "TEST.NAME", "again", "TEST.POLICIES", "[static]")
    )
    assert done.code == 0, done.err
    assert results_of(run / "tests" / "again")["static"] != {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("MIXUP.ALPHA", 0.5, *MANY), "MIXUP.ALPHA: is for clips of one class"),
        (("DATA.PATH_LABEL_SEPARATOR", ",", *MANY), "separates the labels of a video"),
        (("TRAIN.BEST", "3x3"), "TRAIN.BEST: must be empty, mean or one of 4x4, 2x2, got '3x3'"),
        (("TRAIN.BEST", "mean", "TRAIN.EVAL_PERIOD", 0), "TRAIN.EVAL_PERIOD must be at least 1"),
    ],
)
def test_what_does_not_go_together(changes: tuple[object, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        toy_cfg(tmp_path, tmp_path / "run", *changes)


def test_several_labels_without_the_key_are_explained(labelled: Path, tmp_path: Path) -> None:
    done = tool("train_net", *options(labelled, tmp_path / "run"))
    assert done.code == 2 and "several labels need DATA.MULTI_LABEL True" in done.err
