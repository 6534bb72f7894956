"""Named sizes of the backbone."""

from __future__ import annotations

from typing import Any

from revit_video.models.norm import NORM_EPS

PRESETS: dict[str, dict[str, Any]] = {
    # ViT-B/16 at 8 x 224, TimeSformer's default.
    "timesformer_base": dict(
        img_size=224, num_frames=8, embed_dim=768, depth=12, num_heads=12, mlp_ratio=4.0
    ),
    # The same at 16 x 448, TimeSformer-HR.
    "timesformer_base_hr": dict(
        img_size=448, num_frames=16, embed_dim=768, depth=12, num_heads=12, mlp_ratio=4.0
    ),
    # ViT-S/16 for images, which are clips of one frame; its attention is space_only.
    "deit_small": dict(img_size=224, num_frames=1, embed_dim=384, depth=12, num_heads=6, mlp_ratio=4.0),
    # LV-ViT-S: deeper, with a convolutional stem, and a second head that classifies every patch token.
    "lvvit_small": dict(
        img_size=224,
        num_frames=1,
        embed_dim=384,
        depth=16,
        num_heads=6,
        mlp_ratio=3.0,
        stem="lvvit",
        qkv_bias=False,
        residual_scale=0.5,
        dense_head=True,
        norm_eps=1e-5,
    ),
    # The demo's: trains on two CPU cores in minutes.
    "timesformer_tiny": dict(img_size=48, num_frames=4, embed_dim=96, depth=2, num_heads=4, mlp_ratio=4.0),
}

# What the arguments say of a model that has no part of LV-ViT or of a distilled DeiT. Presets and checkpoints
# leave these out.
PLAIN: dict[str, Any] = dict(
    stem="patch",
    qkv_bias=True,
    residual_scale=1.0,
    dense_head=False,
    norm_eps=NORM_EPS,
    token_at_longest=False,
)


def preset(arch: str) -> dict[str, Any]:
    """The arguments of `ReViT` that make it `arch`; ValueError lists the presets when it is none of them."""
    if arch not in PRESETS:
        raise ValueError(f"unknown architecture {arch!r}; there are {', '.join(PRESETS)}")
    return dict(PRESETS[arch])
