"""Tables small enough to check by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from revit_video.adaptive.table import Table


def table_of_scores(scores: Tensor, labels: Tensor, rows: Tensor, assigned: Tensor | None = None) -> Table:
    """A table of `scores` `(V, lengths, classes)`; views are of clips of their own, one crop each."""
    count = len(scores)
    return Table(
        paths=[f"{row}.mp4" for row in rows.tolist()],
        rows=rows,
        labels=labels,
        starts=torch.arange(count).double(),
        clip_index=torch.arange(count),
        crops=torch.zeros(count, dtype=torch.long),
        correct=scores.argmax(dim=2) == labels[:, None],
        scores=scores,
        assigned=torch.zeros(count, 0) if assigned is None else assigned,
        skipped=[],
    )
