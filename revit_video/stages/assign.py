"""The third stage: training the Token-Length Assigner on mined clips, and choosing its operating point."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from itertools import chain, islice, repeat

import torch
from fvcore.common.config import CfgNode
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor

from revit_video import flops
from revit_video.adaptive.labels import NONE_CORRECT, MinedLabels, read_labels
from revit_video.adaptive.policies import Assigned
from revit_video.data.order import epoch_order
from revit_video.from_cfg import backbone as build
from revit_video.from_cfg.clips import EvalBatches, class_names, mine_split, video_list
from revit_video.models import checkpoint
from revit_video.models.assigner import TokenLengthAssigner, small_frames
from revit_video.runtime import output_dir
from revit_video.runtime.ranks import Ranks, broadcast_parameters
from revit_video.runtime.rng import seeded_generator
from revit_video.stages.calibration import assigned_settings, cascade_settings
from revit_video.stages.job import Job, gmacs_of
from revit_video.train.loop import Training, fit
from revit_video.train.optim import cosine_schedule, make_optimizer, with_warmup
from revit_video.train.steps import AssignerStep

SAME_START = 1e-3  # seconds; labels.csv keeps six decimals
OTHER_CLIPS = "labels.csv is of other clips (MINE.NUM_CLIPS, DATA.*); mine them again (MINE.ENABLE True)"

logger = logging.getLogger(__name__)


def assigner(job: Job) -> None:
    """Trains the Token-Length Assigner on labels.csv and chooses its operating point on the val list."""
    cfg, ranks = job.cfg, job.ranks
    path, model = job.trained()
    mined = read_labels(job.path(output_dir.LABELS), model.lengths)
    if ranks.is_main:
        _check_weights(job, mined, path)
    network = build.build_assigner(cfg).to(ranks.device)
    costs = flops.cost_table(model, job.views, network)
    broadcast_parameters(network, ranks)
    training = assigner_training(cfg, ranks, network, mined)
    job.record_config()
    if ranks.is_main:
        output_dir.keep_stats(cfg.OUTPUT_DIR, lambda line: line["stage"] != "assigner")
    with job.stats() as stats:
        for _ in fit(training, stats):
            pass
    policy = Assigned(
        model, gmacs_of(costs), network, costs["assigner_gmacs"], None, cfg.ADAPTIVE.DECISION == "view"
    )
    table = job.tabulate(model, "val", job.test_batches("val"), policy)
    settings = assigned_settings(cfg, table, costs) | cascade_settings(cfg, model, table, costs)
    if ranks.is_main:
        output_dir.write_json(job.path(output_dir.FLOPS), costs)
        payload = build.assigner_payload(cfg, network, settings)
        checkpoint.save(job.path(output_dir.ASSIGNER), payload)
        backbone = build.backbone_payload(cfg, model, class_names(cfg), costs)
        checkpoint.save(job.path(output_dir.MODEL), backbone | payload)


def assigner_training(
    cfg: CfgNode, ranks: Ranks, network: TokenLengthAssigner, mined: MinedLabels
) -> Training:
    """The assigner's loss, optimiser and schedule, on the clips of labels.csv."""
    own, batches = cfg.ASSIGNER, MinedBatches(cfg, mined, ranks)
    weights = class_weights(mined).to(ranks.device) if own.CLASS_WEIGHTS else None
    schedule = cosine_schedule(own.BASE_LR, 0.0, own.MAX_EPOCH)
    return Training(
        network,
        AssignerStep(network, weights),
        make_optimizer(network, "adamw", own.BASE_LR, own.WEIGHT_DECAY),
        lambda epoch, _: ((frames, labels, ()) for frames, labels in batches(epoch)),
        len(batches),
        batches.batch_size * ranks.world_size,
        with_warmup(schedule, own.WARMUP_EPOCHS, 0.0),
        own.MAX_EPOCH,
        ranks,
        stage="assigner",
        log_period=cfg.LOG_PERIOD,
        seed=cfg.RNG_SEED,
    )


def _check_weights(job: Job, mined: MinedLabels, path: str) -> None:
    """Warns of labels that others than this config's models gave; folds have models of their own."""
    folds, models = job.cfg.MINE.FOLDS, len(mined.checkpoints)
    if models != max(1, folds):
        logger.warning(
            "%s was mined by %d models; MINE.FOLDS is %d", job.path(output_dir.LABELS), models, folds
        )
    elif not folds and mined.checkpoints != (checkpoint.digest(path),):
        logger.warning("%s was mined with other weights than %s", job.path(output_dir.LABELS), path)


class MinedBatches:
    """`batches(epoch)`: the small frames `(B, 3, frames, size, size)` of mined clips, and their labels.

    The first epoch decodes the clips that were mined. Their small frames stay in memory if they fit into
    `ASSIGNER.CACHE_GB`, so that later epochs decode nothing; otherwise every epoch decodes. Half of the
    clips are mirrored: that changes what they show, but not how fine a grid it takes.

    All ranks have equally many batches; where videos can no longer be read, others come twice.
    """

    def __init__(self, cfg: CfgNode, mined: MinedLabels, ranks: Ranks) -> None:
        self.cfg, self.ranks = cfg, ranks
        keys = list(zip(mined.rows.tolist(), mined.views.tolist(), strict=True))
        labels = zip(keys, mined.labels.tolist(), strict=True)
        self.labels = {key: label for key, label in labels if label != NONE_CORRECT}
        self.starts = dict(zip(keys, mined.starts.tolist(), strict=True))
        if not self.labels:
            raise ValueError(
                "labels.csv labels no clip: no token length is right on any; "
                "train longer, or mine with MINE.NONE_CORRECT longest"
            )
        self.videos = video_list(cfg, mine_split(cfg))
        if not _mined_from(mined, self.videos):
            raise ValueError(
                "labels.csv was mined from another list; mine the labels again (MINE.ENABLE True)"
            )
        if int(mined.views.max()) >= cfg.MINE.NUM_CLIPS:
            raise ValueError(OTHER_CLIPS)
        rows = sorted({row for row, _ in self.labels})
        # Each rank keeps its own videos in all epochs, so that what it has cached stays useful.
        self.rows = rows[ranks.rank :: ranks.world_size]
        counts = list(self._clips_per_rank(rows))
        if min(counts) == 0:
            raise ValueError(f"{len(self.labels)} mined clips are too few for {ranks.world_size} ranks")
        self.batch_size = min(cfg.ASSIGNER.BATCH_SIZE // ranks.world_size, *counts)
        self.num_batches = min(counts) // self.batch_size
        frame = 3 * cfg.ASSIGNER.INPUT_SIZE**2 * 2  # bytes in half precision
        self.fits = counts[ranks.rank] * cfg.ASSIGNER.NUM_FRAMES * frame <= cfg.ASSIGNER.CACHE_GB * 2**30
        self.cache: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return self.num_batches

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = seeded_generator(self.cfg.RNG_SEED, epoch, self.ranks.rank)
        if self.fits and self.cache is None:
            kept = zip(*self._decoded(self.rows), strict=True)
            self.cache = tuple(map(torch.cat, kept))
        batches = self._cached(generator) if self.cache else self._streamed(epoch)
        for frames, labels in islice(batches, self.num_batches):
            mirrored = torch.rand(len(frames), generator=generator).to(frames.device) < 0.5
            yield torch.where(mirrored[:, None, None, None, None], frames.flip(4), frames).float(), labels

    def _cached(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        assert self.cache is not None
        frames, labels = self.cache
        passes = math.ceil(self.num_batches * self.batch_size / len(labels))
        order = torch.cat([torch.randperm(len(labels), generator=generator) for _ in range(passes)])
        for chosen in order.to(frames.device).split(self.batch_size):
            yield frames[chosen], labels[chosen]

    def _streamed(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = epoch_order(len(self.rows), self.cfg.RNG_SEED, epoch)
        passes = repeat([self.rows[n] for n in order.tolist()])
        parts = chain.from_iterable(map(self._decoded, passes))
        # One by one, since a batch of videos need not hold a batch of clips: MINE.NUM_CLIPS, dropped labels.
        clips = (clip for part in parts for clip in zip(*part, strict=True))
        while batch := list(islice(clips, self.batch_size)):
            frames, labels = zip(*batch, strict=True)
            yield torch.stack(frames), torch.stack(labels)

    def _decoded(self, rows: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Small frames of the labelled clips of `rows`, a batch of videos at a time.

        Raises:
            ValueError: none of them can be read, or they start elsewhere than where they were mined.
        """
        size, count = self.cfg.ASSIGNER.INPUT_SIZE, self.cfg.ASSIGNER.NUM_FRAMES
        videos, found = self.cfg.ASSIGNER.BATCH_SIZE, False
        for batch in EvalBatches(self.cfg, self.videos, self.ranks, self.cfg.MINE.NUM_CLIPS, 1, videos, rows):
            keys = list(zip(batch.rows.tolist(), batch.clip_index.tolist(), strict=True))
            for key, start in zip(keys, batch.starts.tolist(), strict=True):
                if abs(self.starts.get(key, start) - start) > SAME_START:
                    raise ValueError(OTHER_CLIPS)
            kept = [n for n, key in enumerate(keys) if key in self.labels]
            if kept:
                found = True
                frames = small_frames(batch.clips[kept], count, size).unflatten(0, (len(kept), -1))
                labels = torch.tensor([self.labels[keys[n]] for n in kept], device=frames.device)
                yield frames.transpose(1, 2).half(), labels
        if not found:
            raise ValueError("no clip of labels.csv can be read any more; see DATA.PATH_TO_DATA_DIR")

    def _clips_per_rank(self, rows: list[int]) -> Iterator[int]:
        clips: dict[int, int] = {}
        for row, _ in self.labels:
            clips[row] = clips.get(row, 0) + 1
        for rank in range(self.ranks.world_size):
            yield sum(clips[row] for row in rows[rank :: self.ranks.world_size])


def class_weights(mined: MinedLabels) -> Tensor:
    """Weight of each length `(lengths,)`, inverse to how often it is the label; 1 on average over clips."""
    labels = mined.labels[mined.labels != NONE_CORRECT]
    counts = labels.bincount(minlength=len(mined.lengths)).clamp(min=1).float()
    return len(labels) / (len(counts) * counts)


def _mined_from(mined: MinedLabels, videos: LabeledVideoPaths) -> bool:
    """Whether every mined clip is of the video that the list has in its row."""
    rows = zip(mined.rows.tolist(), mined.videos, strict=True)
    return all(row < len(videos) and videos[row][0] == path for row, path in rows)
