"""Mined labels: of clips that the mining model has not seen, each clip once, on any number of ranks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from revit_video.config import load_cfg
from revit_video.models import checkpoint, saved_epochs
from tests.toy import (
    COUNTS,
    LENGTHS,
    last_checkpoint,
    options,
    run_toy,
    start_tool,
    stats_of,
    table_of,
    toy_cfg,
)

TRAINING_LIST = ("MINE.HOLDOUT", "")
FOLDS = (*TRAINING_LIST, "MINE.FOLDS", 2, "SOLVER.MAX_EPOCH", 2)


@pytest.fixture(scope="module")
def folded(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUTPUT_DIR of a run that mined in two folds, and did nothing else. To be read only."""
    return run_toy(videos, tmp_path_factory.mktemp("folded"), *FOLDS, stages=["mine"])


@pytest.fixture
def own_folded(folded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folded, tmp_path / "folded"))


def fold_of_each(output_dir: Path) -> list[int]:
    return [int(row["fold"]) for row in table_of(output_dir / "folds" / "folds.csv")]


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = (last_checkpoint(run)["model"]["weights"] for run in (one, other))
    return all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def rows_of(output_dir: Path) -> list[str]:
    return [line for line in (output_dir / "labels.csv").read_text().splitlines() if line[0] != "#"]


# ---- Folds -----------------------------------------------------------------------------------------------


def test_folds_cover_the_training_list_in_its_order(folded: Path, videos: Path) -> None:
    listed = [line.split() for line in (videos / "train.csv").read_text().splitlines()]
    assert [(row["video"], row["label"]) for row in table_of(folded / "labels.csv")] == [
        (str(videos / name), label) for name, label in listed
    ]
    assert [row["video"] for row in table_of(folded / "folds" / "folds.csv")] == [name for name, _ in listed]
    weights = [last_checkpoint(folded / "folds" / str(n))["model"]["weights"] for n in range(2)]
    head = (folded / "labels.csv").read_text().splitlines()[0]
    assert head == f"# checkpoint {' '.join(map(checkpoint.weights_digest, weights))}"


def test_a_folds_backbone_is_one_trained_on_the_other_videos_alone(
    folded: Path, own_videos: Path, tmp_path: Path
) -> None:
    lines = (own_videos / "train.csv").read_text().splitlines(keepends=True)
    others = [line for line, fold in zip(lines, fold_of_each(folded), strict=True) if fold != 1]
    (own_videos / "train.csv").write_text("".join(others))
    changes = ("SOLVER.MAX_EPOCH", 2, "TRAIN.EVAL_PERIOD", 0)
    run_toy(own_videos, tmp_path / "others", *changes, stages=["train"])
    assert same_weights(folded / "folds" / "1", tmp_path / "others")
    assert not same_weights(folded / "folds" / "0", tmp_path / "others")
    losses = [
        [line["loss_2x2"] for line in stats_of(run)] for run in (folded / "folds" / "1", tmp_path / "others")
    ]
    assert losses[0] == losses[1]


def test_a_videos_label_is_what_its_folds_backbone_says(folded: Path, videos: Path, tmp_path: Path) -> None:
    fold = fold_of_each(folded)
    for n in range(2):
        weights = folded / "folds" / str(n) / "checkpoints" / "epoch_00002.pyth"
        changes = (*TRAINING_LIST, "TEST.CHECKPOINT_FILE_PATH", weights)
        alone = rows_of(run_toy(videos, tmp_path / str(n), *changes, stages=["mine"]))
        mine = [row for row, own in zip(rows_of(folded)[1:], fold, strict=True) if own == n]
        assert mine == [row for row, own in zip(alone[1:], fold, strict=True) if own == n]


@pytest.mark.parametrize("epochs_done", [1, 3])
def test_a_broken_run_goes_on_where_it_was(
    epochs_done: int, folded: Path, videos: Path, tmp_path: Path
) -> None:
    """Broken in the first fold and in the second; what was trained is not trained again."""
    saved: list[str] = []

    def save(directory: str, *arguments: object, **named: object) -> str:
        saved.append(real(directory, *arguments, **named))
        if len(saved) == epochs_done:
            raise KeyboardInterrupt
        return saved[-1]

    real = saved_epochs.save_progress
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved_epochs, "save_progress", save)
        with pytest.raises(KeyboardInterrupt):
            run_toy(videos, tmp_path, *FOLDS, stages=["mine"])
        assert not (tmp_path / "labels.csv").exists()
        run_toy(videos, tmp_path, *FOLDS, stages=["mine"])
    assert len(saved) == len(set(saved)) == 4
    assert rows_of(tmp_path) == rows_of(folded)
    assert all(same_weights(tmp_path / "folds" / str(n), folded / "folds" / str(n)) for n in range(2))


@pytest.mark.parametrize("change", ["folds", "seed", "list"])
def test_folds_of_something_else_are_not_gone_on_with(
    change: str, own_folded: Path, own_videos: Path
) -> None:
    before = (own_folded / "folds" / "folds.csv").read_bytes()
    more: Sequence[object] = {"folds": ("MINE.FOLDS", 3), "seed": ("RNG_SEED", 1), "list": ()}[change]
    if change == "list":
        lines = (own_videos / "train.csv").read_text().splitlines(keepends=True)
        (own_videos / "train.csv").write_text("".join(lines[1:]))
    with pytest.raises(
        ValueError, match="folds: its models were trained on other parts of the list .*; remov"
    ):
        run_toy(own_videos, own_folded, *FOLDS, *more, stages=["mine"])
    assert (own_folded / "folds" / "folds.csv").read_bytes() == before


def test_folds_mine_with_their_own_weights_always(own_folded: Path, videos: Path) -> None:
    before = (own_folded / "labels.csv").read_bytes()
    weights = own_folded / "folds" / "0" / "checkpoints" / "epoch_00002.pyth"
    run_toy(videos, own_folded, *FOLDS, "TEST.CHECKPOINT_FILE_PATH", weights, stages=["mine"])
    assert (own_folded / "labels.csv").read_bytes() == before


def test_the_data_folder_may_move(own_folded: Path, own_videos: Path) -> None:
    run_toy(own_videos, own_folded, *FOLDS, stages=["mine"])
    assert str(own_videos) in rows_of(own_folded)[1]


def test_an_unreadable_video_is_skipped(own_videos: Path, tmp_path: Path) -> None:
    broken = table_of(run_toy(own_videos, tmp_path, *FOLDS, stages=["mine"]) / "labels.csv")[5]["video"]
    Path(broken).write_bytes(b"")
    run_toy(own_videos, tmp_path, *FOLDS, stages=["mine"])
    assert [int(row["row"]) for row in table_of(tmp_path / "labels.csv")] == [
        n for n in range(COUNTS["train"]) if n != 5
    ]
    skipped = [row for row in table_of(tmp_path / "skipped.csv") if row["stage"] == "mine"]
    assert [row["path"] for row in skipped] == [broken]


def test_folds_of_a_list_that_is_held_out_anyway(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MINE.FOLDS: .* MINE.HOLDOUT names the list 'mine'; give"):
        toy_cfg(videos, tmp_path, "MINE.FOLDS", 2)
    assert load_cfg(None, options(videos, tmp_path, *FOLDS)).MINE.FOLDS == 2


# ---- What is said ----------------------------------------------------------------------------------------


def test_what_folds_cost_is_said_first(
    own_folded: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_toy(videos, own_folded, *FOLDS, stages=["mine"])
    said = capsys.readouterr().err.splitlines()
    said = [line for line in said if not line.startswith("train: ")]  # the list itself
    assert "2 trainings, each on 1/2 of the training list (12 of 24 videos)" in said[0]
    assert not any("too short" in line for line in said)


@pytest.mark.parametrize("changes", [TRAINING_LIST, ("MINE.HOLDOUT", "train"), ()])
def test_a_warning_of_memorised_clips(
    changes: tuple[object, ...], own_run: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_toy(videos, own_run, *changes, stages=["mine"])
    assert capsys.readouterr().err.count("their labels come out too short") == bool(changes)


def test_the_histogram(own_run: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_run / "labels.png").unlink()
    run_toy(videos, own_run, stages=["mine"])
    rows = table_of(own_run / "labels.csv")
    (line,) = [line for line in stats_of(own_run) if line["stage"] == "mine"]
    pairs = [(int(row["label"]), LENGTHS.index(row["token_length"])) for row in rows]
    assert line["labels_by_class"] == [[pairs.count((c, i)) for i in range(2)] for c in range(6)]
    assert line["labels"] == {n: sum(i == m for _, i in pairs) for m, n in enumerate(LENGTHS)}
    assert line["none_correct"] == sum("1" not in (r["correct_4x4"], r["correct_2x2"]) for r in rows)
    assert (own_run / "labels.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().err
    assert f"token-length labels of {len(rows)} clips: 4x4 " in said
    shares = [line["labels_by_class"][c][0] / 2 for c in range(6)]  # of two clips a class
    hardest = ["left", "right", "up", "down", "grow", "shrink"][shares.index(max(shares))]
    assert f"classes with the most labels 4x4: {hardest} {100 * max(shares):.1f} %" in said


def test_labels_of_other_models_are_told_apart(own_run: Path, folded: Path, videos: Path) -> None:
    """Fold models are other models than the run's by design."""
    shutil.copy(folded / "labels.csv", own_run)
    run_toy(videos, own_run, *FOLDS[:4], stages=["assigner"])
    with pytest.raises(ValueError, match="labels.csv was mined by 2 models; MINE.FOLDS is 0; mine"):
        run_toy(videos, own_run, *TRAINING_LIST, stages=["assigner"])


# ---- Several clips a video, several ranks ----------------------------------------------------------------


def test_a_video_as_short_as_a_clip_is_mined_once(own_run: Path, videos: Path) -> None:
    """All clips of a video of one second are the same clip of one second."""
    before = (own_run / "labels.csv").read_bytes()
    run_toy(videos, own_run, "MINE.NUM_CLIPS", 3, stages=["mine", "assigner"])
    assert (own_run / "labels.csv").read_bytes() == before


def test_two_ranks_mine_what_one_does(videos: Path, tmp_path: Path) -> None:
    """Folds, several clips a video, some of them left out, and the assigner's training on all of it."""
    pair, alone = tmp_path / "pair", tmp_path / "alone"
    changes = (*FOLDS, "MINE.NUM_CLIPS", 2, "MINE.NONE_CORRECT", "drop", "DATA.SAMPLING_RATE", 2)
    process = start_tool("run_net", *options(videos, pair, *changes, "NUM_GPUS", 2, "TEST.ENABLE", False))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    rows = table_of(pair / "labels.csv")
    assert [(int(row["row"]), int(row["clip"])) for row in rows] == [
        (row, view) for row in range(COUNTS["train"]) for view in range(2)
    ]
    dropped = [row["token_length"] == "" for row in rows]
    assert any(dropped) and dropped == [row["correct_4x4"] == row["correct_2x2"] == "0" for row in rows]
    assert (pair / "model.pyth").is_file()

    shutil.copytree(pair / "folds", alone / "folds")
    run_toy(videos, alone, *changes, stages=["mine"])
    assert (alone / "labels.csv").read_bytes() == (pair / "labels.csv").read_bytes()
