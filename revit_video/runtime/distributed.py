"""Ranks: starting them, and what they tell each other.

Gradients are reduced by hand, after the last backward pass of a step: with several lengths a step, and
parameters that belong to one length, `DistributedDataParallel` skips what the last pass did not use.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

BUCKET_ELEMENTS = 1 << 24  # gradient values sent at once: 64 MiB in fp32
# They log each failed or stopped rank with its traceback; `launch` raises what matters of that.
LAUNCHER_LOGGERS = (
    "torch.distributed.elastic.agent.server.api",
    "torch.distributed.elastic.multiprocessing.api",
    "torch.multiprocessing.spawn",
)
T = TypeVar("T")


class RankError(RuntimeError):
    """A rank ended with an error that is no mistake of the user's; the message has its traceback."""


class FailedLater(Exception):
    """Another rank failed before this one, and says why."""


class _UserMistake(ValueError):
    """A `ValueError` or `OSError` of a rank, on its way to the process that started the ranks."""


# ---- Starting ranks --------------------------------------------------------------------------------------


def launch(function: Callable[..., T], num_ranks: int, *args: Any) -> T:
    """Run `function(*args)` on `num_ranks` ranks of this machine; what rank 0 returns.

    With one rank, or when torchrun has started this process already, it runs right here. Otherwise torch's
    elastic launcher starts a process for each rank, so `function` must be importable and `args` picklable.

    Raises:
        ValueError: the first rank that failed raised a ValueError or OSError; with its message.
        RankError: it failed otherwise.
        KeyboardInterrupt: Ctrl-C; all ranks have ended.
    """
    if num_ranks == 1 or dist.is_torchelastic_launched():
        return function(*args)
    for name in LAUNCHER_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory() as error_files:
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=num_ranks,
                run_id=uuid.uuid4().hex,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                local_addr="localhost",
                max_restarts=0,
                logs_specs=DefaultLogsSpecs(error_files),
            )
            return elastic_launch(config, _run_rank)(function, *args)[0]
    except ChildFailedError as error:
        raise _as_one_error(error) from None
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + error.sigval) from None


def torchrun_ranks() -> int | None:
    """How many ranks torchrun has started, on all machines; None if it has not started this process."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else None


@contextmanager
def one_speaker() -> Iterator[None]:
    """All that a rank does, ended by leaving the process group. Of the ranks that fail, one says why.

    A rank that ends takes the others with it, and a mistake may be found by all of them.

    Raises:
        FailedLater: on every rank but the first that fails, instead of its error.
    """
    try:
        yield
    except Exception as error:
        if not _fails_first():
            raise FailedLater from error
        raise
    finally:
        shutdown()


def _fails_first() -> bool:
    if not dist.is_torchelastic_launched():
        return True
    host, port, run, restart = (
        os.environ[name]
        for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
    )
    try:
        store = dist.TCPStore(host, int(port), timeout=timedelta(seconds=10))
        return store.add(f"revit_video/{run}/{restart}/failed", 1) == 1
    except RuntimeError:  # the launcher, which keeps the store, has ended already
        return True


def _run_rank(function: Callable[..., T], *args: Any) -> T:
    try:
        with one_speaker():
            return function(*args)
    except FailedLater:
        # The launcher takes the error of the rank that it sees ended first, and then ends the others.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(5)
        raise
    except (ValueError, OSError) as error:
        raise _UserMistake(str(error)) from error
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher sends it again, into the clean-up
        raise


def _as_one_error(error: ChildFailedError) -> Exception:
    rank, failure = error.get_first_failure()
    details = failure.error_file_data["message"]
    if isinstance(details, str):  # the process died without a word: killed, out of memory
        return RankError(f"rank {rank}: {failure.message}")
    mistake_prefix = f"{_UserMistake.__name__}: "
    if details["message"].startswith(mistake_prefix):
        return ValueError(details["message"].removeprefix(mistake_prefix))
    return RankError(f"rank {rank}: {details['message']}\n{details['extraInfo']['py_callstack']}")


@dataclass(frozen=True)
class Ranks:
    """This process among those that work on one run.

    Attributes:
        length_size: how many ranks train on the same clips, each at a token length of its own (ReViT-E);
            1 where every rank reads all lengths.
        length_group: those that train on the same clips as this one.
    """

    rank: int
    world_size: int
    device: torch.device
    length_size: int = 1
    length_group: dist.ProcessGroup | None = None

    @property
    def data_size(self) -> int:
        """Into how many shares a training batch is split."""
        return self.world_size // self.length_size

    @property
    def data_rank(self) -> int:
        """Which share this rank trains on."""
        return self.rank // self.length_size

    @property
    def length_rank(self) -> int:
        """Which token length this rank trains, 0 the longest, if each has one of its own."""
        return self.rank % self.length_size

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.rank == 0


def init(device: str = "auto") -> Ranks:
    """Join the process group of this run; a single process needs none.

    Args:
        device: `"auto"` (a GPU if there is one), `"cpu"` or `"cuda"`.

    Raises:
        ValueError: CUDA is asked for where there is none, or this machine has more ranks than GPUs.
    """
    rank, world_size, local_rank, local_size = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    )
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("DEVICE cuda: torch finds no GPU here; use DEVICE auto or cpu")
    if device == "cpu" or not torch.cuda.is_available():
        own_device, backend = torch.device("cpu"), "gloo"
        if local_size > 1:
            torch.set_num_threads(max(1, _usable_cores() // local_size))
    else:
        if local_size > torch.cuda.device_count():
            raise ValueError(f"NUM_GPUS: {local_size} ranks, but {torch.cuda.device_count()} GPUs here")
        # gloo as well, for what is gathered from the CPU
        own_device, backend = torch.device("cuda", local_rank), "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(own_device)
    if world_size > 1:
        dist.init_process_group(backend)
    return Ranks(rank, world_size, own_device)


def in_length_groups(ranks: Ranks, lengths: int) -> Ranks:
    """The same ranks as a mesh of data and length: neighbours, one a token length, train on the same clips.

    Raises:
        ValueError: the ranks cannot be shared out among so many lengths.
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


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


# ---- What ranks tell each other --------------------------------------------------------------------------


def reduce_gradients(
    parameters: Iterable[nn.Parameter], ranks: Ranks, parts: int = 1, stop: bool = False
) -> bool:
    """Replace every gradient by its sum over the ranks, divided by `ranks.data_size * parts`.

    That is the mean over the shares of the batch and its `parts` (gradient accumulation), and the sum over
    the token lengths where each has a rank of its own. A rank that has no gradient for a parameter counts as
    zeros, and gets the sum if any other rank has one; so afterwards all ranks have gradients for the same
    parameters, with the same values.

    Returns:
        Whether any rank gave `stop`: all ranks learn in the same step that one of them was told to end.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    if ranks.world_size == 1:
        if parts > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad /= parts
        return stop
    flags = [*(p.grad is not None for p in parameters), stop]
    used = torch.tensor(flags, dtype=torch.int32, device=ranks.device)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    *used_by_any, stop_all = used.tolist()
    gradients = []
    for parameter, used_somewhere in zip(parameters, used_by_any, strict=True):
        if used_somewhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        flat /= ranks.data_size * parts
        for gradient, mean in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(mean.view_as(gradient))
    return bool(stop_all)


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in groups of one dtype and at most about `BUCKET_ELEMENTS` values."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = by_dtype.setdefault(tensor.dtype, [])
        bucket.append(tensor)
        if sum(member.numel() for member in bucket) >= BUCKET_ELEMENTS:
            yield by_dtype.pop(tensor.dtype)
    yield from by_dtype.values()


@contextmanager
def shared_statistics(module: nn.Module, ranks: Ranks) -> Iterator[None]:
    """What batch norms learn of the clips read within this block, all ranks learn at its end.

    To their running statistics the ranks' changes are added, divided by `ranks.data_size`: the mean over the
    shares of the batch, and where each token length has a rank of its own, all that was learned of each.
    Ranks that had the same statistics before have the same ones afterwards.
    """
    running = [b for part in module.modules() if isinstance(part, nn.BatchNorm2d) for b in part.buffers()]
    if ranks.world_size == 1 or not running:
        yield
        return
    before = [statistic.clone() for statistic in running]
    yield
    changes = [now - then for now, then in zip(running, before, strict=True)]
    flat = torch.cat([change.flatten() for change in changes])  # counts of batches among them, as fractions
    dist.all_reduce(flat)
    flat /= ranks.data_size
    shares = flat.split([change.numel() for change in changes])
    for now, then, share in zip(running, before, shares, strict=True):
        now.copy_(then + share.view_as(then).to(then.dtype))


def broadcast_parameters(module: nn.Module, ranks: Ranks) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if ranks.world_size > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor.detach(), src=0)


def broadcast_from_longest(tensor: Tensor, ranks: Ranks) -> dist.Work:
    """Start to fill `tensor` with that of the length group's first rank; wait before reading it."""
    longest = ranks.rank - ranks.length_rank
    work = dist.broadcast(tensor, src=longest, group=ranks.length_group, async_op=True)
    assert work is not None  # this rank is in its own group
    return work


def sum_over_ranks(tensor: Tensor, ranks: Ranks) -> Tensor:
    """The sum of all ranks' `tensor`, on all ranks; `tensor` itself is left as it is."""
    total = tensor.clone()
    if ranks.world_size > 1:
        dist.all_reduce(total)
    return total


def gather_objects(obj: T, ranks: Ranks) -> list[T]:
    """Every rank's picklable `obj`, in the order of the ranks, on all ranks."""
    if ranks.world_size == 1:
        return [obj]
    objects: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(objects, obj)
    return objects


def barrier(ranks: Ranks) -> None:
    """Wait until every rank is here."""
    if ranks.world_size > 1:
        dist.barrier()
