"""YAML files of TimeSformer's and SlowFast's public code: what their keys are here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

ANY, OF_OTHERS = "any lists are taken", "of other models than those here"
WITHOUT_EFFECT = {
    "TRAIN.DATASET": ANY,
    "TEST.DATASET": ANY,
    "TRAIN.FINETUNE": "weights of TRAIN.CHECKPOINT_FILE_PATH always start a new training, with a new head",
    "TRAIN.CHECKPOINT_*": "the kind of a checkpoint is read from it, and its weights start a new training",
    "TEST.CHECKPOINT_TYPE": "the kind of a checkpoint is read from it",
    "TEST.SAVE_RESULTS_PATH": "results are always written to OUTPUT_DIR",
    "TEST.NUM_TEMPORAL_CLIPS": "TEST.NUM_ENSEMBLE_VIEWS says how many clips there are",
    "DATA.INPUT_CHANNEL_NUM": "all models here take the 3 channels of a frame",
    "DATA.REVERSE_INPUT_CHANNEL": "frames are always decoded as red, green, blue",
    "DATA.INV_UNIFORM_SAMPLE": "of lists of frames; DATA.SAMPLING says how a video is sampled",
    "DATA.USE_OFFSET_SAMPLING": "DATA.SAMPLING says how a video is sampled",
    "DATA.TRAIN_JITTER_ASPECT_RELATIVE": "aspect ratios are from 3:4 to 4:3",
    "DATA.TRAIN_JITTER_MOTION_SHIFT": "there is no motion shift",
    "DATA.TRAIN_PCA_*": "there is no jitter along principal components",
    "DATA.TRAIN_JITTER_FPS": "the frame rate is not jittered",
    "DATA.PATH_TO_PRELOAD_IMDB": "lists are read from DATA.PATH_TO_DATA_DIR",
    "DATA_LOADER.ENABLE_MULTI_THREAD_DECODE": "DATA_LOADER.NUM_WORKERS says how many decode",
    "AUG.ENABLE": "each augmentation has its own key",
    "AUG.INTERPOLATION": "frames are resized bilinearly",
    "AUG.RE_*": "erased boxes are filled with noise, one in a clip",
    "AUG.GEN_MASK_LOADER": OF_OTHERS,
    "MIXUP.ENABLE": "each kind of mixing has its own key",
    "MODEL.DROPOUT_RATE": "it has no effect in TimeSformer's code; MODEL.DROP_RATE is dropout here",
    "MODEL.HEAD_ACT": "the answer's probabilities follow from the loss",
    "MODEL.*_PATHWAY_ARCH": OF_OTHERS,
    "MODEL.FC_INIT_STD": "MODEL.INIT says how weights are drawn",
    "SOLVER.DAMPENING": "sgd has none",
    "SOLVER.GAMMA": "SOLVER.LRS has the factors",
    "SOLVER.STEP_SIZE": "SOLVER.STEPS has the epochs",
    "SOLVER.WARMUP_FACTOR": "SOLVER.WARMUP_START_LR is where the warm-up starts",
    "SOLVER.BASE_LR_SCALE_NUM_SHARDS": "SOLVER.BASE_LR_BATCH_SIZE has the rate follow the batch",
    "SOLVER.COSINE_AFTER_WARMUP": "the cosine follows the warm-up",
    "NUM_SHARDS": "torchrun says how many machines there are",
    "SHARD_ID": "torchrun numbers the machines",
    "DIST_BACKEND": "it follows from the device",
    "LOG_MODEL_INFO": "the model is always described",
    "TENSORBOARD.*": "TENSORBOARD.ENABLE alone is known",
    "BN.*": "these models have no batch norms",
    **dict.fromkeys(
        (
            "RESNET.*",
            "SLOWFAST.*",
            "NONLOCAL.*",
            "MVIT.*",
            "X3D.*",
            "VIT.*",
            "CONTRASTIVE.*",
            "MASK.*",
            "SSL.*",
        ),
        OF_OTHERS,
    ),
    **dict.fromkeys(
        ("DETECTION.*", "AVA.*", "MULTIGRID.*", "DEMO.*", "BENCHMARK.*"), "not part of this project"
    ),
}
"""Patterns of keys that change nothing here, and why."""
RENAMED = {
    "TIMESFORMER.PRETRAINED_MODEL": "TRAIN.CHECKPOINT_FILE_PATH",
    "MODEL.DROPCONNECT_RATE": "MODEL.DROP_PATH",
    "MODEL.USE_CHECKPOINT": "MODEL.ACT_CHECKPOINT",
    "MIXUP.LABEL_SMOOTH_VALUE": "SOLVER.LABEL_SMOOTHING",
    "SOLVER.CLIP_GRAD_L2NORM": "SOLVER.CLIP_GRADIENT",
    "AUG.NUM_SAMPLE": "AUG.REPEATS",
}
OTHERS = frozenset(
    ("GLOBAL_BATCH_SIZE", "MODEL.MODEL_NAME", "MODEL.LOSS_FUNC", "DATA.ENSEMBLE_METHOD", "AUG.COLOR_JITTER")
    + ("SOLVER.ZERO_WD_1D_PARAM", "SOLVER.CLIP_GRAD_VAL")
)
"""Keys whose value decides what they are here."""
MODELS = {"vit": "timesformer_base"}  # their MODEL.ARCH
THERE = {
    "DATA.SAMPLING_RATE": 8,
    "DATA.MEAN": [0.45] * 3,
    "DATA.STD": [0.225] * 3,
    "DATA.FRAME_SPACING": "index",
    "DATA.SHORT_VIDEOS": "last",
    "TEST.NUM_ENSEMBLE_VIEWS": 10,
    "TEST.NUM_SPATIAL_CROPS": 3,
    "SOLVER.DECAY_ALL": True,
    "MINE.HOLDOUT": "",
}
"""What holds there where a file does not say otherwise, and differs from the default here."""
IN_TIMESFORMER = {
    "TRAIN.CHECKPOINT_FILE_PATH": "timm:vit_base_patch16_224.augreg_in21k",
    "TRAIN.MIXED_PRECISION": False,
    "TEST.ENSEMBLE": "logits",
    "MODEL.DROP_PATH_PER": "sequence",
    "MODEL.INIT": "timesformer",
}


@dataclass
class Migration:
    """What a foreign file is here.

    Attributes:
        options: its keys and values in this project, by dotted key.
        left_out: the reason for each of its keys that has no counterpart, or no effect.
        changed: one line for each key that is another one here, or stands for something else.
    """

    options: dict[str, Any]
    left_out: dict[str, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)

    def move(self, key: str, to: str, value: Any, why: str = "") -> None:
        """Say that `key` is `to` here."""
        self.options[to] = value
        self.changed.append(f"{key}: here {to}{f', {why}' if why else ''}")


def without_effect(key: str) -> str:
    """Why a foreign key has no effect here; no text if it has one, or is unknown."""
    return next((why for pattern, why in WITHOUT_EFFECT.items() if fnmatchcase(key, pattern)), "")


def is_foreign(key: str) -> bool:
    """Whether a key that this project does not have is one of TimeSformer's or SlowFast's."""
    return key in RENAMED or key in OTHERS or bool(without_effect(key))


def migrate(given: Mapping[str, Any], known: Collection[str]) -> Migration | None:
    """What a file's `given` keys are here; None if none of them is foreign.

    Args:
        known: the keys of this project.
    """
    arch = given.get("MODEL.ARCH", "")
    if not isinstance(arch, str):  # a mistake, which whoever loads the file tells
        arch, given = "", {key: value for key, value in given.items() if key != "MODEL.ARCH"}
    foreign = [key for key in given if key not in known and is_foreign(key)]
    if not foreign and arch not in MODELS:
        return None
    found = Migration({key: value for key, value in given.items() if key in known})
    for key in given:
        if key in RENAMED:
            if given[key] not in ("", None):
                found.move(key, RENAMED[key], given[key])
        elif key not in known and (why := without_effect(key)):
            found.left_out[key] = why
        elif key not in known and key not in OTHERS:
            found.left_out[key] = "neither this project's nor known from TimeSformer or SlowFast"
            found.changed.append(f"{key}: no such key")
    _switches(found, given)
    if "MODEL.ARCH" in given and not _is_ours(arch):
        _model(found, given)
        _batch(found, given)
        _their_defaults(found, given)
    return found


def _switches(found: Migration, given: Mapping[str, Any]) -> None:
    """Keys whose value decides."""
    for group, off in (("AUG", ("AA_TYPE", "RE_PROB", "REPEATS")), ("MIXUP", ("ALPHA", "CUTMIX_ALPHA"))):
        if given.get(f"{group}.ENABLE", True) is False:
            for name in off:
                found.options.pop(f"{group}.{name}", None)
    if given.get("AUG.COLOR_JITTER"):
        found.left_out["AUG.COLOR_JITTER"] = (
            "DATA.BRIGHTNESS, CONTRAST and SATURATION are the jitter, without AA_TYPE"
        )
        if not found.options.get("AUG.AA_TYPE"):
            for name in ("BRIGHTNESS", "CONTRAST", "SATURATION"):
                found.move("AUG.COLOR_JITTER", f"DATA.{name}", given["AUG.COLOR_JITTER"])
    loss = given.get("MODEL.LOSS_FUNC", "cross_entropy")
    if loss in ("bce", "bce_logit"):
        found.move("MODEL.LOSS_FUNC", "DATA.MULTI_LABEL", True)
    elif "MODEL.LOSS_FUNC" in given:
        found.left_out["MODEL.LOSS_FUNC"] = "the loss is the cross-entropy, of mixed labels too"
    if "SOLVER.ZERO_WD_1D_PARAM" in given:
        found.move(
            "SOLVER.ZERO_WD_1D_PARAM",
            "SOLVER.DECAY_ALL",
            not given["SOLVER.ZERO_WD_1D_PARAM"],
            "the opposite",
        )
    if given.get("SOLVER.CLIP_GRAD_VAL"):
        found.changed.append(
            "SOLVER.CLIP_GRAD_VAL: gradients are clipped by their norm, SOLVER.CLIP_GRADIENT"
        )
    method = given.get("DATA.ENSEMBLE_METHOD", "sum")
    if method != "sum":
        found.changed.append(f"DATA.ENSEMBLE_METHOD {method}: views are averaged, see TEST.ENSEMBLE")
    for key, here, instead in (
        ("SOLVER.OPTIMIZING_METHOD", ("sgd", "adamw"), "adamw"),
        ("DATA.DECODING_BACKEND", ("pyav", "decord"), "pyav"),
    ):
        if given.get(key, here[0]) not in here:
            found.options[key] = instead
            found.changed.append(f"{key} {given[key]}: here {instead}")
    if given.get("TRAIN.DATASET") == "ssv2":
        found.move(
            "TRAIN.DATASET ssv2",
            "DATA.SAMPLING",
            "uniform",
            "from lists of videos (prepare ssv2)",
        )


def _model(found: Migration, given: Mapping[str, Any]) -> None:
    arch, name = given["MODEL.ARCH"], given.get("MODEL.MODEL_NAME")
    crop = given.get("DATA.TRAIN_CROP_SIZE", 224)
    found.options["MODEL.ARCH"] = MODELS["vit"]
    if arch not in MODELS:
        found.changed.append(f"MODEL.ARCH {arch}: there is no such model here; a TimeSformer takes its place")
    else:
        found.changed.append(f"MODEL.ARCH {arch}: here {MODELS['vit']}")
        if name not in (None, "vit_base_patch16_224"):
            found.changed.append(f"MODEL.MODEL_NAME {name}: here MODEL.EMBED_DIM, DEPTH and NUM_HEADS")
    if isinstance(crop, int):
        grid = max(crop // 16, 2)
        found.options.setdefault("REVIT.TOKEN_LENGTHS", [grid, grid // 2])
        if given.get("DATA.TEST_CROP_SIZE", crop) != crop:
            found.options["DATA.TEST_CROP_SIZE"] = crop
            found.changed.append(f"DATA.TEST_CROP_SIZE: a model has one input size here, {crop}")


def _is_ours(arch: Any) -> bool:
    return isinstance(arch, str) and arch.partition("_")[2] != ""  # presets are named model_size


def _batch(found: Migration, given: Mapping[str, Any]) -> None:
    """Their steps of `GLOBAL_BATCH_SIZE` clips are accumulated from passes of `TRAIN.BATCH_SIZE`."""
    whole = given.get("GLOBAL_BATCH_SIZE", 64 if given.get("MODEL.ARCH") in MODELS else 0)
    part = given.get("TRAIN.BATCH_SIZE", 64)
    if isinstance(whole, int) and isinstance(part, int) and 0 < part < whole:
        found.options["TRAIN.ACCUMULATE"] = whole // part
        found.move(
            "TRAIN.BATCH_SIZE", "TRAIN.BATCH_SIZE", whole, f"in {whole // part} parts (TRAIN.ACCUMULATE)"
        )


def _their_defaults(found: Migration, given: Mapping[str, Any]) -> None:
    theirs: dict[str, Any] = THERE | (IN_TIMESFORMER if given.get("MODEL.ARCH") in MODELS else {})
    added = {key: value for key, value in theirs.items() if key not in found.options}
    found.options |= added
    if added:
        found.changed.append(f"{', '.join(added)}: have another default there")
