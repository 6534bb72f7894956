"""Starting one process per rank, and turning their failures into one error."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from revit_video.runtime.ranks import shutdown

# Silenced: they log the traceback of every failed or stopped rank, where `launch` raises one error.
LAUNCHER_LOGGERS = (
    "torch.distributed.elastic.agent.server.api",
    "torch.distributed.elastic.multiprocessing.api",
    "torch.multiprocessing.spawn",
)
T = TypeVar("T")


class RankError(RuntimeError):
    """A rank failed for another reason than a user's mistake; the message holds its traceback."""


class FailedLater(Exception):
    """Another rank failed before this one and reports the error."""


class _UserMistake(ValueError):
    """A `ValueError` or `OSError` on its way from a rank to the process that called `launch`."""


def launch(function: Callable[..., T], num_ranks: int, *args: Any) -> T:
    """Run `function(*args)` on `num_ranks` ranks of this machine and return the result of rank 0.

    A single rank, or a process that torchrun has started, calls `function` directly. Otherwise torch's
    elastic launcher starts one process per rank; `function` must be importable and `args` picklable.

    Raises:
        ValueError: the first rank that failed raised a ValueError or OSError; same message.
        RankError: the first rank that failed raised anything else, or died.
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
        raise _first_error(error) from None
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + error.sigval) from None


def torchrun_ranks() -> int | None:
    """Number of ranks on all machines if torchrun has started this process, else None."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else None


@contextmanager
def first_error_only() -> Iterator[None]:
    """Only the first failing rank raises its error; destroys the process group on exit.

    The launcher ends all ranks when one fails, and every rank may fail with the same error.

    Raises:
        FailedLater: on every other failing rank, instead of its error.
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
    except RuntimeError:  # the launcher, which hosts the store, has ended already
        return True


def _run_rank(function: Callable[..., T], *args: Any) -> T:
    try:
        with first_error_only():
            return function(*args)
    except FailedLater:
        # The launcher reports the rank that exits first and then ends the others: let the first one exit.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(5)
        raise
    except (ValueError, OSError) as error:
        raise _UserMistake(str(error)) from error
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher sends it again, during clean-up
        raise


def _first_error(error: ChildFailedError) -> Exception:
    rank, failure = error.get_first_failure()
    details = failure.error_file_data["message"]
    if isinstance(details, str):  # the process died without an exception: killed, out of memory
        return RankError(f"rank {rank}: {failure.message}")
    mistake_prefix = f"{_UserMistake.__name__}: "
    if details["message"].startswith(mistake_prefix):
        return ValueError(details["message"].removeprefix(mistake_prefix))
    return RankError(f"rank {rank}: {details['message']}\n{details['extraInfo']['py_callstack']}")
