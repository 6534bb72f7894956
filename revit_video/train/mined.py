"""Batches of mined clips for the Token-Length Assigner."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat

import torch
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor

from revit_video.adaptive.labels import NONE_CORRECT, MinedLabels
from revit_video.data.batch import Batch
from revit_video.data.order import epoch_order
from revit_video.models.assigner import small_frames
from revit_video.runtime.ranks import Ranks
from revit_video.runtime.rng import seeded_generator

SAME_START = 1e-3  # seconds; labels.csv keeps six decimals
OTHER_CLIPS = "labels.csv is of other clips (MINE.NUM_CLIPS, DATA.*); mine them again (MINE.ENABLE True)"


@dataclass(frozen=True)
class SmallFrames:
    """The assigner's input and how it is batched.

    Attributes:
        num_frames, size: frames per clip, and their side in pixels.
        batch_size: clips per step, over all ranks.
        cache_bytes: memory per rank for frames that are decoded once only.
        turned: whether clips are turned, shifted and reversed in time as well as mirrored.
    """

    num_frames: int
    size: int
    batch_size: int
    cache_bytes: float
    turned: bool = False


class MinedBatches:
    """`batches(epoch)`: small frames `(B, 3, frames, size, size)` of mined clips, and their labels `(B,)`.

    Or, instead of the labels, whether each length is right `(B, lengths)`.

    The first epoch decodes the mined clips. If their small frames fit into the cache, later epochs decode
    nothing; otherwise every epoch decodes. Half of the clips are mirrored, which does not change how fine a
    grid they need; see also `SmallFrames.turned`.

    All ranks have equally many batches; in place of videos that became unreadable, others come twice.

    Args:
        decode: batches of the mined views of the videos in the given rows, see `EvalBatches`.
        each_length: whether the targets are what each length is, not the label.

    Raises:
        ValueError: the labels are of other videos, or there are too few.
    """

    def __init__(
        self,
        mined: MinedLabels,
        decode: Callable[[list[int]], Iterable[Batch]],
        frames: SmallFrames,
        ranks: Ranks,
        seed: int,
        each_length: bool = False,
    ) -> None:
        self._decode, self._frames, self._rank, self._seed = decode, frames, ranks.rank, seed
        keys = list(zip(mined.rows.tolist(), mined.clip_index.tolist(), strict=True))
        labelled = mined.token_lengths != NONE_CORRECT
        targets = mined.correct if each_length else mined.token_lengths
        labels = zip(keys, targets.tolist(), labelled.tolist(), strict=True)
        self._labels = {key: target for key, target, kept in labels if kept}
        self._starts = dict(zip(keys, mined.starts.tolist(), strict=True))
        if not self._labels:
            raise ValueError(
                "labels.csv is empty: the model classified no clip correctly; "
                "train longer, or mine with MINE.NONE_CORRECT longest"
            )
        clips_of = Counter(row for row, _ in self._labels)
        # Each rank keeps its own videos in all epochs, so that its cache stays valid.
        shares = [sorted(clips_of)[rank :: ranks.world_size] for rank in range(ranks.world_size)]
        counts = [sum(clips_of[row] for row in share) for share in shares]
        if min(counts) == 0:
            raise ValueError(f"{len(self._labels)} mined clips are too few for {ranks.world_size} ranks")
        self._rows = shares[ranks.rank]
        self.batch_size = min(frames.batch_size // ranks.world_size, *counts)
        self._num_batches = min(counts) // self.batch_size
        bytes_per_clip = 3 * frames.size**2 * frames.num_frames * 2  # in half precision
        self._fits = counts[ranks.rank] * bytes_per_clip <= frames.cache_bytes
        self._cache: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return self._num_batches

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = seeded_generator(self._seed, epoch, self._rank)
        if self._fits and self._cache is None:
            kept = zip(*self._decoded(self._rows), strict=True)
            self._cache = tuple(map(torch.cat, kept))
        batches = self._cached(generator) if self._cache else self._streamed(epoch)
        for frames, labels in islice(batches, self._num_batches):
            frames = _some(frames, frames.flip(4), generator)
            yield (turned(frames, generator) if self._frames.turned else frames).float(), labels

    def _cached(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        assert self._cache is not None
        frames, labels = self._cache
        passes = math.ceil(self._num_batches * self.batch_size / len(labels))
        order = torch.cat([torch.randperm(len(labels), generator=generator) for _ in range(passes)])
        for chosen in order.to(frames.device).split(self.batch_size):
            yield frames[chosen], labels[chosen]

    def _streamed(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = epoch_order(len(self._rows), self._seed, epoch)
        passes = repeat([self._rows[n] for n in order.tolist()])
        parts = chain.from_iterable(map(self._decoded, passes))
        # One by one, since a batch of videos need not hold a batch of clips: MINE.NUM_CLIPS, dropped labels.
        clips = (clip for part in parts for clip in zip(*part, strict=True))
        while batch := list(islice(clips, self.batch_size)):
            frames, labels = zip(*batch, strict=True)
            yield torch.stack(frames), torch.stack(labels)

    def _decoded(self, rows: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Small frames and labels of the labelled clips of `rows`, a batch of videos at a time.

        Raises:
            ValueError: all are unreadable, or a clip does not start where it was mined.
        """
        found = False
        for batch in self._decode(rows):
            keys = list(zip(batch.rows.tolist(), batch.clip_index.tolist(), strict=True))
            for key, start in zip(keys, batch.starts.tolist(), strict=True):
                if abs(self._starts.get(key, start) - start) > SAME_START:
                    raise ValueError(OTHER_CLIPS)
            kept = [n for n, key in enumerate(keys) if key in self._labels]
            if kept:
                found = True
                frames = small_frames(batch.clips[kept], self._frames.num_frames, self._frames.size)
                labels = torch.tensor([self._labels[keys[n]] for n in kept], device=frames.device)
                yield frames.unflatten(0, (len(kept), -1)).transpose(1, 2).half(), labels
        if not found:
            raise ValueError("no clip of labels.csv can be read any more; see DATA.PATH_TO_DATA_DIR")


def turned(frames: Tensor, generator: torch.Generator) -> Tensor:
    """`frames` `(B, 3, T, S, S)`, some upside down, some with axes exchanged, some reversed in time.

    All are shifted alike by up to an eighth of their side, around the edges.
    """
    for other in (lambda x: x.flip(3), lambda x: x.transpose(3, 4), lambda x: x.flip(2)):
        frames = _some(frames, other(frames), generator)
    most = frames.shape[-1] // 8
    down, right = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    return frames.roll((down, right), (3, 4))


def _some(frames: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Each clip `(B, ...)` of `frames` or, with a probability of one half, of `others`."""
    chosen = torch.rand(len(frames), generator=generator).to(frames.device, non_blocking=True) < 0.5
    return torch.where(chosen[:, None, None, None, None], others, frames)


def check_mined_from(mined: MinedLabels, videos: LabeledVideoPaths, num_clips: int) -> None:
    """ValueError unless every mined clip is of the video in its row of the list, one of `num_clips` each.

    Where the labels' record tells their list, the data folder may have moved since.
    """
    name = str if mined.record is None else os.path.basename
    rows = zip(mined.rows.tolist(), mined.videos, strict=True)
    if not all(row < len(videos) and name(videos[row][0]) == name(path) for row, path in rows):
        raise ValueError("labels.csv was mined from another list; mine the labels again (MINE.ENABLE True)")
    if int(mined.clip_index.max()) >= num_clips:
        raise ValueError(OTHER_CLIPS)


def class_weights(mined: MinedLabels) -> Tensor:
    """Weight of each length `(lengths,)`, inverse to how often it is the label; 1 on average over clips."""
    labels = mined.token_lengths[mined.token_lengths != NONE_CORRECT]
    counts = labels.bincount(minlength=len(mined.lengths)).clamp(min=1).float()
    return len(labels) / (len(counts) * counts)
