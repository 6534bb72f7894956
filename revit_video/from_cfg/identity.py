"""What something was made of: the record that is kept with it, and the comparison with the config of today.

A record is a flat mapping from names, most of them config keys, to plain values. Checkpoints, the assigner,
labels.csv and results.json each carry one. What was made of other things than the config asks for is refused,
with the names that differ; a name that only one of two records has cannot be compared.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from fvcore.common.config import CfgNode
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths

from revit_video.config.load import leaf_keys
from revit_video.config.rules import get
from revit_video.data.lists import labelled_files
from revit_video.from_cfg.overlaps import list_root
from revit_video.length import token_lengths
from revit_video.models.checkpoint import weights_digest
from revit_video.models.sources import HUB, TIMM, read_source

Record = dict[str, Any]

CLIPS = tuple(
    f"DATA.{name}"
    for name in (
        *("SAMPLING", "SAMPLING_RATE", "TARGET_FPS", "SHORT_VIDEOS", "FRAME_ORDER", "FRAME_SPACING"),
        *("SQUASH", "MEAN", "STD"),
    )
)
"""How clips are made: the same in training, mining and testing, unless other clips are to be tested."""
AUGMENTATION = tuple(
    f"DATA.{name}"
    for name in (
        *("TRAIN_JITTER_SCALES", "TRAIN_JITTER_SCALES_RELATIVE", "RANDOM_FLIP", "BRIGHTNESS", "CONTRAST"),
        *("SATURATION", "FRAME_JITTER", "REVERSED_CLASSES"),
    )
)
# The model's own settings are compared when its weights are loaded.
TRAINING = (
    *("RNG_SEED", "TRAIN.METHOD", "TRAIN.BATCH_SIZE", "TRAIN.MIXED_PRECISION", "TRAIN.DENSE_WEIGHT"),
    *("TRAIN.EMA_DECAY", "TRAIN.FREEZE", "SOLVER", "AUG", "MIXUP", "REVIT.DISTILL", "MODEL.DROP_RATE"),
    *("MODEL.DROP_PATH", "MODEL.DROP_PATH_PER", "MODEL.INIT", "MODEL.POS_INIT", "MODEL.QK_INIT_GAIN"),
    *AUGMENTATION,
)
MAY_GROW = ("SOLVER.MAX_EPOCH", "TRAIN.BATCH_SIZE")  # while there is something left to train
# Batches are divided by the number of ranks, which may be another one in a later stage.
NOT_LATER = ("TRAIN.BATCH_SIZE", "ASSIGNER.BATCH_SIZE", "ASSIGNER.ENABLE", "ASSIGNER.CACHE_GB")
# How a model answers: what it is shipped with, and what its test may have otherwise under another name.
ANSWERS = (
    *("ADAPTIVE", "TEST.NUM_ENSEMBLE_VIEWS", "TEST.NUM_SPATIAL_CROPS", "TEST.ENSEMBLE", "TEST.DTYPE"),
    *("DATA.TEST_SCALE", *CLIPS),
)
TRAINING_LIST, MINED_LIST, TESTED_LIST = "training list", "mined list", "tested list"
LENGTHS, WEIGHTS, CLASSES, ADAPTS = "token lengths", "weights", "classes", "assigner"
START = "TRAIN.CHECKPOINT_FILE_PATH"

logger = logging.getLogger(__name__)


def settings(cfg: CfgNode, groups: Iterable[str], without: Container[str] = ()) -> Record:
    """The values of keys and of groups of keys."""
    groups = tuple(groups)
    return {
        key: get(cfg, key)
        for key in leaf_keys(cfg)
        if key not in without and any(key == group or key.startswith(f"{group}.") for group in groups)
    }


def training_record(cfg: CfgNode, videos: LabeledVideoPaths) -> Record:
    """What shapes the weights of a backbone that is trained on `videos`."""
    record = settings(cfg, (*TRAINING, *CLIPS, "DATA.FOLDS", "DATA.GROUP"))
    return record | {
        "DATA.TOKEN_LABELS": bool(cfg.DATA.TOKEN_LABELS),
        TRAINING_LIST: list_in_words(cfg, videos),
        **_start(cfg.TRAIN.CHECKPOINT_FILE_PATH, cfg.TRAIN.CHECKPOINT_KEY, cfg.TRAIN.QUERY_SCALE),
    }


def mining_record(cfg: CfgNode, videos: LabeledVideoPaths) -> Record:
    """What shapes the token-length labels of `videos`, beside the weights."""
    return settings(cfg, ("MINE.NONE_CORRECT", *CLIPS)) | {MINED_LIST: list_in_words(cfg, videos)}


def assigner_record(cfg: CfgNode, weights: str, class_names: Sequence[str] | None) -> Record:
    """What shapes an assigner: the labels' and its own settings, and the model that it is for.

    How it answers is not part of it, see `ANSWERS`.

    Args:
        weights: digest of the model's.
    """
    lengths = [str(length) for length in token_lengths(cfg.REVIT.TOKEN_LENGTHS)]
    record = settings(cfg, ("RNG_SEED", "ASSIGNER", "MINE.NONE_CORRECT", "MINE.FOLDS"), NOT_LATER)
    return (
        record | {LENGTHS: lengths, WEIGHTS: weights} | ({CLASSES: list(class_names)} if class_names else {})
    )


def test_record(cfg: CfgNode, videos: LabeledVideoPaths, weights: str, assigner: str) -> Record:
    """What shapes the results on `videos`.

    Args:
        weights, assigner: digests of the model's and the assigner's; no text without an assigner.
    """
    record = settings(cfg, (*ANSWERS, "RNG_SEED", "TEST.SPLIT", "TEST.POLICIES"))
    return record | {TESTED_LIST: list_in_words(cfg, videos), WEIGHTS: weights, ADAPTS: assigner}


def _start(path: str, key: str, query_scale: str) -> Record:
    """The weights that training starts from, by their content; nothing where they are no longer there."""
    if not path or path.startswith((TIMM, HUB)):
        return {START: path}
    if not os.path.exists(path):
        return {}
    states = read_source(path, key, query_scale).states
    weights = {f"{n}.{name}": value for n, state in enumerate(states) for name, value in state.items()}
    return {START: f"weights {weights_digest(weights)}"}


def list_in_words(cfg: CfgNode, videos: LabeledVideoPaths) -> str:
    """How many videos a list has, and a digest of their paths and labels: `24 files, 1f0c6a2b9d3e4f58`.

    Paths in the data folder count from there, so that it may move.
    """
    folder = os.path.join(list_root(cfg), "")
    sha = hashlib.sha256()
    for path, label in labelled_files(videos):
        sha.update(f"{path.removeprefix(folder)}\0{label}\n".encode())
    return f"{len(videos)} files, {sha.hexdigest()[:16]}"


def check_same(made: Record | None, now: Mapping[str, Any], what: str, advice: str) -> None:
    """ValueError where something was made of other things than now, with each name and both values.

    Args:
        made: the record that is kept with it; None if an earlier version made it, which is logged.
        now: the record that it would have today.
        what: for the message, such as `run/labels.csv was mined`.
    """
    if made is None:
        logger.info("%s by an earlier version, which did not record with what: nothing is compared", what)
    elif found := differences(made, now):
        raise ValueError(f"{what} with {', '.join(found)}; {advice}")


def differences(made: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`SOLVER.BASE_LR 0.01 (here: 0.02)` of each name whose values differ."""
    return [
        f"{name} {_shown(made[name])} (here: {_shown(now[name])})"
        for name in made
        if name in now and made[name] != now[name]
    ]


def _shown(value: Any) -> str:
    return repr(value) if value == "" else str(value)
