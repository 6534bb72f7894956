"""Video transformers that spend no more tokens than a clip needs (ReViT)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revit_video.predict import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`revit_video.load`, imported when it is first used: the parts of the package do not need it."""
    if name == "load":
        from revit_video.predict import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
