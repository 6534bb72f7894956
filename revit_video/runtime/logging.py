"""Messages and progress bars on the terminal, statistics in stats.jsonl and TensorBoard."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import simplejson
from tqdm import tqdm

from revit_video.runtime import output_dir
from revit_video.runtime.text import printable_lines

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LINE_PERIOD = 10.0  # seconds between two progress messages where there is no terminal
MESSAGE_FORMAT = "{desc}: {n_fmt}/{total_fmt}, {elapsed} gone, {remaining} left, {rate_fmt}{postfix}"
# Fields of a statistics line that are not plotted.
PLACE_FIELDS = ("stage", "epoch", "iter", "step")

_logger = logging.getLogger(__name__)


def setup(active: bool = True) -> None:
    """Print the package's log to the terminal: everything on the main rank, warnings on the others."""
    logger = logging.getLogger("revit_video")
    logger.setLevel(logging.INFO if active else logging.WARNING)
    logger.handlers = [_TerminalHandler()]
    logger.propagate = False


@contextmanager
def printing() -> Iterator[list[OSError]]:
    """A block that prints to standard output, whose failures (a full disk, a closed pipe) end no work.

    Yields:
        an empty list, to which a failure is added.
    """
    lost: list[OSError] = []
    try:
        yield lost
        sys.stdout.flush()
    except OSError as error:
        lost.append(error)
        silence()


def silence() -> None:
    """Let standard output lead nowhere: what is left in its buffer would fail again at the end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress(tqdm):
    """tqdm, safe in a process that forks data workers. A context manager that closes the bar.

    Modifications:
        The lock belongs to this process. tqdm shares one between processes, and a worker that exits while
        holding it would block this process forever.
        No monitor thread, which might hold the lock during a fork.
        A bar whose constructor was interrupted by Ctrl-C is deleted silently.
    """

    _lock = threading.RLock()
    monitor_interval = 0

    def __del__(self) -> None:
        if hasattr(self, "pos"):
            super().__del__()

    def show(self, **figures: object) -> None:
        """Set the figures at the end of the line, from the next update on."""
        self.set_postfix(figures, refresh=False)


class _TerminalHandler(logging.Handler):
    """Prints messages above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):  # a full disk, a reader that has gone: no reason to end the work
            Progress.write(printable_lines(self.format(record)), file=sys.stderr)


class StatsLog:
    """Appends one JSON object per line to stats.jsonl in `folder`, and its numbers to TensorBoard.

    TensorBoard drops what stats.jsonl no longer holds: steps that a resumed run repeats.
    A context manager. Inactive (on ranks other than 0) it writes nothing.
    """

    def __init__(self, folder: str, tensorboard: bool, active: bool = True) -> None:
        self._folder, self._file = folder, None
        self._boards: dict[str, SummaryWriter] = {}  # by stage
        self._last_step: dict[str, int] = {}  # of each stage's lines so far
        self._tensorboard = active and tensorboard
        if self._tensorboard:
            self._last_step = {line["stage"]: line.get("step", -1) for line in output_dir.read_stats(folder)}
        if active:
            self._file = output_dir.open_to_append(os.path.join(folder, output_dir.STATS))

    def write(self, **fields: Any) -> None:
        """Write one line. Floats keep 6 significant digits; NaN and infinity become null.

        TensorBoard gets the numbers as `<stage>/<name>` at the global step `step`.
        """
        if self._file:
            try:
                self._file.write(simplejson.dumps(_rounded(fields), ignore_nan=True) + "\n")
                self._file.flush()
            except OSError as error:
                _logger.warning("%s: cannot be written: %s", self._file.name, error.strerror)
        if self._tensorboard:
            board = self._board(fields["stage"])
            for name, value in fields.items():
                if isinstance(value, int | float) and name not in PLACE_FIELDS:
                    board.add_scalar(f"{fields['stage']}/{name}", value, fields.get("step"))

    def _board(self, stage: str) -> SummaryWriter:
        """The stage's own writer, since TensorBoard drops the steps to be repeated of a whole folder."""
        if stage not in self._boards:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and optional

            folder = os.path.join(self._folder, output_dir.TENSORBOARD, stage)
            self._boards[stage] = SummaryWriter(folder, purge_step=self._last_step.get(stage, -1) + 1)
        return self._boards[stage]

    def close(self) -> None:
        for sink in (self._file, *self._boards.values()):
            if sink:
                with suppress(OSError):  # a full disk, of which there was a warning
                    sink.close()
        self._file, self._boards = None, {}

    def __enter__(self) -> StatsLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Without the messages of logger `name`."""
    logger = logging.getLogger(name)
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(element) for element in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    return value


def progress(
    iterable: Iterable[Any], total: int | None = None, description: str = "", active: bool = True
) -> Progress:
    """Iterate over `iterable` with a bar on the terminal, or a message every 10 s where there is no terminal.

    The bar vanishes at the end.

    Args:
        total: number of elements; None for `len(iterable)`, where it has one.
        active: whether anything is shown; off on ranks other than 0.
    """
    look: dict[str, Any] = {"file": _Terminal(), "dynamic_ncols": True, "leave": False}
    if not sys.stderr.isatty():
        look = {"file": _MessageLines(), "mininterval": LINE_PERIOD, "delay": LINE_PERIOD}
        look["bar_format"] = MESSAGE_FORMAT
    return Progress(iterable, description, total, disable=not active, **look)


class _Terminal:
    """The standard error stream, whose failures (a terminal that was closed) end no work."""

    encoding = "utf-8"

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()

    def fileno(self) -> int:
        return sys.stderr.fileno()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


class _MessageLines:
    """The file that tqdm draws on where there is no terminal: each redrawing becomes a log message."""

    def write(self, text: str) -> None:
        if line := text.strip():
            _logger.info(line)

    def flush(self) -> None:
        pass
