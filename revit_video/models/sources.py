"""Reading the weights that a model may start from; a source is recognised by its content.

- `timm:<name>`: a ViT of timm, its weights by way of timm, which may download them.
- A file, of torch or safetensors: a checkpoint of this project, TimeSformer's `.pyth`, a timm ViT's weights,
  LV-ViT's `.pth.tar`.
- A folder: transformers' TimeSformer. Nothing in it, or in any file, is ever executed.
"""

from __future__ import annotations

import difflib
import os
import re
from typing import Any

import safetensors.torch
import simplejson
import timm
import torch
from safetensors import SafetensorError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from revit_video.models import checkpoint
from revit_video.models.checkpoint import CheckpointError
from revit_video.models.config import NORM_EPS
from revit_video.models.pretrained import (
    LVVIT_STEM,
    PretrainedWeights,
    all_lengths,
    from_transformers,
    single_length,
)
from revit_video.models.timm_weights import pretrained_network

TIMM = "timm:"
OFFICIAL_DATA = {"mean": [0.45] * 3, "std": [0.225] * 3}  # of all models that TimeSformer's authors published
# Unknown from LV-ViT's weights. Valid for LV-ViT-S and -M; `skip_lam` is 1 in T and 3 in L.
LVVIT = {
    "attention": "space_only",
    "residual_scale": 0.5,
    "norm_eps": 1e-5,
    "data": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
LVVIT_NOTE = "it does not tell skip_lam: taken as 2, as in LV-ViT-S and -M"

# transformers: what its config may not change, and what it is where the config does not say.
FIXED = {"hidden_act": "gelu", "layer_norm_eps": NORM_EPS, "qkv_bias": True, "num_channels": 3}
DEFAULTS = {
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "attention_type": "divided_space_time",
}
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
SAFETENSORS, TORCH_BIN = "model.safetensors", "pytorch_model.bin"


def read_source(path: str) -> PretrainedWeights:
    """The weights at `path` and what they tell of their model.

    Raises:
        CheckpointError: not readable, or of a model with different arithmetic.
        ValueError: likewise for what is inside; always one line.
    """
    path = os.path.expanduser(path)
    if path.startswith(TIMM):
        return _timm_model(path)
    if os.path.isdir(path):
        return _transformers_folder(path)
    payload = _read_file(path)
    if "format" in payload:
        return _own(checkpoint.recognised(path, payload))
    return _bare(path, payload)


def clip_data(path: str) -> dict[str, Any]:
    """What is known of the source's clips (`mean`, `std` ...), without a download; may be empty.

    Raises:
        CheckpointError, ValueError: see `read_source`.
    """
    if path.startswith(TIMM):
        known = _timm_config(path)
        return {"mean": list(known.mean), "std": list(known.std)}
    if os.path.isdir(path):
        return _transformers_data(path, _transformers_config(path))
    payload = _read_file(path, "meta")  # only names matter here
    if "format" in payload:
        return checkpoint.recognised(path, payload).payload["data"]
    return _bare(path, payload).data


# ---- Files -----------------------------------------------------------------------------------------------


def _read_file(path: str, device: str = "cpu") -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            start = file.read(9)
            if start[8:] != b"{":  # what safetensors' header begins with, after its length
                return checkpoint.load_payload(path, device)
            return safetensors.torch.load(start + file.read())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {error}") from None


def _own(found: checkpoint.Checkpoint) -> PretrainedWeights:
    if found.kind == "dvt":
        raise CheckpointError(
            f"{found.path} is a DVT, whose models do not stand alone: nothing is made of its weights"
        )
    with torch.random.fork_rng():  # its initial weights are not used, and must not move the seed on
        (model,) = found.model().parts
    notes = ("the assigner that it holds is left out",) if "assigner" in found.payload else ()
    return all_lengths(found.path, model, data=found.payload["data"], notes=notes)


def _bare(path: str, payload: dict[str, Any]) -> PretrainedWeights:
    """TimeSformer's, a timm ViT's or an LV-ViT's weights, alone or as a training left them."""
    official = "model_state" in payload
    for key in ("model_state", "state_dict", "model"):
        if isinstance(payload.get(key), dict):
            payload = payload[key]
    for prefix in ("module.", "model."):
        if payload and all(name.startswith(prefix) for name in payload):
            payload = {name.removeprefix(prefix): value for name, value in payload.items()}
    if others := [name for name, value in payload.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(
            f"{path} holds no weights, or more than those: {', '.join(map(str, others[:4]))}"
        )
    if LVVIT_STEM in payload:
        state = {re.sub(r"^aux_head\.", "head_dense.", name): value for name, value in payload.items()}
        return single_length(path, state, **LVVIT, notes=(LVVIT_NOTE,))
    if any(".temporal_attn." in name for name in payload):
        return single_length(path, payload, attention="divided_space_time", data=OFFICIAL_DATA)
    if "time_embed" in payload:
        return single_length(path, payload, attention="joint_space_time", data=OFFICIAL_DATA)
    if official:
        return single_length(path, payload, attention="space_only", data=OFFICIAL_DATA)
    note = "it does not tell LayerNorm's eps, GELU's kind and the pooling: taken as 1e-6, exact, class token"
    return single_length(path, payload, notes=(note,))


# ---- timm ------------------------------------------------------------------------------------------------


def _timm_config(path: str) -> Any:
    name = path.removeprefix(TIMM)
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a known model with a tag that it does not have
        raise ValueError(f"{path}: {error}") from None
    if known is None:
        alike = difflib.get_close_matches(name, timm.list_models())
        raise ValueError(f"{path}: timm has no such model; the nearest: {', '.join(alike) or 'none'}")
    return known


def _timm_model(path: str) -> PretrainedWeights:
    name, data = path.removeprefix(TIMM), clip_data(path)
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    if unlike := _unlike_ours(model):
        raise ValueError(f"{path} is no ViT that a TimeSformer can start from: {unlike}")
    try:
        model = pretrained_network(name)
    except Exception as error:  # hubs, sockets and disks each have their own
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(
            f"{path}: its weights cannot be had here ({reason}); name a local file of them, "
            "or train from scratch with TRAIN.CHECKPOINT_FILE_PATH ''"
        ) from None
    heads = model.blocks[0].attn.num_heads
    return single_length(path, model.state_dict(), num_heads=heads, data=data)


def _unlike_ours(model: Any) -> str:
    """How its arithmetic differs from ours where its weights' names do not show it; empty if it does not."""
    if type(model) is not VisionTransformer:
        return f"it is a {type(model).__name__}, not a VisionTransformer"
    if model.global_pool not in ("token", ""):
        return f"it pools with {model.global_pool!r}, not by the class token"
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.eps != NORM_EPS:
            return f"its LayerNorm's eps is {module.eps}, not {NORM_EPS}"
    for block in model.blocks:
        act = getattr(block.mlp, "act", None)
        if type(act).__name__ != "GELU" or getattr(act, "approximate", "none") != "none":
            return f"its MLPs have {type(act).__name__}, not the exact GELU"
    return ""


# ---- transformers ----------------------------------------------------------------------------------------


def _transformers_folder(path: str) -> PretrainedWeights:
    config = _transformers_config(path)
    names = [name for name in (SAFETENSORS, TORCH_BIN) if os.path.isfile(os.path.join(path, name))]
    if not names:
        raise CheckpointError(f"{path} holds neither {SAFETENSORS} nor {TORCH_BIN}")
    state = from_transformers(_read_file(os.path.join(path, names[0])))
    attention: str = config["attention_type"]
    notes: tuple[str, ...] = ()
    if attention == "space_only":
        notes += (
            "transformers gives logits for every frame of a space-only model; here, as in TimeSformer's own "
            "code, the frames' class tokens are averaged",
        )
    source = single_length(
        path,
        state,
        attention=attention,
        num_heads=config["num_attention_heads"],
        data=_transformers_data(path, config),
        notes=notes,
    )
    size, patch, side = config["image_size"], config["patch_size"], source.lengths[0].h
    kernel = tuple(state["patch_embed.proj.weight"].shape[2:])
    if size != side * patch or kernel != (patch, patch):
        raise CheckpointError(
            f"{path}: {CONFIG} says image_size {size} and patch_size {patch}, "
            f"its weights are of {side}x{side} patches of {'x'.join(map(str, kernel))} pixels"
        )
    return source


def _transformers_config(path: str) -> dict[str, Any]:
    if not os.path.isfile(os.path.join(path, CONFIG)):
        raise CheckpointError(
            f"{path}: a folder without {CONFIG}; name a folder of transformers, or a file, such as a run's "
            "model.pyth"
        )
    config = DEFAULTS | FIXED | _read_json(os.path.join(path, CONFIG))
    if config.get("model_type") != "timesformer":
        raise CheckpointError(f"{path} is a model of type {config.get('model_type')!r}, not 'timesformer'")
    if differing := [
        f"{key} {config[key]!r} (here: {value!r})" for key, value in FIXED.items() if config[key] != value
    ]:
        raise CheckpointError(f"{path} has another arithmetic: {', '.join(differing)}")
    return config


def _transformers_data(path: str, config: dict[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation from the preprocessor; class names where labels are more than numbers."""
    data: dict[str, Any] = {}
    preprocessor = os.path.join(path, PREPROCESSOR)
    if os.path.isfile(preprocessor):
        said = _read_json(preprocessor)
        data |= {
            to: said[name] for to, name in (("mean", "image_mean"), ("std", "image_std")) if name in said
        }
    labels = {int(n): str(label) for n, label in config.get("id2label", {}).items()}
    names = [labels[n] for n in sorted(labels)]
    if names != [f"LABEL_{n}" for n in range(len(names))]:
        data["class_names"] = names
    return data


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = simplejson.load(file)
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not an object with keys")
    return content
