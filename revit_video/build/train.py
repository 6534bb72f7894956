"""The first stage: training the backbone at all lengths."""

from __future__ import annotations

import logging
from typing import Any

from revit_video import flops
from revit_video.build import files
from revit_video.build import model as build
from revit_video.build.data import TrainBatches, class_names
from revit_video.build.job import Job, percents
from revit_video.evaluate import static_top1
from revit_video.models.revit import ReViT
from revit_video.runtime import checkpoint
from revit_video.runtime.distributed import broadcast_parameters
from revit_video.runtime.logging import StatsLog, keep_stats
from revit_video.train.loop import Training, fit
from revit_video.train.steps import MixedLengthStep

logger = logging.getLogger(__name__)


def train(job: Job) -> None:
    """Trains the backbone at all lengths, from the last checkpoint in OUTPUT_DIR if there is one."""
    cfg, ranks = job.cfg, job.ranks
    model = build.build_model(cfg)
    batches = TrainBatches(cfg, ranks)
    state = _starting_point(job, model)
    model.to(ranks.device)
    broadcast_parameters(model, ranks)
    training = _training(job, model, batches)
    if state is not None:
        build.check_resumable(training.optimizer, cfg.RNG_SEED, state)
        training.load_state_dict(state)
    if ranks.is_main:
        keep_stats(cfg.OUTPUT_DIR, lambda line: not _is_training(line) or line["epoch"] < training.epoch)
    if training.epoch >= training.epochs:
        logger.info("training is complete: %d epochs", training.epoch)
        return
    names, costs = class_names(cfg), flops.cost_table(model, job.views)
    with job.stats() as stats:
        for done in fit(training, stats):
            last = done == training.epochs
            if ranks.is_main and (last or done % cfg.TRAIN.CHECKPOINT_PERIOD == 0):
                payload = build.backbone_payload(cfg, model, names, costs)
                payload["training"] = training.state_dict()
                checkpoint.save_epoch(job.path(files.CHECKPOINTS), done, payload)
            if cfg.TRAIN.EVAL_PERIOD and (last or done % cfg.TRAIN.EVAL_PERIOD == 0):
                _validate(job, model, done, done * len(batches), stats)
    job.record_skipped("train", job.gathered(sorted(batches.skipped)))


def _training(job: Job, model: ReViT, batches: TrainBatches) -> Training:
    cfg, ranks = job.cfg, job.ranks
    step = MixedLengthStep(
        model, build.distillation(cfg), ranks, cfg.SOLVER.LABEL_SMOOTHING, build.autocast(cfg, ranks)
    )
    return Training(
        model,
        step,
        build.build_optimizer(cfg, model),
        batches,
        len(batches),
        build.learning_rate(cfg),
        cfg.SOLVER.MAX_EPOCH,
        ranks,
        clip_gradient=cfg.SOLVER.CLIP_GRADIENT,
        log_period=cfg.LOG_PERIOD,
        seed=cfg.RNG_SEED,
    )


def _starting_point(job: Job, model: ReViT) -> dict[str, Any] | None:
    """Loads the weights to start from, if any; the state of the training when it is to be resumed."""
    cfg, spec = job.cfg, build.model_spec(job.cfg)
    last = checkpoint.latest(job.path(files.CHECKPOINTS)) if cfg.TRAIN.AUTO_RESUME else None
    if last is not None:
        logger.info("resuming from %s", last)
        return build.load_backbone(last, model, spec).get("training")
    if cfg.TRAIN.CHECKPOINT_FILE_PATH:
        logger.info("starting from %s", cfg.TRAIN.CHECKPOINT_FILE_PATH)
        build.load_backbone(cfg.TRAIN.CHECKPOINT_FILE_PATH, model, spec)
    return None


def _validate(job: Job, model: ReViT, epoch: int, step: int, stats: StatsLog) -> None:
    table = job.tabulate(model, "val", job.test_batches("val"))
    top1 = static_top1(table, model.lengths)
    lines = {f"top1_{name}": value for name, value in top1.items()}
    stats.write(stage="val", epoch=epoch - 1, step=step, **lines)
    logger.info("epoch %d, top-1 on val: %s", epoch, percents(top1))


def _is_training(line: dict[str, Any]) -> bool:
    return line["stage"] in ("train", "val")
