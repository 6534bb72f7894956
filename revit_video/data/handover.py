"""How data workers hand over batches: in shared memory, or as bytes through a pipe where that is small.

Containers often have 64 MB of it. PyTorch would lose a batch that does not fit, and wait for it for ever.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import Tensor

from revit_video.data.batch import Batch, Sample, collate

SHARED_MEMORY = "/dev/shm"  # Linux'; other systems have no such limit

logger = logging.getLogger(__name__)


class AsBytes:
    """Pickled by itself, not by the reductions of `torch.multiprocessing`; what arrives is the batch."""

    def __init__(self, batch: Batch) -> None:
        self._content = pickle.dumps(batch, pickle.HIGHEST_PROTOCOL)

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._content,)


def collate_shared(samples: Sequence[Sample]) -> Batch | AsBytes:
    """A batch in shared memory; where none is left, as bytes."""
    batch = collate(samples)
    try:
        return batch.map(Tensor.share_memory_)
    except RuntimeError:
        return AsBytes(batch)


def collate_bytes(samples: Sequence[Sample]) -> AsBytes:
    return AsBytes(collate(samples))


def fits(needed: int) -> bool:
    """Whether shared memory has room for `needed` bytes of batches on their way; says if not."""
    if not os.path.isdir(SHARED_MEMORY):
        return True
    there = os.statvfs(SHARED_MEMORY)
    free = there.f_bavail * there.f_frsize
    if needed <= free:
        return True
    _say(
        f"{SHARED_MEMORY} has {_size(free)} free, and the data workers' batches take up to {_size(needed)}: "
        "they go through pipes, which is slower; give it more (docker run --shm-size), or lower "
        "DATA_LOADER.NUM_WORKERS or DATA_LOADER.PREFETCH_FACTOR"
    )
    return False


@cache
def _say(text: str) -> None:
    """Once per process: each evaluation has loaders of its own."""
    logger.warning("%s", text)


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
