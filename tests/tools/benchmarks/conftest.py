"""Models small enough for tests, in place of TimeSformer-base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from benchmarks import forward, timesformer, training

from revit_video.models.config import DVTConfig, ReViTConfig
from revit_video.models.dvt import DVT
from revit_video.models.revit import ReViT

SMALL: dict[str, Any] = dict(img_size=28, num_frames=2, embed_dim=16, depth=2, num_heads=2, mlp_ratio=4.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suites time tiny models."""

    def model(device: torch.device, lengths: Sequence[str] = timesformer.LENGTHS, depth: int = 2) -> ReViT:
        return ReViT(ReViTConfig(num_classes=timesformer.CLASSES, lengths=lengths, **SMALL))

    def cascade(device: torch.device, lengths: Sequence[str], depth: int = 2) -> DVT:
        return DVT(DVTConfig(num_classes=timesformer.CLASSES, lengths=lengths, **SMALL))

    for module in (forward, training):
        monkeypatch.setattr(module, "base", model)
    monkeypatch.setattr(training, "dvt_base", cascade)
    monkeypatch.setattr(forward, "videomae", model)
