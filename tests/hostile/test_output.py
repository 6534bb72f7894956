"""Terminals that have gone, full disks: what cannot be said ends no work, and errors name their file."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from revit_video.models import checkpoint
from revit_video.models.checkpoint import CheckpointError
from revit_video.runtime.logging import StatsLog, printing, progress, setup
from revit_video.runtime.output_dir import atomic_write_text
from tests.toy import ROOT


@contextmanager
def full_disk(left: int) -> Iterator[None]:
    """No file grows beyond `left` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("left", [0, 700, 3000])
def test_a_full_disk_is_told_with_the_file(left: int, tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    with full_disk(left):
        with pytest.raises(CheckpointError, match=rf"^{path}: cannot be written: File too large$"):
            checkpoint.save(path, {"weights": torch.randn(10_000)})
        with pytest.raises(OSError, match=rf"File too large: '{path}'"):
            atomic_write_text(path, "x" * 4000)
    assert not list(tmp_path.iterdir())


def test_a_statistics_line_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("revit_video"), "propagate", True)
    log = StatsLog(str(tmp_path), tensorboard=False)
    log.write(stage="train", step=1)
    with full_disk(20):
        log.write(stage="train", step=2)
        log.close()
    assert "stats.jsonl: cannot be written: File too large" in caplog.text


class Gone:
    """A stream whose reader has gone."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self) -> None:
        self.write("")

    def fileno(self) -> int:
        raise OSError

    def isatty(self) -> bool:
        return False


def test_messages_and_bars_that_nobody_reads_end_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("revit_video")
    before = logger.handlers, logger.propagate, logger.level
    monkeypatch.setattr(sys, "stderr", Gone())
    try:
        setup()
        logger.warning("nobody hears this")
        with progress(range(3), 3, "bar") as bar:
            assert list(bar) == [0, 1, 2]
    finally:
        logger.handlers, logger.propagate, logger.level = before


def test_a_table_that_nobody_reads_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Gone())
    with printing() as lost:
        print("a table")
    assert len(lost) == 1


def test_a_reader_that_has_enough_ends_a_tool_quietly() -> None:
    """`tool | head -1`."""
    code = "import sys; sys.path.insert(0, 'tools'); import _environment\n"
    code += "from revit_video.cli import clear_errors\n"
    code += "with clear_errors():\n    for n in range(100000): print(n)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) == 0


@pytest.mark.parametrize("seconds", [0, 0.3, 1.0])
def test_ctrl_c_while_a_tool_starts_is_one_line(seconds: float) -> None:
    """From its first own line on, whatever it is importing."""
    code = "import runpy, sys; sys.path.insert(0, 'tools'); import _environment; print('ready', flush=True)\n"
    code += "runpy.run_path('tools/train_net.py', run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "DATA.PATH_TO_DATA_DIR", "/nowhere"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n") or process.returncode == 2
