"""The models to time: TimeSformer-base at full width with random weights, and its peers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from revit_video.flops import matmul_gmacs
from revit_video.models.base import ResizableModel
from revit_video.models.config import DVTConfig
from revit_video.models.dvt import DVT
from revit_video.models.layers import linear
from revit_video.models.layouts import to_transformers
from revit_video.models.presets import preset, timesformer_base, videomae_base
from revit_video.models.pretrained import at_length
from revit_video.models.revit import ReViT

CLASSES = 400
LENGTHS = ("14x14", "10x10", "7x7")


def base(device: torch.device, lengths: Sequence[str] = LENGTHS, depth: int = 12) -> ReViT:
    """TimeSformer-base with random weights, including those that training initialises to zero."""
    torch.manual_seed(0)
    model = timesformer_base(lengths, CLASSES, depth=depth)
    for block in model.blocks:
        nn.init.trunc_normal_(block.temporal_fc.weight, std=0.02)  # type: ignore[union-attr, arg-type]
    return model.to(device)


def videomae(device: torch.device, lengths: Sequence[str] = LENGTHS, depth: int = 12) -> ReViT:
    """VideoMAE-B, as initialised for training."""
    torch.manual_seed(0)
    return videomae_base(lengths, CLASSES, depth=depth).to(device)


def dvt_base(device: torch.device, lengths: Sequence[str], depth: int = 12) -> DVT:
    """DVT with one TimeSformer-base per length, as initialised for training."""
    torch.manual_seed(0)
    sizes = {"depth": depth, "num_classes": CLASSES, "lengths": lengths}
    return DVT(DVTConfig(**preset("timesformer_base") | sizes)).to(device)


def peer(model: ReViT) -> Any:
    """TimeSformer of transformers with the weights of `model` at its longest length.

    Raises:
        ValueError: transformers is not installed.
    """
    try:
        from transformers import TimesformerConfig, TimesformerForVideoClassification
    except ImportError:
        raise ValueError("forward: transformers, the peer, is not here; pip install '.[test]'") from None
    config = TimesformerConfig(num_frames=model.num_frames, num_hidden_layers=len(model.blocks))
    config.num_labels = CLASSES
    theirs = TimesformerForVideoClassification(config).eval()
    theirs.load_state_dict(to_transformers(at_length(model, 0)))
    return theirs.to(model.device)


def gmacs(model: ReViT, i: int) -> float:
    """GMACs per clip of the matrix products at length `i`, as in papers; inference here takes fewer."""
    return matmul_gmacs(model.config, i)


def random_clips(model: ResizableModel, count: int) -> Tensor:
    size = (count, 3, model.num_frames, model.img_size, model.img_size)
    return torch.randn(size, generator=torch.Generator().manual_seed(1)).to(model.device)


def products(device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """A large matrix product (the first MLP layer on one clip), by torch and by our linear layer."""
    x, weight = (torch.randn(size, 768, device=device, dtype=dtype) for size in (1568, 3072))
    return {"torch": lambda: x @ weight.T, "ours": lambda: linear(x, weight, None)}


PRODUCT_GMACS = 1568 * 768 * 3072 / 1e9


def clock(device: torch.device) -> Callable[[], float]:
    """CPU time if one CPU thread does all the work, which excludes other programs; else wall-clock time."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter
