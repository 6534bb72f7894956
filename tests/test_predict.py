"""`revit_video.load(...).predict(file)` says what the evaluation said of that file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import revit_video
from revit_video.adaptive.engine import Prediction, ask
from revit_video.adaptive.policies import mean_by_video
from revit_video.data.folders import find_videos
from revit_video.data.loader import EvalBatches
from revit_video.data.video import DecodeError
from revit_video.from_cfg.inputs import data_folder, eval_batches
from revit_video.models import checkpoint
from revit_video.predict import VideoPrediction
from revit_video.runtime.ranks import Ranks
from revit_video.stages.comparison import compare
from revit_video.stages.job import Job
from tests.toy import COUNTS, LENGTHS, results_of, run_toy, table_of, toy_cfg

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
MODULES = 25  # of the package
CLASSES = ["left", "right", "up", "down", "grow", "shrink"]


@pytest.fixture(scope="module")
def mixed_run(toy_run: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose assigner sends about half of the videos each way, tested with 2 clips x 3 crops.

    It is as runs were before the policy `hybrid`.
    """
    run = Path(shutil.copytree(toy_run, tmp_path_factory.mktemp("mixed") / "run"))
    views = ("TEST.NUM_SPATIAL_CROPS", 3, "TEST.NUM_ENSEMBLE_VIEWS", 2, "DATA.SAMPLING_RATE", 2)
    run_toy(videos, run, *views, stages=["mine", "assigner"])
    as_before_hybrid(run)
    assigner = revit_video.load(str(run), "cpu").engine.assigner
    assert assigner is not None
    with torch.inference_mode():
        batches = evaluation_batches(run, videos, *views)
        asked = [mean_by_video(ask(assigner, batch.clips), batch.rows) for batch in batches]
    threshold = torch.cat(asked)[:, 1].median().item()
    for name in ("assigner.pyth", "model.pyth"):
        payload = checkpoint.load_payload(str(run / name))
        payload["policy"]["threshold"] = threshold
        checkpoint.save(str(run / name), payload)
    run_toy(videos, run, *views, stages=["test"])
    return run


def as_before_hybrid(run: Path) -> None:
    (run / "calibration.pyth").unlink()
    for name in ("assigner.pyth", "model.pyth"):
        payload = checkpoint.load_payload(str(run / name))
        for key in ("hybrid", "certificate", "seen"):
            payload["policy"].pop(key, None)
        checkpoint.save(str(run / name), payload)


def evaluation_batches(run: Path, videos: Path, *changes: object) -> EvalBatches:
    cfg = toy_cfg(videos, run, *changes)
    clips, crops = cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS
    return eval_batches(cfg, data_folder(cfg).videos("test"), ALONE, clips, crops)


def evaluated(run: Path, videos: Path, name: str, *changes: object) -> torch.Tensor:
    """The evaluation's logits of each test video `(videos, classes)`, streamed through the buckets."""
    job = Job.of(toy_cfg(videos, run, *changes), [], ALONE, "")
    compared = compare(job, job.trained)
    engine = compared.engine(compared.policies[name])
    parts: list[Prediction] = []
    for batch in evaluation_batches(run, videos, *changes):
        parts += engine.submit(batch.clips, batch.rows)
    logits = Prediction.joined([*parts, *engine.flush()]).logits
    return logits.unflatten(0, (COUNTS["test"], -1)).mean(dim=1)


def predictions(run: Path, videos: Path) -> list[VideoPrediction]:
    predictor = revit_video.load(str(run), "cpu")
    return [predictor.predict(path) for path in find_videos([str(videos / "test")])]


def test_logits_are_the_evaluators(toy_run: Path, videos: Path) -> None:
    logits = torch.stack([answer.logits for answer in predictions(toy_run, videos)])
    torch.testing.assert_close(logits, evaluated(toy_run, videos, "hybrid"))


@pytest.mark.parametrize("prices", [None, [0.5, 0.0]])
def test_logits_of_several_lengths_are_the_evaluators(
    prices: list[float] | None, toy_run: Path, videos: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(toy_run, tmp_path / "run"))
    as_before_hybrid(run)
    scores = evaluated(run, videos, LENGTHS[1]).softmax(dim=1).amax(dim=1)
    hybrid = {
        "usable": [0, 1],
        "threshold": float(scores.median()) - 1e-4,
        "temperatures": [1.0, 1.0],
        "prices": prices,
        "averaged": True,
        "per_view": False,
    }
    for name in ("assigner.pyth", "model.pyth"):
        payload = checkpoint.load_payload(str(run / name))
        payload["policy"]["hybrid"] = hybrid
        checkpoint.save(str(run / name), payload)
    answers = predictions(run, videos)
    logits = torch.stack([answer.logits for answer in answers])
    torch.testing.assert_close(logits, evaluated(run, videos, "hybrid"))
    assert prices is not None or {str(answer.length) for answer in answers} == set(LENGTHS)


def test_assigned_logits_over_views_are_the_evaluators(mixed_run: Path, videos: Path) -> None:
    views = ("TEST.NUM_SPATIAL_CROPS", 3, "TEST.NUM_ENSEMBLE_VIEWS", 2, "DATA.SAMPLING_RATE", 2)
    answers, rows = predictions(mixed_run, videos), table_of(mixed_run / "predictions.csv")
    logits = torch.stack([answer.logits for answer in answers])
    torch.testing.assert_close(logits, evaluated(mixed_run, videos, "assigned", *views))

    assert {row["adaptive_length"] for row in rows} == set(LENGTHS)
    results = results_of(mixed_run)
    for answer, row in zip(answers, rows, strict=True):
        assert answer.path == row["video"]
        assert str(answer.length) == row["adaptive_length"]
        assert CLASSES.index(answer.classes[0][0]) == int(row["adaptive_prediction"])
        cost = results["static"][str(answer.length)]["gmacs"] + results["adaptive"]["assigner_gmacs"]
        assert answer.gmacs == pytest.approx(6 * cost)
        assert answer.longest_gmacs == pytest.approx(6 * results["static"][LENGTHS[0]]["gmacs"])


def test_more_clips_than_in_the_test_see_more_of_a_video(mixed_run: Path, videos: Path) -> None:
    views = ("TEST.NUM_SPATIAL_CROPS", 3, "TEST.NUM_ENSEMBLE_VIEWS", 4, "DATA.SAMPLING_RATE", 2)
    predictor = revit_video.load(mixed_run, "cpu", clips=4)
    answers = [predictor.predict(path) for path in find_videos([str(videos / "test")])]
    logits = torch.stack([answer.logits for answer in answers])
    torch.testing.assert_close(logits, evaluated(mixed_run, videos, "assigned", *views))
    assert answers[0].longest_gmacs == pytest.approx(2 * predictions(mixed_run, videos)[0].longest_gmacs)
    with pytest.raises(ValueError, match="clips: must be at least 1, got 0"):
        revit_video.load(mixed_run, "cpu", clips=0)


def test_a_backbone_alone_reads_the_longest_length(toy_run: Path, videos: Path) -> None:
    answers = predictions(toy_run / "checkpoints" / "epoch_00001.pyth", videos)
    logits = torch.stack([answer.logits for answer in answers])
    torch.testing.assert_close(logits, evaluated(toy_run, videos, LENGTHS[0]))
    assert all(str(answer.length) == LENGTHS[0] and answer.saved == 0 for answer in answers)


def test_a_prediction_names_and_orders_its_classes(toy_run: Path, videos: Path) -> None:
    answer = predictions(toy_run, videos)[0]
    names, probabilities = zip(*answer.classes, strict=True)
    assert sorted(names) == sorted(CLASSES)
    assert list(probabilities) == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)


def test_a_model_is_found_wherever_it_is(toy_run: Path, tmp_path: Path) -> None:
    alone = shutil.copy(toy_run / "model.pyth", tmp_path / "moved.pyth")
    folder = toy_run / "checkpoints"
    for path in (toy_run, alone, folder, folder / "epoch_00001.pyth", str(toy_run)):
        predictor = revit_video.load(path, "cpu")
        assert [str(length) for length in predictor.model.lengths] == LENGTHS
        assert predictor.class_names == CLASSES
        assert not predictor.model.training


def test_classes_without_names_are_numbered(toy_run: Path, own_videos: Path, tmp_path: Path) -> None:
    (own_videos / "classes.txt").unlink()
    run_toy(own_videos, tmp_path / "run", "TRAIN.EVAL_PERIOD", 0, stages=["train"])
    assert revit_video.load(str(tmp_path / "run"), "cpu").class_names == [f"class {n}" for n in range(6)]


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "no such checkpoint"), ("empty", "holds neither model.pyth nor")]
)
def test_no_model(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        revit_video.load(str(tmp_path / name), "cpu")


def test_paths_of_pathlib(toy_run: Path, videos: Path) -> None:
    predictor = revit_video.load(toy_run, "cpu")
    path = next((videos / "test").glob("*.mp4"))
    answer, (among_many,) = predictor.predict(str(path)), predictor.predict_many([path])
    assert isinstance(among_many, VideoPrediction) and among_many.path == answer.path == str(path)
    assert torch.equal(among_many.logits, answer.logits)


def test_a_broken_file_does_not_stop_the_others(toy_run: Path, own_videos: Path) -> None:
    paths = find_videos([str(own_videos / "test")])
    Path(paths[1]).write_bytes(b"no video")
    answers = list(revit_video.load(str(toy_run), "cpu").predict_many([*paths[:3], "nowhere.mp4"]))
    assert [type(answer) for answer in answers] == [
        VideoPrediction,
        DecodeError,
        VideoPrediction,
        DecodeError,
    ]
    assert str(answers[1]) == f"{paths[1]}: damaged, truncated, or not a video"
    assert str(answers[3]) == "nowhere.mp4: no such file"


def test_drift_is_said_once_for_the_policy_that_was_shipped(
    toy_run: Path,
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As if the validation list had been answered with certainty, at the other length."""
    monkeypatch.setattr("revit_video.adaptive.drift.BLOCK", 6)
    run, files = Path(shutil.copytree(toy_run, tmp_path / "run")), find_videos([str(videos / "test")])
    assert len(list(revit_video.load(run, "cpu").predict_many(files))) == 12 and not caplog.messages
    payload = checkpoint.load_payload(str(run / "model.pyth"))
    seen = payload["policy"]["seen"]
    assert seen["videos"] == COUNTS["val"] == sum(seen["lengths"]) == len(seen["confidence"])
    other = {"videos": 400, "confidence": [0.999] * 100, "lengths": [200, 200]}
    payload["policy"]["seen"] = other
    checkpoint.save(str(run / "model.pyth"), payload)
    list(revit_video.load(run, "cpu", clips=2).predict_many(files))
    list(revit_video.load(run, "cpu", policy="longest").predict_many(files))
    assert not caplog.messages
    list(revit_video.load(run, "cpu").predict_many(files))
    assert len(caplog.messages) == 1 and "are not like the validation list" in caplog.text
    payload["policy"]["seen"] = other | {"lengths": [400]}
    checkpoint.save(str(run / "model.pyth"), payload)
    with pytest.raises(checkpoint.CheckpointError, match="not for 2 token lengths"):
        revit_video.load(run, "cpu")


def test_what_importing_predict_loads() -> None:
    """Of the package only models, data, policies and what they stand on."""
    script = (
        "import sys, revit_video.predict; print(*(n for n in sys.modules if n.startswith('revit_video')))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    rooms = {name.split(".")[1] for name in loaded.split() if "." in name}
    assert rooms == {"adaptive", "data", "length", "models", "predict", "runtime"}
    assert len(loaded.split()) <= MODULES


def test_an_image_is_refused_by_a_model_of_videos(toy_run: Path, videos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    video = find_videos([str(videos / "test")])[0]
    predictor = revit_video.load(str(toy_run), "cpu")
    refused, answer = predictor.predict_many([str(tmp_path / "a.png"), video])
    assert str(refused) == f"{tmp_path}/a.png: an image; the model takes videos, 2 frames of each"
    assert isinstance(answer, VideoPrediction)
