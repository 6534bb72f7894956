"""The assigner's training data: mined clips with their token-length labels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from fvcore.common.config import CfgNode
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor

from revit_video.adaptive.labels import NONE_CORRECT, MinedLabels
from revit_video.build.data import EvalBatches, video_list
from revit_video.data.order import epoch_order
from revit_video.data.sampling import seeded_generator
from revit_video.models.assigner import small_frames
from revit_video.runtime.distributed import Ranks


class MinedBatches:
    """`batches(epoch)`: the small frames `(B, 3, frames, size, size)` of mined clips, and their labels.

    The first epoch decodes the clips that were mined. Their small frames stay in memory if they fit into
    `ASSIGNER.CACHE_GB`, so that later epochs decode nothing; otherwise every epoch decodes. Half of the
    clips are mirrored: that changes what they show, but not how fine a grid it takes.
    """

    def __init__(self, cfg: CfgNode, mined: MinedLabels, ranks: Ranks) -> None:
        self.cfg, self.ranks = cfg, ranks
        self.labels = {
            (row, view): label
            for row, view, label in zip(
                mined.rows.tolist(), mined.views.tolist(), mined.labels.tolist(), strict=True
            )
            if label != NONE_CORRECT
        }
        if not self.labels:
            raise ValueError(
                "labels.csv labels no clip: no token length is right on any; "
                "train longer, or mine with MINE.NONE_CORRECT longest"
            )
        self.videos = video_list(cfg, cfg.MINE.SPLIT)
        if not _mined_from(mined, self.videos):
            raise ValueError(
                "labels.csv was mined from another list; mine the labels again (MINE.ENABLE True)"
            )
        rows = sorted({row for row, _ in self.labels})
        # Each rank keeps its own videos in all epochs, so that what it has cached stays useful.
        self.rows = rows[ranks.rank :: ranks.world_size]
        self.batch_size = cfg.ASSIGNER.BATCH_SIZE // ranks.world_size
        shared = min(count for count in self._clips_per_rank(rows))
        if shared == 0:
            raise ValueError(f"{len(self.labels)} mined clips are too few for {ranks.world_size} ranks")
        self.num_batches = max(1, shared // self.batch_size)
        frame = 3 * cfg.ASSIGNER.INPUT_SIZE**2 * 2  # bytes in half precision
        self.fits = len(self.labels) * cfg.ASSIGNER.NUM_FRAMES * frame <= cfg.ASSIGNER.CACHE_GB * 2**30
        self.cache: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return self.num_batches

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = seeded_generator(self.cfg.RNG_SEED, epoch, self.ranks.rank)
        if self.fits and self.cache is None:
            parts = list(self._decoded(self.rows))
            self.cache = (
                torch.cat([frames for frames, _ in parts]),
                torch.cat([labels for _, labels in parts]),
            )
        batches = self._cached(generator) if self.cache else self._streamed(epoch)
        for _, (frames, labels) in zip(range(self.num_batches), batches, strict=False):
            mirrored = torch.rand(len(frames), generator=generator).to(frames.device) < 0.5
            yield torch.where(mirrored[:, None, None, None, None], frames.flip(4), frames).float(), labels

    def _cached(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        assert self.cache is not None
        frames, labels = self.cache
        for chosen in torch.randperm(len(labels), generator=generator).split(self.batch_size):
            here = chosen.to(frames.device)
            yield frames[here], labels[here]

    def _streamed(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = epoch_order(len(self.rows), self.cfg.RNG_SEED, epoch)
        parts = self._decoded([self.rows[n] for n in order.tolist()])
        # One by one, since a batch of videos need not hold a batch of clips: MINE.NUM_CLIPS, dropped labels.
        clips = (clip for part in parts for clip in zip(*part, strict=True))
        while batch := list(islice(clips, self.batch_size)):
            frames, labels = zip(*batch, strict=True)
            yield torch.stack(frames), torch.stack(labels)

    def _decoded(self, rows: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Small frames of the labelled clips of `rows`, a batch of videos at a time."""
        size, count = self.cfg.ASSIGNER.INPUT_SIZE, self.cfg.ASSIGNER.NUM_FRAMES
        videos = self.cfg.ASSIGNER.BATCH_SIZE
        for batch in EvalBatches(self.cfg, self.videos, self.ranks, self.cfg.MINE.NUM_CLIPS, 1, videos, rows):
            keys = list(zip(batch.rows.tolist(), batch.clip_index.tolist(), strict=True))
            kept = [n for n, key in enumerate(keys) if key in self.labels]
            if kept:
                frames = small_frames(batch.clips[kept], count, size).unflatten(0, (len(kept), -1))
                labels = torch.tensor([self.labels[keys[n]] for n in kept], device=frames.device)
                yield frames.transpose(1, 2).half(), labels

    def _clips_per_rank(self, rows: list[int]) -> Iterator[int]:
        clips: dict[int, int] = {}
        for row, _ in self.labels:
            clips[row] = clips.get(row, 0) + 1
        for rank in range(self.ranks.world_size):
            yield sum(clips[row] for row in rows[rank :: self.ranks.world_size])


def class_weights(mined: MinedLabels) -> Tensor:
    """Weight of each length `(lengths,)`, inverse to how often it is the label; 1 on average over the clips."""
    labels = mined.labels[mined.labels != NONE_CORRECT]
    counts = labels.bincount(minlength=len(mined.lengths)).clamp(min=1).float()
    return len(labels) / (len(counts) * counts)


def _mined_from(mined: MinedLabels, videos: LabeledVideoPaths) -> bool:
    """Whether every mined clip is of the video that the list has in its row."""
    rows = zip(mined.rows.tolist(), mined.videos, strict=True)
    return all(row < len(videos) and videos[row][0] == path for row, path in rows)
