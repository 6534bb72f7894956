"""The ranks of a run: joining the process group, and the collectives."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from revit_video.runtime.machine import usable_cores

MEETING = "REVIT_VIDEO_MEETING"  # environment variable: the file by which ranks of one machine meet
MOST_WORKERS = 16  # that decode for one rank, if nobody asks for more
PATIENCE = 10.0  # seconds of waiting for other ranks, after which it is said
T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of a run.

    Attributes:
        length_size: ranks that train on the same clips, each at its own token length (ReViT-E); 1 where every
            rank trains all lengths.
        length_group: the process group of those ranks.
    """

    rank: int
    world_size: int
    device: torch.device
    length_size: int = 1
    length_group: dist.ProcessGroup | None = None

    @property
    def data_size(self) -> int:
        """Number of shares of a training batch."""
        return self.world_size // self.length_size

    @property
    def data_rank(self) -> int:
        """Index of the share that this rank trains on."""
        return self.rank // self.length_size

    @property
    def length_rank(self) -> int:
        """Index of the token length that this rank trains, 0 the longest (ReViT-E)."""
        return self.rank % self.length_size

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the files and messages."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum of `tensor` over the ranks, as a new tensor on every rank."""
        total = tensor.clone()
        if self.world_size > 1:
            dist.all_reduce(total)
        return total

    def gather(self, obj: T) -> list[T]:
        """The picklable `obj` of every rank, in rank order, on every rank."""
        if self.world_size == 1:
            return [obj]
        objects: list[Any] = [None] * self.world_size
        dist.all_gather_object(objects, obj)
        return objects

    def gather_on_main(self, parts: Sequence[T]) -> list[T]:
        """The picklable parts of every rank, in rank order, on the main rank; nothing elsewhere.

        Parts are sent one by one, so that only the main rank needs memory for all of them.
        """
        if self.world_size == 1:
            return list(parts)
        counts = self.gather(len(parts))
        found: list[list[Any]] = [[] for _ in counts]
        for n in range(max(counts)):
            objects: list[Any] | None = [None] * self.world_size if self.is_main else None
            dist.gather_object(parts[n] if n < len(parts) else None, objects)
            for own, part in zip(found, objects or [], strict=False):
                own.append(part)
        return [part for own, count in zip(found, counts, strict=True) for part in own[:count]]

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make()` returns on the main rank, which alone calls it; picklable, on every rank."""
        return self.gather(make() if self.is_main else cast(T, None))[0]


def _is_rank() -> bool:
    """Whether `launch` or torchrun has started this process."""
    return MEETING in os.environ or dist.is_torchelastic_launched()


def ranks_here() -> int:
    """Ranks of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if _is_rank() else 1


def decoding_workers(asked: str, on_gpu: bool) -> int:
    """How many processes decode for this rank.

    Args:
        asked: a number, or `auto`: of its share of the cores all but one where the model runs on a GPU, and a
            quarter where it runs on the cores itself.
    """
    if asked != "auto":
        return int(asked)
    share = usable_cores() // ranks_here()
    return min(MOST_WORKERS, max(1, share - 1 if on_gpu else share // 4))


def init(device: str = "auto", workers: str = "0") -> Ranks:
    """Choose the device, and join the process group if the run has several ranks.

    RANK and WORLD_SIZE count where torchrun or `launch` has set them; what else left them is ignored.

    Args:
        device: `"auto"` (a GPU if there is one), `"cpu"` or `"cuda"`.
        workers: see `decoding_workers`; several ranks of a machine leave them their cores.

    Raises:
        ValueError: CUDA is asked for where there is none, or this machine has more ranks than GPUs.
    """
    place = os.environ if _is_rank() else {}
    rank, local_rank = (int(place.get(name, 0)) for name in ("RANK", "LOCAL_RANK"))
    world_size, local_size = int(place.get("WORLD_SIZE", 1)), ranks_here()
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("DEVICE cuda: torch finds no GPU here; use DEVICE auto or cpu")
    if device == "cpu" or not torch.cuda.is_available():
        own_device, backend = torch.device("cpu"), "gloo"
    else:
        if local_size > torch.cuda.device_count():
            raise ValueError(f"NUM_GPUS: {local_size} ranks, but {torch.cuda.device_count()} GPUs here")
        # gloo too, for CPU tensors and objects
        own_device, backend = torch.device("cuda", local_rank), "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(own_device)
    if local_size > 1 or usable_cores() < torch.get_num_threads():
        decoding = decoding_workers(workers, own_device.type == "cuda") if local_size > 1 else 0
        torch.set_num_threads(max(1, usable_cores() // local_size - decoding))
    if world_size > 1:
        _join(backend, rank, world_size)
    return Ranks(rank, world_size, own_device)


def _join(backend: str, rank: int, world_size: int) -> None:
    """Join the process group: of one machine by a file, of several by torchrun's store."""
    if meeting := os.environ.get(MEETING):
        how, whom = f"file://{meeting}", "on this machine"
    else:
        address = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
        how, whom = "env://", f"at {address}, as torchrun's environment variables say"
    words = f"rank {rank} waits for the other {world_size - 1} ranks {whom}"
    patience = threading.Timer(PATIENCE, logger.warning, [words])
    patience.daemon = True
    patience.start()
    try:
        dist.init_process_group(backend, init_method=how, rank=rank, world_size=world_size)
    finally:
        patience.cancel()


def in_length_groups(ranks: Ranks, lengths: int) -> Ranks:
    """Arrange the ranks in a (data, length) mesh: `lengths` neighbours train on the same clips.

    Raises:
        ValueError: the number of ranks is not a multiple of `lengths`.
    """
    if ranks.world_size % lengths:
        raise ValueError(
            f"TRAIN.METHOD revit_e needs a rank for each of {lengths} token lengths: "
            f"start a multiple of {lengths} ranks, not {ranks.world_size}, or use revit_b"
        )
    if lengths == 1:
        return ranks
    shape = (ranks.world_size // lengths, lengths)
    mesh = init_device_mesh(ranks.device.type, shape, mesh_dim_names=("data", "length"))
    return replace(ranks, length_size=lengths, length_group=mesh.get_group("length"))


def shutdown() -> None:
    """Destroy the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def shared_statistics(module: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Synchronise the running statistics of batch norms at the end of the block.

    Each rank's change is summed over the ranks and divided by `ranks.data_size`: the mean over the shares of
    the batch, and the sum over token lengths in ReViT-E. Equal statistics stay equal.
    """
    running = [b for part in module.modules() if isinstance(part, nn.BatchNorm2d) for b in part.buffers()]
    if ranks.world_size == 1 or not running:
        yield
        return
    before = [statistic.clone() for statistic in running]
    yield
    changes = torch.cat([(now - then).flatten() for now, then in zip(running, before, strict=True)])
    dist.all_reduce(changes)
    changes /= ranks.data_size
    parts = changes.split([statistic.numel() for statistic in running])
    for now, then, change in zip(running, before, parts, strict=True):
        now.copy_(then + change.view_as(then).to(then.dtype))


def broadcast_parameters(module: nn.Module, ranks: Ranks) -> None:
    """Copy the parameters and buffers of rank 0 to every rank."""
    if ranks.world_size > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor.detach(), src=0)


def broadcast_from_longest(tensor: Tensor, ranks: Ranks) -> dist.Work:
    """Start to copy `tensor` from the length group's first rank; call `wait()` before using it."""
    longest = ranks.rank - ranks.length_rank
    work = dist.broadcast(tensor, src=longest, group=ranks.length_group, async_op=True)
    assert work is not None  # None only for ranks outside the group
    return work
