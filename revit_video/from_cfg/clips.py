"""Loaders and class names of a config."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from fvcore.common.config import CfgNode
from iopath.common.file_io import g_pathmgr
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor
from torch.utils.data import DataLoader

from revit_video.data.augment import Mixing, MixToken, RandAugment, RandomErasing
from revit_video.data.batch import Batch, Skipped, collate, with_reversed
from revit_video.data.clips import ClipSampling, ViewGrid
from revit_video.data.datasets import EvalClips, TrainClips, read_class_names, read_list
from revit_video.data.folders import VideoFolder
from revit_video.data.order import TrainOrder, eval_rows
from revit_video.data.sampling import clip_duration
from revit_video.data.targets import Targets
from revit_video.data.token_labels import TokenLabelMaps
from revit_video.data.transforms import Augmentation, Normalize, TrainTransform
from revit_video.length import token_lengths
from revit_video.runtime.ranks import Ranks
from revit_video.runtime.termination import outlive_sigterm

SPLITS = ("train", "mine", "val", "test")


class TooManyUnreadable(ValueError):
    """More videos than `DATA.MAX_SKIPPED_FRACTION` allows are unreadable; `skipped` lists them."""

    def __init__(self, message: str, skipped: list[Skipped]) -> None:
        super().__init__(message)
        self.skipped = skipped


def class_names(cfg: CfgNode) -> list[str] | None:
    """From `classes.txt` beside the lists, None without it; without lists, the names of the folders.

    Raises:
        ValueError: they are not as many as `MODEL.NUM_CLASSES`, if that is given.
    """
    folder = _class_folders(cfg)
    if folder and folder.class_names:
        return folder.class_names
    return read_class_names(cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES or None)


def num_classes(cfg: CfgNode) -> int:
    """How many classes the data folder names.

    Raises:
        ValueError: there is no such folder, or it names none.
    """
    try:
        check_data_folder(cfg)
    except ValueError as error:
        raise ValueError(
            f"{error}, and MODEL.NUM_CLASSES 0 counts the classes there; give the one or the other"
        ) from None
    names = class_names(cfg)
    if not names:
        raise ValueError(
            f"MODEL.NUM_CLASSES 0: {cfg.DATA.PATH_TO_DATA_DIR!r} has neither folders of classes "
            "nor a classes.txt to count them in"
        )
    return len(names)


def check_data_folder(cfg: CfgNode) -> None:
    """ValueError where `DATA.PATH_TO_DATA_DIR` is no folder."""
    folder = cfg.DATA.PATH_TO_DATA_DIR
    if not folder or not g_pathmgr.isdir(folder):
        raise ValueError(f"DATA.PATH_TO_DATA_DIR: no such folder: {folder!r}")


def _class_folders(cfg: CfgNode) -> VideoFolder | None:
    """The folders of classes, where the data folder has no lists."""
    path = cfg.DATA.PATH_TO_DATA_DIR
    names = [*SPLITS, mine_split(cfg), cfg.TEST.SPLIT]
    splits = dict.fromkeys(names, 0.0) | dict(zip(SPLITS, cfg.DATA.SPLIT, strict=True))
    if not path or any(g_pathmgr.isfile(os.path.join(path, f"{split}.csv")) for split in splits):
        return None
    folder = VideoFolder(path, splits)
    found, expected = len(folder.class_names), cfg.MODEL.NUM_CLASSES
    if found and expected not in (0, found):
        raise ValueError(
            f"MODEL.NUM_CLASSES {expected}: {path} has folders of {found} classes; 0 takes their number"
        )
    return folder


def mine_split(cfg: CfgNode) -> str:
    """The list whose token-length labels are mined."""
    return cfg.MINE.HOLDOUT or "train"


def video_list(cfg: CfgNode, split: str) -> LabeledVideoPaths:
    """The videos of `<split>.csv`, or of the folders of classes where there are no lists.

    Raises:
        ValueError: no data folder is given, or the split is missing, empty or damaged.
    """
    check_data_folder(cfg)
    folder = cfg.DATA.PATH_TO_DATA_DIR
    if classes := _class_folders(cfg):
        return classes.read(split)
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
        "test": [cfg.TEST.SPLIT],
    }
    for split in dict.fromkeys(split for stage in stages for split in needed[stage]):
        video_list(cfg, split)


def clip_sampling(cfg: CfgNode) -> ClipSampling:
    """Which frames make a clip."""
    data = cfg.DATA
    duration = clip_duration(data.NUM_FRAMES, data.SAMPLING_RATE, data.TARGET_FPS)
    return ClipSampling(data.NUM_FRAMES, duration, data.FRAME_ORDER, data.DECODING_BACKEND)


def train_transform(cfg: CfgNode) -> TrainTransform:
    """How training clips are cut out and augmented."""
    data, aug = cfg.DATA, cfg.AUG
    augmentations: list[Augmentation] = []
    if aug.AA_TYPE:
        augmentations.append(RandAugment(aug.AA_TYPE, data.TRAIN_CROP_SIZE, data.MEAN))
    if aug.RE_PROB:
        augmentations.append(RandomErasing(aug.RE_PROB, data.MEAN, data.STD))
    return TrainTransform(
        data.TRAIN_JITTER_SCALES,
        data.TRAIN_CROP_SIZE,
        data.RANDOM_FLIP,
        data.BRIGHTNESS,
        data.CONTRAST,
        data.SATURATION,
        data.TRAIN_JITTER_SCALES_RELATIVE,
        augmentations,
    )


def _mixing(cfg: CfgNode) -> Mixing | None:
    mixup = cfg.MIXUP
    if mixup.ALPHA == 0 and mixup.CUTMIX_ALPHA == 0:
        return None
    return Mixing(
        mixup.ALPHA,
        mixup.CUTMIX_ALPHA,
        mixup.PROB,
        mixup.SWITCH_PROB,
        cfg.MODEL.NUM_CLASSES,
        cfg.RNG_SEED,
    )


def _mix_token(cfg: CfgNode) -> MixToken | None:
    mixup = cfg.MIXUP
    if mixup.TOKEN_ALPHA == 0:
        return None
    coarsest = token_lengths(cfg.REVIT.TOKEN_LENGTHS)[-1]
    return MixToken(mixup.TOKEN_ALPHA, mixup.PROB, coarsest, cfg.RNG_SEED)


def _label_maps(cfg: CfgNode, images: LabeledVideoPaths) -> TokenLabelMaps | None:
    if not cfg.DATA.TOKEN_LABELS:
        return None
    paths = [images[row][0] for row in range(len(images))]
    return TokenLabelMaps(cfg.DATA.TOKEN_LABELS, paths, cfg.MODEL.NUM_CLASSES)


class TrainBatches:
    """`batches(epoch, first)`: this rank's training batches from the first on, as `(clips, labels, paths)`.

    Clips are normalised and on the device; where they are mixed, labels are `(B, classes)`. With label maps
    or MixToken, labels are `Targets`. With `DATA.REVERSED_CLASSES` half of each batch is the other half
    played backwards. Unreadable videos were replaced by others; they are collected in `skipped`.

    Args:
        videos: None for the training list.
    """

    def __init__(self, cfg: CfgNode, ranks: Ranks, videos: LabeledVideoPaths | None = None) -> None:
        videos = videos or video_list(cfg, "train")
        data = cfg.DATA
        transform = train_transform(cfg)
        clips = TrainClips(
            videos,
            clip_sampling(cfg),
            transform,
            data.FRAME_JITTER,
            cfg.RNG_SEED,
            _timeout(cfg),
            _label_maps(cfg, videos),
        )
        self.partner = _partner(cfg)
        self.mixing, self.mix_token = _mixing(cfg), _mix_token(cfg)
        per_rank = cfg.TRAIN.BATCH_SIZE // ranks.data_size // (1 if self.partner is None else 2)
        self.order = TrainOrder(
            len(videos), per_rank, ranks.data_rank, ranks.data_size, cfg.RNG_SEED, cfg.AUG.REPEATS
        )
        self.loader = _loader(cfg, clips, per_rank, ranks, sampler=self.order)
        self.normalize = Normalize(data.MEAN, data.STD).to(ranks.device)
        self.device = ranks.device
        self.allowed = data.MAX_SKIPPED_FRACTION * len(videos) / ranks.data_size
        self.skipped: set[Skipped] = set()

    def __len__(self) -> int:
        return self.order.num_batches

    def __call__(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor | Targets, list[str]]]:
        self.order.set_epoch(epoch, first)
        for number, batch in enumerate(self.loader, start=first):
            self.skipped.update(batch.skipped)
            check_skipped(self.skipped, self.allowed, batch.skipped)
            batch = batch.to(self.device, non_blocking=True)
            if self.partner is not None:
                batch = with_reversed(batch, self.partner)
            inputs, labels = self.normalize(batch.clips), batch.labels
            if self.mixing is not None:
                inputs, labels = self.mixing(inputs, labels, epoch, number)
            box = self.mix_token(epoch, number) if self.mix_token is not None else None
            plain = batch.token_labels is None and box is None
            yield inputs, labels if plain else Targets(labels, batch.token_labels, box), batch.paths


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
        grid = ViewGrid(cfg.DATA.TEST_CROP_SIZE, num_clips, num_crops, cfg.DATA.TEST_SCALE)
        clips = EvalClips(videos, clip_sampling(cfg), grid, _timeout(cfg))
        rows = list(eval_rows(len(videos), ranks.rank, ranks.world_size)) if rows is None else rows
        per_rank = max(1, videos_per_batch // ranks.world_size)
        self.loader = _loader(cfg, clips, per_rank, ranks, sampler=rows)
        self.normalize = Normalize(cfg.DATA.MEAN, cfg.DATA.STD).to(ranks.device)
        self.device = ranks.device
        self.allowed = cfg.DATA.MAX_SKIPPED_FRACTION * len(rows)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        skipped: list[Skipped] = []
        for batch in self.loader:
            skipped += batch.skipped
            check_skipped(skipped, self.allowed, batch.skipped)
            batch = batch.to(self.device, non_blocking=True)
            yield replace(batch, clips=self.normalize(batch.clips))


def check_skipped(skipped: Collection[Skipped], allowed: float, latest: list[Skipped]) -> None:
    """TooManyUnreadable when more videos than `DATA.MAX_SKIPPED_FRACTION` allows could not be read."""
    if len(skipped) > allowed and latest:
        path, reason = latest[-1]
        raise TooManyUnreadable(
            f"{len(skipped)} unreadable videos, more than DATA.MAX_SKIPPED_FRACTION allows ({allowed:.0f}); "
            f"the latest: {path}: {reason}",
            sorted(skipped),
        )


@contextmanager
def killed_workers_explained() -> Iterator[None]:
    """Turns torch's error about a data worker that was killed, raised wherever the rank is, into one line.

    A video is not to blame: those are decoded in processes of their own, which may die.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        words = " ".join(str(error).split())
        raise ChildProcessError(
            f"{words} If memory ran out, lower DATA_LOADER.NUM_WORKERS or DATA_LOADER.PREFETCH_FACTOR"
        ) from error


def _timeout(cfg: CfgNode) -> float | None:
    """Seconds that a worker's video may take; None where the rank itself decodes."""
    return cfg.DATA_LOADER.TIMEOUT if cfg.DATA_LOADER.NUM_WORKERS else None


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
        worker_init_fn=outlive_sigterm,
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
