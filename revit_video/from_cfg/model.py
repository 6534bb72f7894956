"""The models of a config, and the rules that it must satisfy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from fvcore.common.config import CfgNode

from revit_video.config.rules import CLOSED_FORM, Mistake, get
from revit_video.length import token_lengths
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.base import ResizableModel
from revit_video.models.checkpoint import DataSpec
from revit_video.models.config import DVTConfig, FrozenConfig, ModelConfigError, ReViTConfig
from revit_video.models.dvt import DVT
from revit_video.models.frozen import FrozenReViT
from revit_video.models.inference import for_inference, inference_dtype
from revit_video.models.presets import PRESETS, preset
from revit_video.models.pretrained import PretrainedWeights
from revit_video.models.revit import ReViT
from revit_video.runtime.machine import free_memory

HEAD_WIDTH = 64  # channels of an attention head, in all published ViTs
KEYS = {
    "img_size": "DATA.TRAIN_CROP_SIZE",
    "num_frames": "DATA.NUM_FRAMES",
    "num_classes": "MODEL.NUM_CLASSES",
    "multi_label": "DATA.MULTI_LABEL",
    "lengths": "REVIT.TOKEN_LENGTHS",
    "norm": "REVIT.NORM",
    "patch_embed": "REVIT.PATCH_EMBED",
    "pos_embed": "REVIT.POS_EMBED",
    "distill_token": "REVIT.DISTILL.TOKEN",
    "token_at_longest": "REVIT.DISTILL.TOKEN_AT_LONGEST",
    "drop_rate": "MODEL.DROP_RATE",
    "drop_path": "MODEL.DROP_PATH",
    "drop_path_per": "MODEL.DROP_PATH_PER",
    "init": "MODEL.INIT",
    "qk_init_gain": "MODEL.QK_INIT_GAIN",
    "act_checkpoint": "MODEL.ACT_CHECKPOINT",
}
"""The config key of each field of `ReViTConfig`."""
PRESET_KEYS = {
    "embed_dim": "MODEL.EMBED_DIM",
    "depth": "MODEL.DEPTH",
    "num_heads": "MODEL.NUM_HEADS",
    "mlp_ratio": "MODEL.MLP_RATIO",
    "stem": "MODEL.STEM",
    "attention": "TIMESFORMER.ATTENTION_TYPE",
    "pos_init": "MODEL.POS_INIT",
    "tubelet": "MODEL.TUBELET",
    "positions": "MODEL.POSITIONS",
    "pool": "MODEL.POOL",
    "registers": "MODEL.REGISTERS",
    "pre_norm": "MODEL.PRE_NORM",
    "act": "MODEL.ACT",
    "norm_eps": "MODEL.NORM_EPS",
    "head_norm_eps": "MODEL.HEAD_NORM_EPS",
}
"""Of fields for which 0 or an empty text means the preset's value."""
REUSE_KEYS = {
    "feature_reuse": "DVT.FEATURE_REUSE",
    "relation_reuse": "DVT.RELATION_REUSE",
    "upsample": "DVT.UPSAMPLE",
}
"""Of the fields of `DVTConfig`."""


def model_config(cfg: CfgNode) -> ReViTConfig:
    """Settings of the model: the preset's, overridden by the config; a `DVTConfig` with `DVT.ENABLE`.

    Raises:
        ModelConfigError: settings that no model can have.
    """
    values: dict[str, Any] = preset(cfg.MODEL.ARCH)
    values |= {field: get(cfg, key) for field, key in KEYS.items()}
    values |= {field: get(cfg, key) for field, key in PRESET_KEYS.items() if get(cfg, key)}
    values["distill_token"] &= cfg.REVIT.DISTILL.ENABLE and not cfg.DVT.ENABLE
    values["token_at_longest"] &= values["distill_token"]
    if cfg.TRAIN.METHOD in CLOSED_FORM:
        return FrozenConfig(**values | {"distill_token": False, "token_at_longest": False})
    if not cfg.DVT.ENABLE:
        return ReViTConfig(**values)
    reuse = {field: get(cfg, key) for field, key in REUSE_KEYS.items()}
    reuse["upsample"] = reuse["upsample"] or DVTConfig.upsample
    return DVTConfig(**values, **reuse)


def model_mistakes(cfg: CfgNode) -> Iterator[Mistake]:
    """Every rule about the model that `cfg` breaks."""
    arch, dvt = cfg.MODEL.ARCH, cfg.DVT.ENABLE
    if arch not in PRESETS:
        yield Mistake(("MODEL.ARCH",), f"must be one of {', '.join(PRESETS)}, got {arch!r}")
        return
    try:
        model_config(cfg)
    except ModelConfigError as error:
        keys = KEYS | PRESET_KEYS | REUSE_KEYS
        for fields, message in error.problems:
            taking_part = [keys.get(field, "MODEL.ARCH") for field in fields]
            yield Mistake((*taking_part, *(["DVT.ENABLE"] if dvt else [])), message)
    if preset(arch)["num_frames"] == 1:
        for key, needed in (("DATA.NUM_FRAMES", 1), ("TIMESFORMER.ATTENTION_TYPE", "space_only")):
            if get(cfg, key) not in (needed, ""):
                words = f"must be {needed} with MODEL.ARCH {arch}, an image model; got {get(cfg, key)}"
                yield Mistake((key, "MODEL.ARCH"), words)
    with suppress(ValueError):  # of lengths, which is told already
        names = [str(length) for length in token_lengths(cfg.REVIT.TOKEN_LENGTHS)]
        if cfg.TRAIN.BEST not in ("", "mean", *names):
            words = f"must be empty, mean or one of {', '.join(names)}, got {cfg.TRAIN.BEST!r}"
            yield Mistake(("TRAIN.BEST", "REVIT.TOKEN_LENGTHS"), words)
    what, depth = cfg.TRAIN.FREEZE, cfg.MODEL.DEPTH or preset(arch)["depth"]
    if what.isdigit() and int(what) > depth:
        yield Mistake(("TRAIN.FREEZE", "MODEL.DEPTH"), f"the model has {depth} blocks, got {what}")
    if dvt and what:
        yield Mistake(
            ("TRAIN.FREEZE", "DVT.ENABLE"),
            "is for what token lengths share, and those of a DVT share nothing",
        )
    if dvt and len(cfg.REVIT.TOKEN_LENGTHS) < 2:
        yield Mistake(("DVT.ENABLE", "REVIT.TOKEN_LENGTHS"), "a cascade needs at least 2 token lengths")
    dense = [name for name in PRESETS if PRESETS[name].get("dense_head")]
    for key in ("DATA.TOKEN_LABELS", "MIXUP.TOKEN_ALPHA"):
        if get(cfg, key) and arch not in dense:
            words = f"is for models with a dense head, {', '.join(dense)}; MODEL.ARCH is {arch}"
            yield Mistake((key, "MODEL.ARCH"), words)
        if get(cfg, key) and dvt:
            yield Mistake((key, "DVT.ENABLE"), "a DVT has no dense head; one of them must be off")


def build_model(cfg: CfgNode) -> ResizableModel:
    """A new model; its initial weights follow from `RNG_SEED`.

    Raises:
        ValueError: its weights alone take more memory than this machine has.
    """
    torch.manual_seed(cfg.RNG_SEED)
    config = model_config(cfg)
    taken, free = least_bytes(config), free_memory()
    if taken > free:
        keys = "MODEL.EMBED_DIM, MODEL.DEPTH, DATA.TRAIN_CROP_SIZE"
        sizes = f"{taken / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB are free here"
        raise ValueError(f"the model's weights alone take {sizes}; make it smaller ({keys})")
    if isinstance(config, FrozenConfig):
        return FrozenReViT(config)
    return DVT(config) if isinstance(config, DVTConfig) else ReViT(config)


def check_heads(cfg: CfgNode, source: PretrainedWeights) -> None:
    """ValueError where neither `source` nor the config tells its attention heads, and the preset's are odd.

    Nothing in a file of weights alone shows them, and every number fits.
    """
    config = model_config(cfg)
    width, heads = config.embed_dim, config.num_heads
    if source.num_heads is None and not cfg.MODEL.NUM_HEADS and width != heads * HEAD_WIDTH:
        likely = f", such as MODEL.NUM_HEADS {width // HEAD_WIDTH}" if width % HEAD_WIDTH == 0 else ""
        raise ValueError(
            f"MODEL.NUM_HEADS: {source.name} does not tell its attention heads; the {heads} of MODEL.ARCH "
            f"{cfg.MODEL.ARCH} would have {width / heads:g} channels each, and those of a ViT have "
            f"{HEAD_WIDTH}; give their number{likely}"
        )


def least_bytes(config: ReViTConfig) -> int:
    """What a model's weights take at least, from its sizes alone: matrices, kernels and positions."""
    width = config.embed_dim
    matrices = 4 + 2 * config.mlp_ratio + 4 * (config.attention == "divided_space_time")
    models = len(config.lengths) if isinstance(config, DVTConfig) else 1
    total = models * config.depth * matrices * width**2 + config.num_classes * width
    apart = config.lengths if config.patch_embed == "per_length" else config.lengths[:1]
    for length in apart if config.stem == "patch" else ():
        total += 3 * (config.img_size // length.h) * (config.img_size // length.w) * width
    return int(4 * (total + config.lengths[0].count * width))


def reader(cfg: CfgNode, model: ResizableModel) -> ResizableModel:
    """The inference copy of `model`, the same for mining, calibration and the test."""
    fast = for_inference(model, inference_dtype(cfg.TEST.DTYPE, model))
    if cfg.MODEL.COMPILE == "True":
        fast.compile()
    return fast


def build_assigner(cfg: CfgNode, *, random: bool = False) -> TokenLengthAssigner:
    """A new assigner, from ImageNet if the config says so and not `random`; else by `RNG_SEED`."""
    torch.manual_seed(cfg.RNG_SEED)
    own = cfg.ASSIGNER
    return TokenLengthAssigner(
        len(cfg.REVIT.TOKEN_LENGTHS),
        model=own.MODEL,
        stages=own.STAGES,
        num_frames=own.NUM_FRAMES,
        input_size=own.INPUT_SIZE,
        pretrained=own.PRETRAINED and not random,
        objective=own.OBJECTIVE,
    )


def views_per_video(cfg: CfgNode) -> int:
    """In testing: clips x crops."""
    return cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS


def data_spec(cfg: CfgNode, class_names: list[str] | None) -> DataSpec:
    """How the model's clips are made."""
    data, test = cfg.DATA, cfg.TEST
    return DataSpec(
        class_names,
        mean=list(data.MEAN),
        std=list(data.STD),
        num_frames=data.NUM_FRAMES,
        sampling_rate=data.SAMPLING_RATE,
        target_fps=data.TARGET_FPS,
        frame_order=data.FRAME_ORDER,
        crop_size=data.TEST_CROP_SIZE,
        test_scale=data.TEST_SCALE,
        num_clips=test.NUM_ENSEMBLE_VIEWS,
        num_crops=test.NUM_SPATIAL_CROPS,
        dtype=test.DTYPE,
        frame_spacing=data.FRAME_SPACING,
        short_videos=data.SHORT_VIDEOS,
        sampling=data.SAMPLING,
        ensemble=test.ENSEMBLE,
        squash=data.SQUASH,
    )
