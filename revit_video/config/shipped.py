"""The configs that come with the package, known by names such as `Kinetics/TimeSformer_divST_8x32_224`."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# In an installed package they are inside it (setup.py), in a checkout beside it.
CONFIGS = next((f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir()), _PACKAGE)


def shipped_configs() -> list[str]:
    """Their names, sorted."""
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.glob("*/*.yaml"))


def find_config(path: str) -> str:
    """The file that a config's path or name means; `path` itself if there is neither."""
    if os.path.exists(path):
        return path
    name = path.removeprefix("configs/").removesuffix(".yaml")
    return str(CONFIGS / f"{name}.yaml") if name in shipped_configs() else path
