"""Video transformers with adaptive token length (ReViT, arXiv 2112.01686)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revit_video.models.presets import (
        deit_small,
        lvvit_small,
        timesformer_base,
        timesformer_base_hr,
        timesformer_tiny,
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
    "timesformer_base",
    "timesformer_base_hr",
    "timesformer_tiny",
]

_MODULE_OF = {
    "Predictor": "revit_video.predict",
    "ReViT": "revit_video.models.revit",
    "deit_small": "revit_video.models.presets",
    "load": "revit_video.predict",
    "lvvit_small": "revit_video.models.presets",
    "timesformer_base": "revit_video.models.presets",
    "timesformer_base_hr": "revit_video.models.presets",
    "timesformer_tiny": "revit_video.models.presets",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import revit_video` does not import torch."""
    if name in _MODULE_OF:
        return getattr(import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
