"""The first stage: training the backbone at all lengths."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fvcore.common.config import CfgNode
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from timm.utils import ModelEmaV3

from revit_video import flops
from revit_video.adaptive.table import static_map, static_top1
from revit_video.data.loader import TrainBatches
from revit_video.from_cfg.identity import MAY_GROW, Record, check_same, training_record
from revit_video.from_cfg.inputs import clip_in_words, train_batches
from revit_video.from_cfg.model import build_model, check_heads, data_spec, reader
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
from revit_video.models import checkpoint
from revit_video.models.base import ResizableModel
from revit_video.models.checkpoint import Checkpoint, CheckpointError
from revit_video.models.pretrained import initialise_parts
from revit_video.models.sources import read_source
from revit_video.models.untrusted import believed
from revit_video.runtime import output_dir
from revit_video.runtime.logging import StatsLog
from revit_video.runtime.ranks import Ranks, broadcast_parameters, in_length_groups
from revit_video.stages.job import Job, Trained, percents
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
    validated = _validated(job, training, state)
    if resumed and validated and training.epoch >= training.epochs:
        logger.info("training is complete: %d epochs", training.epoch)
        return _handed_on(job, training, resumed.path, resumed.costs, resumed.record())
    checkpoints = Checkpoints(job, training, record)
    _say_price(ranks, checkpoints.costs)
    total = training.epochs * training.batches_per_epoch
    job.outlook.resumed(training.iteration / total)
    with job.stats() as stats:
        if not validated:
            checkpoints.keep_if_best(_validate(job, training, stats))
        steps = fit(training, stats, lambda: job.termination.asked > 0)
        for stop in watched(steps, job, training):
            checkpoints.save_if_due(stop)
            if training.batch == 0:
                job.outlook.reached(training.iteration / total)
            if stop:
                ranks.barrier()  # a rank that ends early has the others killed, in their save too
                job.termination.asked = job.termination.asked or signal.SIGTERM  # another rank was asked
                job.termination.leave()
            if _is_validated(cfg, training):
                with checkpoints.saved_on_leaving():
                    checkpoints.keep_if_best(_validate(job, training, stats))
    job.record_skipped("train", job.gathered(sorted(batches.skipped)))
    ranks.barrier()  # the main rank has saved
    path = checkpoint.latest(job.path(output_dir.CHECKPOINTS))
    assert path is not None
    return _handed_on(job, training, path, checkpoints.costs, record)


def _handed_on(
    job: Job, training: Training, path: str, costs: dict[str, Any], record: Record | None
) -> Trained:
    """The last epoch's model, or the best epoch's."""
    if best := job.best_checkpoint():
        logger.info("the best epoch goes on: %s", best)
        checkpoint.read(best).load_into(_result(training))
        path = best
    return job.handed_on(path, _result(training), costs, record)


class Checkpoints:
    """Saves a training after every few epochs, and within them by the clock of the main rank."""

    KEPT = "what was saved before is whole"

    def __init__(self, job: Job, training: Training, record: Record) -> None:
        self.job, self.training, self.record = job, training, record
        self.data = data_spec(job.cfg, job.data.class_names)
        self.costs = flops.cost_table(_result(training), job.views)
        self.saved_at = time.monotonic()

    def save_if_due(self, stop: bool) -> None:
        """Writes a checkpoint where the epoch or the clock asks for one, or the run is to stop.

        Raises:
            CheckpointError: it could not be written. Those by the clock can be done without: a warning.
        """
        cfg, ranks = self.job.cfg.TRAIN, self.training.ranks
        needed = stop or _ends_period(self.training, cfg.CHECKPOINT_PERIOD)
        minutes = (time.monotonic() - self.saved_at) / 60
        if not ranks.is_main or not (needed or 0 < cfg.CHECKPOINT_MINUTES <= minutes):
            return
        if self.training.bad_steps:  # the loop ends at the next statistics
            return
        try:
            self._save()
        except CheckpointError as error:
            if needed:
                raise CheckpointError(f"{error}; {self.KEPT}") from error
            logger.warning("%s; %s, and training goes on", error, self.KEPT)
        self.saved_at = time.monotonic()

    def keep_if_best(self, figures: dict[str, float]) -> None:
        """Writes best.pyth where no epoch before was better.

        Args:
            figures: of this epoch on the validation list, one for each length.
        """
        if not self.job.cfg.TRAIN.BEST or not self.training.ranks.is_main:
            return
        name, epoch = self.job.cfg.TRAIN.BEST, self.training.epoch - 1

        def figure(of_lengths: list[float]) -> float:
            lengths = list(map(str, _result(self.training).lengths))
            return sum(of_lengths) / len(lengths) if name == "mean" else of_lengths[lengths.index(name)]

        keys = [f"{_measured(self.job)}_{length}" for length in figures]
        lines = output_dir.read_stats(self.job.cfg.OUTPUT_DIR)
        before = [
            figure([line[key] for key in keys])
            for line in lines
            if line["stage"] == "val" and line["epoch"] < epoch and keys[0] in line
        ]
        if figure(list(figures.values())) > max(before, default=-1.0):
            payload = checkpoint.model_payload(_result(self.training), self.data, self.costs, self.record)
            checkpoint.save(self.job.path(output_dir.CHECKPOINTS, checkpoint.BEST), payload)

    @contextmanager
    def saved_on_leaving(self) -> Iterator[None]:
        """A block that ends early where that was asked for; what was trained since the last save is saved."""
        try:
            yield
        except BaseException:  # of any kind, where another rank has left first
            if self.job.termination.asked:
                self.save_if_due(stop=not _ends_period(self.training, self.job.cfg.TRAIN.CHECKPOINT_PERIOD))
            raise

    def _save(self) -> None:
        training = self.training
        payload = checkpoint.model_payload(_result(training), self.data, self.costs, self.record)
        payload["training"] = training.state_dict()
        checkpoint.save_progress(
            self.job.path(output_dir.CHECKPOINTS),
            payload,
            training.epoch,
            training.batch,
            self.job.cfg.TRAIN.KEEP,
        )


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
    """The training step of DVT, ReViT-E or ReViT-B."""
    smoothing, precision = cfg.SOLVER.LABEL_SMOOTHING, autocast(cfg, ranks)
    if cfg.DVT.ENABLE:
        return CascadeStep(model, smoothing, precision)
    method = ReplicaStep if cfg.TRAIN.METHOD == "revit_e" else MixedLengthStep
    return method(model, distillation(cfg), ranks, smoothing, precision, cfg.TRAIN.DENSE_WEIGHT)


def _starting_point(job: Job, model: ResizableModel) -> Checkpoint | None:
    """Loads the weights to start from, if any; the checkpoint where a training is to be resumed."""
    cfg = job.cfg
    last, damaged = None, list[str]()
    if cfg.TRAIN.AUTO_RESUME:
        last, damaged = checkpoint.latest_and_damaged(job.path(output_dir.CHECKPOINTS))
    if job.ranks.is_main:
        for reason in damaged:
            logger.warning("passed over %s", reason)
    if last is not None:
        logger.info("resuming from %s", last)
        found = checkpoint.read(last)
        found.load_into(model)
        return found
    if cfg.TRAIN.CHECKPOINT_FILE_PATH:
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


def _result(training: Training) -> ResizableModel:
    assert isinstance(training.result, ResizableModel)
    return training.result


def _check_agreement(training: Training) -> None:
    """ValueError where machines do not see the same checkpoints: they would wait for each other forever."""
    places = set(training.ranks.gather((training.epoch, training.batch)))
    if len(places) > 1:
        raise ValueError(
            "OUTPUT_DIR: the machines found different checkpoints there; it must be a folder they share"
        )


def _validated(job: Job, training: Training, state: dict[str, Any] | None) -> bool:
    """Drops the statistics of what will be done again; whether the last epoch has the validation it needs."""
    done = (state["epoch"], state["batch"]) if state else (0, 0)

    def happened(line: dict[str, Any]) -> bool:
        if line["stage"] == "val":
            return line.get("epoch", 0) < done[0]
        return line["stage"] != "train" or (line.get("epoch", 0), line.get("iter", 0)) < done

    lines = output_dir.keep_stats(job.cfg.OUTPUT_DIR, happened) if job.ranks.is_main else []
    found = any(line["stage"] == "val" and line.get("epoch") == training.epoch - 1 for line in lines)
    (found, *_) = job.ranks.gather(found)  # as the main rank has it
    return found or not _is_validated(job.cfg, training)


def _is_validated(cfg: CfgNode, training: Training) -> bool:
    period = cfg.TRAIN.EVAL_PERIOD
    return period > 0 and _ends_period(training, period)


def _ends_period(training: Training, period: int) -> bool:
    """Whether an epoch has just ended that is the last, or a multiple of `period`."""
    at_end = training.batch == 0 and training.epoch > 0
    return at_end and (training.epoch == training.epochs or training.epoch % period == 0)


def _measured(job: Job) -> str:
    """What a validation measures: top-1, or with several labels a video the mean average precision."""
    return "mAP" if job.cfg.DATA.MULTI_LABEL else "top1"


def _validate(job: Job, training: Training, stats: StatsLog) -> dict[str, float]:
    """Writes and returns the figure of each length on the validation list, in percent."""
    model, measured = _result(training), _measured(job)
    table = job.tabulate(reader(job.cfg, model), "val", job.test_batches("val"))

    def figures() -> dict[str, dict[str, float]]:
        top1 = {"top1": static_top1(table, model.lengths)}
        return top1 | ({"mAP": static_map(table, model.lengths)} if measured == "mAP" else {})

    of = job.ranks.from_main(figures)
    lines = {f"{what}_{name}": value for what, each in of.items() for name, value in each.items()}
    stats.write(stage="val", epoch=training.epoch - 1, step=training.iteration, **lines)
    words = "top-1" if measured == "top1" else measured
    logger.info("epoch %d, %s on val: %s", training.epoch, words, percents(of[measured]))
    return of[measured]
