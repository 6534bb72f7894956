"""What a user gets wrong ends in one clear message and exit code 2; unreadable videos stop nothing."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import revit_video
from tests.toy import STAGES, Finished, options, results_of, table_of, tool

Damage = Callable[[Path], object]


def refused(finished: Finished) -> str:
    """The message of a tool that refused its input."""
    assert finished.code == 2, finished
    assert finished.err.startswith("error: ") or "\nerror: " in finished.err, finished
    assert finished.out == ""
    return finished.err[finished.err.index("error: ") :].rstrip("\n")


# ---- The config ------------------------------------------------------------------------------------------


def test_an_unknown_key_is_answered_with_the_nearest(videos: Path, tmp_path: Path) -> None:
    message = refused(tool("run_net", *options(videos, tmp_path, "TRAIN.BACH_SIZE", 4)))
    assert "TRAIN.BACH_SIZE: no such key; nearest: TRAIN.BATCH_SIZE" in message


def test_all_mistakes_come_at_once(videos: Path, tmp_path: Path) -> None:
    wrong = ("TRIAN.BATCH_SIZE", 4, "SOLVER.MAX_EPOCH", "many", "REVIT.TOKEN_LENGTHS", [2, 4])
    message = refused(tool("run_net", *options(videos, tmp_path, *wrong, "MODEL.NUM_HEADS", 5)))
    assert message.splitlines()[0].endswith("4 mistakes") and len(message.splitlines()) == 5
    assert not os.listdir(tmp_path)


def test_a_key_without_a_value(videos: Path, tmp_path: Path) -> None:
    message = refused(tool("run_net", *options(videos, tmp_path), "NUM_GPUS"))
    assert "NUM_GPUS: a KEY without a VALUE" in message


def test_cfg_may_come_last(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("TRIAN: 1\n")
    assert "TRIAN" in refused(tool("run_net", "NUM_GPUS", 1, "--cfg", tmp_path / "a.yaml"))


@pytest.mark.parametrize("name", ["train_net", "count_flops"])
def test_an_output_folder_that_is_not_writable(name: str, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    message = refused(tool(name, *options(videos, tmp_path / "file" / "run")))
    assert message == f"error: OUTPUT_DIR {tmp_path}/file/run is not writable: Not a directory"


def test_a_gpu_where_there_is_none(
    toy_run: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU here" in refused(tool("train_net", *options(videos, tmp_path, "DEVICE", "cuda")))
    assert "no GPU here" in refused(tool("predict", toy_run, videos / "test", "--device", "cuda"))


def test_no_clips(toy_run: Path, videos: Path) -> None:
    message = refused(tool("predict", toy_run, videos / "test", "--clips", 0))
    assert message == "error: --clips: must be at least 1, got 0"


# ---- Lists -----------------------------------------------------------------------------------------------


def append(name: str, text: str) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_text(path.read_text() + text)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "train.csv").unlink(), "video list not found: .*train.csv"),
        (lambda folder: (folder / "train.csv").write_text("\n"), "video list is empty: .*train.csv"),
        (append("train.csv", "train/x.mp4\n"), r"train.csv:25: no label in 'train/x.mp4'"),
        (append("val.csv", "val/x.mp4 left\n"), r"val.csv:13: label 'left' is not a whole number"),
        (append("test.csv", "test/x.mp4 6\n"), r"test.csv:13: label 6 is out of range, allowed is 0 to 5"),
        (lambda folder: (folder / "mine.csv").unlink(), "mine.csv: no such list; .*MINE.HOLDOUT"),
        (lambda folder: (folder / "test.csv").unlink(), "video list not found: .*test.csv"),
        (append("classes.txt", "seventh\n"), "classes.txt names 7 classes, the model has 6"),
    ],
)
def test_a_wrong_list_shows_before_anything_is_trained(
    damage: Damage, message: str, own_videos: Path, tmp_path: Path
) -> None:
    damage(own_videos)
    said = refused(tool("run_net", *options(own_videos, tmp_path / "run")))
    assert pytest.raises(ValueError, match=message).matches(ValueError(said)), said
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_a_missing_data_folder(folder: str, tmp_path: Path) -> None:
    message = refused(tool("train_net", *options(Path("x"), tmp_path, "DATA.PATH_TO_DATA_DIR", folder)))
    assert message == f"error: DATA.PATH_TO_DATA_DIR: no such folder: {folder!r}"


def test_a_missing_training_list_is_not_called_a_mining_list(own_videos: Path, tmp_path: Path) -> None:
    (own_videos / "train.csv").unlink()
    message = refused(tool("train_net", *options(own_videos, tmp_path / "run", "MINE.HOLDOUT", "train")))
    assert message == f"error: video list not found: {own_videos}/train.csv"


def test_fewer_videos_than_a_batch(videos: Path, tmp_path: Path) -> None:
    message = refused(tool("train_net", *options(videos, tmp_path, "TRAIN.BATCH_SIZE", 64)))
    assert message.startswith(
        "error: the 24 files to train on do not fill one batch of 64; lower TRAIN.BATCH"
    )


# ---- Checkpoints and labels ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mine_labels", "train_assigner", "test_net"])
def test_no_checkpoint_yet(name: str, videos: Path, tmp_path: Path) -> None:
    message = refused(tool(name, *options(videos, tmp_path)))
    assert message.startswith(f"error: {tmp_path}/checkpoints: no checkpoint; train first")


def test_no_labels_yet(toy_run: Path, videos: Path, tmp_path: Path) -> None:
    weights = toy_run / "checkpoints" / "epoch_00001.pyth"
    message = refused(
        tool("train_assigner", *options(videos, tmp_path, "TEST.CHECKPOINT_FILE_PATH", weights))
    )
    assert "no token-length labels; mine them first" in message


def test_labels_of_another_list(own_run: Path, videos: Path) -> None:
    message = refused(tool("train_assigner", *options(videos, own_run, "MINE.HOLDOUT", "test")))
    assert "labels.csv was mined with mined list 12 files, " in message and "; mine the labels" in message


def test_labels_that_label_nothing(own_run: Path, videos: Path) -> None:
    text = re.sub(', "rows": "\\w+"', "", (own_run / "labels.csv").read_text())  # not its digest
    (own_run / "labels.csv").write_text(text.replace(",4x4,", ",,").replace(",2x2,", ",,"))
    finished = tool("train_assigner", *options(videos, own_run))
    assert finished.code == 0 and "so the assigner learns to take always 4x4: the backbone" in finished.err


@pytest.mark.parametrize(
    ("key", "value", "difference"),
    [
        ("MODEL.EMBED_DIM", 24, "embed_dim 16 (config: 24)"),
        ("REVIT.TOKEN_LENGTHS", [4, 1], "lengths ['4x4', '2x2'] (config: ['4x4', '1x1'])"),
        ("REVIT.NORM", "shared", "norm per_length (config: shared)"),
    ],
)
def test_a_checkpoint_of_another_model(
    key: str, value: object, difference: str, toy_run: Path, videos: Path, tmp_path: Path
) -> None:
    weights = toy_run / "checkpoints" / "epoch_00001.pyth"
    changes = (key, value, "TEST.CHECKPOINT_FILE_PATH", weights)
    message = refused(tool("test_net", *options(videos, tmp_path, *changes)))
    assert message.startswith(f"error: {weights} is of another model: {difference}; TRAIN.")


def test_a_run_that_is_resumed_with_another_model(own_run: Path, videos: Path) -> None:
    message = refused(tool("train_net", *options(videos, own_run, "MODEL.DEPTH", 2)))
    assert "is of another model: depth 1 (config: 2); " in message


def test_a_run_that_is_resumed_with_another_seed(own_run: Path, videos: Path) -> None:
    message = refused(tool("train_net", *options(videos, own_run, "RNG_SEED", 5)))
    assert message.startswith("error: RNG_SEED: the run in OUTPUT_DIR has seed 0, not 5")


def test_a_run_that_is_resumed_with_another_optimizer(own_run: Path, videos: Path) -> None:
    changes = ("SOLVER.MAX_EPOCH", 2, "SOLVER.OPTIMIZING_METHOD", "sgd")
    message = refused(tool("train_net", *options(videos, own_run, *changes)))
    assert message.startswith("error: SOLVER.OPTIMIZING_METHOD: ") and len(message.splitlines()) == 1


def test_an_assigner_alone_is_no_model(toy_run: Path, videos: Path, tmp_path: Path) -> None:
    changes = ("TEST.CHECKPOINT_FILE_PATH", toy_run / "assigner.pyth")
    message = refused(tool("test_net", *options(videos, tmp_path, *changes)))
    assert message.endswith("assigner.pyth holds no model; a run's model.pyth does")


@pytest.mark.parametrize("key", ["TRAIN.CHECKPOINT_FILE_PATH", "TEST.CHECKPOINT_FILE_PATH"])
def test_a_run_in_place_of_its_checkpoint(key: str, toy_run: Path, videos: Path, tmp_path: Path) -> None:
    stage = "train_net" if key.startswith("TRAIN") else "test_net"
    message = refused(tool(stage, *options(videos, tmp_path, key, toy_run)))
    assert "such as a run's model.pyth" in message and len(message.splitlines()) == 1


def test_an_assigner_of_another_number_of_lengths(own_run: Path, toy_run: Path, videos: Path) -> None:
    changes = ("REVIT.TOKEN_LENGTHS", [4], "TRAIN.AUTO_RESUME", False, "TRAIN.EVAL_PERIOD", 0)
    assert tool("train_net", *options(videos, own_run, *changes)).code == 0
    message = refused(tool("test_net", *options(videos, own_run, *changes)))
    assert message.endswith("assigner.pyth chooses among 2 token lengths, the config has 1")


class Harmful:
    def __init__(self, traces: Path) -> None:
        self.traces = traces

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.traces),)


@pytest.mark.parametrize(
    "save",
    [torch.save, lambda payload, path: path.write_bytes(pickle.dumps(payload, protocol=2))],
    ids=["archive", "bare pickle"],
)
def test_code_in_a_checkpoint_is_not_run(
    save: Callable[[object, Path], object], videos: Path, tmp_path: Path
) -> None:
    harmful, traces = tmp_path / "harmful.pyth", tmp_path / "traces"
    save({"format": Harmful(traces)}, harmful)
    changes = ("TEST.CHECKPOINT_FILE_PATH", harmful)
    for finished in (
        tool("test_net", *options(videos, tmp_path / "run", *changes)),
        tool("predict", harmful, videos),
    ):
        assert refused(finished).startswith(f"error: {harmful}: ")
    assert not traces.exists()


def test_a_length_that_the_model_does_not_have(toy_run: Path) -> None:
    model = revit_video.load(str(toy_run), "cpu").model
    with pytest.raises(ValueError, match="token length 9x9 not in this model; it has 4x4, 2x2"):
        model(torch.zeros(1, 3, 2, 32, 32), 9)


@pytest.mark.parametrize("asked", [[], ["assigned"], ["random", "assigned"]])
def test_nothing_to_test(asked: list[str], own_run: Path, videos: Path) -> None:
    (own_run / "assigner.pyth").unlink()
    message = refused(tool("test_net", *options(videos, own_run, "TEST.POLICIES", asked)))
    assert message.startswith(f"error: TEST.POLICIES {asked}: nothing to test without an assigner")


# ---- Unreadable videos -----------------------------------------------------------------------------------


def damage_videos(folder: Path, splits: tuple[str, ...]) -> dict[str, set[str]]:
    """In each split one file that is no video, and one that is cut short; their paths."""
    damaged: dict[str, set[str]] = {}
    for split in splits:
        corrupt, truncated, *_ = sorted((folder / split).glob("*.mp4"))
        corrupt.write_bytes(bytes(range(256)) * 20)
        truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
        damaged[split] = {str(corrupt), str(truncated)}
    return damaged


def test_unreadable_videos_among_good_ones(own_videos: Path, tmp_path: Path) -> None:
    damaged = damage_videos(own_videos, ("train", "mine", "val", "test"))
    finished = tool("run_net", *options(own_videos, tmp_path / "run", "DATA.MAX_SKIPPED_FRACTION", 0.2))
    assert finished.code == 0, finished.err
    rows = table_of(tmp_path / "run" / "skipped.csv")
    for stage, paths in damaged.items():
        own = [row for row in rows if row["stage"] == stage]
        assert {row["path"] for row in own} == paths and all(row["reason"] for row in own)
        assert f"{stage}: 2 unreadable files, listed in skipped.csv" in finished.err
    assert len(table_of(tmp_path / "run" / "labels.csv")) == 10
    results = results_of(tmp_path / "run")
    assert (results["videos"], results["skipped"]) == (10, 2)
    predicted = {row["video"] for row in table_of(tmp_path / "run" / "predictions.csv")}
    assert len(predicted) == 10 and not predicted & damaged["test"]


def test_too_many_of_a_small_list_show_before_the_training(own_videos: Path, tmp_path: Path) -> None:
    damaged = damage_videos(own_videos, ("test",))
    message = refused(tool("run_net", *options(own_videos, tmp_path / "run")))
    assert (
        "test: 2 unreadable videos, more than DATA.MAX_SKIPPED_FRACTION allows (1); the latest: " in message
    )
    assert {row["path"] for row in table_of(tmp_path / "run" / "skipped.csv")} == damaged["test"]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_one_unreadable_file_of_a_small_list_stops_nothing(own_videos: Path, tmp_path: Path) -> None:
    for split in ("val", "test"):
        lines = (own_videos / f"{split}.csv").read_text().splitlines()[:3]
        (own_videos / f"{split}.csv").write_text("\n".join(lines))
        (own_videos / lines[0].split()[0]).write_bytes(b"no video")
    finished = tool("run_net", *options(own_videos, tmp_path / "run"))
    assert finished.code == 0, finished.err
    assert (results_of(tmp_path / "run")["videos"], results_of(tmp_path / "run")["skipped"]) == (2, 1)


@pytest.mark.parametrize(("stage", "split"), [("train", "train"), ("mine", "mine"), ("test", "test")])
def test_too_many_unreadable_videos(stage: str, split: str, own_run: Path, own_videos: Path) -> None:
    damaged = damage_videos(own_videos, (split,))
    changes = ("DATA.MAX_SKIPPED_FRACTION", 0.05, "TRAIN.AUTO_RESUME", False, "TRAIN.EVAL_PERIOD", 0)
    switches = [word for s in STAGES for word in (f"{s.upper()}.ENABLE", s == stage)]
    message = refused(tool("run_net", *options(own_videos, own_run, *changes, *switches)))
    assert "unreadable videos, more than DATA.MAX_SKIPPED_FRACTION allows" in message
    assert any(path in message for path in damaged[split])
    assert len(message.splitlines()) == 1
    rows = [row for row in table_of(own_run / "skipped.csv") if row["stage"] == stage]
    assert rows and {row["path"] for row in rows} <= damaged[split] and all(row["reason"] for row in rows)
