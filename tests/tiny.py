"""Models small enough for tests, and clips for them."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from revit_video.models.config import DVTConfig, FrozenConfig, ReViTConfig
from revit_video.models.dvt import DVT
from revit_video.models.frozen import FrozenReViT
from revit_video.models.revit import ReViT

SIZE, FRAMES, CLASSES = 32, 3, 5
SIZES: dict[str, Any] = dict(
    num_classes=CLASSES,
    img_size=SIZE,
    num_frames=FRAMES,
    embed_dim=24,
    depth=2,
    num_heads=3,
    mlp_ratio=2.0,
)
Model = TypeVar("Model", bound=nn.Module)


def tiny_revit(seed: int = 0, **changes: Any) -> ReViT:
    """ReViT of two lengths, 8x8 and 4x4, in float64.

    All weights are random, including those that training initialises to zero.
    """
    with torch.random.fork_rng():
        model = ReViT(ReViTConfig(**SIZES | {"lengths": [8, 4]} | changes)).double()
    return _randomised(model, seed)


def tiny_dvt(seed: int = 0, **changes: Any) -> DVT:
    """DVT of three models of the size of `tiny_revit`, at 8x8, 4x4 and 2x2, in float64."""
    arguments = SIZES | {"lengths": [8, 4, 2], "reuse_hidden": 10, "reuse_dim": 6}
    with torch.random.fork_rng():
        model = DVT(DVTConfig(**arguments | changes)).double()
    return _randomised(model, seed)


def tiny_frozen(seed: int = 0, **changes: Any) -> FrozenReViT:
    """Frozen model of 6, 3 and 1 of 6 frames at 4x4, in float64."""
    arguments = SIZES | {"num_frames": 6, "lengths": ["6x4x4", "3x4x4", "1x4x4"]}
    with torch.random.fork_rng():
        model = FrozenReViT(FrozenConfig(**arguments | changes)).double()
    return _randomised(model, seed)


def _randomised(model: Model, seed: int) -> Model:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight += 1
    return model


class LinearAssigner(nn.Module):
    """Assigner with one linear layer from 6 features to 3 lengths, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3, bias=False).double()
        with torch.no_grad():
            self.head.weight.copy_(torch.arange(18).view(3, 6).sin())

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(clips)


def random_clips(count: int, seed: int = 0, frames: int = FRAMES) -> Tensor:
    """Clips `(count, 3, frames, SIZE, SIZE)` in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, frames, SIZE, SIZE, generator=generator, dtype=torch.float64)
