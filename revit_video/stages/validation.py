"""The backbone on the validation list, between the epochs of its training."""

from __future__ import annotations

import logging
from typing import Any

from fvcore.common.config import CfgNode

from revit_video.adaptive.table import static_map, static_top1
from revit_video.from_cfg.model import reader
from revit_video.models.base import ResizableModel
from revit_video.runtime import output_dir
from revit_video.runtime.logging import StatsLog
from revit_video.stages.job import Job, percents
from revit_video.train.loop import Training

logger = logging.getLogger(__name__)


def trained_model(training: Training) -> ResizableModel:
    """The backbone that is validated and saved."""
    assert isinstance(training.result, ResizableModel)
    return training.result


def forget_undone(job: Job, training: Training, state: dict[str, Any] | None) -> bool:
    """Drops the statistics of what will be done again; whether the last epoch has the validation it needs."""
    done = (state["epoch"], state["batch"]) if state else (0, 0)

    def happened(line: dict[str, Any]) -> bool:
        if line["stage"] == "val":
            return done > (0, 0) and line.get("epoch", 0) < done[0]
        return line["stage"] != "train" or (line.get("epoch", 0), line.get("iter", 0)) < done

    lines = output_dir.keep_stats(job.cfg.OUTPUT_DIR, happened) if job.ranks.is_main else []
    found = any(line["stage"] == "val" and line.get("epoch") == training.epoch - 1 for line in lines)
    (found, *_) = job.ranks.gather(found)  # as the main rank has it
    return found or not is_due(job.cfg, training)


def is_due(cfg: CfgNode, training: Training) -> bool:
    """Whether an epoch has just ended that is to be validated."""
    period = cfg.TRAIN.EVAL_PERIOD
    return period > 0 and training.ends_period(period)


def measured(job: Job) -> str:
    """What a validation measures: top-1, or with several labels a video the mean average precision."""
    return "mAP" if job.cfg.DATA.MULTI_LABEL else "top1"


def validate(job: Job, training: Training, stats: StatsLog) -> dict[str, float]:
    """Writes and returns the figure of each length on the validation list, in percent."""
    model, kind = trained_model(training), measured(job)
    table = job.tabulate(reader(job.cfg, model), "val", job.test_batches("val"))

    def figures() -> dict[str, dict[str, float]]:
        top1 = {"top1": static_top1(table, model.lengths)}
        return top1 | ({"mAP": static_map(table, model.lengths)} if kind == "mAP" else {})

    of = job.ranks.from_main(figures)
    lines = {f"{what}_{name}": value for what, each in of.items() for name, value in each.items()}
    stats.write(stage="val", epoch=training.epoch - 1, step=training.iteration, **lines)
    words = "top-1" if kind == "top1" else kind
    logger.info("epoch %d, %s on val: %s", training.epoch, words, percents(of[kind]))
    return of[kind]
