"""Label maps of images, as `TokenLabelMaps` reads them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

GRID = 18


def label_map(scores: Tensor) -> Tensor:
    """The map of scores `(K, H, W)` of the first K classes: float16 `(2, K, H, W)`, highest scores first."""
    values, classes = scores.sort(dim=0, descending=True)
    return torch.stack([values.half(), classes.half()])


def constant_map(shown: int, score: float = 9.0, classes: int = 5) -> Tensor:
    """One class everywhere, among several; the others score 0."""
    scores = torch.zeros(classes, GRID, GRID)
    scores[shown] = score
    return label_map(scores)


def write_map(folder: Path, image: Path, content: Tensor) -> Path:
    """Writes the map of `image` to where it belongs in a folder of maps."""
    path = folder / image.parent.name / f"{image.stem}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path
