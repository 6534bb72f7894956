"""OUTPUT_DIR: every file name in it, and the one atomic writer."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

import simplejson
from iopath.common.file_io import g_pathmgr

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
LABELS = "labels.csv"
FOLDS, FOLDS_LIST = "folds", "folds.csv"
ASSIGNER = "assigner.pyth"
MODEL = "model.pyth"
FLOPS = "flops.json"
RESULTS = "results.json"
PREDICTIONS = "predictions.csv"
SKIPPED = "skipped.csv"
STATS = "stats.jsonl"

UNFINISHED = ".tmp"  # ends the name of a file that is being written


def write_json(path: str, content: dict[str, Any]) -> None:
    """Indented JSON, whole or not at all."""
    atomic_write_text(path, simplejson.dumps(content, indent=2) + "\n")


def record_skipped(output_dir: str, stage: str, skipped: Iterable[tuple[str, str]]) -> None:
    """Replaces the stage's rows of `skipped.csv` (path, stage, reason) and keeps those of other stages."""
    path = os.path.join(output_dir, SKIPPED)
    rows: list[tuple[str, str, str]] = []
    if g_pathmgr.isfile(path):
        with g_pathmgr.open(path, newline="") as file:
            rows = [(r["path"], r["stage"], r["reason"]) for r in csv.DictReader(file) if r["stage"] != stage]
    rows += [(video, stage, reason) for video, reason in sorted(set(skipped))]
    write_csv(path, ["path", "stage", "reason"], rows)


def write_csv(path: str, header: Sequence[str], rows: Iterable[Sequence[Any]], comment: str = "") -> None:
    """Writes a CSV file, whole or not at all; `comment` goes on a first line of its own, after `# `."""
    text = io.StringIO()
    if comment:
        text.write(f"# {comment}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    atomic_write_text(path, text.getvalue())


def atomic_write_text(path: str, text: str) -> None:
    """Write `text` (UTF-8) to the local `path`, whole or not at all; OSError if that fails."""
    with replacing(path, "w") as file:
        file.write(text)


@contextmanager
def replacing(path: str, mode: str) -> Iterator[IO[Any]]:
    """A file that takes the place of `path` once the block has ended well, and is removed if it has not."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    # The name is fixed, so what a killed run left behind is overwritten by the next one.
    temporary = path + UNFINISHED
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
