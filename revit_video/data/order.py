"""Order of the videos in each epoch, and their distribution over the ranks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from revit_video.runtime.rng import seeded_generator


def epoch_order(num_videos: int, seed: int, epoch: int) -> torch.Tensor:
    """Random permutation of the rows for an epoch."""
    return torch.randperm(num_videos, generator=seeded_generator(seed, epoch))


class TrainOrder(Sampler[tuple[int, int]]):
    """A rank's part of every global batch of an epoch, as `(draw, row)` keys for `TrainClips`.

    The draw numbers the augmentations of a video; without repeats it is the epoch. It is part of the key, so
    that persistent workers need not be told of a new epoch. Global batch b is the same set of videos for any
    number of ranks; the incomplete last batch is dropped, so that all ranks have equally many.

    Args:
        num_videos: length of the list.
        batch_size: clips per rank.
        repeats: number of differently augmented copies of a video in an epoch (DeiT's repeated augmentation).
            The length of an epoch is unchanged, so it covers 1 / `repeats` of the videos.
    """

    def __init__(
        self,
        num_videos: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        repeats: int = 1,
    ) -> None:
        self.batch_size, self.world_size = batch_size, world_size
        self._global_batch = batch_size * world_size
        if num_videos < self._global_batch:
            raise ValueError(
                f"the {num_videos} files to train on do not fill one batch of {self._global_batch}; "
                "lower TRAIN.BATCH_SIZE, or add some"
            )
        self.num_batches = num_videos // self._global_batch
        self._num_videos = num_videos
        self._rank = rank
        self._seed = seed
        self._repeats = repeats
        self.set_epoch(0)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Set the epoch of the next iteration and its first batch (to resume within an epoch)."""
        self._epoch = epoch
        self._first_batch = first_batch

    def __len__(self) -> int:
        """Clips of this rank in the next iteration."""
        return (self.num_batches - self._first_batch) * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = epoch_order(self._num_videos, self._seed, self._epoch)
        visits = order.repeat_interleave(self._repeats)  # a video's copies share a batch, as in DeiT
        draws = self._epoch * self._repeats + torch.arange(len(visits)) % self._repeats
        mine = (self._part(values).tolist() for values in (draws, visits))
        yield from zip(*mine, strict=True)

    def _part(self, values: torch.Tensor) -> torch.Tensor:
        """This rank's share of the global batches, from the first batch on."""
        whole = values[: self.num_batches * self._global_batch].view(self.num_batches, -1, self.batch_size)
        return whole[self._first_batch :, self._rank].flatten()


def eval_rows(num_videos: int, rank: int = 0, world_size: int = 1) -> range:
    """A rank's rows of an evaluation list; over all ranks each row occurs exactly once, without padding."""
    return range(rank, num_videos, world_size)
