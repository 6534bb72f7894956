"""Named sizes of ReViT, as settings and as factories: `timesformer_base(lengths=("14x14", "7x7"))`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from revit_video.length import TokenLength
from revit_video.models.config import ReViTConfig
from revit_video.models.revit import ReViT

Lengths = Sequence[int | str | TokenLength]

_BASE: dict[str, Any] = dict(embed_dim=768, depth=12, num_heads=12)
_IMAGE: dict[str, Any] = dict(img_size=224, num_frames=1, embed_dim=384, num_heads=6, attention="space_only")
_LVVIT = dict(stem="lvvit", qkv_bias=False, residual_scale=0.5, dense_head=True, norm_eps=1e-5)
_T2T: dict[str, Any] = dict(stem="t2t", qkv_bias=False, norm_eps=1e-5, positions="fixed", pos_init="sine")
_T2T |= dict(img_size=224, num_frames=1, attention="space_only")
_SMALL_T2T: dict[str, Any] = dict(embed_dim=256, num_heads=4, mlp_ratio=2.0, **_T2T)
_TUBELETS: dict[str, Any] = dict(img_size=224, tubelet=2, attention="joint_space_time")
_VIDEOMAE: dict[str, Any] = dict(
    num_frames=16,
    positions="fixed",
    pos_init="sine",
    pool="mean",
    norm_eps=1e-12,  # transformers' two; 1e-6 in the authors' own code
    head_norm_eps=1e-5,
    **_TUBELETS,
)
PRESETS: dict[str, dict[str, Any]] = {
    "timesformer_base": dict(img_size=224, num_frames=8, **_BASE),
    "timesformer_base_hr": dict(img_size=448, num_frames=16, **_BASE),
    "timesformer_tiny": dict(img_size=48, num_frames=4, embed_dim=96, depth=2, num_heads=4),
    "videomae_small": dict(embed_dim=384, depth=12, num_heads=6, **_VIDEOMAE),
    "videomae_base": dict(**_BASE, **_VIDEOMAE),
    "videomae_large": dict(embed_dim=1024, depth=24, num_heads=16, **_VIDEOMAE),
    "vivit_base": dict(num_frames=32, positions="joint", act="gelu_tanh", **_BASE, **_TUBELETS),
    "deit_small": dict(depth=12, **_IMAGE),
    "t2t_vit_7": dict(depth=7, **_SMALL_T2T),
    "t2t_vit_10": dict(depth=10, **_SMALL_T2T),
    "t2t_vit_12": dict(depth=12, **_SMALL_T2T),
    "t2t_vit_14": dict(embed_dim=384, depth=14, num_heads=6, mlp_ratio=3.0, **_T2T),
    "t2t_vit_19": dict(embed_dim=448, depth=19, num_heads=7, mlp_ratio=3.0, **_T2T),
    "t2t_vit_24": dict(embed_dim=512, depth=24, num_heads=8, mlp_ratio=3.0, **_T2T),
    "lvvit_small": dict(depth=16, mlp_ratio=3.0, **_IMAGE, **_LVVIT),
}


def preset(arch: str) -> dict[str, Any]:
    """Settings of `ReViTConfig` that make it `arch`; ValueError lists the presets if it is none of them."""
    if arch not in PRESETS:
        raise ValueError(f"unknown architecture {arch!r}; there are {', '.join(PRESETS)}")
    return dict(PRESETS[arch])


def timesformer_base(lengths: Lengths = ("14x14", "7x7"), num_classes: int = 400, **changes: Any) -> ReViT:
    """TimeSformer, ViT-B on clips of 8 frames of 224 px; `changes` are further fields of `ReViTConfig`."""
    return _new("timesformer_base", lengths, num_classes, changes)


def timesformer_base_hr(
    lengths: Lengths = ("28x28", "14x14"), num_classes: int = 400, **changes: Any
) -> ReViT:
    """TimeSformer-HR, ViT-B on clips of 16 frames of 448 px."""
    return _new("timesformer_base_hr", lengths, num_classes, changes)


def timesformer_tiny(lengths: Lengths = ("6x6", "3x3"), num_classes: int = 6, **changes: Any) -> ReViT:
    """The demo's model, on clips of 4 frames of 48 px: trains on two CPU cores in minutes."""
    return _new("timesformer_tiny", lengths, num_classes, changes)


def videomae_small(lengths: Lengths = ("14x14", "7x7"), num_classes: int = 400, **changes: Any) -> ReViT:
    """VideoMAE's ViT-S: joint attention of 8 x 14 x 14 tubelets, 16 frames of 224 px, no class token."""
    return _new("videomae_small", lengths, num_classes, changes)


def videomae_base(lengths: Lengths = ("14x14", "7x7"), num_classes: int = 400, **changes: Any) -> ReViT:
    """VideoMAE's ViT-B, likewise."""
    return _new("videomae_base", lengths, num_classes, changes)


def videomae_large(lengths: Lengths = ("14x14", "7x7"), num_classes: int = 400, **changes: Any) -> ReViT:
    """VideoMAE's ViT-L, likewise."""
    return _new("videomae_large", lengths, num_classes, changes)


def vivit_base(lengths: Lengths = ("14x14", "7x7"), num_classes: int = 400, **changes: Any) -> ReViT:
    """ViViT-B (model 1): joint attention of a class token and 16 x 14 x 14 tubelets, 32 frames of 224 px."""
    return _new("vivit_base", lengths, num_classes, changes)


def deit_small(lengths: Lengths = ("14x14", "7x7"), num_classes: int = 1000, **changes: Any) -> ReViT:
    """DeiT-S, for images of 224 px: clips `(B, 3, 1, 224, 224)`."""
    return _new("deit_small", lengths, num_classes, changes)


def t2t_vit_7(lengths: Lengths = ("14x14", "7x7"), num_classes: int = 1000, **changes: Any) -> ReViT:
    """T2T-ViT-7, for images of 224 px: soft splits and performers before 7 plain blocks."""
    return _new("t2t_vit_7", lengths, num_classes, changes)


def t2t_vit_10(lengths: Lengths = ("14x14", "7x7"), num_classes: int = 1000, **changes: Any) -> ReViT:
    """T2T-ViT-10, for images of 224 px: soft splits and performers before 10 plain blocks."""
    return _new("t2t_vit_10", lengths, num_classes, changes)


def t2t_vit_12(lengths: Lengths = ("14x14", "7x7"), num_classes: int = 1000, **changes: Any) -> ReViT:
    """T2T-ViT-12, for images of 224 px: soft splits and performers before 12 plain blocks."""
    return _new("t2t_vit_12", lengths, num_classes, changes)


def t2t_vit_14(lengths: Lengths = ("14x14", "7x7"), num_classes: int = 1000, **changes: Any) -> ReViT:
    """T2T-ViT-14, for images of 224 px: soft splits and performers before 14 plain blocks."""
    return _new("t2t_vit_14", lengths, num_classes, changes)


def t2t_vit_19(lengths: Lengths = ("14x14", "7x7"), num_classes: int = 1000, **changes: Any) -> ReViT:
    """T2T-ViT-19, for images of 224 px: soft splits and performers before 19 plain blocks."""
    return _new("t2t_vit_19", lengths, num_classes, changes)


def t2t_vit_24(lengths: Lengths = ("14x14", "7x7"), num_classes: int = 1000, **changes: Any) -> ReViT:
    """T2T-ViT-24, for images of 224 px: soft splits and performers before 24 plain blocks."""
    return _new("t2t_vit_24", lengths, num_classes, changes)


def lvvit_small(lengths: Lengths = ("14x14", "7x7"), num_classes: int = 1000, **changes: Any) -> ReViT:
    """LV-ViT-S, for images: deeper, with a stem of convolutions and a head for every patch token."""
    return _new("lvvit_small", lengths, num_classes, changes)


def _new(arch: str, lengths: Lengths, num_classes: int, changes: dict[str, Any]) -> ReViT:
    settings = preset(arch) | {"lengths": lengths, "num_classes": num_classes}
    return ReViT(ReViTConfig(**settings | changes))
