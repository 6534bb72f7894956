"""Small models of other projects; all weights random, including those initialised to zero."""

from __future__ import annotations

import logging
from typing import Any

import torch
import transformers
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tests.tiny import CLASSES, FRAMES, SIZE

transformers.utils.logging.set_verbosity(logging.ERROR)
transformers.utils.logging.disable_progress_bar()
PATCH = 4


def random_timesformer(**changes: Any) -> transformers.TimesformerForVideoClassification:
    """TimeSformer of transformers, of the size of `tiny_revit` at its longest length."""
    arguments: dict[str, Any] = dict(
        image_size=SIZE,
        patch_size=PATCH,
        num_frames=FRAMES,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=48,
        num_labels=CLASSES,
    )
    config = transformers.TimesformerConfig(**arguments | changes)
    return randomised(transformers.TimesformerForVideoClassification(config))


def random_vit(**changes: Any) -> VisionTransformer:
    """ViT of timm, of the same size."""
    arguments: dict[str, Any] = dict(
        img_size=SIZE,
        patch_size=PATCH,
        embed_dim=24,
        depth=2,
        num_heads=3,
        mlp_ratio=2,
        num_classes=CLASSES,
    )
    return randomised(VisionTransformer(**arguments | changes))


def randomised(model: Any) -> Any:
    """`model` in eval mode, with non-zero parameters and logits of the order of 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 25
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight += 1
    return model.eval()
