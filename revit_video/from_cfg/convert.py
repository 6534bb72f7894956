"""From one kind of checkpoint to another: this project's, TimeSformer's own, transformers'."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import safetensors.torch
from fvcore.common.config import CfgNode
from torch import Tensor

from revit_video import flops
from revit_video.from_cfg.model import HEAD_WIDTH, KEYS, PRESET_KEYS, build_model, check_heads, data_spec
from revit_video.from_cfg.resolve import fill_normalisation, load_checked
from revit_video.length import patch_geometry
from revit_video.models import checkpoint
from revit_video.models.config import ReViTConfig
from revit_video.models.presets import PRESETS, preset
from revit_video.models.pretrained import PretrainedWeights, Report, at_length, initialise, to_transformers
from revit_video.models.revit import ReViT
from revit_video.models.sources import CONFIG, FIXED, PREPROCESSOR, SAFETENSORS, read_source
from revit_video.runtime import output_dir

PARTS = ("qkv_bias", "residual_scale", "dense_head", "norm_eps")  # in which LV-ViT differs


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
    found = read_source(source)
    described = [] if cfg_path else description(found, opts)
    cfg = load_checked(cfg_path, [*described, *opts]).clone()
    cfg.defrost()
    cfg.MODEL.NUM_CLASSES = cfg.MODEL.NUM_CLASSES or found.num_classes
    if cfg.MODEL.NUM_CLASSES == 0:
        raise ValueError(
            f"{source} has no head: say for how many classes the new one is, MODEL.NUM_CLASSES n"
        )
    fill_normalisation(cfg, source, found.data)
    if cfg.DVT.ENABLE:
        raise ValueError("DVT.ENABLE: a cascade is no model that could be converted to")
    check_heads(cfg, found)
    (model,) = build_model(cfg).parts
    report = initialise(model, found)
    names = found.data.get("class_names")
    EXPORTS[to](destination, cfg, model.eval(), names if found.num_classes == model.num_classes else None)
    return report


def description(source: PretrainedWeights, opts: Sequence[Any]) -> list[Any]:
    """The config of a model like the source, as `KEY VALUE` pairs."""
    values = source.config.to_dict() if source.config else _values_like(source, opts)
    crop, keys = values["img_size"], KEYS | PRESET_KEYS
    pairs = {
        "DATA.TEST_CROP_SIZE": crop,
        "DATA.TRAIN_JITTER_SCALES": [crop, crop],
        "MODEL.ARCH": _arch(values),
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
    """Fields of `ReViTConfig` for a TimeSformer, an LV-ViT, or an image model, the last with 8 frames."""
    state, sizes, (length,) = source.states[0], source.sizes, source.lengths
    heads = sizes["num_heads"] or sizes["embed_dim"] // HEAD_WIDTH
    if source.num_heads is None and sizes["embed_dim"] % HEAD_WIDTH and "MODEL.NUM_HEADS" not in opts:
        raise ValueError(
            f"{source.name} does not tell its attention heads, and its width {sizes['embed_dim']} is no "
            f"multiple of {HEAD_WIDTH}: give MODEL.NUM_HEADS n"
        )
    half, lvvit = -(-length.h // 2), source.halving > 1
    return {
        **sizes,
        "num_heads": heads,
        "attention": source.attention or "divided_space_time",
        "img_size": length.h * state["patch_embed.proj.weight"].shape[-1] * source.halving,
        "num_frames": state["time_embed"].shape[1] if "time_embed" in state else 8,
        "num_classes": source.num_classes,
        "lengths": [str(length), f"{half}x{half}"][: 2 if half < length.h else 1],
        "token_at_longest": source.is_distilled,
        "stem": "patch",
        **({name: preset("lvvit_small")[name] for name in ("num_frames", "stem", *PARTS)} if lvvit else {}),
    }


def _arch(values: dict[str, Any]) -> str:
    """The preset with these values of `PARTS`, which have no config keys."""

    def parts(settings: dict[str, Any]) -> list[Any]:
        return [settings.get(name, getattr(ReViTConfig, name)) for name in PARTS]

    return next((arch for arch in PRESETS if parts(preset(arch)) == parts(values)), "timesformer_base")


# ---- Writing ---------------------------------------------------------------------------------------------


def _to_revit(path: str, cfg: CfgNode, model: ReViT, names: list[str] | None) -> None:
    views = cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS
    costs = flops.cost_table(model, views)
    checkpoint.save(path, checkpoint.model_payload(model, data_spec(cfg, names), costs))


def _to_timesformer(path: str, cfg: CfgNode, model: ReViT, names: list[str] | None) -> None:
    state = {f"model.{name}": value for name, value in _longest(model).items()}
    checkpoint.save(path, {"model_state": state})


def _to_transformers(path: str, cfg: CfgNode, model: ReViT, names: list[str] | None) -> None:
    state, ours = to_transformers(_longest(model)), model.config
    if ours.attention == "space_only":
        raise ValueError(
            "transformers cannot express a space-only model: its own gives logits for every frame, not for "
            "the clip; --to timesformer can"
        )
    labels = names or [f"LABEL_{n}" for n in range(model.num_classes)]
    config = FIXED | {
        "architectures": ["TimesformerForVideoClassification"],
        "model_type": "timesformer",
        "attention_type": ours.attention,
        "image_size": model.img_size,
        "patch_size": model.img_size // model.lengths[0].h,
        "num_frames": model.num_frames,
        "hidden_size": ours.embed_dim,
        "num_hidden_layers": ours.depth,
        "num_attention_heads": ours.num_heads,
        "intermediate_size": int(ours.mlp_ratio * ours.embed_dim),
        "id2label": {str(n): label for n, label in enumerate(labels)},
        "label2id": {label: n for n, label in enumerate(labels)},
    }
    preprocessor = {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": model.img_size},
        "do_center_crop": True,
        "crop_size": {"height": model.img_size, "width": model.img_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": cfg.DATA.MEAN,
        "image_std": cfg.DATA.STD,
    }
    os.makedirs(path, exist_ok=True)
    weights = os.path.join(path, SAFETENSORS)
    with output_dir.replacing(weights, "wb") as file:
        file.write(safetensors.torch.save(state, {"format": "pt"}))
    for name, content in ((PREPROCESSOR, preprocessor), (CONFIG, config)):
        output_dir.write_json(os.path.join(path, name), content)


EXPORTS = {"revit": _to_revit, "timesformer": _to_timesformer, "transformers": _to_transformers}


def _longest(model: ReViT) -> dict[str, Tensor]:
    """The longest length's weights; ValueError where a TimeSformer has no such grid, or no such parts."""
    length, values = model.lengths[0], model.config.to_dict()
    names = ("stem", *PARTS, "token_at_longest")
    if unlike := [f"{name} {values[name]}" for name in names if values[name] != getattr(ReViTConfig, name)]:
        raise ValueError(f"{', '.join(unlike)}: cannot be exported, a TimeSformer has no such parts")
    if length.h != length.w:
        raise ValueError(f"token length {length} cannot be exported: a TimeSformer's grid is square")
    if any(patch_geometry(model.img_size, length.h)[1:]):
        raise ValueError(
            f"token length {length} cannot be exported: {model.img_size} px are no multiple of {length.h}, "
            "and a TimeSformer's frames are not padded"
        )
    return {name: value.detach().clone().contiguous() for name, value in at_length(model, 0).items()}
