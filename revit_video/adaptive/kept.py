"""calibration.pyth: what operating points were chosen from, so that other wishes need no new pass."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from revit_video.adaptive.table import COLUMNS, Table
from revit_video.data.batch import Skipped
from revit_video.models import checkpoint
from revit_video.models.untrusted import believed


class Kept(NamedTuple):
    """The table of the validation list, and the settings of `ADAPTIVE` that were in force."""

    table: Table
    adaptive: dict[str, Any]


def write_calibration(path: str, adaptive: Mapping[str, Any], table: Table) -> None:
    """Keeps a calibration."""
    plain = vars(table) | {"skipped": [tuple(each) for each in table.skipped]}
    checkpoint.save(path, {"adaptive": dict(adaptive), "table": plain})


def read_calibration(path: str) -> Kept | None:
    """The kept calibration, None if there is none; CheckpointError if it is damaged."""
    if not os.path.isfile(path):
        return None
    content = checkpoint.load_payload(path)
    with believed(path, "calibration"):
        skipped = [Skipped(*map(str, each)) for each in content["table"]["skipped"]]
        table = Table(**content["table"] | {"skipped": skipped})
        views = {len(column) for column in (table.paths, *(getattr(table, name) for name in COLUMNS))}
        if len(views) != 1 or table.scores.ndim != 3 or table.correct.shape != table.scores.shape[:2]:
            raise ValueError("its columns do not fit each other")
        return Kept(table, dict(content["adaptive"]))
