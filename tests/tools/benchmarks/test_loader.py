"""That the loader and bare decoding do the same work; the figures are for `tools/benchmark.py`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from benchmarks import loader as suite
from benchmarks.decode import write_moving_texture
from benchmarks.timing import Effort

from revit_video.data.sampling import Window

RECIPE = suite.Recipe(8, 32, 32, (40, 48), resized_to=48)


def test_bare_decoding_starts_at_the_keyframe_before_the_window(tmp_path: Path) -> None:
    path = write_moving_texture(tmp_path / "a.mp4", seconds=2, size=(48, 64))
    assert suite.decode_window(path, Window(Fraction(0), Fraction(1))) == 30
    assert suite.decode_window(path, Window(Fraction(1), Fraction(2))) == 60  # its only keyframe is the first


def test_every_source_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"SIZE": (96, 128), "CLIPS": 2, "BATCH_SIZE": 2, "WORKERS": (1,), "SECONDS": 9}
    for name, value in small.items():
        monkeypatch.setattr(suite, name, value)
    monkeypatch.setattr(suite, "RECIPES", {"small": RECIPE})
    rows = {row.name: row for row in suite.loader(torch.device("cpu"), Effort(1))}
    for source in ("originals", "resized", "packed"):
        assert rows[f"small, {source}: 1 worker"].unit == "clips/s"
        assert rows[f"small, {source}: 1 worker, each, of bare decoding"].target is suite.OF_BARE_DECODING
    assert rows["small: resized, of originals"].target is suite.RESIZED_FASTER
    assert rows["small: sent from worker to rank"].value == pytest.approx(3 * 8 * 32**2 / 1e6)
