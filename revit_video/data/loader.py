"""Batches of clips: decoded in worker processes, normalised (and in training mixed) on the device."""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from errno import ENOSPC
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from revit_video.data.augment import Mixing, MixToken
from revit_video.data.batch import Batch, Sample, Skipped, collate, with_reversed
from revit_video.data.datasets import EvalClips, TrainClips
from revit_video.data.handover import SHARED_MEMORY, AsBytes, collate_bytes, collate_shared, fits
from revit_video.data.order import TrainOrder
from revit_video.data.targets import Targets
from revit_video.data.transforms import Normalize
from revit_video.data.video import is_image
from revit_video.runtime.ranks import ranks_here
from revit_video.runtime.termination import held_back, start_worker

QUIET = 60.0  # seconds without a batch after which that is said

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loading:
    """Settings of the data loaders.

    Attributes:
        device: device of the batches.
        num_workers: decoding processes; 0 decodes in this process.
        prefetch: batches prefetched per worker.
        pin_memory: page-locked batches, for faster copies to a GPU.
        max_skipped: fraction of the videos that may be unreadable.
        timeout: seconds that decoding a video may take; 0 for no limit.
    """

    device: torch.device
    num_workers: int = 0
    prefetch: int = 2
    pin_memory: bool = True
    max_skipped: float = 0.0
    timeout: float = 0.0


class TooManyUnreadable(ValueError):
    """More videos than `DATA.MAX_SKIPPED_FRACTION` allows are unreadable; `skipped` lists them."""

    def __init__(self, message: str, skipped: list[Skipped]) -> None:
        super().__init__(message)
        self.skipped = skipped


@dataclass(frozen=True)
class BatchTransform:
    """Steps on a training batch on its device: time reversal, normalisation, mixing.

    Attributes:
        partner: class that each class becomes when time is reversed, `(classes,)`, on the device; if given,
            every clip is appended once more, reversed.
        mixing: mixup or CutMix; labels become class shares `(B, classes)`.
        mix_token: MixToken; labels become `Targets`, as with label maps.
    """

    normalize: Normalize
    partner: Tensor | None = None
    mixing: Mixing | None = None
    mix_token: MixToken | None = None

    def __call__(self, batch: Batch, epoch: int, number: int) -> tuple[Tensor, Tensor | Targets, list[str]]:
        """Clips, labels and paths of batch `number` of an epoch."""
        if self.partner is not None:
            batch = with_reversed(batch, self.partner)
        clips, labels = self.normalize(batch.clips), batch.labels
        if self.mixing is not None:
            clips, labels = self.mixing(clips, labels, epoch, number)
        box = self.mix_token(epoch, number) if self.mix_token is not None else None
        if batch.token_labels is None and box is None:
            return clips, labels, batch.paths
        return clips, Targets(labels, batch.token_labels, box), batch.paths


class TrainBatches:
    """`batches(epoch, first)`: this rank's training batches from number `first`, as `(clips, labels, paths)`.

    Attributes:
        skipped: unreadable videos so far, which were replaced by others.
    """

    def __init__(
        self, clips: TrainClips, order: TrainOrder, transform: BatchTransform, loading: Loading
    ) -> None:
        self.skipped: set[Skipped] = set()
        self._order, self._transform, self._device = order, transform, loading.device
        self.loader = _loader(clips, order.batch_size, order, loading)
        self._patience = _patience(order.batch_size, loading)
        self._allowed = allowed_unreadable(loading.max_skipped, len(clips) / order.world_size)

    def __len__(self) -> int:
        return self._order.num_batches

    def __call__(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor | Targets, list[str]]]:
        self._order.set_epoch(epoch, first)
        for number, batch in enumerate(_watched(self.loader, self._patience), start=first):
            self.skipped.update(batch.skipped)
            check_skipped(self.skipped, self._allowed, batch.skipped)
            yield self._transform(batch.to(self._device, non_blocking=True), epoch, number)


class EvalBatches:
    """Normalised views of some videos, their clips on the device; the views of a video are in one batch.

    Args:
        rows: of the videos in their list, in the order of the batches.
        batch_size: videos per batch.
    """

    def __init__(
        self,
        clips: EvalClips,
        rows: Sequence[int],
        batch_size: int,
        normalize: Normalize,
        loading: Loading,
    ) -> None:
        self.loader = _loader(clips, batch_size, rows, loading)
        self._normalize, self._device = normalize, loading.device
        self._patience = _patience(batch_size, loading)
        self._allowed = allowed_unreadable(loading.max_skipped, len(rows))

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        skipped: list[Skipped] = []
        for batch in _watched(self.loader, self._patience):
            skipped += batch.skipped
            check_skipped(skipped, self._allowed, batch.skipped)
            clips = batch.clips.to(self._device, non_blocking=True)
            yield replace(batch, clips=self._normalize(clips))


def allowed_unreadable(fraction: float, files: float) -> int:
    """How many of a rank's files may be unreadable: at least one, unless none is to be."""
    return max(1, math.floor(fraction * files + 1e-9)) if fraction else 0


def check_skipped(skipped: Collection[Skipped], allowed: int, latest: list[Skipped]) -> None:
    """TooManyUnreadable when more videos than `DATA.MAX_SKIPPED_FRACTION` allows could not be read."""
    if len(skipped) > allowed and latest:
        path, reason = latest[-1]
        raise TooManyUnreadable(
            f"{len(skipped)} unreadable {'images' if is_image(path) else 'videos'}, "
            f"more than DATA.MAX_SKIPPED_FRACTION allows ({allowed}); "
            f"the latest: {path}: {reason}",
            sorted(skipped),
        )


@contextmanager
def killed_workers_explained() -> Iterator[None]:
    """Turn torch's error about a killed data worker, raised anywhere in the rank's code, into one line.

    A video is not the cause: a decoder that crashes only ends its own child process.
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


def _watched(loader: DataLoader, patience: float) -> Iterator[Batch]:
    """The batches of a loader; it is said when they take long, and an error when they take too long.

    Raises:
        TimeoutError: none came for `patience` seconds.
    """
    batches, waited = _started(loader), 0.0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                raise
            waited += loader.timeout
            said = f"no batch from the data workers for {waited:g} s"
            if waited >= patience:
                raise TimeoutError(f"{said}; is the disk or network that holds the files there?") from None
            logger.warning("%s", said)
        else:
            waited = 0.0
            yield batch


def _started(loader: DataLoader) -> Iterator[Batch]:
    """The loader's iterator; its workers never hear SIGTERM but from this process, see `start_worker`."""
    try:
        with held_back(signal.SIGTERM):
            return iter(loader)
    except OSError as error:
        if error.errno != ENOSPC:  # its queues need shared memory, however little
            raise
        raise OSError(f"{SHARED_MEMORY} is full; make room there, or set DATA_LOADER.NUM_WORKERS 0") from None


def _patience(batch_size: int, loading: Loading) -> float:
    """Seconds that a batch takes at the very most: each of its videos may be tried twice."""
    return QUIET + 2 * batch_size * loading.timeout if loading.timeout else math.inf


def _loader(
    clips: TrainClips | EvalClips, batch_size: int, order: Sampler | Sequence[int], loading: Loading
) -> DataLoader:
    workers = loading.num_workers
    return DataLoader(
        clips,
        batch_size,
        sampler=order,
        num_workers=workers,
        collate_fn=_collate(clips.largest * batch_size, loading),
        timeout=QUIET if workers else 0,
        pin_memory=loading.pin_memory and loading.device.type == "cuda",
        persistent_workers=workers > 0 and isinstance(clips, TrainClips),
        worker_init_fn=partial(start_worker, os.getpid()),
        prefetch_factor=loading.prefetch if workers else None,
    )


def _collate(batch_bytes: int, loading: Loading) -> Callable[[Sequence[Sample]], Batch | AsBytes]:
    """How samples become a batch, and how it reaches this process."""
    if not loading.num_workers:
        return collate
    on_their_way = batch_bytes * loading.prefetch * loading.num_workers * ranks_here()
    return collate_shared if fits(on_their_way) else collate_bytes
