"""Folders of image ViTs, local or from the hub: timm's, and transformers' ViT, DeiT, DINOv2 and CLIP."""

from __future__ import annotations

import os
from typing import Any

import timm
import torch

from revit_video.models.timm_weights import settings_of_vit, unlike_ours
from revit_video.models.transformers_folder import ACTS, CONFIG, clips_of, read_object
from revit_video.models.untrusted import CheckpointError, believed
from revit_video.models.vit_layouts import TRANSFORMERS_VITS, settings_of_transformers_vit

Described = tuple[dict[str, Any], dict[str, Any]]
"""What is known of a model's clips, and of its `ReViTConfig`."""


def vit_in(path: str, folder: str) -> Described | None:
    """What the folder tells of its ViT; None if it is of no image model.

    Raises:
        CheckpointError: it has a part that is not known here.
    """
    file = os.path.join(folder, CONFIG)
    said = read_object(file) if os.path.isfile(file) else {}
    if isinstance(said.get("architecture"), str) and isinstance(said.get("pretrained_cfg"), dict):
        with believed(path, CONFIG):
            return _of_timm(path, said)
    if said.get("model_type") not in list(TRANSFORMERS_VITS):  # it may be of any type
        return None
    with believed(path, CONFIG):
        settings = settings_of_transformers_vit(said)
        if said["model_type"] == "dinov2" and said.get("use_swiglu_ffn"):
            settings["act"] = "swiglu"
        elif settings["act"] not in ACTS:
            raise CheckpointError(f"{path} has hidden_act {settings['act']!r}, not {' or '.join(ACTS)}")
        settings["act"] = ACTS.get(settings["act"], settings["act"])
        settings["pre_norm"] = said["model_type"].startswith("clip")
        unread = said.get("architectures") == ["DeiTForImageClassification"]  # its distillation token
        settings["registers"] = said.get("num_register_tokens", 0) + unread
        return clips_of(folder, said), settings


def _of_timm(path: str, said: dict[str, Any]) -> Described:
    name, published = said["architecture"], said["pretrained_cfg"]
    if not timm.is_model(name):
        raise CheckpointError(f"{path}: timm has no such model, {name!r:.60}")
    options = dict(said.get("model_args") or {}) | {"num_classes": said.get("num_classes", 1000)}
    if said.get("global_pool"):
        options["global_pool"] = said["global_pool"]
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False, **options)
    if unlike := unlike_ours(network):
        raise CheckpointError(f"{path} is no ViT that a TimeSformer can start from: {unlike}")
    data = {key: list(published[key]) for key in ("mean", "std") if key in published}
    return data, settings_of_vit(network)


def is_videomae_v2(folder: str) -> bool:
    """Whether the folder has a VideoMAE V2 for transformers, whose weights have its authors' names."""
    file = os.path.join(folder, CONFIG)
    kind = read_object(file).get("model_type") if os.path.isfile(file) else None
    return isinstance(kind, str) and kind.lower().startswith("videomaev2")
