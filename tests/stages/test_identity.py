"""A run knows what it was made of, and does not go on with what was made of something else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import revit_video
from revit_video.models import checkpoint
from tests.toy import accuracies, last_checkpoint, results_of, run_toy, table_of


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(run: Path, videos: Path, *changes: object, stages: list[str]) -> str:
    """The message of a run that was refused and left everything as it was."""
    before = content(run)
    with pytest.raises(ValueError) as error:
        run_toy(videos, run, *changes, stages=stages)
    assert content(run) == before
    message = str(error.value)
    assert "\n" not in message
    return message


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a checkpoint in place."""
    payload = checkpoint.load_payload(str(path))
    change(payload)
    torch.save(payload, path)


def forget(run: Path) -> None:
    """Makes a run look as if an earlier version had written it."""
    for path in [*run.glob("checkpoints/*.pyth"), run / "assigner.pyth", run / "model.pyth"]:
        rewrite(
            path,
            lambda payload: [payload.get(part, {}).pop("record", None) for part in ("model", "assigner")],
        )
    lines = (run / "labels.csv").read_text().splitlines(keepends=True)
    (run / "labels.csv").write_text("".join([lines[0], *lines[2:]]))


# ---- The backbone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("SOLVER.BASE_LR", 0.02, "SOLVER.BASE_LR 0.01 (here: 0.02)"),
        ("SOLVER.LABEL_SMOOTHING", 0.1, "SOLVER.LABEL_SMOOTHING 0.0 (here: 0.1)"),
        ("REVIT.DISTILL.TAU", 0.5, "REVIT.DISTILL.TAU 0.9 (here: 0.5)"),
        ("MODEL.DROP_PATH", 0.2, "MODEL.DROP_PATH 0.1 (here: 0.2)"),
        ("DATA.RANDOM_FLIP", True, "DATA.RANDOM_FLIP False (here: True)"),
        ("DATA.SAMPLING_RATE", 2, "DATA.SAMPLING_RATE 4 (here: 2)"),
        ("TRAIN.EMA_DECAY", 0.5, "TRAIN.EMA_DECAY 0.0 (here: 0.5)"),
        ("TRAIN.BATCH_SIZE", 8, "TRAIN.BATCH_SIZE 4 (here: 8)"),
    ],
)
def test_a_finished_training_with_other_settings(
    key: str, value: object, said: str, own_run: Path, videos: Path
) -> None:
    message = refused(own_run, videos, key, value, stages=["train"])
    assert f"epoch_00001.pyth was trained with {said}; take another OUTPUT_DIR" in message


def test_no_weight_decay_and_fewer_epochs_name_their_keys(own_run: Path, videos: Path) -> None:
    for changes in ((), ("SOLVER.MAX_EPOCH", 3)):
        message = refused(own_run, videos, "SOLVER.WEIGHT_DECAY", 0, *changes, stages=["train"])
        assert message.startswith(
            "SOLVER.WEIGHT_DECAY: the run in OUTPUT_DIR was trained with 0.0001, not 0; "
        )
    run_toy(videos, own_run, "SOLVER.MAX_EPOCH", 2, stages=["train"])
    message = refused(own_run, videos, "SOLVER.MAX_EPOCH", 1, stages=["train"])
    assert message.startswith("SOLVER.MAX_EPOCH: the run in OUTPUT_DIR has trained 2 epochs, more than 1; ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("SOLVER.LAYER_DECAY", 0.75), "at 0.562 to 1 times the rate in "),
        (("SOLVER.HEAD_LR_FACTOR", 10), "at 1 to 10 times the rate in "),
        (("SOLVER.DECAY_ALL", True), "at 1 times the rate in 1 groups"),
        (("TRAIN.FREEZE", "backbone"), "at 1 times the rate in "),
    ],
)
def test_parameters_in_other_groups_than_those_of_an_earlier_versions_run(
    changes: tuple[object, ...], said: str, own_run: Path, videos: Path
) -> None:
    forget(own_run)
    message = refused(own_run, videos, *changes, "SOLVER.MAX_EPOCH", 2, stages=["train"])
    assert message.startswith("SOLVER.LAYER_DECAY, SOLVER.HEAD_LR_FACTOR, SOLVER.DECAY_ALL, TRAIN.FREEZE: ")
    assert "was trained with " in message and said in message and "TRAIN.AUTO_RESUME False" in message


def test_other_training_videos(own_run: Path, own_videos: Path) -> None:
    lines = (own_videos / "train.csv").read_text().splitlines(keepends=True)
    for other in (lines[1:], lines[::-1], [line.replace(" 0", " 1") for line in lines]):
        (own_videos / "train.csv").write_text("".join(other))
        message = refused(own_run, own_videos, "SOLVER.MAX_EPOCH", 2, stages=["train"])
        assert (
            "was trained with training list 24 files, " in message
            and f"(here: {len(other)} files, " in message
        )


def test_other_weights_to_start_from(toy_run: Path, videos: Path, tmp_path: Path) -> None:
    """They are compared by their content: a copy is the same, another model under the same name is not."""
    start, run = tmp_path / "start.pyth", tmp_path / "run"
    shutil.copy(toy_run / "model.pyth", start)
    changes = ("TRAIN.CHECKPOINT_FILE_PATH", start, "TRAIN.EVAL_PERIOD", 0)
    run_toy(videos, run, *changes, stages=["train"])
    run_toy(
        videos,
        run,
        "TRAIN.CHECKPOINT_FILE_PATH",
        toy_run / "checkpoints" / "epoch_00001.pyth",
        stages=["train"],
    )
    assert "TRAIN.CHECKPOINT_FILE_PATH weights " in refused(run, videos, stages=["train"])
    rewrite(start, lambda payload: payload["model"]["weights"]["head.bias"].add_(1))
    assert "TRAIN.CHECKPOINT_FILE_PATH weights " in refused(run, videos, *changes, stages=["train"])
    start.unlink()
    run_toy(videos, run, *changes, stages=["train"])  # complete, and nothing to compare with


def test_what_may_change(own_run: Path, own_videos: Path) -> None:
    """A moved data folder, more epochs, another batch size on the way, and all that shapes no weights."""
    weights = last_checkpoint(own_run)["model"]["weights"]
    harmless = (
        "LOG_PERIOD",
        3,
        "MODEL.ACT_CHECKPOINT",
        True,
        "TRAIN.CHECKPOINT_PERIOD",
        2,
        "TEST.BATCH_SIZE",
        5,
    )
    run_toy(own_videos, own_run, *harmless, stages=["train"])
    same = last_checkpoint(own_run)["model"]["weights"]
    assert all(torch.equal(value, same[name]) for name, value in weights.items())
    run_toy(own_videos, own_run, "SOLVER.MAX_EPOCH", 2, "TRAIN.BATCH_SIZE", 8, stages=["train"])
    assert last_checkpoint(own_run)["training"]["epoch"] == 2


@pytest.mark.parametrize("stage", ["mine", "assigner", "test"])
def test_later_stages_of_another_recipe(stage: str, own_run: Path, videos: Path) -> None:
    message = refused(own_run, videos, "SOLVER.BASE_LR", 0.02, stages=[stage])
    assert "was trained with SOLVER.BASE_LR 0.01 (here: 0.02); give these as then (--cfg " in message


# ---- Labels and assigner ---------------------------------------------------------------------------------


def test_labels_of_something_else(own_run: Path, own_videos: Path) -> None:
    def said(*changes: object) -> str:
        return refused(own_run, own_videos, *changes, stages=["assigner"])

    assert "was mined with DATA.SAMPLING_RATE 4 (here: 2); mine" in said("DATA.SAMPLING_RATE", 2)
    assert "was mined with MINE.NONE_CORRECT longest (here: drop)" in said("MINE.NONE_CORRECT", "drop")
    lines = (own_videos / "mine.csv").read_text().splitlines(keepends=True)
    (own_videos / "mine.csv").write_text("".join([*lines[:-2], lines[-1], lines[-2]]))
    assert "was mined with mined list 12 files, " in said()
    (own_videos / "mine.csv").write_text("".join(lines))
    run_toy(own_videos, own_run, stages=["assigner"])  # as before, in a data folder that has moved

    rows = (own_run / "labels.csv").read_text().splitlines(keepends=True)
    (own_run / "labels.csv").write_text("".join(rows[:-1]))
    assert "damaged, 12 clips were written and 11 are there; mine the labels again" in said()
    (own_run / "labels.csv").write_text("".join([rows[0], "# {\n", *rows[2:]]))
    assert "labels.csv:2: damaged" in said()


def test_labels_and_assigner_of_older_weights(own_run: Path, videos: Path) -> None:
    more = ("SOLVER.MAX_EPOCH", 2)
    run_toy(videos, own_run, *more, stages=["train"])
    for stage, advice in (("assigner", "mine the labels again"), ("test", "train the assigner again")):
        message = refused(own_run, videos, *more, stages=[stage])
        assert "with weights " in message and advice in message
    run_toy(videos, own_run, *more, stages=["mine", "assigner", "test"])


def test_an_assigner_of_other_settings(own_run: Path, videos: Path) -> None:
    message = refused(own_run, videos, "ASSIGNER.MAX_EPOCH", 2, stages=["test"])
    assert (
        "assigner.pyth was trained with ASSIGNER.MAX_EPOCH 1 (here: 2); train the assigner again" in message
    )
    rewrite(
        own_run / "assigner.pyth", lambda p: p["assigner"]["record"].update({"token lengths": ["4x4", "1x1"]})
    )
    message = refused(own_run, videos, stages=["test"])
    assert "trained with token lengths ['4x4', '1x1'] (here: ['4x4', '2x2'])" in message


def test_equal_runs_have_equal_labels_whatever_their_files(
    toy_run: Path, own_run: Path, videos: Path
) -> None:
    rewrite(own_run / "checkpoints" / "epoch_00001.pyth", lambda payload: payload.update(more=1))
    run_toy(videos, own_run, stages=["mine"])
    assert (own_run / "labels.csv").read_bytes() == (toy_run / "labels.csv").read_bytes()


# ---- Runs of earlier versions ----------------------------------------------------------------------------


def test_a_run_of_an_earlier_version_goes_on(
    own_run: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget(own_run)
    for stage in ("train", "mine", "assigner", "test"):
        run_toy(videos, own_run, stages=[stage])
    said = capsys.readouterr().err
    assert said.count("epoch_00001.pyth was trained by an earlier version, which did not record") == 4
    assert len(table_of(own_run / "labels.csv")) == 12


# ---- Classes ---------------------------------------------------------------------------------------------

NAMES = ["left", "right", "up", "down", "grow", "shrink"]


def reorder(folder: Path) -> None:
    """The classes of a data folder in the reverse order, in classes.txt and in all lists."""
    (folder / "classes.txt").write_text("\n".join(NAMES[::-1]))
    for path in (folder / f"{split}.csv" for split in ("train", "mine", "val", "test")):
        rows = [line.rsplit(" ", 1) for line in path.read_text().splitlines()]
        path.write_text("".join(f"{name} {5 - int(label)}\n" for name, label in rows))


def rename(folder: Path) -> None:
    (folder / "classes.txt").write_text("\n".join(["left", "right", "up", "down", "in", "out"]))


def names_of(run: Path) -> list[str]:
    return last_checkpoint(run)["data"]["class_names"]


def test_classes_in_another_order_are_mapped_by_name(own_run: Path, own_videos: Path) -> None:
    expected, labels = accuracies(own_run), table_of(own_run / "labels.csv")
    reorder(own_videos)
    (own_run / "results.json").unlink()
    for stage in ("train", "mine", "assigner", "test"):
        run_toy(own_videos, own_run, stages=[stage])
    assert accuracies(own_run) == expected
    assert [row["label"] for row in table_of(own_run / "labels.csv")] == [row["label"] for row in labels]
    assert names_of(own_run) == results_of(own_run)["classes"] == NAMES
    assert revit_video.load(own_run, "cpu").class_names == NAMES
    message = refused(
        own_run, own_videos, "DATA.REVERSED_CLASSES", [[0, 1]], "SOLVER.MAX_EPOCH", 2, stages=["train"]
    )
    assert message.startswith("DATA.REVERSED_CLASSES: it numbers the classes, which ")


@pytest.mark.parametrize("stage", ["train", "mine", "assigner", "test"])
def test_other_classes_are_refused(stage: str, own_run: Path, own_videos: Path) -> None:
    rename(own_videos)
    message = refused(own_run, own_videos, stages=[stage])
    assert (
        "classes are not the model's: it has in, out, left, right, up, down; the model has grow, shrink,"
        in message
    )


def test_a_folder_without_names_has_the_models(own_run: Path, own_videos: Path) -> None:
    (own_videos / "classes.txt").unlink()
    run_toy(own_videos, own_run, stages=["test"])
    assert results_of(own_run)["classes"] == NAMES


def test_a_class_folder_that_was_renamed(videos: Path, tmp_path: Path) -> None:
    folder, run = tmp_path / "folders", tmp_path / "run"
    for line in (videos / "train.csv").read_text().splitlines():
        name, label = line.split()
        (folder / f"class {label}").mkdir(parents=True, exist_ok=True)
        shutil.copy(videos / name, folder / f"class {label}")
    changes = ("DATA.SPLIT", [0.5, 0, 0.25, 0.25], "TRAIN.EVAL_PERIOD", 0)
    run_toy(folder, run, *changes, stages=["train"])
    (folder / "class 0").rename(folder / "zero")
    assert "it has zero, class 1," in refused(run, folder, *changes, stages=["test"])


@pytest.mark.parametrize(("change", "kept"), [(rename, False), (reorder, True)])
def test_a_fine_tuning_on_other_classes_has_a_new_head(
    change: Callable[[Path], None],
    kept: bool,
    toy_run: Path,
    own_videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = toy_run / "model.pyth"
    change(own_videos)
    changes = ("TRAIN.CHECKPOINT_FILE_PATH", start, "SOLVER.BASE_LR", 1e-30, "TRAIN.EVAL_PERIOD", 0)
    run = run_toy(own_videos, tmp_path / "run", *changes, stages=["train"])
    ours, theirs = (last_checkpoint(each)["model"]["weights"] for each in (run, toy_run))
    torch.testing.assert_close(ours["cls_token"], theirs["cls_token"])
    assert torch.allclose(ours["head.weight"], theirs["head.weight"]) == kept
    assert ("its 6 classes have other names, so the head is new" in capsys.readouterr().err) != kept
    assert names_of(run) == (NAMES if kept else ["left", "right", "up", "down", "in", "out"])


def test_a_class_name_that_stands_twice(own_videos: Path, tmp_path: Path) -> None:
    (own_videos / "classes.txt").write_text("\n".join([*NAMES[:5], "left"]))
    with pytest.raises(ValueError, match="classes.txt names the class 'left' twice"):
        run_toy(own_videos, tmp_path, stages=["train"])


# ---- Tests with other settings ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("ADAPTIVE.THRESHOLD", 0.9), "assigner.pyth answers with ADAPTIVE.THRESHOLD 0.0 (here: 0.9); "),
        (("DATA.SAMPLING_RATE", 2), "assigner.pyth answers with DATA.SAMPLING_RATE 4 (here: 2); "),
        (("TEST.NUM_SPATIAL_CROPS", 3), "assigner.pyth answers with TEST.NUM_SPATIAL_CROPS 1 (here: 3); "),
        (("TEST.POLICIES", ["static"]), "results.json was made with TEST.POLICIES ['static', 'assigned', "),
        (
            ("TEST.SPLIT", "val"),
            "results.json was made with TEST.SPLIT test (here: val), tested list ",
        ),
    ],
)
def test_a_test_with_other_settings_needs_a_name(
    changes: tuple[object, ...], said: str, own_run: Path, videos: Path
) -> None:
    """Without one nothing changes; with one its results stand beside those of the run."""
    message = refused(own_run, videos, *changes, stages=["test"])
    assert said in message and "a name of their own (TEST.NAME)" in message
    before = content(own_run)
    named = (*changes, "TEST.NAME", "other")
    for _ in range(2):
        run_toy(videos, own_run, *named, stages=["test"])
    after = content(own_run)
    assert {path: after[path] for path in before} == before
    files = {path.name for path in (own_run / "tests" / "other").iterdir()}
    assert {"results.json", "predictions.csv", "report.html", "config.yaml", "flops.json"} <= files
    if changes[0] == "ADAPTIVE.THRESHOLD":
        assert results_of(own_run / "tests" / "other")["adaptive"]["threshold"] == 0.9
        message = refused(own_run, videos, *named, "ADAPTIVE.THRESHOLD", 0.8, stages=["test"])
        assert "tests/other/results.json was made with ADAPTIVE.THRESHOLD 0.9 (here: 0.8)" in message


def test_another_model_in_a_used_folder(own_run: Path, toy_run: Path, videos: Path, tmp_path: Path) -> None:
    """What is shipped stays, also where the cascade alone is tested."""
    (own_run / "assigner.pyth").unlink()
    other = tmp_path / "other.pyth"
    shutil.copy(toy_run / "checkpoints" / "epoch_00001.pyth", other)
    rewrite(other, lambda payload: payload["model"]["weights"]["head.bias"].add_(1))
    changes = ("TEST.CHECKPOINT_FILE_PATH", other)
    assert "results.json was made with weights " in refused(own_run, videos, *changes, stages=["test"])
    shipped = (own_run / "model.pyth").read_bytes()
    (own_run / "results.json").unlink()
    run_toy(videos, own_run, *changes, stages=["test"])
    assert (own_run / "model.pyth").read_bytes() == shipped


def test_a_cascade_is_shipped_once(own_run: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an assigner the test ships the model; one with another threshold does not change it."""
    for name in ("assigner.pyth", "model.pyth", "results.json"):
        (own_run / name).unlink()
    run_toy(videos, own_run, "ADAPTIVE.CASCADE_THRESHOLD", 0.5, stages=["test"])
    shipped = (own_run / "model.pyth").read_bytes()
    (own_run / "results.json").unlink()
    run_toy(videos, own_run, "ADAPTIVE.CASCADE_THRESHOLD", 0.25, stages=["test"])
    assert (own_run / "model.pyth").read_bytes() == shipped
    assert "model.pyth stays as it is, with other thresholds" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "a b"])
def test_names_that_are_no_folders(name: str, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="TEST.NAME: must be empty, or a name of letters, digits"):
        run_toy(videos, tmp_path, "TEST.NAME", name, stages=["test"])


def test_an_assigner_that_has_gone_is_named(own_run: Path, videos: Path) -> None:
    (own_run / "assigner.pyth").unlink()
    message = refused(own_run, videos, stages=["test"])
    assert "results.json was made with assigner " in message and "assigner.pyth is not there" in message
