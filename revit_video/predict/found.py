"""What a user's words for a model and a device stand for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from revit_video.models import checkpoint, saved_epochs
from revit_video.runtime import output_dir


def device_of(name: str) -> torch.device:
    """The device of that name; ValueError if it is not here."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = [
        "cpu",
        *(f"cuda:{n}" for n in range(gpus)),
        *(["mps"] if torch.backends.mps.is_available() else []),
    ]
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    if (f"{name}:0" if name == "cuda" else name) not in there:
        raise ValueError(f"device {name}: not here; there are auto, {', '.join(there)}")
    return torch.device(name)


def saved_in(path: str) -> checkpoint.Checkpoint:
    """The checkpoint that `path` names: a file, a run's OUTPUT_DIR, a saved folder or one of the hub."""
    if path.startswith("hf:") and not os.path.exists(path):
        from revit_video.models.transformers_folder import hub_folder

        path = hub_folder(path)
    if os.path.isdir(path) and not os.path.isfile(os.path.join(path, output_dir.MODEL)):
        from revit_video.models.saved_folder import is_saved_folder, read_saved

        if is_saved_folder(path):
            return read_saved(path)
    return checkpoint.read(_checkpoint_in(path))


def _checkpoint_in(path: str) -> str:
    """The checkpoint that `path` names or, as a run's OUTPUT_DIR, holds."""
    if not os.path.isdir(path):
        return path
    whole = os.path.join(path, output_dir.MODEL)
    if os.path.isfile(whole):
        return whole
    last = saved_epochs.newest(os.path.join(path, output_dir.CHECKPOINTS)) or saved_epochs.newest(path)
    if last is None:
        raise checkpoint.CheckpointError(
            f"{path}: holds neither {output_dir.MODEL} nor {output_dir.CHECKPOINTS} of a run; "
            f"{checkpoint.CONVERT}"
        )
    return last


def without_backbone(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's content without the weights of the backbone, which the model holds, and its training."""
    model = {name: own for name, own in payload["model"].items() if name != "weights"}
    return {part: own for part, own in payload.items() if part != "training"} | {"model": model}
