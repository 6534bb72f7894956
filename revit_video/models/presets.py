"""Named sizes of the backbone."""

from __future__ import annotations

from typing import Any

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
    # The demo's: trains on two CPU cores in minutes.
    "timesformer_tiny": dict(img_size=48, num_frames=4, embed_dim=96, depth=2, num_heads=4, mlp_ratio=4.0),
}


def preset(arch: str) -> dict[str, Any]:
    """Size arguments of `ReViT`; ValueError lists the presets when `arch` is none of them."""
    if arch not in PRESETS:
        raise ValueError(f"unknown architecture {arch!r}; there are {', '.join(PRESETS)}")
    return dict(PRESETS[arch])
