"""Loaders and class names of a config."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from fvcore.common.config import CfgNode
from iopath.common.file_io import g_pathmgr
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor
from torch.utils.data import DataLoader

from revit_video.data.batch import Batch, Skipped, collate, with_reversed
from revit_video.data.kinetics import EvalClips, TrainClips, read_class_names, read_list
from revit_video.data.order import TrainOrder, eval_rows
from revit_video.data.sampling import clip_duration
from revit_video.data.transforms import Normalize, TrainTransform
from revit_video.data.views import ClipSpec
from revit_video.runtime.distributed import Ranks


def class_names(cfg: CfgNode) -> list[str] | None:
    """From `classes.txt` beside the lists; None without it."""
    return read_class_names(cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES or None)


def num_classes(cfg: CfgNode) -> int:
    """How many classes the data folder names.

    Raises:
        ValueError: it names none.
    """
    names = class_names(cfg)
    if not names:
        raise ValueError("MODEL.NUM_CLASSES 0: the data folder has no classes.txt to count them in")
    return len(names)


def mine_split(cfg: CfgNode) -> str:
    """The list whose token-length labels are mined."""
    return cfg.MINE.HOLDOUT or "train"


def video_list(cfg: CfgNode, split: str) -> LabeledVideoPaths:
    """The videos of `<split>.csv`.

    Raises:
        ValueError: no data folder is given, or the list is missing, empty or damaged.
    """
    folder = cfg.DATA.PATH_TO_DATA_DIR
    if not folder or not g_pathmgr.isdir(folder):
        raise ValueError(f"DATA.PATH_TO_DATA_DIR: no such folder: {folder!r}")
    path = os.path.join(folder, f"{split}.csv")
    if split == cfg.MINE.HOLDOUT and split not in ("train", "val", "test") and not g_pathmgr.isfile(path):
        raise ValueError(
            f"{path}: no such list; put clips there that the backbone is not trained on, "
            "name another list with MINE.HOLDOUT, or mine the training list itself (MINE.HOLDOUT '')"
        )
    return read_list(path, cfg.DATA.PATH_PREFIX, cfg.DATA.PATH_LABEL_SEPARATOR, cfg.MODEL.NUM_CLASSES)


def check_lists(cfg: CfgNode, stages: Iterable[str]) -> None:
    """Reads every list that `stages` need: a mistake should show before hours of training, not after.

    Raises:
        ValueError: see `video_list`.
    """
    needed = {
        "train": ["train", "val"] if cfg.TRAIN.EVAL_PERIOD else ["train"],
        "mine": [mine_split(cfg)],
        "assigner": [mine_split(cfg), "val"],
        "test": ["test"],
    }
    for split in dict.fromkeys(split for stage in stages for split in needed[stage]):
        video_list(cfg, split)


def clip_spec(cfg: CfgNode) -> ClipSpec:
    """How a clip is sampled."""
    duration = clip_duration(cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.DATA.TARGET_FPS)
    return ClipSpec(cfg.DATA.NUM_FRAMES, duration, cfg.DATA.FRAME_ORDER, cfg.DATA.DECODING_BACKEND)


class TrainBatches:
    """`batches(epoch)`: this rank's training batches, normalised and on the device, as `(clips, labels)`.

    With `DATA.REVERSED_CLASSES` half of each batch is the other half played backwards. Unreadable
    videos were replaced by others; they are collected in `skipped`.
    """

    def __init__(self, cfg: CfgNode, ranks: Ranks) -> None:
        videos = video_list(cfg, "train")
        data = cfg.DATA
        transform = TrainTransform(
            data.TRAIN_JITTER_SCALES,
            data.TRAIN_CROP_SIZE,
            data.RANDOM_FLIP,
            data.BRIGHTNESS,
            data.CONTRAST,
            data.SATURATION,
        )
        clips = TrainClips(videos, clip_spec(cfg), transform, data.FRAME_JITTER, cfg.RNG_SEED)
        self.partner = _partner(cfg)
        per_rank = cfg.TRAIN.BATCH_SIZE // ranks.world_size // (1 if self.partner is None else 2)
        self.order = TrainOrder(len(videos), per_rank, ranks.rank, ranks.world_size, cfg.RNG_SEED)
        self.loader = _loader(cfg, clips, per_rank, ranks, sampler=self.order)
        self.normalize = Normalize(data.MEAN, data.STD).to(ranks.device)
        self.device = ranks.device
        self.allowed = data.MAX_SKIPPED_FRACTION * len(videos) / ranks.world_size
        self.skipped: set[Skipped] = set()

    def __len__(self) -> int:
        return self.order.num_batches

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        self.order.set_epoch(epoch)
        for batch in self.loader:
            self.skipped.update(batch.skipped)
            check_skipped(len(self.skipped), self.allowed, batch.skipped)
            batch = batch.to(self.device, non_blocking=True)
            if self.partner is not None:
                batch = with_reversed(batch, self.partner)
            yield self.normalize(batch.clips), batch.labels


class EvalBatches:
    """This rank's share of a list, each view once: normalised clips on the device, a video's views together.

    Args:
        videos_per_batch: over all ranks.
        rows: which videos of the list, in which order; None for all.
    """

    def __init__(
        self,
        cfg: CfgNode,
        videos: LabeledVideoPaths,
        ranks: Ranks,
        num_clips: int,
        num_crops: int,
        videos_per_batch: int,
        rows: list[int] | None = None,
    ) -> None:
        clips = EvalClips(videos, clip_spec(cfg), cfg.DATA.TEST_CROP_SIZE, num_clips, num_crops)
        rows = list(eval_rows(len(videos), ranks.rank, ranks.world_size)) if rows is None else rows
        per_rank = max(1, videos_per_batch // ranks.world_size)
        self.loader = _loader(cfg, clips, per_rank, ranks, sampler=rows)
        self.normalize = Normalize(cfg.DATA.MEAN, cfg.DATA.STD).to(ranks.device)
        self.device = ranks.device
        self.allowed = cfg.DATA.MAX_SKIPPED_FRACTION * len(rows)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        skipped = 0
        for batch in self.loader:
            skipped += len(batch.skipped)
            check_skipped(skipped, self.allowed, batch.skipped)
            batch = batch.to(self.device, non_blocking=True)
            yield replace(batch, clips=self.normalize(batch.clips))


def check_skipped(count: int, allowed: float, latest: list[Skipped]) -> None:
    """ValueError when more videos than `DATA.MAX_SKIPPED_FRACTION` allows could not be read."""
    if count > allowed and latest:
        path, reason = latest[-1]
        raise ValueError(
            f"{count} unreadable videos, more than DATA.MAX_SKIPPED_FRACTION allows ({allowed:.0f}); "
            f"the latest: {path}: {reason}"
        )


def _loader(
    cfg: CfgNode, clips: TrainClips | EvalClips, batch_size: int, ranks: Ranks, sampler: object
) -> DataLoader:
    workers = cfg.DATA_LOADER.NUM_WORKERS
    return DataLoader(
        clips,
        batch_size,
        sampler=sampler,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and ranks.device.type == "cuda",
        persistent_workers=workers > 0 and isinstance(clips, TrainClips),
        prefetch_factor=cfg.DATA_LOADER.PREFETCH_FACTOR if workers else None,
    )


def _partner(cfg: CfgNode) -> Tensor | None:
    """The class that each class turns into when time runs backwards; classes in no pair stay as they are."""
    if not cfg.DATA.REVERSED_CLASSES:
        return None
    partner = torch.arange(cfg.MODEL.NUM_CLASSES)
    for one, other in cfg.DATA.REVERSED_CLASSES:
        partner[one], partner[other] = other, one
    return partner
