"""A config's data folder and its batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor

from revit_video.adaptive.labels import MinedLabels
from revit_video.config.rules import get
from revit_video.data.augment import Mixing, MixToken, RandAugment, RandomErasing
from revit_video.data.clips import ClipSampling, ViewGrid
from revit_video.data.datasets import EvalClips, TrainClips
from revit_video.data.folders import DataFolder
from revit_video.data.lists import labelled_files
from revit_video.data.loader import (
    BatchTransform,
    EvalBatches,
    Loading,
    TooManyUnreadable,
    TrainBatches,
    allowed_unreadable,
    check_skipped,
)
from revit_video.data.order import TrainOrder, eval_rows
from revit_video.data.sampling import clip_duration
from revit_video.data.token_labels import TokenLabelMaps
from revit_video.data.transforms import Augmentation, Normalize, TrainTransform
from revit_video.data.video import Limits
from revit_video.from_cfg.overlaps import compare_lists, mine_split
from revit_video.length import token_lengths
from revit_video.runtime.ranks import Ranks, decoding_workers
from revit_video.train.mined import MinedBatches, SmallFrames, check_mined_from

SPLITS = ("train", "mine", "val", "test")
CPU_BATCH = 8  # videos
GPU_BATCH = 1 << 24  # pixels: 41 views of 8x224x224, or 5 of 16x448x448, are enough for its full rate
TRIED = 20  # a list of so many files at most is read once before a training that precedes its stage


# ---- Lists -----------------------------------------------------------------------------------------------


def data_folder(
    cfg: CfgNode, model_classes: Sequence[str] | None = None, same_classes: bool = True
) -> DataFolder:
    """The config's data folder. Make one per run: it reads every list and folder once.

    Args:
        model_classes, same_classes: see `DataFolder`.
    """
    data = cfg.DATA
    splits = dict.fromkeys([*SPLITS, mine_split(cfg), cfg.TEST.SPLIT], 0.0)
    shares = splits | ({"train": 1.0} if data.FOLDS else dict(zip(SPLITS, data.SPLIT, strict=True)))
    return DataFolder(
        data.PATH_TO_DATA_DIR,
        shares,
        data.PATH_PREFIX,
        data.PATH_LABEL_SEPARATOR,
        cfg.MODEL.NUM_CLASSES,
        model_classes,
        same_classes,
        [split for split in SPLITS if split in {"train", "val", mine_split(cfg), cfg.TEST.SPLIT}],
        data.MULTI_LABEL,
        data.GROUP,
    )


def check_lists(cfg: CfgNode, data: DataFolder, stages: Sequence[str]) -> None:
    """Read every list that `stages` need: a mistake should show before hours of training, not after.

    Raises:
        ValueError, FileNotFoundError: see `DataFolder.videos` and `compare_lists`.
    """
    for key in ("DATA.REVERSED_CLASSES", "DATA.TOKEN_LABELS"):
        if "train" in stages and get(cfg, key) and data.reordered is not None:
            raise ValueError(
                f"{key}: it numbers the classes, which {data.path} has in another order than the model; "
                "bring the folder's into the model's order"
            )
    for split in lists_of(cfg, stages):
        try:
            data.videos(split)
        except FileNotFoundError:
            if split != cfg.MINE.HOLDOUT or split in ("train", "val", "test"):
                raise
            raise ValueError(
                f"{data.path}/{split}.csv: no such list; "
                "put clips there that the backbone is not trained on, name another list with MINE.HOLDOUT, "
                "or mine the training list itself (MINE.HOLDOUT '')"
            ) from None
    compare_lists(cfg, data, lists_of(cfg, stages))
    if "train" in stages:
        _label_maps(cfg, data.videos("train"))


def check_later_stages(cfg: CfgNode, data: DataFolder, stages: Sequence[str], ranks: int) -> None:
    """What would end a run after its training, as far as it can be known before.

    Raises:
        ValueError: fewer files to mine than ranks, or a small list of which too much is unreadable.
    """
    split = mine_split(cfg)
    if "assigner" in stages and len(data.videos(split)) < ranks:
        raise ValueError(
            f"{split}: {len(data.videos(split))} files are too few for {ranks} ranks, which train the "
            "assigner each on its own; lower NUM_GPUS"
        )
    if stages[0] != "train":
        return
    for split in lists_of(cfg, stages[1:]):
        videos = data.videos(split)
        if split != "train" and len(videos) <= TRIED:
            grid, timeout = ViewGrid(cfg.DATA.TEST_CROP_SIZE), cfg.DATA_LOADER.TIMEOUT
            clips = EvalClips(videos, clip_sampling(cfg), grid, timeout, cfg.MODEL.NUM_CLASSES)
            skipped = [skip for row in range(len(videos)) for skip in clips[row].skipped]
            try:
                allowed = allowed_unreadable(cfg.DATA.MAX_SKIPPED_FRACTION, len(videos))
                check_skipped(skipped, allowed, skipped)
            except TooManyUnreadable as error:
                raise TooManyUnreadable(f"{split}: {error}", error.skipped) from None


def lists_of(cfg: CfgNode, stages: Sequence[str]) -> list[str]:
    """The lists that `stages` read, each once."""
    needed = {
        "train": ["train", "val"] if cfg.TRAIN.EVAL_PERIOD and cfg.TRAIN.METHOD != "frozen" else ["train"],
        "mine": [mine_split(cfg)],
        "assigner": [mine_split(cfg), "val"],
        "test": [cfg.TEST.SPLIT],
    }
    return list(dict.fromkeys(split for stage in stages for split in needed[stage]))


# ---- Batches ---------------------------------------------------------------------------------------------


def train_batches(cfg: CfgNode, videos: LabeledVideoPaths, ranks: Ranks) -> TrainBatches:
    """This rank's batches for training on `videos`.

    Raises:
        ValueError: the videos do not fill one batch, or their label maps cannot be read.
    """
    data, seed = cfg.DATA, cfg.RNG_SEED
    clips = TrainClips(
        videos,
        clip_sampling(cfg),
        train_transform(cfg),
        data.FRAME_JITTER,
        seed,
        cfg.DATA_LOADER.TIMEOUT,
        _label_maps(cfg, videos),
        cfg.MODEL.NUM_CLASSES,
    )
    partner = _partner(cfg, ranks.device)
    batch_size = cfg.TRAIN.BATCH_SIZE // ranks.data_size // (1 if partner is None else 2)
    order = TrainOrder(len(videos), batch_size, ranks.data_rank, ranks.data_size, seed, cfg.AUG.REPEATS)
    transform = BatchTransform(_normalize(cfg, ranks), partner, _mixing(cfg), _mix_token(cfg))
    return TrainBatches(clips, order, transform, _loading(cfg, ranks))


def eval_batches(
    cfg: CfgNode,
    videos: LabeledVideoPaths,
    ranks: Ranks,
    num_clips: int,
    num_crops: int,
    batch_size: int | None = None,
    rows: list[int] | None = None,
) -> EvalBatches:
    """This rank's batches of `num_clips` x `num_crops` views of each video.

    Args:
        batch_size: videos per batch; None for `eval_batch_size`.
        rows: videos of this rank, in this order; None for its share of all.
    """
    grid = ViewGrid(cfg.DATA.TEST_CROP_SIZE, num_clips, num_crops, cfg.DATA.TEST_SCALE, cfg.DATA.SQUASH)
    timeout = cfg.DATA_LOADER.TIMEOUT
    clips = EvalClips(videos, clip_sampling(cfg), grid, timeout, cfg.MODEL.NUM_CLASSES)
    rows = list(eval_rows(len(videos), ranks.rank, ranks.world_size)) if rows is None else rows
    size = batch_size or eval_batch_size(cfg, ranks, num_clips * num_crops)
    return EvalBatches(clips, rows, size, _normalize(cfg, ranks), _loading(cfg, ranks))


def eval_batch_size(cfg: CfgNode, ranks: Ranks, views: int) -> int:
    """Videos of `views` views that each rank reads at once: `TEST.BATCH_SIZE`, or what suits its device."""
    if cfg.TEST.BATCH_SIZE:
        return int(cfg.TEST.BATCH_SIZE)
    if ranks.device.type == "cpu":
        return CPU_BATCH
    pixels = cfg.DATA.NUM_FRAMES * cfg.DATA.TEST_CROP_SIZE**2
    return max(1, GPU_BATCH // (views * pixels))


def mined_batches(cfg: CfgNode, data: DataFolder, mined: MinedLabels, ranks: Ranks) -> MinedBatches:
    """This rank's batches of mined clips for the assigner.

    Raises:
        ValueError: the labels are of other clips than the config's, or too few.
    """
    own, videos, num_clips = cfg.ASSIGNER, data.videos(mine_split(cfg)), cfg.MINE.NUM_CLIPS
    check_mined_from(mined, videos, num_clips)
    cache, turned = own.CACHE_GB * 2**30, own.AUGMENT == "turn"
    frames = SmallFrames(own.NUM_FRAMES, own.INPUT_SIZE, own.BATCH_SIZE, cache, turned)

    def decode(rows: list[int]) -> EvalBatches:
        share = max(1, own.BATCH_SIZE // ranks.world_size)
        return eval_batches(cfg, videos, ranks, num_clips, 1, share, rows)

    return MinedBatches(mined, decode, frames, ranks, cfg.RNG_SEED, own.OBJECTIVE == "sufficiency")


def clip_sampling(cfg: CfgNode) -> ClipSampling:
    """Which frames make a clip."""
    data = cfg.DATA
    duration = clip_duration(data.NUM_FRAMES, data.SAMPLING_RATE, data.TARGET_FPS)
    limits = Limits(data.MAX_MEGAPIXELS, data.MAX_ASPECT, data.MAX_DECODING_GB)
    return ClipSampling(
        data.NUM_FRAMES,
        duration,
        data.FRAME_ORDER,
        data.DECODING_BACKEND,
        data.FRAME_SPACING,
        data.SHORT_VIDEOS,
        data.SAMPLING,
        limits,
    )


def clip_in_words(cfg: CfgNode) -> str:
    """How long a clip is, and how far apart its frames are."""
    count, fps = cfg.DATA.NUM_FRAMES, cfg.DATA.TARGET_FPS
    if cfg.DATA.SAMPLING == "uniform":
        return f"{count} frames, one of each of {count} equal segments of the video"
    covered = count * cfg.DATA.SAMPLING_RATE
    if count == 1:
        return f"1 frame of {covered / fps:.3g} s"
    apart = (covered - 1) / (count - 1)
    return f"{count} frames of {covered / fps:.3g} s, {apart:.3g} frames apart at {fps:g} frames/s"


def train_transform(cfg: CfgNode) -> TrainTransform:
    """How training clips are cropped and augmented."""
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
        data.SQUASH,
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
    paths = [path for path, _ in labelled_files(images)]
    return TokenLabelMaps(cfg.DATA.TOKEN_LABELS, paths, cfg.MODEL.NUM_CLASSES)


def _normalize(cfg: CfgNode, ranks: Ranks) -> Normalize:
    return Normalize(cfg.DATA.MEAN, cfg.DATA.STD).to(ranks.device)


def _loading(cfg: CfgNode, ranks: Ranks) -> Loading:
    own = cfg.DATA_LOADER
    return Loading(
        ranks.device,
        decoding_workers(own.NUM_WORKERS, ranks.device.type == "cuda"),
        own.PREFETCH_FACTOR,
        own.PIN_MEMORY,
        cfg.DATA.MAX_SKIPPED_FRACTION,
        own.TIMEOUT,
    )


def _partner(cfg: CfgNode, device: torch.device) -> Tensor | None:
    """The class that each class turns into when time runs backwards; classes in no pair stay as they are."""
    if not cfg.DATA.REVERSED_CLASSES:
        return None
    partner = torch.arange(cfg.MODEL.NUM_CLASSES)
    for one, other in cfg.DATA.REVERSED_CLASSES:
        partner[one], partner[other] = other, one
    return partner.to(device)  # here: in an iteration the host would wait for it
