"""DVT, the baseline, through the stages and tools of any run: videos, and images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import revit_video
from revit_video.from_cfg.model import build_model
from revit_video.models import checkpoint
from revit_video.models.checkpoint import CheckpointError
from revit_video.models.dvt import DVT
from revit_video.models.pretrained import at_length, initialise
from revit_video.models.sources import read_source
from revit_video.runtime.ranks import Ranks
from revit_video.stages.job import Job
from tests.images import write_pictures
from tests.toy import (
    LENGTHS,
    STAGES,
    last_checkpoint,
    results_of,
    run_toy,
    stats_of,
    table_of,
    tool,
    toy_cfg,
)

ALONE = Ranks(0, 1, torch.device("cpu"))
VIDEOS = (
    *("DVT.ENABLE", True, "ADAPTIVE.BUDGET", 0.8, "SOLVER.MAX_EPOCH", 2),
    *("TRAIN.EMA_DECAY", 0.5, "TRAIN.ACCUMULATE", 2, "TRAIN.EVAL_PERIOD", 2),
)
IMAGES = (
    *("DVT.ENABLE", True, "MODEL.ARCH", "deit_small", "TIMESFORMER.ATTENTION_TYPE", "space_only"),
    *("MODEL.NUM_CLASSES", 0, "DATA.NUM_FRAMES", 1, "DATA.TEST_SCALE", 36, "TEST.SPLIT", "val"),
    *("MIXUP.ALPHA", 0.8, "MINE.HOLDOUT", ""),
)


@pytest.fixture(scope="module")
def run(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, without an assigner. To be read only."""
    return run_toy(videos, tmp_path_factory.mktemp("dvt") / "run", *VIDEOS, stages=["train", "test"])


def test_every_length_is_trained_validated_and_counted(run: Path) -> None:
    train = [line for line in stats_of(run) if line["stage"] == "train"]
    assert all(f"{what}_{length}" in train[-1] for what in ("loss", "top1") for length in LENGTHS)
    (val,) = (line for line in stats_of(run) if line["stage"] == "val")
    assert all(f"top1_{length}" in val for length in LENGTHS)
    results, model = results_of(run), revit_video.load(str(run), "cpu").model
    long, short = (results["static"][length]["gmacs"] for length in LENGTHS)
    assert long > short and isinstance(model, DVT)


def test_early_exit_is_the_cascade_of_the_results(run: Path) -> None:
    """Calibrated on val without an assigner, and paid for as far as a clip went."""
    results = results_of(run)
    cascade, static = results["policies"]["cascade"], results["static"]
    assert results["adaptive"]["policy"] == "hybrid" and set(results["policies"]) == {"cascade", "oracle"}
    counts = cascade["length_counts"]
    paid = sum(static[length]["gmacs"] * count for length, count in counts.items()) / sum(counts.values())
    assert cascade["gmacs"] == pytest.approx(paid)
    saved = checkpoint.load_payload(str(run / "model.pyth"))
    assert saved["policy"]["cascade_threshold"] == cascade["threshold"]
    assert len(cascade["threshold"]) == len(LENGTHS)
    ends = results["curves"]["cascade"]
    for end, length in ((ends[0], LENGTHS[1]), (ends[-1], LENGTHS[0])):
        assert end["gmacs"] == pytest.approx(static[length]["gmacs"])
        assert end["top1"] == pytest.approx(static[length]["top1"])
    assert "cascade" in (run / "report.html").read_text()


def test_predict_exits_as_the_test_did(run: Path) -> None:
    predictor, counts = revit_video.load(str(run), "cpu"), dict.fromkeys(LENGTHS, 0)
    for row in table_of(run / "predictions.csv"):
        answer = predictor.predict(row["video"])
        counts[str(answer.length)] += 1
        static = row[f"prediction_{answer.length}"]
        assert predictor.class_names.index(answer.classes[0][0]) == int(static)
    assert counts == results_of(run)["policies"]["cascade"]["length_counts"]
    video = table_of(run / "predictions.csv")[0]["video"]
    finished = tool("predict", run, video, "--device", "cpu")
    assert finished.code == 0 and " | token length " in finished.out


def test_flops_are_counted(run: Path, tmp_path: Path) -> None:
    finished = tool("count_flops", "--cfg", run / "config.yaml", "OUTPUT_DIR", tmp_path)
    assert finished.code == 0 and all(length in finished.out for length in LENGTHS)


def test_a_resumed_training_ends_in_the_same_weights(run: Path, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(run / "checkpoints" / "epoch_00001.pyth", tmp_path / "checkpoints")
    run_toy(videos, tmp_path, *VIDEOS, stages=["train"])
    again, whole = last_checkpoint(tmp_path), last_checkpoint(run)
    assert again["training"]["epoch"] == whole["training"]["epoch"] == 2
    for ours, theirs in ((again["model"], whole["model"]), (again["training"], whole["training"])):
        assert all(torch.equal(value, theirs["weights"][name]) for name, value in ours["weights"].items())


def test_all_stages_on_images(tmp_path: Path) -> None:
    """To mining, assigner and test a cascade is a model like any other; `assigned` pays for all it read."""
    for split, count, first in (("train", 6, 0), ("val", 3, 6)):
        write_pictures(tmp_path / "shapes" / split, count, first)
    run = run_toy(tmp_path / "shapes", tmp_path / "run", *IMAGES, stages=STAGES)
    results = results_of(run)
    assert set(results["policies"]) == {"assigned", "random", "cascade", "oracle"}
    adaptive, static = results["adaptive"], results["static"]
    counts = adaptive["length_counts"]
    paid = sum(static[length]["gmacs"] * count for length, count in counts.items()) / sum(counts.values())
    assert adaptive["gmacs"] == pytest.approx(paid + adaptive["assigner_gmacs"])
    saved = checkpoint.load_payload(str(run / "assigner.pyth"))["policy"]
    assert saved["cascade_threshold"] == results["policies"]["cascade"]["threshold"]


# ---- Checkpoints -----------------------------------------------------------------------------------------


def test_a_checkpoint_says_what_it_holds(run: Path, toy_run: Path, videos: Path, tmp_path: Path) -> None:
    trained = Job.of(toy_cfg(videos, run, *VIDEOS), [], ALONE, "").trained
    path = trained.path
    assert isinstance(trained.model, DVT)
    plain = toy_cfg(videos, run)
    with pytest.raises(CheckpointError, match="is of a DVT, the config asks for a ReViT"):
        checkpoint.read(path).load_into(build_model(plain))
    other = toy_cfg(videos, run, *VIDEOS, "DVT.RELATION_REUSE", False)
    with pytest.raises(CheckpointError, match=r"relation_reuse True \(config: False\)"):
        checkpoint.read(path).load_into(build_model(other))
    finished = tool("convert", path, tmp_path / "out", "--to", "timesformer")
    assert finished.code == 2 and "--to timesformer: only --to revit can express a DVT" in finished.err
    finished = tool("convert", path, tmp_path / "out.pyth", "--to", "revit")
    assert finished.code == 0, finished.err
    theirs, ours = (
        trained.model.state_dict(),
        checkpoint.read(str(tmp_path / "out.pyth")).model().state_dict(),
    )
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[name], ours[name]) for name in ours)
    words = ("--to", "revit", "REVIT.TOKEN_LENGTHS", "[4]", "DVT.ENABLE", "False")
    finished = tool("convert", path, tmp_path / "out.pyth", *words)
    assert finished.code == 2 and "is a DVT, whose models do not stand alone" in finished.err


def test_each_model_starts_from_a_single_one(toy_run: Path, videos: Path, tmp_path: Path) -> None:
    """What both have is copied; what a DVT has more, in new channels or modules, stays at random."""
    source = toy_run / "checkpoints" / "epoch_00001.pyth"
    theirs = checkpoint.read(str(source)).model()
    ours = build_model(toy_cfg(videos, tmp_path, "DVT.ENABLE", True))
    assert isinstance(ours, DVT)
    for i, model in enumerate(ours.parts):
        fresh = {name: value.clone() for name, value in model.state_dict().items()}
        single = at_length(theirs, i)
        report = str(initialise(model, read_source(str(source))))
        assert ("what a DVT reuses" in report) == (i == 0)
        started = at_length(model, 0)
        for name, value in single.items():
            if name in started and name != "pos_embed":  # which has no place for a distillation token
                assert torch.equal(started[name][..., : value.shape[-1]], value), name
        for name, value in model.state_dict().items():
            if "_reuse." in name:
                assert torch.equal(value, fresh[name])
        wider = model.state_dict()["blocks.0.mlp.fc1.weight"]
        assert torch.equal(wider[:, 16:], fresh["blocks.0.mlp.fc1.weight"][:, 16:])


def test_training_starts_from_a_single_model(toy_run: Path, videos: Path, tmp_path: Path) -> None:
    source = toy_run / "checkpoints" / "epoch_00001.pyth"
    changes = ("DVT.ENABLE", True, "TRAIN.CHECKPOINT_FILE_PATH", source, "TRAIN.EVAL_PERIOD", 0)
    run_toy(videos, tmp_path, *changes, "SOLVER.BASE_LR", 1e-30, "SOLVER.WEIGHT_DECAY", 0, stages=["train"])
    started = last_checkpoint(tmp_path)["model"]["weights"]
    theirs = checkpoint.load_payload(str(source))["model"]["weights"]
    for i in (0, 1):
        model = f"backbones.{i}"
        for name in ("blocks.0.attn.qkv.weight", "head.weight"):
            assert torch.equal(started[f"{model}.{name}"], theirs[name])
        kernel = started[f"{model}.patch_embed.0.proj.weight"]
        assert torch.equal(kernel, theirs[f"patch_embed.{i}.proj.weight"])


def test_keys_that_a_cascade_has_no_use_for(videos: Path, tmp_path: Path) -> None:
    for key, value in (
        ("REVIT.NORM", "shared"),
        ("TRAIN.METHOD", "revit_e"),
        ("MODEL.COMPILE", True),
        ("TIMESFORMER.ATTENTION_TYPE", "joint_space_time"),
        ("ADAPTIVE.CASCADE_THRESHOLD", 0.5),
        ("REVIT.TOKEN_LENGTHS", [4]),
    ):
        with pytest.raises(ValueError, match="DVT|cascade"):
            toy_cfg(videos, tmp_path, "DVT.ENABLE", True, key, value)
