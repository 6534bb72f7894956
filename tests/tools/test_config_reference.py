"""docs/config.md is what its generator writes today, and holds every key."""

from __future__ import annotations

from config_reference import PAGE, reference

from revit_video.config import get_cfg
from revit_video.config.load import leaf_keys


def test_the_reference_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python tools/config_reference.py"


def test_every_key_is_explained() -> None:
    rows = [line.split(" | ", 2) for line in reference().splitlines() if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == list(leaf_keys(get_cfg()))
    assert all(len(row[2].strip(" |")) > 2 for row in rows)
