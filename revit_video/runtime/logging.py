"""What a run says: messages and progress on the terminal, statistics in files."""

from __future__ import annotations

import logging
import math
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import suppress
from typing import Any, Generic, TypeVar

import simplejson
from iopath.common.file_io import g_pathmgr
from tqdm import tqdm

from revit_video.runtime.output_dir import atomic_write_text

LINE_PERIOD = 10.0  # seconds between two progress lines where there is no terminal to draw a bar on
MESSAGE_FORMAT = "{desc}: {n_fmt}/{total_fmt}, {elapsed} gone, {remaining} left, {rate_fmt}{postfix}"
# Fields of a statistics line that say where it belongs, and are no curves.
PLACE_FIELDS = ("stage", "epoch", "iter", "step")

T = TypeVar("T")
_logger = logging.getLogger(__name__)


def setup(active: bool = True) -> None:
    """Show the package's messages on the terminal; with `active` off (ranks other than 0) warnings only."""
    logger = logging.getLogger("revit_video")
    logger.setLevel(logging.INFO if active else logging.WARNING)
    logger.handlers = [_TerminalHandler()]
    logger.propagate = False


class _Bar(tqdm):
    """A progress bar of this process alone.

    Modifications:
        tqdm's lock is one for all processes. A data worker inherits the bar, and one that ends while it
        lets go of it would keep the lock, and this process waiting, forever. Nor is there a thread that
        looks after the bars: it might hold the lock while a worker is forked.
        A bar that Ctrl-C interrupts in the making says nothing when it is let go of.
    """

    _lock = threading.RLock()
    monitor_interval = 0

    def __del__(self) -> None:
        if hasattr(self, "pos"):
            super().__del__()


class _TerminalHandler(logging.Handler):
    """Prints above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        _Bar.write(self.format(record), file=sys.stderr)


def prepare_output_dir(path: str) -> None:
    """Make the folder `path`; ValueError if nothing can be written there."""
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f"OUTPUT_DIR {path} is not writable: {error.strerror}") from None


class StatsLog:
    """Appends one JSON object a line to `<output_dir>/stats.jsonl`, and the numbers to TensorBoard.

    A context manager. With `active` off (ranks other than 0) it writes nothing.
    """

    def __init__(self, output_dir: str, tensorboard: bool, active: bool = True) -> None:
        self._file = self._board = None
        if active:
            self._file = g_pathmgr.open(os.path.join(output_dir, "stats.jsonl"), "a")
        if active and tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and optional

            self._board = SummaryWriter(os.path.join(output_dir, "tensorboard"))

    def write(self, **fields: Any) -> None:
        """One line. Floats keep 6 significant digits; NaN and infinity become null.

        The TensorBoard tags are `<stage>/<name>`, at the global step `step`.
        """
        if self._file:
            self._file.write(simplejson.dumps(_rounded(fields), ignore_nan=True) + "\n")
            self._file.flush()
        if self._board:
            for name, value in fields.items():
                if isinstance(value, int | float) and name not in PLACE_FIELDS:
                    self._board.add_scalar(f"{fields['stage']}/{name}", value, fields.get("step"))

    def close(self) -> None:
        for sink in (self._file, self._board):
            if sink:
                sink.close()
        self._file = self._board = None

    def __enter__(self) -> StatsLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def keep_stats(output_dir: str, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Drops the lines of stats.jsonl that `keep` refuses: those of work that is about to be done again.

    Returns:
        the lines that are left.
    """
    path = os.path.join(output_dir, "stats.jsonl")
    if not g_pathmgr.isfile(path):
        return []
    texts, kept = [], []
    with g_pathmgr.open(path, "r") as file:
        for text in file:
            with suppress(ValueError):  # a line that a killed run left half written
                line = simplejson.loads(text)
                if keep(line):
                    texts.append(text)
                    kept.append(line)
    atomic_write_text(path, "".join(texts))
    return kept


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(element) for element in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    return value


class Progress(Generic[T]):
    """Iterates, and shows how far it is, the rate and the time left.

    As a context manager it also ends its line when the loop is left early.
    """

    def __init__(self, bar: tqdm) -> None:
        self._bar = bar

    def __iter__(self) -> Iterator[T]:
        return iter(self._bar)

    def __enter__(self) -> Progress[T]:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def postfix(self, **fields: object) -> None:
        """Figures to show at the end of the line, from the next update on."""
        self._bar.set_postfix(fields, refresh=False)


def progress(
    iterable: Iterable[T], total: int | None = None, description: str = "", active: bool = True
) -> Progress[T]:
    """Iterate over `iterable` with a bar on the terminal, or a message every 10 s where there is none.

    The bar vanishes at the end; what should stay on the screen is logged by the caller.

    Args:
        total: number of elements; None: `len(iterable)` where it has one.
        active: off, nothing is shown (ranks other than 0).
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    look: dict[str, Any] = {"dynamic_ncols": True, "leave": False}
    if not sys.stderr.isatty():
        look = {"file": _MessageLines(), "mininterval": LINE_PERIOD, "delay": LINE_PERIOD}
        look["bar_format"] = MESSAGE_FORMAT
    return Progress(_Bar(iterable, description, total, disable=not active, **look))


class _MessageLines:
    """A file for tqdm that turns each redrawing of its line into a message."""

    def write(self, text: str) -> None:
        if line := text.strip():
            _logger.info(line)

    def flush(self) -> None:
        pass
