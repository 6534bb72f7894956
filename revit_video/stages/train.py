"""The first stage: training the backbone at all lengths."""

from __future__ import annotations

import logging
import signal
from typing import Any

from fvcore.common.config import CfgNode
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from timm.utils import ModelEmaV3

from revit_video.data.loader import TrainBatches
from revit_video.from_cfg.identity import MAY_GROW, Record, check_same, training_record
from revit_video.from_cfg.inputs import clip_in_words, train_batches
from revit_video.from_cfg.model import build_model, check_heads
from revit_video.from_cfg.training import (
    ANEW,
    autocast,
    build_optimizer,
    check_resumable,
    compile_model,
    distillation,
    freeze,
    learning_rate,
    lr_factor,
)
from revit_video.models import checkpoint, saved_epochs
from revit_video.models.base import ResizableModel
from revit_video.models.checkpoint import Checkpoint
from revit_video.models.pretrained import initialise_parts
from revit_video.models.sources import read_source
from revit_video.models.untrusted import believed
from revit_video.runtime import output_dir
from revit_video.runtime.ranks import Ranks, broadcast_parameters, in_length_groups
from revit_video.stages.job import Job, Trained
from revit_video.stages.saving import Checkpoints
from revit_video.stages.solve import solve_heads, start_frozen
from revit_video.stages.validation import forget_undone, is_due, trained_model, validate
from revit_video.stages.watch import watched
from revit_video.train.loop import Training, fit
from revit_video.train.replicas import ReplicaStep
from revit_video.train.steps import CascadeStep, MixedLengthStep, Step

logger = logging.getLogger(__name__)


def train(job: Job, videos: LabeledVideoPaths | None = None) -> Trained:
    """Trains the backbone at all lengths, from the last checkpoint in OUTPUT_DIR if there is one.

    Args:
        videos: what to train on; None for the training list.
    """
    cfg, ranks = job.cfg, _ranks(job)
    model = build_model(cfg)
    videos = videos or job.data.videos("train")
    batches, record = train_batches(cfg, videos, ranks), training_record(cfg, videos)
    resumed = _starting_point(job, model)
    state = resumed.training if resumed else None
    freeze(cfg, model)
    model.to(ranks.device)
    anew = cfg.TRAIN.METHOD == "unfreeze" and resumed is None
    if anew:
        solve_heads(job, model, videos)
    broadcast_parameters(model, ranks)
    training = _training(job, ranks, model, batches)
    if resumed and state is not None:
        check_resumable(cfg, training.optimizer, state)
        _check_same_training(cfg, resumed, record)
        with believed(resumed.path, "training state"):
            training.load_state_dict(state)
    _check_agreement(training)
    if training.epoch < training.epochs:
        job.forget_results()
    job.record_config()
    validated = forget_undone(job, training, state)
    if resumed and validated and training.epoch >= training.epochs:
        logger.info("training is complete: %d epochs", training.epoch)
        return _handed_on(job, training, resumed.path, resumed.costs, resumed.record())
    checkpoints = Checkpoints(job, training, record)
    _say_price(ranks, checkpoints.costs)
    total = training.epochs * training.batches_per_epoch
    job.outlook.resumed(training.iteration / total)
    with job.stats() as stats:
        if not validated or (anew and cfg.TRAIN.EVAL_PERIOD):  # what is solved may be the best
            checkpoints.keep_if_best(validate(job, training, stats))
        steps = fit(training, stats, lambda: job.termination.asked > 0)
        for stop in watched(steps, job, training):
            checkpoints.save_if_due(stop)
            if training.batch == 0:
                job.outlook.reached(training.iteration / total)
            if stop:
                ranks.barrier()  # a rank that ends early has the others killed, in their save too
                job.termination.asked = job.termination.asked or signal.SIGTERM  # another rank was asked
                job.termination.leave()
            if is_due(cfg, training):
                with checkpoints.saved_on_leaving():
                    checkpoints.keep_if_best(validate(job, training, stats))
    job.record_skipped("train", job.gathered(sorted(batches.skipped)))
    ranks.barrier()  # the main rank has saved
    path = saved_epochs.latest(job.path(output_dir.CHECKPOINTS))
    assert path is not None
    return _handed_on(job, training, path, checkpoints.costs, record)


def _handed_on(
    job: Job, training: Training, path: str, costs: dict[str, Any], record: Record | None
) -> Trained:
    """The last epoch's model, or the best epoch's."""
    if best := job.best_checkpoint():
        logger.info("the best epoch goes on: %s", best)
        checkpoint.read(best).load_into(trained_model(training))
        path = best
    return job.handed_on(path, trained_model(training), costs, record)


def _ranks(job: Job) -> Ranks:
    """The ranks that train; in ReViT-E arranged in length groups."""
    if job.cfg.TRAIN.METHOD == "revit_e":
        return in_length_groups(job.ranks, len(job.cfg.REVIT.TOKEN_LENGTHS))
    return job.ranks


def _say_price(ranks: Ranks, costs: dict[str, Any]) -> None:
    """What ReViT-E costs on these ranks against ReViT-B on the same."""
    if ranks.length_size == 1 or not ranks.is_main:
        return
    gmacs = [each["gmacs"] for each in costs["lengths"].values()]
    logger.warning(
        "revit_e: each clip is decoded %d times, once per token length, and all ranks wait for the longest: "
        "%.2f times the multiply-accumulates of revit_b on the slowest rank; it pays where a step has too "
        "few clips to be divided further",
        *(ranks.length_size, ranks.length_size * gmacs[0] / sum(gmacs)),
    )


def _training(job: Job, ranks: Ranks, model: ResizableModel, batches: TrainBatches) -> Training:
    cfg = job.cfg
    average = None
    if cfg.TRAIN.EMA_DECAY:
        average = ModelEmaV3(model, cfg.TRAIN.EMA_DECAY, use_warmup=True)
    compile_model(cfg, model, ranks, len(batches) * cfg.SOLVER.MAX_EPOCH)
    logger.info("clips: %s", clip_in_words(cfg))
    logger.info(
        "learning rate %g for %d clips a step",
        cfg.SOLVER.BASE_LR * lr_factor(cfg),
        cfg.TRAIN.BATCH_SIZE,
    )
    return Training(
        model,
        training_step(cfg, ranks, model),
        build_optimizer(cfg, model),
        batches,
        len(batches),
        cfg.TRAIN.BATCH_SIZE,
        learning_rate(cfg, len(batches)),
        cfg.SOLVER.MAX_EPOCH,
        ranks,
        accumulate=cfg.TRAIN.ACCUMULATE,
        clip_gradient=cfg.SOLVER.CLIP_GRADIENT,
        average=average,
        log_period=cfg.LOG_PERIOD,
        seed=cfg.RNG_SEED,
    )


def training_step(cfg: CfgNode, ranks: Ranks, model: ResizableModel) -> Step:
    """The training step of DVT and of heads in closed form, of ReViT-E, or of ReViT-B."""
    smoothing, precision = cfg.SOLVER.LABEL_SMOOTHING, autocast(cfg, ranks)
    if cfg.DVT.ENABLE or cfg.TRAIN.METHOD == "unfreeze":
        return CascadeStep(model, smoothing, precision)
    method = ReplicaStep if cfg.TRAIN.METHOD == "revit_e" else MixedLengthStep
    return method(model, distillation(cfg), ranks, smoothing, precision, cfg.TRAIN.DENSE_WEIGHT)


def _starting_point(job: Job, model: ResizableModel) -> Checkpoint | None:
    """Loads the weights to start from, if any; the checkpoint where a training is to be resumed."""
    cfg = job.cfg
    last, damaged = None, list[str]()
    if cfg.TRAIN.AUTO_RESUME:
        last, damaged = saved_epochs.latest_and_damaged(job.path(output_dir.CHECKPOINTS))
    if job.ranks.is_main:
        for reason in damaged:
            logger.warning("passed over %s", reason)
    if last is not None:
        logger.info("resuming from %s", last)
        found = checkpoint.read(last)
        found.load_into(model)
        return found
    if cfg.TRAIN.METHOD == "unfreeze":
        start_frozen(job, model)
    elif cfg.TRAIN.CHECKPOINT_FILE_PATH:
        source = read_source(cfg.TRAIN.CHECKPOINT_FILE_PATH, cfg.TRAIN.CHECKPOINT_KEY, cfg.TRAIN.QUERY_SCALE)
        check_heads(cfg, source)
        names, theirs = job.data.class_names, source.data.get("class_names")
        if names and theirs and names != theirs and len(names) == len(theirs):
            logger.info("%s: its %d classes have other names, so the head is new", source.name, len(theirs))
            source = source.without_head()
        for report in initialise_parts(model, source):
            logger.info("starting from %s", report)
    return None


def _check_same_training(cfg: CfgNode, resumed: Checkpoint, record: Record) -> None:
    """ValueError where the run was trained with other settings, but for those that may change on the way."""
    assert resumed.training is not None
    left = resumed.training["epoch"] < cfg.SOLVER.MAX_EPOCH
    compared = {name: value for name, value in record.items() if not (left and name in MAY_GROW)}
    check_same(resumed.record(), compared, f"{resumed.path} was trained", ANEW)


def _check_agreement(training: Training) -> None:
    """ValueError where machines do not see the same checkpoints: they would wait for each other forever."""
    places = set(training.ranks.gather((training.epoch, training.batch)))
    if len(places) > 1:
        raise ValueError(
            "OUTPUT_DIR: the machines found different checkpoints there; it must be a folder they share"
        )
