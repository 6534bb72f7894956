"""From one kind of checkpoint to another: this project's, TimeSformer's own, transformers'."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import safetensors.torch
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from revit_video import flops
from revit_video.from_cfg.model import (
    HEAD_WIDTH,
    KEYS,
    PRESET_KEYS,
    REUSE_KEYS,
    build_model,
    check_heads,
    data_spec,
    views_per_video,
)
from revit_video.from_cfg.resolve import fill_normalisation, load_checked
from revit_video.length import patch_geometry, soft_splits
from revit_video.models import checkpoint
from revit_video.models.base import ResizableModel
from revit_video.models.config import ReViTConfig
from revit_video.models.layouts import KERNEL, REGISTERS, T2T_FIRST, fixed_places, to_transformers
from revit_video.models.presets import PRESETS, preset
from revit_video.models.pretrained import PretrainedWeights, Report, at_length, initialise_parts
from revit_video.models.revit import ReViT
from revit_video.models.sources import read_source
from revit_video.models.transformers_folder import (
    CONFIG,
    PREPROCESSORS,
    SAFETENSORS,
    config_for,
    inexpressible,
    kind_of,
    preprocessor_for,
)
from revit_video.models.untrusted import believed
from revit_video.runtime import output_dir

T2T_SIZE = 224  # of DVT's model in the middle, whose kernel tells less than those of the others
WITHOUT_KEYS = ("qkv_bias", "residual_scale", "dense_head")  # in which LV-ViT differs


def convert(source: str, destination: str, to: str, cfg_path: str | None, opts: Sequence[Any]) -> Report:
    """Writes the model at `source` to `destination`; the report says what became of its weights.

    Args:
        source: see `models.sources.read_source`.
        destination: a file; a folder for `transformers`.
        to: a key of `EXPORTS`.
        cfg_path: the config of the new model; None: a model like the source's, with a token length of half
            its grid beside its own.
        opts: `KEY VALUE` pairs, which win.

    Raises:
        ValueError: the source cannot be read or fitted, or the destination's kind cannot express it.
    """
    given = dict(zip(opts[::2], opts[1::2], strict=False))
    key, scale = given.get("TRAIN.CHECKPOINT_KEY", ""), given.get("TRAIN.QUERY_SCALE", "width")
    found = read_source(source, key, scale)
    with believed(source, "weights"):
        described = [] if cfg_path else description(found, opts)
    cfg = load_checked(cfg_path, [*described, *opts]).clone()
    cfg.defrost()
    cfg.MODEL.NUM_CLASSES = cfg.MODEL.NUM_CLASSES or found.num_classes
    if cfg.MODEL.NUM_CLASSES == 0:
        raise ValueError(
            f"{source} has no head: say for how many classes the new one is, MODEL.NUM_CLASSES n"
        )
    fill_normalisation(cfg, source, found.data)
    check_heads(cfg, found)
    if cfg.DVT.ENABLE and to != "revit":
        raise ValueError(f"--to {to}: only --to revit can express a DVT")
    model = build_model(cfg)
    report, *_ = initialise_parts(model, found)  # of the longest length, like the others'
    names = found.data.get("class_names")
    EXPORTS[to](destination, cfg, model.eval(), names if found.num_classes == model.num_classes else None)
    return report


def description(source: PretrainedWeights, opts: Sequence[Any]) -> list[Any]:
    """The config of a model like the source, as `KEY VALUE` pairs."""
    values = source.config.to_dict() if source.config else _values_like(source, opts)
    crop, keys = values["img_size"], KEYS | PRESET_KEYS | REUSE_KEYS
    pairs = {
        "DATA.TEST_CROP_SIZE": crop,
        "DATA.TRAIN_JITTER_SCALES": [crop, crop],
        "MODEL.ARCH": _arch(values),
        "DVT.ENABLE": source.cascade,
        **{keys[name]: value for name, value in values.items() if name in keys},
    }
    if source.config is not None:
        data = source.data
        pairs |= {
            "DATA.SAMPLING_RATE": data["sampling_rate"],
            "DATA.TARGET_FPS": data["target_fps"],
            "DATA.FRAME_ORDER": data["frame_order"],
            "DATA.FRAME_SPACING": data.get("frame_spacing", "index"),
            "DATA.SHORT_VIDEOS": data.get("short_videos", "spread"),
            "DATA.SAMPLING": data.get("sampling", "window"),
            "TEST.NUM_ENSEMBLE_VIEWS": data["num_clips"],
            "TEST.ENSEMBLE": data.get("ensemble", "probabilities"),
            "TEST.NUM_SPATIAL_CROPS": data["num_crops"],
        }
    return [word for pair in pairs.items() for word in pair]


def _values_like(source: PretrainedWeights, opts: Sequence[Any]) -> dict[str, Any]:
    """Fields of `ReViTConfig` for a video model, an LV-ViT, a T2T-ViT, or another image model of 8 frames."""
    state, sizes, length = source.states[0], source.settings | source.sizes, source.lengths[0]
    heads = sizes["num_heads"] or sizes["embed_dim"] // HEAD_WIDTH
    if source.num_heads is None and sizes["embed_dim"] % HEAD_WIDTH and "MODEL.NUM_HEADS" not in opts:
        raise ValueError(
            f"{source.name} does not tell its attention heads, and its width {sizes['embed_dim']} is no "
            f"multiple of {HEAD_WIDTH}: give MODEL.NUM_HEADS n"
        )
    half = -(-length.h // 2)
    stem = "lvvit" if source.halving > 1 else "t2t" if T2T_FIRST in state else "patch"
    values = {
        "num_frames": state["time_embed"].shape[1] if "time_embed" in state else 8,
        **sizes,
        "num_heads": heads,
        "attention": source.attention or "divided_space_time",
        "positions": sizes["positions"] or "separate",
        "img_size": _size_of(source),
        "num_classes": source.num_classes,
        "lengths": [str(length), f"{half}x{half}"][: 2 if half < length.h else 1],
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "token_at_longest": source.is_distilled,
        "stem": stem,
        "registers": state[REGISTERS].shape[1] if REGISTERS in state else 0,
        "pre_norm": "norm_pre.weight" in state,
        "pos_init": "sine" if sizes["positions"] == "fixed" else "normal",
    }
    if source.cascade:
        parts = ("feature_reuse", "relation_reuse")
        reused = {part: any(f"{part}." in name for name in state) for part in parts}
        return values | {"lengths": list(map(str, source.lengths)), "distill_token": False} | reused
    known = ("num_frames", *WITHOUT_KEYS)
    return values | ({name: preset("lvvit_small")[name] for name in known} if stem == "lvvit" else {})


def _size_of(source: PretrainedWeights) -> int:
    """Side of its frames, in pixels."""
    state, side = source.states[0], source.lengths[0].h
    if T2T_FIRST not in state:
        return side * state[KERNEL].shape[-1] * source.halving
    first = math.isqrt(state[T2T_FIRST].shape[1] // 3)
    for size in (side * 16, side * 32, T2T_SIZE):
        with suppress(ValueError):
            if soft_splits(size, side)[0][0] == first:
                return size
    raise ValueError(f"{source.name}: no size is known from which splits of {first} px lead to {side}x{side}")


def _arch(values: dict[str, Any]) -> str:
    """The preset with these values of what has no config keys."""

    def parts(settings: dict[str, Any]) -> list[Any]:
        return [settings.get(name, getattr(ReViTConfig, name)) for name in WITHOUT_KEYS]

    return next((arch for arch in PRESETS if parts(preset(arch)) == parts(values)), "timesformer_base")


# ---- Writing ---------------------------------------------------------------------------------------------


def _to_revit(path: str, cfg: CfgNode, model: ResizableModel, names: list[str] | None) -> None:
    costs = flops.cost_table(model, views_per_video(cfg))
    checkpoint.save(path, checkpoint.model_payload(model, data_spec(cfg, names), costs))


def _to_timesformer(path: str, cfg: CfgNode, model: ReViT, names: list[str] | None) -> None:
    state = {f"model.{name}": value for name, value in _longest(model, "timesformer").items()}
    checkpoint.save(path, {"model_state": state})


def _to_transformers(path: str, cfg: CfgNode, model: ReViT, names: list[str] | None) -> None:
    ours = model.config
    kind = kind_of(ours)
    state = to_transformers(_longest(model, kind), kind, ours.tubelet, ours.pool)
    if ours.attention == "space_only":
        raise ValueError(
            "transformers cannot express a space-only model: its own gives logits for every frame, not for "
            "the clip; --to timesformer can"
        )
    labels = names or [f"LABEL_{n}" for n in range(model.num_classes)]
    os.makedirs(path, exist_ok=True)
    weights = os.path.join(path, SAFETENSORS)
    with output_dir.replacing(weights, "wb") as file:
        file.write(safetensors.torch.save(state, {"format": "pt"}))
    preprocessor = preprocessor_for(model.img_size, cfg.DATA.MEAN, cfg.DATA.STD)
    for name, content in ((PREPROCESSORS[0], preprocessor), (CONFIG, config_for(ours, kind, labels))):
        output_dir.write_json(os.path.join(path, name), content)


EXPORTS: dict[str, Callable[[str, CfgNode, Any, list[str] | None], None]] = {
    "revit": _to_revit,
    "timesformer": _to_timesformer,
    "transformers": _to_transformers,
}


def _longest(model: ReViT, kind: str) -> dict[str, Tensor]:
    """The longest length's weights; ValueError where a model of this kind has no such grid or parts."""
    length, theirs = model.lengths[0], f"a {KINDS[kind]}"
    if unlike := inexpressible(model.config, kind):
        raise ValueError(f"{', '.join(unlike)}: cannot be exported, {theirs} has no such parts")
    if length.h != length.w:
        raise ValueError(f"token length {length} cannot be exported: {theirs}'s grid is square")
    if any(patch_geometry(model.img_size, length.h)[1:]):
        raise ValueError(
            f"token length {length} cannot be exported: {model.img_size} px are no multiple of {length.h}, "
            f"and {theirs}'s frames are not padded"
        )
    state = {name: value.detach().clone().contiguous() for name, value in at_length(model, 0).items()}
    if kind == "videomae" and not _are_waves(state):
        words = "were resampled for another grid or number of frames"
        raise ValueError(f"pos_embed cannot be exported: {theirs} has waves of its own, and these {words}")
    return state


def _are_waves(state: Mapping[str, Tensor]) -> bool:
    places = state["pos_embed"]
    return torch.allclose(places, fixed_places(state, places.shape[1]), atol=1e-5)


KINDS = {"timesformer": "TimeSformer", "videomae": "VideoMAE", "vivit": "ViViT"}
