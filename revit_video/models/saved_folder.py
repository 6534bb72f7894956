"""A model as a folder of `config.json` and `model.safetensors`, as the hub has them: nothing pickled."""

from __future__ import annotations

import os
from typing import Any

import safetensors.torch
import simplejson
from safetensors import SafetensorError

from revit_video.models.checkpoint import FORMAT, Checkpoint, recognised
from revit_video.models.transformers_folder import CONFIG, SAFETENSORS, read_object
from revit_video.models.untrusted import CheckpointError, one_line
from revit_video.runtime.archive import hollow
from revit_video.runtime.output_dir import atomic_write_text, replacing

PARTS = ("model", "assigner")  # of a checkpoint, that have weights


def write_saved(folder: str, payload: dict[str, Any]) -> None:
    """Write the checkpoint `payload`; `read_saved` gives the same back, bit by bit."""
    weights = {
        f"{part}.{name}": value.detach().cpu().clone().contiguous()
        for part in PARTS
        if part in payload
        for name, value in payload[part]["weights"].items()
    }
    content = {
        part: {name: value for name, value in own.items() if name != "weights"} if part in PARTS else own
        for part, own in payload.items()
    }
    os.makedirs(folder, exist_ok=True)
    with replacing(os.path.join(folder, SAFETENSORS), "wb") as file:
        file.write(safetensors.torch.save(weights, {"format": "pt"}))
    atomic_write_text(os.path.join(folder, CONFIG), simplejson.dumps(content, indent=1) + "\n")


def is_saved_folder(folder: str) -> bool:
    """Whether a folder holds the two files of `write_saved`, at least by their names."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in (CONFIG, SAFETENSORS))


def read_saved(folder: str) -> Checkpoint:
    """The checkpoint of `write_saved`; CheckpointError for anything else."""
    config, file = os.path.join(folder, CONFIG), os.path.join(folder, SAFETENSORS)
    payload = read_object(config)
    if payload.get("format") != FORMAT:
        others = "revit-video convert reads others"
        raise CheckpointError(f"{folder} is no model that revit_video saved; {others}")
    if reason := hollow(file):
        raise CheckpointError(f"{file}: {reason}")
    try:
        tensors = safetensors.torch.load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read: {one_line(error)}") from None
    for part in {*PARTS} & payload.keys():
        if not isinstance(payload[part], dict):
            raise CheckpointError(f"{config}: its {part} is not settings by name")
        prefix = f"{part}."
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        payload[part]["weights"] = own
    return recognised(file, payload)
