"""Which videos come when, on which rank."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from revit_video.data.sampling import seeded_generator


def epoch_order(num_videos: int, seed: int, epoch: int) -> torch.Tensor:
    """The permutation of `num_videos` rows in which an epoch visits them."""
    return torch.randperm(num_videos, generator=seeded_generator(seed, epoch))


class TrainOrder(Sampler[tuple[int, int]]):
    """A rank's part of every global batch of an epoch, as `(epoch, row)` keys for `TrainClips`.

    The epoch travels with the row, so that workers that outlive an epoch cannot miss its change. Batch b of
    all ranks together is the same set of videos whatever the number of ranks; the incomplete last batch is
    dropped, so that all ranks have equally many.

    Args:
        num_videos: length of the list.
        batch_size: clips a rank.
    """

    def __init__(
        self, num_videos: int, batch_size: int, rank: int = 0, world_size: int = 1, seed: int = 0
    ) -> None:
        self._global_batch = batch_size * world_size
        if num_videos < self._global_batch:
            raise ValueError(f"{num_videos} videos do not fill one batch of {self._global_batch}")
        self.num_batches = num_videos // self._global_batch
        self._num_videos = num_videos
        self._batch_size = batch_size
        self._rank = rank
        self._seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the epoch of the next iteration, and the batch it starts at (to resume in mid-epoch)."""
        self._epoch = epoch
        self._first_batch = first_batch

    def __len__(self) -> int:
        """Clips of this rank in the next iteration."""
        return (self.num_batches - self._first_batch) * self._batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = epoch_order(self._num_videos, self._seed, self._epoch)
        whole = order[: self.num_batches * self._global_batch].view(self.num_batches, -1, self._batch_size)
        for row in whole[self._first_batch :, self._rank].flatten().tolist():
            yield self._epoch, row


def eval_rows(num_videos: int, rank: int = 0, world_size: int = 1) -> range:
    """A rank's rows of an evaluation list: over all ranks each row comes exactly once, without padding."""
    return range(rank, num_videos, world_size)
