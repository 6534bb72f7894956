"""Which operating point a config's words choose, on a table small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from revit_video.adaptive.policies import Costs
from revit_video.adaptive.table import Table
from revit_video.stages.calibration import assigned_settings, calibrated, cascade_threshold
from tests.tables import table_of_scores
from tests.toy import toy_cfg

# Four videos of one view, of class 1; correct at 8x8 all, at 4x4 the two that it is sure of.
SCORES = torch.tensor([[0.1, 0.9], [0.05, 0.95], [0.2, 0.8], [0.3, 0.7]])
AT_4X4 = torch.tensor([[0.02, 0.98], [0.1, 0.9], [0.6, 0.4], [0.7, 0.3]])
SHORT_IS_ENOUGH = torch.tensor([0.9, 0.8, 0.3, 0.2])
COSTS = Costs([10.0, 2.0], assigner=1.0)


def table() -> Table:
    scores = torch.stack([SCORES, AT_4X4], dim=1)
    assigned = torch.stack([1 - SHORT_IS_ENOUGH, SHORT_IS_ENOUGH], dim=1)
    return table_of_scores(scores, torch.ones(4, dtype=torch.long), torch.arange(4), assigned)


def mix_of(tmp_path: Path, *changes: object) -> list[float] | None:
    return assigned_settings(toy_cfg(tmp_path, tmp_path, *changes), table(), COSTS).mix


def test_the_assigner_spends_what_it_is_given(tmp_path: Path) -> None:
    """3 GMACs where the short length is run, 11 where the long one is: 3, 5, 7 (all right), 9, 11 in all."""
    safe = ("ADAPTIVE.SAFETY", 0, "ADAPTIVE.MAX_DROP", 0)
    assert mix_of(tmp_path, *safe) == [0.5, 0.5]
    assert mix_of(tmp_path, *safe, "ADAPTIVE.BUDGET", 0.7) == [0.5, 0.5]
    assert mix_of(tmp_path, *safe, "ADAPTIVE.BUDGET", 0.69) == [0.25, 0.75]
    assert mix_of(tmp_path, *safe, "ADAPTIVE.BUDGET", 0.1) == [0.0, 1.0]  # nothing is as cheap


@pytest.mark.parametrize(("budget", "stop"), [(0.5, 3), (0.7, 2), (1.0, 2)])
def test_the_cascade_does(budget: float, stop: int, tmp_path: Path) -> None:
    """It is 0.98, 0.9, 0.6 and 0.7 sure; 2 and 12 GMACs: 2, 4.5, 7 (all right) and so on in all."""
    cfg = toy_cfg(tmp_path, tmp_path, "ADAPTIVE.BUDGET", budget)
    threshold = cascade_threshold(cfg, table(), COSTS)
    assert calibrated(cfg, table(), COSTS).cascade_threshold == threshold
    assert int((AT_4X4.amax(dim=1) >= threshold).sum()) == stop


@pytest.mark.parametrize(("budget", "stop"), [(0.4, 3), (0.6, 2), (1.0, 2)])
def test_early_exit_does(budget: float, stop: int, tmp_path: Path) -> None:
    """A DVT's costs include the shorter lengths: 2 and 10, so 4 (three stop), 6 (two stop, all right)."""
    cfg = toy_cfg(tmp_path, tmp_path, "DVT.ENABLE", True, "ADAPTIVE.BUDGET", budget)
    thresholds = cascade_threshold(cfg, table(), replace(COSTS, cumulative=True))
    assert isinstance(thresholds, list)
    assert thresholds[0] == 0 and int((AT_4X4.amax(dim=1) >= thresholds[1]).sum()) == stop
