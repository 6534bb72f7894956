"""Reading the weights that a model may start from; a source is recognised by its content.

- `timm:<name>`: a ViT of timm, its weights by way of timm, which may download them.
- `hf:<owner>/<name>[@revision]`, or a folder: transformers' TimeSformer, VideoMAE or ViViT; a ViT of timm or
  transformers.
- A file, of torch or safetensors: a checkpoint of this project, TimeSformer's `.pyth`, VideoMAE's `.pth`, a
  ViT's weights under timm's names, LV-ViT's, T2T-ViT's and DVT's `.pth.tar`; see `trainers_file` for what may
  be around them.

Nothing in a folder, or in any file, is ever executed.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor

from revit_video.models import checkpoint
from revit_video.models.checkpoint import CheckpointError
from revit_video.models.config import NORM_EPS, DVTConfig
from revit_video.models.layouts import (
    DVT_PARTS,
    KERNEL,
    T2T,
    T2T_HEAD,
    T2T_ROWS,
    T2T_STEM,
    VIDEOMAE,
    VIDEOMAE_BIAS,
    VIDEOMAE_HEADS,
    activation,
    fixed_places,
    from_t2t,
    from_videomae,
    from_vit,
    parts_of_dvt,
    pooling,
    with_biases,
)
from revit_video.models.pretrained import (
    LVVIT_STEM,
    PretrainedWeights,
    all_lengths,
    cascade_of,
    single_length,
)
from revit_video.models.timm_weights import pretrained_network, settings_of_vit, unlike_ours
from revit_video.models.trainers_file import network_in, stand_ins, weights_in
from revit_video.models.transformers_folder import (
    HUB,
    clips_of,
    hub_folder,
    read_config,
    settings_of,
    weights_files,
    weights_of,
)
from revit_video.models.untrusted import believed, shown
from revit_video.models.vit_folders import is_videomae_v2, vit_in
from revit_video.models.vit_layouts import CLIP_STEM, from_clip, from_transformers_vit
from revit_video.runtime.archive import hollow
from revit_video.runtime.output_dir import open_ordinary

TIMM = "timm:"
FROM_SCRATCH = (
    "From scratch, 120 clips of six actions gave 42 %; with such weights, 60 give 97 % (docs/real_clips.md)"
)
OFFICIAL_DATA = {"mean": [0.45] * 3, "std": [0.225] * 3}  # of all models that TimeSformer's authors published
IMAGENET_DATA = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
# Unknown from LV-ViT's weights. Valid for LV-ViT-S and -M; `skip_lam` is 1 in T and 3 in L.
LVVIT: dict[str, Any] = {
    "attention": "space_only",
    "residual_scale": 0.5,
    "norm_eps": 1e-5,
    "data": IMAGENET_DATA,
}
LVVIT_NOTE = "it does not tell skip_lam: taken as 2, as in LV-ViT-S and -M"
DVT_NOTE = "DVT: queries scaled by head width^-0.5, as its code runs them"
T2T_NOTES = {
    "width": "T2T-ViT: queries scaled by width^-0.5; TRAIN.QUERY_SCALE head: by head width^-0.5",
    "head": "T2T-ViT: queries scaled by head width^-0.5, as TRAIN.QUERY_SCALE says",
}
CLIP_DATA = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
CLIP_NOTE = (
    "CLIP: it does not tell GELU's kind: exact as in OpenCLIP, unless MODEL.ACT is quick_gelu (OpenAI)"
)
VIDEOMAE_STEPS, VIDEOMAE_SIZE = 8, 224
VIDEOMAE_NOTE = "it does not tell the frames of a clip and their size: taken as 8 tubelets of 224 px"


def read_source(path: str, key: str = "", query_scale: str = "width") -> PretrainedWeights:
    """The weights at `path` and what they tell of their model.

    Args:
        key: which of several sets of weights in a file of another trainer; empty for the likeliest.
        query_scale: of a T2T-ViT's own file, see `from_t2t`: a key of `T2T_NOTES`.

    Raises:
        CheckpointError: not readable, or of a model with different arithmetic.
        ValueError: likewise for what is inside; always one line.
    """
    path = _whole(path)
    with believed(path, "weights"):
        return _source(path, key, query_scale)


def _source(path: str, key: str, query_scale: str = "width") -> PretrainedWeights:
    if path.startswith(TIMM):
        return _timm_model(path)
    if path.startswith(HUB) or os.path.isdir(path):
        return _folder(path, hub_folder(path) if path.startswith(HUB) else path)
    payload = _read_file(path)
    if "format" in payload:
        return _own(checkpoint.recognised(path, payload))
    return _bare(path, payload, key, query_scale)


def described(path: str, key: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """What a source tells without its weights, which are not downloaded.

    Returns:
        What is known of its clips (`mean`, `std` ...), and of its `ReViTConfig`; both may be empty.

    Raises:
        CheckpointError, ValueError: see `read_source`.
    """
    path = _whole(path)
    with believed(path, "weights"):
        return _described(path, key)


def _described(path: str, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    if path.startswith(TIMM):
        return _timm_data(path), _timm_settings(path)
    if path.startswith(HUB) or os.path.isdir(path):
        folder = hub_folder(path, weights=False) if path.startswith(HUB) else path
        if is_videomae_v2(folder):  # whose weights tell more than its config
            source = _source(path, key)
            return source.data, source.settings
        if vit := vit_in(path, folder):
            return vit
        config = read_config(path, folder)
        return clips_of(folder, config), settings_of(config)
    payload = _read_file(path, "meta")  # only names and shapes matter here
    if "format" in payload:
        found = checkpoint.recognised(path, payload)
        return vars(found.data), found.config.to_dict()
    source = _bare(path, payload, key)
    return source.data, source.settings


def _whole(path: str) -> str:
    """`timm:hf-hub:<owner>/<name>` and `timm:<owner>/<name>` are models of the hub too."""
    name = re.sub(r"^(hf-hub:|hf_hub:)", "", path.removeprefix(TIMM))
    return HUB + name if path.startswith(TIMM) and "/" in name else os.path.expanduser(path)


# ---- Folders ---------------------------------------------------------------------------------------------


def _folder(path: str, folder: str) -> PretrainedWeights:
    vit, as_authors = vit_in(path, folder), is_videomae_v2(folder)
    if vit is None and not as_authors:
        read_config(path, folder)  # says what it is before the weights are read
    state: dict[str, Tensor] = {}
    files = weights_files(path, folder)
    if reason := hollow(*files):
        raise CheckpointError(f"{path}: {reason}")
    for file, names in files.items():
        payload = _read_file(file)
        if absent := names - payload.keys():
            raise CheckpointError(f"{file} lacks {shown(min(absent))}, which the index says is there")
        part = weights_in(file, payload)[1]
        if twice := part.keys() & state.keys():
            raise CheckpointError(f"{path}: {shown(min(twice))} is in two files, {file} and one before")
        state |= part
    if as_authors:
        return _bare(path, {"model": state}, "")
    if vit is None:
        return weights_of(path, folder, state)
    data, settings = vit
    pool = settings.pop("pool", "cls")
    settings.pop("registers", None)
    state = from_vit(from_transformers_vit(state), pool)
    return single_length(path, state, data=data, pool=pool, **settings)


# ---- Files -----------------------------------------------------------------------------------------------


def _read_file(path: str, device: str = "cpu") -> dict[str, Any]:
    try:
        with open_ordinary(path) as file:
            start = file.read(9)
            if start[8:] != b"{":  # what safetensors' header begins with, after its length
                return checkpoint.load_payload(path, device, stand_ins())
            if reason := hollow(path):
                raise CheckpointError(f"{path}: {reason}")
            return safetensors.torch.load(start + file.read())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {error}") from None


def _own(found: checkpoint.Checkpoint) -> PretrainedWeights:
    if found.kind == "frozen":
        raise CheckpointError(
            f"{found.path} has a frozen backbone: start from the weights that it was made of"
        )
    with torch.random.fork_rng():  # its initial weights are not used, and must not move the seed on
        model = found.model()
    notes = ("the assigner that it holds is left out",) if "assigner" in found.payload else ()
    parts = [all_lengths(found.path, part, data=vars(found.data), notes=notes) for part in model.parts]
    return cascade_of(parts, model.config) if isinstance(model.config, DVTConfig) else parts[0]


def _bare(path: str, payload: Mapping[str, Any], key: str, query_scale: str = "width") -> PretrainedWeights:
    """TimeSformer's, VideoMAE's, a ViT's or an LV-ViT's weights, alone or as a training left them."""
    taken, state, note = weights_in(path, payload, key)
    notes = (note,) if note else ()
    if any(name.startswith(DVT_PARTS) for name in state):
        parts = [_part_of_dvt(path, part, notes) for part in parts_of_dvt(state)]
        return cascade_of(parts)
    if LVVIT_STEM in state:
        state = {re.sub(r"^aux_head\.", "head_dense.", name): value for name, value in state.items()}
        return single_length(path, state, **LVVIT, notes=(*notes, LVVIT_NOTE))
    if T2T_STEM in state:
        return _t2t(path, from_t2t(state, query_scale == "width"), (*notes, T2T_NOTES.get(query_scale, "")))
    for encoder in ("", "encoder."):
        kernel = state.get(encoder + KERNEL)  # BEiT has such biases too, and flat patches
        if encoder + VIDEOMAE_BIAS in state and (kernel is None or kernel.ndim == 5):
            return _videomae(path, from_videomae(state), notes)
    if any(".embeddings." in f".{name}" for name in state):
        raise CheckpointError(f"{path} has transformers' names: give the folder, with its config.json")
    state, beside = network_in(state)
    notes = (*notes, beside) if beside else notes
    if any(".temporal_attn." in name for name in state):
        return single_length(path, state, attention="divided_space_time", data=OFFICIAL_DATA, notes=notes)
    if "time_embed" in state:
        return single_length(path, state, attention="joint_space_time", data=OFFICIAL_DATA, notes=notes)
    if taken == "model_state":  # TimeSformer's own
        return single_length(path, state, attention="space_only", data=OFFICIAL_DATA, notes=notes)
    if CLIP_STEM in state:
        heads = len(state[CLIP_STEM]) // T2T_HEAD
        known: dict[str, Any] = dict(num_heads=heads, norm_eps=1e-5)
        state = from_vit(from_clip(state), "cls")
        return single_length(path, state, data=CLIP_DATA, notes=(*notes, CLIP_NOTE), **known)
    pool = pooling(state)
    words = "class token" if pool == "cls" else "mean"
    note = f"it does not tell LayerNorm's eps, GELU's kind and the pooling: taken as 1e-6, exact, {words}"
    data = IMAGENET_DATA if {"mask_token", "dist_token"} & state.keys() else None  # DINOv2's, DeiT's
    state = from_vit(state, pool)
    return single_length(path, state, data=data, pool=pool, act=activation(state), notes=(*notes, note))


def _t2t(path: str, state: dict[str, Tensor], notes: tuple[str, ...]) -> PretrainedWeights:
    if T2T_ROWS not in state:
        raise CheckpointError(
            f"{path} is a T2T-ViT_t: only those with performers in their stem are known here"
        )
    heads = state[KERNEL].shape[0] // T2T_HEAD
    return single_length(path, state, data=IMAGENET_DATA, notes=notes, num_heads=heads, num_frames=1, **T2T)


def _part_of_dvt(path: str, state: dict[str, Tensor], notes: tuple[str, ...]) -> PretrainedWeights:
    """A T2T-ViT or a DeiT, whose heads have 64 channels, with queries scaled by that."""
    if T2T_STEM in state:
        return _t2t(path, from_t2t(state, by_width=False), (*notes, DVT_NOTE))
    heads = state[KERNEL].shape[0] // T2T_HEAD if KERNEL in state else None
    known: dict[str, Any] = dict(num_heads=heads, attention="space_only", norm_eps=NORM_EPS, num_frames=1)
    return single_length(path, with_biases(state), data=IMAGENET_DATA, notes=notes, **known)


def _videomae(path: str, state: dict[str, Tensor], notes: tuple[str, ...]) -> PretrainedWeights:
    """VideoMAE's, from its authors' code."""
    kernel = state.get(KERNEL)
    if kernel is None:
        raise CheckpointError(f"{path} holds no VideoMAE: it lacks {KERNEL}")
    if "pos_embed" not in state:
        count = VIDEOMAE_STEPS * (VIDEOMAE_SIZE // kernel.shape[-1]) ** 2
        state["pos_embed"] = fixed_places(state, count)
        notes = (*notes, VIDEOMAE_NOTE)
    return single_length(
        path,
        state,
        data=IMAGENET_DATA,
        notes=notes,
        steps=VIDEOMAE_STEPS,
        num_frames=VIDEOMAE_STEPS * kernel.shape[1] // 3,
        num_heads=VIDEOMAE_HEADS.get(len(kernel)),
        tubelet=kernel.shape[1] // 3,
        norm_eps=NORM_EPS,
        head_norm_eps=NORM_EPS,
        act="gelu",
        **VIDEOMAE,
    )


# ---- timm ------------------------------------------------------------------------------------------------


def _timm_data(path: str) -> dict[str, Any]:
    name = path.removeprefix(TIMM)
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a known model with a tag that it does not have
        raise ValueError(f"{path}: {error}") from None
    if known is None:
        alike = difflib.get_close_matches(name, timm.list_models())
        raise ValueError(f"{path}: timm has no such model; the nearest: {', '.join(alike) or 'none'}")
    return {"mean": list(known.mean), "std": list(known.std)}


def _timm_settings(path: str) -> dict[str, Any]:
    with torch.device("meta"):
        network = timm.create_model(path.removeprefix(TIMM))
    if unlike := unlike_ours(network):
        raise ValueError(f"{path} is no ViT that a TimeSformer can start from: {unlike}")
    return settings_of_vit(network)


def _timm_model(path: str) -> PretrainedWeights:
    name, data = path.removeprefix(TIMM), _timm_data(path)
    settings = _timm_settings(path)
    try:
        model = pretrained_network(name)
    except Exception as error:  # hubs, sockets and disks each have their own
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(
            f"{path}: its weights cannot be had here ({reason}); name a local file of them, "
            f"or train from scratch with TRAIN.CHECKPOINT_FILE_PATH '' (TRAIN.METHOD revit_b). {FROM_SCRATCH}"
        ) from None
    state = from_vit(model.state_dict(), settings["pool"])
    del settings["registers"]
    return single_length(path, state, data=data, **settings)
