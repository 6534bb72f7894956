"""Video transformers with adaptive token length (ReViT, arXiv 2112.01686)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revit_video.models.presets import (
        deit_small,
        lvvit_small,
        t2t_vit_7,
        t2t_vit_10,
        t2t_vit_12,
        t2t_vit_14,
        t2t_vit_19,
        t2t_vit_24,
        timesformer_base,
        timesformer_base_hr,
        timesformer_tiny,
        videomae_base,
        videomae_large,
        videomae_small,
        vivit_base,
    )
    from revit_video.models.revit import ReViT
    from revit_video.predict import Predictor, load

__version__ = "0.1.0"  # setup.py finds it here
__all__ = [
    "Predictor",
    "ReViT",
    "__version__",
    "deit_small",
    "load",
    "lvvit_small",
    "t2t_vit_10",
    "t2t_vit_12",
    "t2t_vit_14",
    "t2t_vit_19",
    "t2t_vit_24",
    "t2t_vit_7",
    "timesformer_base",
    "timesformer_base_hr",
    "timesformer_tiny",
    "videomae_base",
    "videomae_large",
    "videomae_small",
    "vivit_base",
]

_MODULE_OF = {"Predictor": "predict", "ReViT": "models.revit", "load": "predict"}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import revit_video` does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'models.presets')}"), name)
