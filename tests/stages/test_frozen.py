"""A run with a frozen backbone: every clip is answered out of fold, features are kept, one file predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import revit_video
from revit_video.models import checkpoint
from revit_video.models.checkpoint import CheckpointError
from revit_video.models.sources import read_source
from revit_video.stages import features
from tests.peers import random_vit
from tests.toy import accuracies, last_checkpoint, results_of, run_toy, stats_of, table_of

TOY_VIT = dict(embed_dim=16, depth=1, num_heads=2, mlp_ratio=4, num_classes=0, patch_size=8)
STAGES = ["train", "mine", "test"]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vit") / "vit.pth"
    torch.save(random_vit(**TOY_VIT).state_dict(), path)
    return path


def frozen(videos: Path, output: Path, vit: Path, *changes: object, stages: list[str] = STAGES) -> Path:
    """A toy run in three folds; features are kept beside OUTPUT_DIR."""
    config: dict[str, Any] = {
        "TRAIN.METHOD": "frozen",
        "TRAIN.CHECKPOINT_FILE_PATH": vit,
        "TRAIN.FEATURES": output.parent / "features",
        "DATA.FOLDS": 3,
        "DATA.NUM_FRAMES": 4,
        "DATA.RANDOM_FLIP": True,
        "DATA.SQUASH": True,
        "TIMESFORMER.ATTENTION_TYPE": "space_only",
        "REVIT.TOKEN_LENGTHS": ["4x4x4", "2x4x4", "1x4x4"],
        "ASSIGNER.ENABLE": False,
    }
    config |= dict(zip(changes[::2], changes[1::2], strict=True))
    return run_toy(videos, output, *(word for pair in config.items() for word in pair), stages=stages)


@pytest.fixture(scope="module")
def run(videos: Path, vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: do not write to it."""
    return frozen(videos, tmp_path_factory.mktemp("frozen") / "run", vit)


def test_every_clip_is_tested_out_of_fold(run: Path) -> None:
    results = results_of(run)
    assert (results["split"], results["videos"]) == ("out-of-fold", 24)
    assert "each of the 24 videos was answered by heads and thresholds that have not" in results["verdict"][0]
    assert "always the largest class 16.7 %" in results["verdict"][0]
    assert "this model has not learned" in results["verdict"][1]  # from random weights
    assert [point["clips"] for point in results["learning_curve"]] == [4, 8, 12, 16]
    assert list(results["static"]) == ["4x4x4", "2x4x4", "1x4x4"]
    assert results["adaptive"]["policy"] == "hybrid"
    assert results["adaptive"]["gmacs"] <= results["static"]["4x4x4"]["gmacs"]
    rates = [each["clips_per_sec"] for each in (results["adaptive"], *results["static"].values())]
    assert min(rates[1:]) * 0.99 <= rates[0] <= max(rates[1:]) * 1.01  # a mix of the lengths' own
    assert len(table_of(run / "predictions.csv")) == len(table_of(run / "labels.csv")) == 24
    assert accuracies(run)["4x4x4"] < 100  # which is what clips that were trained on give


def test_the_cost_is_that_of_the_frames_that_are_read(run: Path) -> None:
    gmacs = [each["gmacs"] for each in results_of(run)["static"].values()]
    assert gmacs == pytest.approx([gmacs[0], gmacs[0] / 2, gmacs[0] / 4], rel=0.02)


def test_backbone_and_head_are_one_file_that_reads_videos(run: Path, videos: Path, vit: Path) -> None:
    saved = checkpoint.read(str(run / "model.pyth"))
    weights = saved.payload["model"]["weights"]
    theirs = read_source(str(vit)).states[0]
    assert torch.equal(weights["blocks.0.attn.qkv.weight"], theirs["blocks.0.attn.qkv.weight"])
    predictor = revit_video.load(run)
    path = table_of(run / "predictions.csv")[0]["video"]
    answer = predictor.predict(path)
    assert str(answer.length) in results_of(run)["lengths"] and answer.saved >= 0
    with pytest.raises(CheckpointError, match="has a frozen backbone"):
        read_source(str(run / "model.pyth"))


def test_what_was_kept_is_found_and_gives_the_same(
    run: Path, videos: Path, vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("TRAIN.FEATURES", run.parent / "features", "TEST.POLICIES", ["static"])
    monkeypatch.setattr(features, "eval_batches", lambda *_: pytest.fail("nothing is to be decoded"))
    again = frozen(videos, tmp_path / "again", vit, *kept)
    assert results_of(again)["static"].keys() == results_of(run)["static"].keys()
    assert accuracies(again).items() <= accuracies(run).items()
    ours, theirs = (last_checkpoint(each)["model"]["weights"] for each in (again, run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    alone = frozen(videos, tmp_path / "again", vit, *kept, "TEST.NAME", "alone", stages=["test"])
    assert results_of(alone / "tests" / "alone")["static"].keys() == results_of(run)["static"].keys()


def test_what_is_damaged_or_missing_is_computed_again(
    run: Path, videos: Path, vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen(videos, tmp_path / "one", vit, stages=["train"])
    files = sorted((tmp_path / "features").glob("*/*"))
    assert len(files) == 24
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:100])
    kept = checkpoint.load_payload(str(files[2]))["features"]
    for file, others in (
        (files[2], 3),
        (files[3], kept[:1]),
        (files[4], [value * torch.nan for value in kept]),
    ):
        checkpoint.save(str(file), {"features": others})
    frozen(videos, tmp_path / "two", vit, stages=["train"])
    assert "features of 19 of 24 files are found" in capsys.readouterr().err
    ours, theirs = (last_checkpoint(tmp_path / name)["model"]["weights"] for name in ("one", "two"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_features_are_found_by_content_and_weights(
    own_videos: Path, vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips that were renamed and a folder that was moved cost nothing; other weights of the same name do."""
    weights = tmp_path / "weights.pth"
    weights.write_bytes(vit.read_bytes())
    frozen(own_videos, tmp_path / "one", weights, stages=["train"])
    moved = own_videos.rename(tmp_path / "moved")
    text = (moved / "train.csv").read_text().replace(str(own_videos), str(moved))
    first = text.partition(" ")[0]
    renamed = Path(moved, first).with_name("renamed.mp4")
    Path(moved, first).rename(renamed)
    (moved / "train.csv").write_text(text.replace(first, str(renamed)))
    with monkeypatch.context() as patch:
        patch.setattr(features, "eval_batches", lambda *_: pytest.fail("nothing is to be decoded"))
        frozen(moved, tmp_path / "two", weights, stages=["train"])
    torch.save({k: -v for k, v in random_vit(**TOY_VIT).state_dict().items()}, weights)
    frozen(moved, tmp_path / "three", weights, stages=["train"])
    assert len(list((tmp_path / "features").glob("*"))) == 2


def test_an_unreadable_file_is_left_out_and_named(own_videos: Path, vit: Path, tmp_path: Path) -> None:
    first = sorted((own_videos / "train").glob("**/*.mp4"), key=str)[0]
    first.write_bytes(b"nothing")
    run = frozen(own_videos, tmp_path / "run", vit, "TEST.POLICIES", ["static"])
    skipped = {(row["path"], row["stage"]) for row in table_of(run / "skipped.csv")}
    assert skipped == {(str(first), "features")}
    assert results_of(run)["videos"] == 23


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("TRAIN.CHECKPOINT_FILE_PATH", ""), "learns from pretrained weights; name a file of a ViT's"),
        (("DATA.GROUP", "mp4"), "DATA.GROUP 'mp4': all 24 clips are one group, mp4"),
        (("DATA.GROUP", "seq"), "DATA.GROUP 'seq' finds no group in "),
        (("DATA.GROUP", "("), "DATA.GROUP: must be empty, or a regular expression"),
        (("TIMESFORMER.ATTENTION_TYPE", "divided_space_time"), "must be space_only in a frozen backbone"),
        (("REVIT.TOKEN_LENGTHS", ["4x4x4", "3x4x4"]), "3 frames are not evenly spaced ones of 4"),
        (("ASSIGNER.ENABLE", True), "must be False with DATA.FOLDS 3, got True; with splits"),
        (("TRAIN.METHOD", "revit_b"), "lengths with a number of frames are for a frozen backbone"),
    ],
)
def test_mistakes_are_named(
    changes: tuple[str, object], message: str, videos: Path, vit: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        frozen(videos, tmp_path / "run", vit, *changes)


def test_groups_are_never_on_both_sides_and_series_are_noticed(
    own_videos: Path, vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (own_videos / "train.csv").read_text().splitlines()
    for n, line in enumerate(lines):
        path, label = line.rsplit(" ", 1)
        target = own_videos / f"rec{n % 4}_{n:02d}.mp4"
        Path(path if Path(path).is_absolute() else own_videos / path).rename(target)
        lines[n] = f"{target} {label}"
    (own_videos / "train.csv").write_text("\n".join(lines) + "\n")
    kept = ("TRAIN.FEATURES", tmp_path / "features")
    frozen(own_videos, tmp_path / "alone", vit, *kept, stages=["train"])
    assert "name what they share with DATA.GROUP" in capsys.readouterr().err
    grouped = ("DATA.GROUP", r"rec\d", "DATA.FOLDS", 10)
    frozen(own_videos, tmp_path / "run", vit, *kept, *grouped, stages=["train"])
    said = capsys.readouterr().err
    assert "24 clips in 4 groups, 4 folds" in said and "name what they share" not in said


def test_with_splits_it_is_tested_as_any_model(videos: Path, vit: Path, tmp_path: Path) -> None:
    """On the test list, with an assigner trained on the list to mine and thresholds of the list val."""
    changes = ("DATA.FOLDS", 0, "ASSIGNER.ENABLE", True, "TEST.POLICIES", ["static", "assigned"])
    run = frozen(videos, tmp_path / "run", vit, *changes, stages=["train", "mine", "assigner", "test"])
    results = results_of(run)
    assert (results["split"], results["videos"]) == ("test", 12)
    assert revit_video.load(run).predict(table_of(run / "predictions.csv")[0]["video"]).classes


def unfrozen(videos: Path, output: Path, vit: Path, *changes: object) -> Path:
    """A toy run whose block learns on from heads in closed form."""
    method = ("TRAIN.METHOD", "unfreeze", "DATA.FOLDS", 0, "MINE.ENABLE", False, "TRAIN.BEST", "mean")
    return frozen(videos, output, vit, *method, *changes, stages=["train", "test"])


def test_unfreezing_starts_from_heads_in_closed_form_and_hands_the_best_on(
    videos: Path, vit: Path, tmp_path: Path
) -> None:
    """Without any rate to learn by, the model is the one that was solved; the start is validated too."""
    still = unfrozen(videos, tmp_path / "still", vit, "SOLVER.BASE_LR", 1e-12, "MODEL.DROP_PATH", 0.3)
    assert [line["epoch"] for line in stats_of(still) if line["stage"] == "val"] == [-1, 0]
    solved = frozen(videos, tmp_path / "solved", vit, "DATA.FOLDS", 0, stages=["train"])
    assert len(list((tmp_path / "features").iterdir())) == 1  # found again
    weights, expected = weights_of(still), weights_of(solved)
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-4, atol=1e-5)
    learned = unfrozen(videos, tmp_path / "learned", vit, "SOLVER.BASE_LR", 0.01)
    assert not torch.equal(
        weights_of(learned)["blocks.0.attn.qkv.weight"], expected["blocks.0.attn.qkv.weight"]
    )
    video = table_of(learned / "predictions.csv")[0]["video"]
    assert revit_video.load(str(learned)).predict(videos / video).classes


def test_frozen_blocks_stay_as_they_are_while_heads_learn(videos: Path, vit: Path, tmp_path: Path) -> None:
    solved = weights_of(frozen(videos, tmp_path / "solved", vit, "DATA.FOLDS", 0, stages=["train"]))
    run = weights_of(unfrozen(videos, tmp_path / "run", vit, "TRAIN.FREEZE", 1, "SOLVER.BASE_LR", 0.01))
    changed = {name for name, weight in run.items() if not torch.equal(weight, solved[name])}
    assert {"heads.0.weight", "heads.2.bias", "norm.0.weight"} <= changed
    assert not any(name.startswith(("blocks", "patch_embed", "pos_embed", "cls_token")) for name in changed)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """Of the last epoch's model."""
    return last_checkpoint(run)["model"]["weights"]
