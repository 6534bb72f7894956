"""Label maps of images, in the format of `TokenLabelMaps`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

GRID = 18


def label_map(scores: Tensor) -> Tensor:
    """Label map from scores `(K, H, W)` of K classes: float16 `(2, K, H, W)`, highest score first."""
    values, classes = scores.sort(dim=0, descending=True)
    return torch.stack([values.half(), classes.half()])


def constant_map(shown: int, score: float = 9.0, classes: int = 5) -> Tensor:
    """Label map with `score` for one class everywhere and 0 for the others."""
    scores = torch.zeros(classes, GRID, GRID)
    scores[shown] = score
    return label_map(scores)


def write_map(folder: Path, image: Path, content: Tensor) -> Path:
    """Writes the map of `image` to its place in a folder of maps; returns the path."""
    path = folder / image.parent.name / f"{image.stem}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path
