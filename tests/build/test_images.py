"""Images, one folder a class, through all stages and `predict`: the same tools, files and figures."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

import revit_video
from revit_video.build.data import EvalBatches, TrainBatches, video_list
from revit_video.build.job import Job
from revit_video.build.model import build_model
from revit_video.predict import find_videos
from revit_video.runtime.distributed import Ranks
from revit_video.train.losses import Distillation
from revit_video.train.steps import MixedLengthStep
from tests.images import CLASSES, write_pictures
from tests.toy import LENGTHS, STAGES, results_of, run_toy, table_of, tool, toy_cfg

ALONE = Ranks(0, 1, torch.device("cpu"))
IMAGES = (
    *("MODEL.ARCH", "deit_small", "MODEL.NUM_CLASSES", 0, "TIMESFORMER.ATTENTION_TYPE", "space_only"),
    *("DATA.NUM_FRAMES", 1, "DATA.TRAIN_JITTER_SCALES_RELATIVE", "[0.3,1]", "DATA.TEST_SCALE", 36),
)
DEIT = (
    *("AUG.AA_TYPE", "rand-m9-mstd0.5-inc1", "AUG.RE_PROB", 0.25),
    *("MIXUP.ALPHA", 0.8, "MIXUP.CUTMIX_ALPHA", 1.0, "SOLVER.LABEL_SMOOTHING", 0.1),
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pictures of each class, to be split by their names; one file of them is broken."""
    folder = write_pictures(tmp_path_factory.mktemp("pictures") / "shapes", 20)
    tested = sorted(path for path, _ in listed(folder, "test"))
    Path(tested[0]).write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = (*IMAGES, *DEIT, "DATA.MAX_SKIPPED_FRACTION", 0.2)
    return run_toy(pictures, tmp_path_factory.mktemp("images") / "run", *changes, stages=STAGES)


def listed(folder: Path, split: str, *changes: object) -> list[tuple[str, int]]:
    videos = video_list(toy_cfg(folder, folder, *IMAGES, *changes), split)
    return [(path, info["label"]) for path, info in map(videos.__getitem__, range(len(videos)))]


def test_the_results_are_those_of_a_run_on_videos(pictures: Path, run: Path) -> None:
    results, rows = results_of(run), table_of(run / "predictions.csv")
    assert results["classes"] == CLASSES and results["lengths"] == LENGTHS
    assert results["videos"] == len(rows) == len(listed(pictures, "test")) - 1 == 8
    assert results["static"][LENGTHS[0]]["gmacs"] > results["static"][LENGTHS[1]]["gmacs"]
    assert set(results["policies"]) == {"random", "cascade", "oracle"} and results["adaptive"]
    assert "data:image/jpeg" in (run / "report.html").read_text()


def test_broken_images_are_named(pictures: Path, run: Path) -> None:
    (row,) = table_of(run / "skipped.csv")
    assert row["path"] == min(path for path, _ in listed(pictures, "test"))
    assert (row["stage"], row["reason"]) == ("test", "damaged, or not an image")


def test_predictions_are_the_evaluations(run: Path) -> None:
    rows = table_of(run / "predictions.csv")
    predictor = revit_video.load(str(run), "cpu")
    for row, answer in zip(rows, predictor.predict_many([row["video"] for row in rows]), strict=True):
        assert not isinstance(answer, ValueError)
        assert str(answer.length) == row["adaptive_length"]
        assert CLASSES.index(answer.classes[0][0]) == int(row["adaptive_prediction"])


def test_predict_takes_folders_of_images(pictures: Path, run: Path) -> None:
    folder = pictures / CLASSES[1]
    assert len(find_videos([str(folder)])) == 20
    broken = min(path for path, _ in listed(pictures, "test"))
    finished = tool("predict", run, folder, broken, "--device", "cpu")
    assert finished.code == 1 and finished.out.count(" | read at ") >= 20
    assert f"error: {broken}: damaged, or not an image" in finished.err


def test_flops_are_counted_as_for_videos(pictures: Path, run: Path, tmp_path: Path) -> None:
    finished = tool("count_flops", "--cfg", run / "config.yaml", "DATA.PATH_TO_DATA_DIR", pictures)
    assert finished.code == 0 and all(length in finished.out for length in LENGTHS)


def test_val_is_tested_where_there_is_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_pictures(folder / "train", 4)
    write_pictures(folder / "val", 2, first=4)
    changes = ("MINE.HOLDOUT", "", "TEST.SPLIT", "val", "TRAIN.EVAL_PERIOD", 0)
    output = run_toy(folder, tmp_path / "run", *IMAGES, *changes)
    results = results_of(output)
    assert (results["split"], results["videos"]) == ("val", 6)
    assert len(table_of(output / "labels.csv")) == 12
    with pytest.raises(ValueError, match="test: no such folder .* there is train, val"):
        listed(folder, "test", *changes)


def test_a_list_may_hold_images(pictures: Path, tmp_path: Path) -> None:
    files = [path for path, _ in listed(pictures, "train")][:5]
    (tmp_path / "test.csv").write_text("".join(f"{file},{n % 3}\n" for n, file in enumerate(files)))
    cfg = toy_cfg(tmp_path, tmp_path, *IMAGES, "MODEL.NUM_CLASSES", 3, "DATA.PATH_LABEL_SEPARATOR", ",")
    batches = EvalBatches(cfg, video_list(cfg, "test"), ALONE, 1, 1, 8)
    (batch,) = batches
    assert batch.paths == files and batch.clips.shape == (5, 3, 1, 32, 32)


# ---- Mixed batches ---------------------------------------------------------------------------------------


def deit_cfg(pictures: Path, tmp_path: Path, *changes: object):
    return toy_cfg(pictures, tmp_path, *IMAGES, *DEIT, "MODEL.NUM_CLASSES", 3, *changes)


def test_a_resumed_epoch_mixes_the_same_batches(pictures: Path, tmp_path: Path) -> None:
    cfg = deit_cfg(pictures, tmp_path)
    whole = list(TrainBatches(cfg, ALONE)(1))
    random.seed(5)
    np.random.seed(5)
    rest = list(TrainBatches(cfg, ALONE)(1, first=3))
    assert len(whole) == len(rest) + 3
    for (clips, labels, _), (again, same, _) in zip(whole[3:], rest, strict=True):
        assert labels.shape == (4, 3) and torch.equal(clips, again) and torch.equal(labels, same)


@pytest.mark.parametrize("distillation", [None, Distillation(), Distillation(hard=True)])
def test_one_hot_labels_teach_what_classes_teach(
    distillation: Distillation | None, pictures: Path, tmp_path: Path
) -> None:
    cfg = deit_cfg(pictures, tmp_path)
    clips, labels = torch.randn(4, 3, 1, 32, 32), torch.tensor([0, 2, 1, 1])
    gradients, metrics = [], []
    for target in (labels, torch.eye(3)[labels]):
        model = build_model(cfg).eval()
        metrics.append(MixedLengthStep(model, distillation, ALONE, smoothing=0.1)(clips, target))
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert metrics[0].keys() == metrics[1].keys()
    for name, value in metrics[0].items():
        torch.testing.assert_close(value, metrics[1][name])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_share_of_a_mixed_batch_must_be_even(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="each of 2 shares .* must be even for MIXUP; got 6"):
        deit_cfg(pictures, tmp_path, "TRAIN.BATCH_SIZE", 6, "NUM_GPUS", 2, "ASSIGNER.BATCH_SIZE", 2)


def test_the_model_is_a_clip_of_one_frame(run: Path, pictures: Path) -> None:
    cfg = toy_cfg(pictures, run, *IMAGES, "MODEL.NUM_CLASSES", 3)
    _, model = Job(cfg, ALONE, "").trained()
    assert model.num_frames == 1 and model.time_embed is None
