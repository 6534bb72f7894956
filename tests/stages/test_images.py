"""Images, one folder a class, through all stages and `predict`: the same tools, files and figures."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

import revit_video
from revit_video.data.folders import find_videos
from revit_video.data.targets import Targets
from revit_video.from_cfg.inputs import data_folder, eval_batches
from revit_video.from_cfg.model import build_model
from revit_video.length import TokenLength
from revit_video.runtime.ranks import Ranks
from revit_video.stages.job import Job
from revit_video.train.losses import Distillation
from revit_video.train.steps import MixedLengthStep
from tests.images import CLASSES, write_pictures
from tests.label_maps import constant_map, write_map
from tests.toy import (
    LENGTHS,
    STAGES,
    options,
    results_of,
    run_toy,
    stats_of,
    table_of,
    tool,
    toy_cfg,
    training_batches,
)

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
    videos = data_folder(toy_cfg(folder, folder, *IMAGES, *changes)).videos(split)
    return [(path, info["label"]) for path, info in map(videos.__getitem__, range(len(videos)))]


def test_the_results_are_those_of_a_run_on_videos(pictures: Path, run: Path) -> None:
    results, rows = results_of(run), table_of(run / "predictions.csv")
    assert results["classes"] == CLASSES and results["lengths"] == LENGTHS
    assert results["videos"] == len(rows) == len(listed(pictures, "test")) - 1 == 8
    assert results["static"][LENGTHS[0]]["gmacs"] > results["static"][LENGTHS[1]]["gmacs"]
    assert set(results["policies"]) == {"assigned", "random", "cascade", "oracle"} and results["adaptive"]
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
    assert finished.code == 1 and finished.out.count(" | token length ") >= 20
    assert f"error: {broken}: damaged, or not an image" in finished.err


def test_a_video_for_a_model_of_images_is_said(
    run: Path, videos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    video = find_videos([str(videos / "test")])[0]
    revit_video.load(str(run), "cpu").predict(video)
    assert caplog.messages == [f"{video}: a video; the model is of images and sees 1 frame of each clip"]


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
    batches = eval_batches(cfg, data_folder(cfg).videos("test"), ALONE, 1, 1, 8)
    (batch,) = batches
    assert batch.paths == files and batch.clips.shape == (5, 3, 1, 32, 32)


# ---- Mixed batches ---------------------------------------------------------------------------------------


def deit_cfg(pictures: Path, tmp_path: Path, *changes: object):
    return toy_cfg(pictures, tmp_path, *IMAGES, *DEIT, "MODEL.NUM_CLASSES", 3, *changes)


def test_a_resumed_epoch_mixes_the_same_batches(pictures: Path, tmp_path: Path) -> None:
    cfg = deit_cfg(pictures, tmp_path)
    whole = list(training_batches(cfg, ALONE)(1))
    random.seed(5)
    np.random.seed(5)
    rest = list(training_batches(cfg, ALONE)(1, first=3))
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
    cfg = toy_cfg(pictures, run, *IMAGES, *DEIT, "MODEL.NUM_CLASSES", 3)
    model = Job.of(cfg, [], ALONE, "").trained.model
    assert model.num_frames == 1 and model.time_embed is None


# ---- Token labels ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def maps(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of each training picture, which shows its class everywhere; the last one's is missing."""
    folder = tmp_path_factory.mktemp("maps")
    for path, label in listed(pictures, "train"):
        written = write_map(folder, Path(path), constant_map(label, classes=3))
    written.unlink()
    return folder


def lvvit(maps: Path) -> tuple[object, ...]:
    tokens = ("DATA.TOKEN_LABELS", maps, "MIXUP.TOKEN_ALPHA", 1.0, "DATA.RANDOM_FLIP", True)
    return *IMAGES, "MODEL.ARCH", "lvvit_small", *tokens, "MODEL.NUM_CLASSES", 3


def test_tokens_have_the_labels_of_their_pictures(pictures: Path, maps: Path, tmp_path: Path) -> None:
    """Through two workers, and cut off and begun again."""
    cfg = toy_cfg(pictures, tmp_path, *lvvit(maps), "DATA_LOADER.NUM_WORKERS", 2)
    batches = training_batches(cfg, ALONE)
    whole = list(batches(1))
    assert len({targets.box for _, targets, _ in whole}) > 2
    for clips, targets, paths in whole:
        assert isinstance(targets, Targets) and len(targets) == len(clips) == 4
        assert targets.labels.tolist() == [CLASSES.index(Path(path).parent.name) for path in paths]
        shown = targets.of_tokens(TokenLength(2, 2), 3).argmax(dim=2)
        assert torch.equal(shown, targets.labels.unsqueeze(1).expand(-1, 4))
    for one, other in zip(whole[3:], batches(1, first=3), strict=True):
        assert same_batch(one, other)
    assert len(batches.skipped) == 1


def same_batch(one: tuple, other: tuple) -> bool:
    tensors = []
    for clips, targets, _ in (one, other):
        tensors.append([clips, targets.labels, targets.token_labels.maps, targets.token_labels.boxes])
    same = all(map(torch.equal, *tensors))
    return same and one[2] == other[2] and one[1].box == other[1].box


def test_ranks_agree_on_the_mix(pictures: Path, maps: Path, tmp_path: Path) -> None:
    """Those that share the clips on the box; those that share the token lengths on everything."""
    cfg = toy_cfg(pictures, tmp_path, *lvvit(maps))
    whole, second = (
        list(training_batches(cfg, Ranks(rank, rank + 1, torch.device("cpu")))(0)) for rank in (0, 1)
    )
    assert [targets.box for _, targets, _ in whole] == [targets.box for _, targets, _ in second]
    group = [training_batches(cfg, Ranks(rank, 2, torch.device("cpu"), length_size=2))(0) for rank in (0, 1)]
    for one, other, alone in zip(*group, whole, strict=True):
        assert same_batch(one, other) and same_batch(one, alone)


def test_training_with_token_labels(pictures: Path, maps: Path, tmp_path: Path) -> None:
    losses = []
    for weight in (0, 1):
        changes = ("TRAIN.DENSE_WEIGHT", weight, "TRAIN.ACCUMULATE", 2, "TRAIN.EVAL_PERIOD", 0)
        output = run_toy(pictures, tmp_path / str(weight), *lvvit(maps), *changes, stages=["train"])
        (row,) = table_of(output / "skipped.csv")
        missing = listed(pictures, "train")[-1][0]
        assert (row["path"], row["stage"]) == (missing, "train") and "no label map" in row["reason"]
        losses.append([stats_of(output)[0][f"loss_{length}"] for length in LENGTHS])
    assert all(dense > plain + 0.5 for plain, dense in zip(*losses, strict=True))


def test_label_maps_that_are_nowhere(pictures: Path, tmp_path: Path) -> None:
    finished = tool("train_net", *options(pictures, tmp_path, *lvvit(tmp_path / "nowhere")))
    assert finished.code == 2 and finished.err.startswith("error: DATA.TOKEN_LABELS: no such folder: '")
    assert finished.err.count("\n") == 1
