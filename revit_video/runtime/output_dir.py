"""OUTPUT_DIR: the name of every file in it, atomic writers, and the readers of CSV and JSON files."""

from __future__ import annotations

import errno
import io
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

import simplejson

if TYPE_CHECKING:
    from revit_video.runtime.csv_rows import CsvRows


CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
STATS, TENSORBOARD = "stats.jsonl", "tensorboard"
LABELS, LABELS_PICTURE = "labels.csv", "labels.png"
FOLDS, FOLDS_LIST = "folds", "folds.csv"
ASSIGNER, CALIBRATION = "assigner.pyth", "calibration.pyth"
MODEL = "model.pyth"
FLOPS = "flops.json"
RESULTS = "results.json"
PREDICTIONS = "predictions.csv"
SKIPPED = "skipped.csv"
LOCK = ".lock"  # of the run that is at work
TESTS = "tests"  # a folder for each named test
REPORT = "report.html"
ACCURACY_COST_PICTURE = "accuracy_cost.png"
LENGTHS_PICTURE = "lengths_per_class.png"
CONFUSION_PICTURE = "confusion.png"
TRAINING_PICTURE = "training.png"

# Text files: names of files need not be UTF-8, and are written as they are.
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # of opening, for the other end of a pipe
UNFINISHED = ".tmp"  # suffix of a file that is being written
SKIPPED_COLUMNS = ("path", "stage", "reason")
MOST = 1e100  # of a statistic; charts of larger ones overflow

logger = logging.getLogger(__name__)


def ensure_writable(folder: str) -> None:
    """Create `folder`; ValueError if no file can be written there, or would be written elsewhere."""
    for path in (os.path.join(folder, name) for name in (CHECKPOINTS, FOLDS, TENSORBOARD, TESTS)):
        for place in (path, *(os.path.join(path, name) for name in _names_in(path))):
            if os.path.islink(place) and os.path.isdir(place):
                raise ValueError(
                    f"{place} is a link, through which files elsewhere would be replaced; "
                    "let OUTPUT_DIR be a link instead, or name another folder"
                )
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"OUTPUT_DIR {folder} is not writable: {error.strerror}") from None


def _names_in(folder: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(folder)
    return []


# ---- Atomic writing --------------------------------------------------------------------------------------


@contextmanager
def replacing(path: str, mode: str, sync: bool = True) -> Iterator[IO[Any]]:
    """Open a file that replaces the local `path` when the block ends, and is removed if the block raises.

    Nothing is written through a link, neither one at `path` nor one at the unfinished file's place.

    Args:
        sync: flush to the disk first, so that the file survives a power failure whole.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = path + UNFINISHED  # a fixed name, so that the next run removes what a killed one left
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        with open(temporary, mode.replace("w", "x"), **({} if "b" in mode else TEXT)) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise OSError(error.errno, error.strerror or str(error), path) from error
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def atomic_write_text(path: str, text: str) -> None:
    """Write `text` in UTF-8."""
    with replacing(path, "w") as file:
        file.write(text)


def write_json(path: str, content: dict[str, Any]) -> None:
    """Write indented JSON."""
    atomic_write_text(path, simplejson.dumps(content, indent=2) + "\n")


def write_csv(path: str, header: Sequence[str], rows: Iterable[Sequence[Any]], comment: str = "") -> None:
    """Write a CSV table; each line of `comment` becomes a line `# comment` before it."""
    atomic_write_text(path, csv_text(header, rows, comment))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]], comment: str = "") -> str:
    """The content of a file that `write_csv` writes."""
    from revit_video.runtime.csv_rows import csv_writer  # not needed to predict

    text = io.StringIO()
    text.writelines(f"# {line}\n" for line in comment.splitlines())
    writer = csv_writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def open_ordinary(path: str, mode: str = "rb", **options: Any) -> IO[Any]:
    """Open a file for reading; OSError where there is a pipe or a device, which might never end."""
    return open(path, mode, opener=_ordinary, **options)


def _ordinary(path: str, flags: int) -> int:
    file = os.open(path, flags | NO_WAITING)
    kind = os.fstat(file).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):  # Python tells of folders
        return file
    os.close(file)
    raise OSError(errno.EINVAL, "no ordinary file", path)


def open_to_append(path: str) -> IO[str]:
    """A text file to append to, see `open_own`."""
    return open(path, "a", opener=open_own, **TEXT)


def open_own(path: str, flags: int) -> int:
    """A descriptor of the file at `path`, made where there is none; what is written reaches no other place.

    Raises:
        ValueError: there is a link, a file that has a second name, or no ordinary file.
    """
    refused = ValueError(f"{path}: a link, or no ordinary file of one name; move it away")
    try:
        file = os.open(path, flags | os.O_CREAT | NO_WAITING | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        raise refused if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR) else error from None
    status = os.fstat(file)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return file
    os.close(file)
    raise refused


# ---- skipped.csv and stats.jsonl -------------------------------------------------------------------------


def read_csv(path: str) -> CsvRows:
    """A CSV table without a comment; without columns if there is no such file.

    Raises:
        ValueError: it is damaged; the message has the line.
    """
    from revit_video.runtime.csv_rows import CsvRows

    if not os.path.isfile(path):
        return CsvRows(path, [])
    with open_ordinary(path, "r", **TEXT) as file:
        return CsvRows(path, file)


def record_skipped(folder: str, stage: str, skipped: Iterable[tuple[str, str]]) -> None:
    """Replace the rows of `stage` in skipped.csv (path, stage, reason); `skipped` holds paths and reasons."""
    path = os.path.join(folder, SKIPPED)
    rows = [row for row in _skipped(path) if row[1] != stage]
    rows += [(video, stage, reason) for video, reason in sorted(set(skipped))]
    write_csv(path, SKIPPED_COLUMNS, rows)


def _skipped(path: str) -> list[tuple[str, str, str]]:
    """The rows of skipped.csv. A damaged file is written anew: nothing depends on what it held."""
    try:
        table = read_csv(path)
        columns = [table.texts(name) for name in SKIPPED_COLUMNS] if table.columns else [[], [], []]
        return list(zip(*columns, strict=True))
    except (OSError, ValueError) as error:
        logger.warning("%s; it is written anew, without what other stages skipped", error)
        return []


def parsed_json(text: str) -> Any:
    """The content of JSON; ValueError for anything else, however deep."""
    try:
        return simplejson.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_stats(folder: str) -> list[dict[str, Any]]:
    """The lines of stats.jsonl; empty if there is no such file.

    A line that holds no statistics is left out, with a warning but for the last one, which a killed run may
    leave half-written.
    """
    path, lines, odd = os.path.join(folder, STATS), [], list[int]()
    if os.path.isfile(path):
        number = 0
        with open_ordinary(path, "r", **TEXT) as file:
            for number, text in enumerate(file, start=1):
                if (line := _statistics(text)) is None:
                    odd.append(number)
                else:
                    lines.append(line)
        for line_number in [n for n in odd if n < number][:3]:
            logger.warning("%s:%d: no statistics, left out", path, line_number)
    return lines


def _statistics(text: str) -> dict[str, Any] | None:
    """A line of stats.jsonl, None if it is none: numbers and null under names, and the mined labels."""
    try:
        line = parsed_json(text)
    except ValueError:
        return None
    if not isinstance(line, dict) or not isinstance(line.get("stage"), str):
        return None
    place = [line.get(name, 0) for name in ("epoch", "iter", "step")]
    if not all(type(value) is int and -1 <= value < 1 << 50 for value in place):  # epoch -1: before the first
        return None
    figures = [value for name, value in line.items() if name != "stage" and not name.startswith("labels")]
    return line if all(value is None or _is_finite(value) for value in figures) else None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and -MOST < value < MOST


def keep_stats(folder: str, keep: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Drop the lines of stats.jsonl that `keep` refuses, of work that is about to be repeated.

    Returns:
        the remaining lines.
    """
    lines = [line for line in read_stats(folder) if keep(line)]
    path = os.path.join(folder, STATS)
    if os.path.isfile(path):
        atomic_write_text(path, "".join(simplejson.dumps(line) + "\n" for line in lines))
    return lines
