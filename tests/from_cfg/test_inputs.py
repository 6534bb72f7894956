"""Loaders of a config."""

from __future__ import annotations

import os
from collections import Counter
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
import torch

import revit_video
from revit_video.data.sampling import Window
from revit_video.from_cfg.inputs import (
    SPLITS,
    check_later_stages,
    check_lists,
    clip_in_words,
    clip_sampling,
    data_folder,
    eval_batch_size,
    eval_batches,
)
from revit_video.runtime.ranks import Ranks
from tests.toy import COUNTS, STAGES, options, results_of, run_toy, table_of, tool, toy_cfg, training_batches

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)


def test_training_batches_are_normalised(videos: Path, tmp_path: Path) -> None:
    cfg = toy_cfg(videos, tmp_path)
    plain = toy_cfg(videos, tmp_path, "DATA.MEAN", [0, 0, 0], "DATA.STD", [1, 1, 1])
    batches, raw = (
        training_batches(cfg, ALONE),
        training_batches(plain, ALONE),
    )
    assert len(batches) == 6
    for (clips, labels, _), (pixels, *_) in zip(batches(0), raw(0), strict=True):
        assert clips.shape == (4, 3, 2, 32, 32) and clips.dtype == torch.float and labels.shape == (4,)
        assert pixels.min() >= 0 and pixels.max() <= 1
        torch.testing.assert_close(clips, (pixels - 0.15) / 0.1)


def test_the_spacing_is_that_of_the_frames_picked(tmp_path: Path) -> None:
    cfg = toy_cfg(tmp_path, tmp_path, "DATA.NUM_FRAMES", 8, "DATA.SAMPLING_RATE", 32, "DATA.TARGET_FPS", 30)
    assert clip_in_words(cfg) == "8 frames of 8.53 s, 36.4 frames apart at 30 frames/s"
    times = [Fraction(n, 30) for n in range(300)]
    picked = clip_sampling(cfg).pick(times, Window(0, clip_sampling(cfg).duration))
    assert (picked[-1] - picked[0]) / 7 == pytest.approx(36.4, abs=0.05)


def test_an_epoch_repeats_itself_and_differs_from_the_next(videos: Path, tmp_path: Path) -> None:
    batches = training_batches(toy_cfg(videos, tmp_path), ALONE)
    clips = {epoch: torch.cat([clips for clips, *_ in batches(epoch)]) for epoch in (0, 1)}
    assert torch.equal(torch.cat([clips for clips, *_ in batches(0)]), clips[0])
    assert not torch.equal(clips[0], clips[1])


def test_ranks_share_each_training_batch(videos: Path, tmp_path: Path) -> None:
    cfg = toy_cfg(videos, tmp_path)
    whole = [labels for _, labels, _ in training_batches(cfg, ALONE)(0)]
    shares = [[labels for _, labels, _ in training_batches(cfg, Ranks(rank, 2, CPU))(0)] for rank in range(2)]
    for labels, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat(parts), labels)


def test_reversed_clips_have_the_opposite_class(videos: Path, tmp_path: Path) -> None:
    cfg = toy_cfg(videos, tmp_path, "DATA.REVERSED_CLASSES", [[0, 1], [4, 5]])
    opposite = torch.tensor([1, 0, 2, 3, 5, 4])
    for clips, labels, _ in training_batches(cfg, ALONE)(0):
        assert len(labels) == 4
        assert torch.equal(clips[2:], clips[:2].flip(2))
        assert torch.equal(labels[2:], opposite[labels[:2]])


def test_every_video_is_evaluated_once_over_all_ranks(videos: Path, tmp_path: Path) -> None:
    cfg = toy_cfg(videos, tmp_path)
    listed = data_folder(cfg).videos("test")
    rows = []
    for rank in range(5):
        for batch in eval_batches(cfg, listed, Ranks(rank, 5, CPU), 1, 3, 8):
            assert len(batch) == 3 * len(set(batch.rows.tolist()))
            rows += batch.rows.unique().tolist()
    assert sorted(rows) == list(range(12))


@pytest.mark.parametrize(
    ("frames", "crop", "views", "on_gpu"),
    [(8, 224, 3, 13), (16, 448, 3, 1), (32, 1024, 3, 1), (1, 224, 1, 334)],
)
def test_the_device_chooses_how_much_is_read_at_once(
    frames: int, crop: int, views: int, on_gpu: int, videos: Path, tmp_path: Path
) -> None:
    """Whatever the number of ranks."""
    for world_size, device in product((1, 4), ("cpu", "cuda")):
        ranks = Ranks(0, world_size, torch.device(device))
        cfg = toy_cfg(videos, tmp_path)
        cfg.defrost()
        cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE = frames, crop
        assert eval_batch_size(cfg, ranks, views) == (8 if device == "cpu" else on_gpu)
        cfg.TEST.BATCH_SIZE = 6
        assert eval_batch_size(cfg, ranks, views) == 6


def test_a_share_of_the_batches_is_mixed(videos: Path, tmp_path: Path) -> None:
    plain = [clips for clips, *_ in training_batches(toy_cfg(videos, tmp_path), ALONE)(0)]
    mixed = {}
    for probability in (0.0, 0.5, 1.0):
        cfg = toy_cfg(videos, tmp_path, "MIXUP.ALPHA", 1.0, "MIXUP.PROB", probability)
        clips = [clips for clips, *_ in training_batches(cfg, ALONE)(0)]
        mixed[probability] = sum(not torch.equal(*pair) for pair in zip(clips, plain, strict=True))
    assert mixed[0.0] == 0 < mixed[0.5] < mixed[1.0] == len(plain)


def test_the_loaders_settings_act(videos: Path, tmp_path: Path) -> None:
    cfg = toy_cfg(videos, tmp_path, "DATA_LOADER.NUM_WORKERS", 1, "DATA_LOADER.PREFETCH_FACTOR", 5)
    listed = data_folder(cfg).videos("test")
    for batches in (training_batches(cfg, ALONE), eval_batches(cfg, listed, ALONE, 1, 1, 4)):
        assert (batches.loader.num_workers, batches.loader.prefetch_factor) == (1, 5)


def test_every_stage_has_its_lists(own_videos: Path, tmp_path: Path) -> None:
    cfg = toy_cfg(own_videos, tmp_path)
    check_lists(cfg, data_folder(cfg), STAGES)
    needed = {
        "mine": ["mine", "assigner"],
        "val": ["train", "assigner"],
        "test": ["test"],
    }
    for split in ("mine", "val", "test"):
        path = own_videos / f"{split}.csv"
        content = path.read_text()
        path.unlink()
        for stage in STAGES:
            if stage in needed[split]:
                with pytest.raises((ValueError, OSError), match=f"{split}.csv"):
                    check_lists(cfg, data_folder(cfg), [stage])
            else:
                check_lists(cfg, data_folder(cfg), [stage])
        path.write_text(content)
    (own_videos / "val.csv").unlink()
    cfg = toy_cfg(own_videos, tmp_path, "TRAIN.EVAL_PERIOD", 0)
    check_lists(cfg, data_folder(cfg), ["train"])


def test_more_ranks_than_files_to_mine_show_at_the_start(videos: Path, tmp_path: Path) -> None:
    cfg = toy_cfg(videos, tmp_path)
    check_later_stages(cfg, data_folder(cfg), ["assigner"], COUNTS["mine"])
    with pytest.raises(ValueError, match=r"mine: 12 files are too few for 13 ranks.*lower NUM_GPUS"):
        check_later_stages(cfg, data_folder(cfg), ["train", "mine", "assigner"], COUNTS["mine"] + 1)


def test_lists_may_have_another_prefix_and_separator(videos: Path, tmp_path: Path) -> None:
    lines = (videos / "test.csv").read_text().splitlines()
    (tmp_path / "test.csv").write_text("\n".join(line.replace(" ", ",") for line in lines))
    cfg = toy_cfg(tmp_path, tmp_path, "DATA.PATH_PREFIX", videos, "DATA.PATH_LABEL_SEPARATOR", ",")
    assert data_folder(cfg).videos("test")[0][0] == str(videos / lines[0].split()[0])
    assert data_folder(cfg).class_names is None


# ---- Folders of classes ----------------------------------------------------------------------------------


@pytest.fixture
def classes(videos: Path, tmp_path: Path) -> Path:
    """The generated videos, ten of each class, in folders named after their classes."""
    names = (videos / "classes.txt").read_text().split()
    for split in ("train", "mine", "val", "test"):
        for line in (videos / f"{split}.csv").read_text().splitlines():
            path, label = line.split()
            folder = tmp_path / "classes" / names[int(label)]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{split}_{Path(path).name}").symlink_to(videos / path)
    return tmp_path / "classes"


def test_a_run_on_folders_of_classes_alone(classes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished = tool("run_net", *options(classes, run, "MODEL.NUM_CLASSES", 0))
    assert finished.code == 0, finished.err
    names = ["down", "grow", "left", "right", "shrink", "up"]
    predictor = revit_video.load(str(run), "cpu")
    assert predictor.class_names == names == results_of(run)["classes"]
    assert predictor.model.num_classes == 6
    tested = table_of(run / "predictions.csv")
    assert all(Path(row["video"]).parent.name == names[int(row["label"])] for row in tested)
    cfg = toy_cfg(classes, run)
    listed = {split: {path for path, _ in data_folder(cfg).videos(split)} for split in SPLITS}
    assert {row["video"] for row in tested} == listed["test"]
    assert sum(map(len, listed.values())) == len(set().union(*listed.values())) == 60


def test_a_run_lists_each_folder_once(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: Counter[Path] = Counter()
    ls = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path=".": listed.update([Path(path)]) or ls(path))
    run_toy(classes, tmp_path / "run", "MODEL.NUM_CLASSES", 0)
    folders = {path: count for path, count in listed.items() if path.is_relative_to(classes)}
    assert folders == dict.fromkeys([classes, *classes.iterdir()], 1)


def test_a_run_reads_each_list_once(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Counter[Path] = Counter()
    open_file = open

    def counted(path: object, *arguments: object, **options: object) -> object:
        if isinstance(path, str):
            opened.update([Path(path)])
        return open_file(path, *arguments, **options)

    monkeypatch.setattr("builtins.open", counted)
    run_toy(videos, tmp_path / "run")
    names = [*(f"{split}.csv" for split in SPLITS), "classes.txt"]
    reads = dict.fromkeys(names, 1) | {"test.csv": 2}  # the report asks whose frames it may show
    assert {name: opened[videos / name] for name in names} == reads


def test_another_number_of_classes_than_the_folders(classes: Path, tmp_path: Path) -> None:
    cfg = toy_cfg(classes, tmp_path, "MODEL.NUM_CLASSES", 5)
    for asked in (lambda data: data.class_names, lambda data: data.videos("train")):
        with pytest.raises(ValueError, match="MODEL.NUM_CLASSES 5: .* has folders of 6 classes; 0 takes"):
            asked(data_folder(cfg))


def test_folders_of_videos_without_classes(own_videos: Path, tmp_path: Path) -> None:
    for path in [*own_videos.glob("*.csv"), own_videos / "classes.txt"]:
        path.unlink()
    with pytest.raises(ValueError, match="neither lists .* nor a folder for each class"):
        data_folder(toy_cfg(own_videos, tmp_path)).videos("train")
    with pytest.raises(ValueError, match="MODEL.NUM_CLASSES 0: .* has neither folders of classes nor"):
        print(data_folder(toy_cfg(own_videos, tmp_path, "MODEL.NUM_CLASSES", 0)).num_classes)
    with pytest.raises(ValueError, match="DATA.PATH_TO_DATA_DIR: no such folder: '.*nowhere'"):
        print(data_folder(toy_cfg(own_videos / "nowhere", tmp_path, "MODEL.NUM_CLASSES", 0)).num_classes)
