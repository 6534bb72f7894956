"""Loading a config: checked, then completed from the data and from the checkpoint that a run starts from."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from fvcore.common.config import CfgNode

from revit_video.config import ConfigError, load_cfg
from revit_video.config.rules import get
from revit_video.data.folders import DataFolder
from revit_video.from_cfg.inputs import data_folder
from revit_video.from_cfg.model import PRESET_KEYS, model_config, model_mistakes
from revit_video.models import checkpoint, saved_epochs
from revit_video.models.sources import described
from revit_video.runtime import output_dir

PARTS_OF_SOURCES = (
    *("attention", "tubelet", "positions", "pool", "registers", "pre_norm", "act", "norm_eps"),
    "head_norm_eps",
)
MEAN, STD = [0.45] * 3, [0.225] * 3  # TimeSformer's

logger = logging.getLogger(__name__)


def load_checked(path: str | None, opts: Sequence[Any] = ()) -> CfgNode:
    """`load_cfg`, with the rules about the model.

    Raises:
        ConfigError: everything that is wrong with the config, at once.
    """
    return load_cfg(path, opts, model_mistakes)


def resolved(cfg: CfgNode, stages: Sequence[str] = ()) -> CfgNode:
    """`cfg` with `MODEL.NUM_CLASSES`, `DATA.MEAN` and `DATA.STD` given, frozen; see `with_data`."""
    return with_data(cfg, stages)[0]


def with_data(cfg: CfgNode, stages: Sequence[str]) -> tuple[CfgNode, DataFolder]:
    """`cfg` with what it leaves open filled in, frozen; and its data folder.

    Args:
        stages: the stages to run. Normalisation and the order of the classes are those of the checkpoint that
            the first one starts from; no checkpoint is opened if there are no stages.

    Raises:
        ValueError: NUM_CLASSES is 0 and the data folder names no classes, or the checkpoint cannot be read.
    """
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.DATA.FOLDS:  # every clip serves everything, by answers of heads that have not seen it
        cfg.MINE.HOLDOUT, cfg.TEST.SPLIT = "", "train"
    path, (known, parts) = _starting_from(cfg, stages)
    fill_parts(cfg, parts)
    fine_tuned = "train" in stages and path == cfg.TRAIN.CHECKPOINT_FILE_PATH  # on any classes
    data = data_folder(cfg, known.get("class_names"), same_classes=not fine_tuned)
    cfg.MODEL.NUM_CLASSES = data.num_classes
    fill_normalisation(cfg, path, known)
    with suppress(ValueError, OSError):  # no training list, which matters to those who need it
        cfg.SOLVER.MAX_EPOCH = epochs_for_steps(cfg, len(data.videos("train")) if cfg.SOLVER.MIN_STEPS else 0)
    cfg.freeze()
    return cfg, data


def epochs_for_steps(cfg: CfgNode, clips: int) -> int:
    """`SOLVER.MAX_EPOCH`, or as many epochs as make `SOLVER.MIN_STEPS` of a training list of `clips`."""
    per_epoch, most = max(1, clips // cfg.TRAIN.BATCH_SIZE), cfg.SOLVER.MAX_EPOCH
    needed = max(most, -(-cfg.SOLVER.MIN_STEPS // per_epoch))
    if needed > most:
        words = "SOLVER.MIN_STEPS %d: %d clips make %d steps an epoch, so %d epochs instead of %d"
        logger.info(words, cfg.SOLVER.MIN_STEPS, clips, per_epoch, needed, most)
    return needed


def fill_normalisation(cfg: CfgNode, path: str, data: dict[str, Any]) -> None:
    """Fill empty `DATA.MEAN` and `DATA.STD`: those of the checkpoint at `path`, else TimeSformer's.

    Logs if the checkpoint does not have them, or if the config's differ.
    """
    for key, default in (("MEAN", MEAN), ("STD", STD)):
        theirs, ours = data.get(key.lower()), cfg.DATA[key]
        if not ours:
            cfg.DATA[key] = [float(value) for value in theirs or default]
            if path and not theirs:
                logger.info("%s does not tell DATA.%s; %s is taken, TimeSformer's", path, key, default)
        elif theirs and any(abs(one - other) > 1e-3 for one, other in zip(ours, theirs, strict=True)):
            logger.info("warning: DATA.%s is %s, but %s was trained with %s", key, ours, path, list(theirs))


def fill_parts(cfg: CfgNode, parts: Mapping[str, Any]) -> None:
    """Fill open keys of the model's parts, such as its pooling: as in the checkpoint, whose `parts` they are.

    Raises:
        ConfigError: the model with these parts cannot be built.
    """
    ours = model_config(cfg)
    if cfg.DVT.ENABLE:
        cfg.DVT.UPSAMPLE = cfg.DVT.UPSAMPLE or parts.get("upsample", "")
    for field in PARTS_OF_SOURCES:
        value, key = parts.get(field), PRESET_KEYS[field]
        if not get(cfg, key) and value is not None and value != getattr(ours, field):
            group, _, name = key.rpartition(".")
            get(cfg, group)[name] = value
            if field == "positions" and value == "fixed":
                cfg.MODEL.POS_INIT = cfg.MODEL.POS_INIT or "sine"
    if mistakes := [str(mistake) for mistake in model_mistakes(cfg)]:
        raise ConfigError("the checkpoint's parts", mistakes)


def _starting_from(
    cfg: CfgNode, stages: Sequence[str]
) -> tuple[str, tuple[dict[str, Any], Mapping[str, Any]]]:
    """The checkpoint that this run uses first, and what is `described` in it; empty without one."""
    own = saved_epochs.latest(os.path.join(cfg.OUTPUT_DIR, output_dir.CHECKPOINTS)) or ""
    if "train" in stages:
        path = (own if cfg.TRAIN.AUTO_RESUME else "") or cfg.TRAIN.CHECKPOINT_FILE_PATH
        key = cfg.TRAIN.CHECKPOINT_KEY if path == cfg.TRAIN.CHECKPOINT_FILE_PATH else ""
        return path, described(path, key) if path else ({}, {})
    path = (cfg.TEST.CHECKPOINT_FILE_PATH or own) if stages else ""
    if not path:
        return path, ({}, {})
    found = checkpoint.read(path, device="meta")
    return path, (vars(found.data), found.config.to_dict())
