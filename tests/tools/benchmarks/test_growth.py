"""Growth with the number of lengths: ratios are to one length, and parameters add up."""

from __future__ import annotations

from pathlib import Path

import torch
from benchmarks.growth import CASCADE, REVIT_B, REVIT_E, SEPARATE, Growth, growth
from benchmarks.timing import Effort


def test_growth(small: None, tmp_path: Path) -> None:
    picture = tmp_path / "growth.png"
    rows = growth(torch.device("cpu"), Effort(1), str(picture))
    assert sum(row.target is not None for row in rows) == 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert all(row.value == 1 for row in rows if row.name.startswith("1 lengths") and "time" in row.name)
    separate = {row.name: row.value for row in rows if "separate models: parameters" in row.name}
    ours = {row.name: row.value for row in rows if "ReViT-B: parameters" in row.name}
    dvt = {row.name: row.value for row in rows if "DVT: parameters" in row.name}
    one, *others = zip(separate.values(), ours.values(), dvt.values(), strict=True)
    assert len(set(one)) == 1 and all(stacked > theirs > own for theirs, own, stacked in others)
    assert [row.name for row in rows if "DVT: time" in row.name] == [
        f"{k} lengths, DVT: time per step" for k in range(1, 5)
    ]
    times = {row.name: row.value for row in rows if "2 lengths" in row.name and "time" in row.name}
    assert times[f"2 lengths, {SEPARATE}: time per step"] > times[f"2 lengths, {REVIT_E}: time per step"]
    assert {f"2 lengths, {way}: time per step" for way in (SEPARATE, REVIT_B, REVIT_E, CASCADE)} == set(times)


def test_ratios_are_taken_within_a_round() -> None:
    """A round at half the speed does not change the ratio."""
    grown = Growth({REVIT_B: [(1.0, 2.0), (1.5, 3.0)]}, {}, [])
    assert grown.to_one(REVIT_B, 2) == 1.5 and grown.time(REVIT_B, 2) == 2.25
