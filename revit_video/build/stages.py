"""The stages of a run, in the order of the paper's Algorithm 1: train, mine, train the assigner, test."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.common.config import CfgNode

from revit_video import flops
from revit_video.adaptive.calibrate import Point, assigned_points, cascade_points, choose_point
from revit_video.adaptive.labels import read_labels, write_labels
from revit_video.adaptive.policies import Assigned, Cascade, Oracle, Policy, Random, Static
from revit_video.build import files
from revit_video.build import model as build
from revit_video.build.assigner import MinedBatches, class_weights
from revit_video.build.data import EvalBatches, TrainBatches, check_lists, class_names, video_list
from revit_video.config import dump_cfg
from revit_video.evaluate import Evaluation, Table, evaluate, mined_labels, static_top1, tabulate
from revit_video.models.revit import ReViT
from revit_video.report import print_table, write_report
from revit_video.runtime import checkpoint
from revit_video.runtime.distributed import (
    Ranks,
    barrier,
    broadcast_parameters,
    gather_objects,
    init,
    shutdown,
)
from revit_video.runtime.logging import StatsLog, keep_stats, prepare_output_dir, progress, setup
from revit_video.train.loop import Training, fit
from revit_video.train.optim import cosine_schedule, make_optimizer, with_warmup
from revit_video.train.steps import AssignerStep, MixedLengthStep

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One run: its config, this process's rank and the command that started it."""

    cfg: CfgNode
    ranks: Ranks
    command: str

    def path(self, *names: str) -> str:
        """A file in OUTPUT_DIR."""
        return os.path.join(self.cfg.OUTPUT_DIR, *names)

    def stats(self) -> StatsLog:
        return StatsLog(self.cfg.OUTPUT_DIR, self.cfg.TENSORBOARD.ENABLE, self.ranks.is_main)


def run(cfg: CfgNode, stages: list[str], command: str) -> None:
    """Runs the named stages on this rank: `train`, `mine`, `assigner`, `test`."""
    ranks = init(cfg.DEVICE)
    try:
        setup(ranks.is_main)
        job = Job(cfg, ranks, command)
        if ranks.is_main:
            prepare_output_dir(cfg.OUTPUT_DIR)
            check_lists(cfg, stages)
            checkpoint.atomic_write_text(job.path(files.CONFIG), dump_cfg(cfg))
        barrier(ranks)
        for stage in stages:
            STAGES[stage](job)
            barrier(ranks)
    finally:
        shutdown()


def enabled_stages(cfg: CfgNode) -> list[str]:
    """The stages that the config switches on, in order."""
    return [name for name in STAGES if cfg[name.upper()].ENABLE]


# ---- Train -----------------------------------------------------------------------------------------------


def train(job: Job) -> None:
    """Trains the backbone at all lengths, from the last checkpoint in OUTPUT_DIR if there is one."""
    cfg, ranks = job.cfg, job.ranks
    model = build.build_model(cfg)
    batches = TrainBatches(cfg, ranks)
    state = _starting_point(job, model)
    model.to(ranks.device)
    names, costs = class_names(cfg), flops.cost_table(model, _views(cfg))
    broadcast_parameters(model, ranks)
    training = Training(
        model,
        MixedLengthStep(
            model, build.distillation(cfg), ranks, cfg.SOLVER.LABEL_SMOOTHING, build.autocast(cfg, ranks)
        ),
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
    if state is not None:
        training.load_state_dict(state)
    if ranks.is_main:
        keep_stats(cfg.OUTPUT_DIR, lambda line: not _is_training(line) or line["epoch"] < training.epoch)
    if training.epoch >= training.epochs:
        logger.info("training is complete: %d epochs", training.epochs)
        return
    with job.stats() as stats:
        for done in fit(training, stats):
            last = done == training.epochs
            if ranks.is_main and (last or done % cfg.TRAIN.CHECKPOINT_PERIOD == 0):
                payload = build.backbone_payload(cfg, model, names, costs) | {
                    "training": training.state_dict()
                }
                checkpoint.save_epoch(job.path(files.CHECKPOINTS), done, payload)
            if cfg.TRAIN.EVAL_PERIOD and (last or done % cfg.TRAIN.EVAL_PERIOD == 0):
                _validate(job, model, done, done * len(batches), stats)
    _record_skipped(job, "train", sorted(batches.skipped))


def _is_training(line: dict[str, Any]) -> bool:
    return line["stage"] in ("train", "val")


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
    table = _tabulate(job, model, "val")
    _record_skipped(job, "val", table.skipped)
    top1 = static_top1(table, model.lengths)
    stats.write(
        stage="val", epoch=epoch - 1, step=step, **{f"top1_{name}": value for name, value in top1.items()}
    )
    logger.info("epoch %d, top-1 on val: %s", epoch, _percents(top1))


# ---- Mine ------------------------------------------------------------------------------------------------


def mine(job: Job) -> None:
    """Writes the token-length label of every clip of the mining list to labels.csv."""
    cfg = job.cfg
    path, model = _trained(job)
    table = _tabulate(job, model, cfg.MINE.SPLIT, mining=True)
    mined = mined_labels(table, model.lengths, cfg.MINE.NONE_CORRECT, checkpoint.digest(path))
    _record_skipped(job, "mine", table.skipped)
    if not job.ranks.is_main:
        return
    write_labels(job.path(files.LABELS), mined)
    keep_stats(cfg.OUTPUT_DIR, lambda line: line["stage"] != "mine")
    with job.stats() as stats:
        stats.write(stage="mine", labels=mined.histogram())
    shares = {name: 100 * count / len(mined.videos) for name, count in mined.histogram().items()}
    logger.info("token-length labels of %d clips: %s", len(mined.videos), _percents(shares))


# ---- Train the assigner ----------------------------------------------------------------------------------


def assigner(job: Job) -> None:
    """Trains the Token-Length Assigner on labels.csv and chooses its operating point on the val list."""
    cfg, ranks = job.cfg, job.ranks
    path, model = _trained(job)
    mined = read_labels(job.path(files.LABELS), model.lengths)
    if mined.checkpoint != checkpoint.digest(path):
        logger.warning("%s was mined with other weights than %s", job.path(files.LABELS), path)
    network = build.build_assigner(cfg).to(ranks.device)
    costs = flops.cost_table(model, _views(cfg), network)
    broadcast_parameters(network, ranks)
    batches = MinedBatches(cfg, mined, ranks)
    weights = class_weights(mined).to(ranks.device) if cfg.ASSIGNER.CLASS_WEIGHTS else None
    schedule = cosine_schedule(cfg.ASSIGNER.BASE_LR, 0.0, cfg.ASSIGNER.MAX_EPOCH)
    training = Training(
        network,
        AssignerStep(network, weights, cfg.ASSIGNER.LABEL_SMOOTHING),
        make_optimizer(network, "adamw", cfg.ASSIGNER.BASE_LR, cfg.ASSIGNER.WEIGHT_DECAY),
        batches,
        len(batches),
        with_warmup(schedule, cfg.ASSIGNER.WARMUP_EPOCHS, 0.0),
        cfg.ASSIGNER.MAX_EPOCH,
        ranks,
        stage="assigner",
        log_period=cfg.LOG_PERIOD,
        seed=cfg.RNG_SEED,
    )
    if ranks.is_main:
        keep_stats(cfg.OUTPUT_DIR, lambda line: line["stage"] != "assigner")
    with job.stats() as stats:
        for _ in fit(training, stats):
            pass
    _average_buffers(network, ranks)
    policy = Assigned(
        model, _gmacs(costs), network, costs["assigner_gmacs"], None, cfg.ADAPTIVE.DECISION == "view"
    )
    table = _tabulate(job, model, "val", assigned=policy)
    _record_skipped(job, "val", table.skipped)
    settings = _calibrated(job, table, costs)
    if ranks.is_main:
        files.write_json(job.path(files.FLOPS), costs)
        part = {"spec": build.assigner_spec(cfg), "weights": network.state_dict()}
        payload = {"format": build.FORMAT, "assigner": part, "policy": settings}
        checkpoint.save(job.path(files.ASSIGNER), payload)
        backbone = build.backbone_payload(cfg, model, class_names(cfg), costs)
        checkpoint.save(job.path(files.MODEL), backbone | payload)


def _average_buffers(network: torch.nn.Module, ranks: Ranks) -> None:
    """Batch norms have seen other clips on each rank: keep the mean of their statistics."""
    for buffer in network.buffers():
        if buffer.is_floating_point():
            shares = gather_objects(buffer.cpu(), ranks)
            buffer.copy_(torch.stack(shares).mean(dim=0))


def _calibrated(job: Job, table: Table, costs: dict[str, Any]) -> dict[str, Any]:
    """The policies' settings: fixed by the config, or chosen on `table`, the validation list."""
    adaptive = job.cfg.ADAPTIVE
    gmacs = _gmacs(costs)
    points = assigned_points(table.assigned, table.correct, gmacs, costs["assigner_gmacs"])
    confidence = table.scores.amax(dim=2)
    settings: dict[str, Any] = {"per_view": adaptive.DECISION == "view", "threshold": None}
    mix = table.assigned.argmax(dim=1).bincount(minlength=len(gmacs)).double() / len(table.rows)
    if adaptive.POLICY == "cumulative":
        chosen = _point(points, adaptive.THRESHOLD, adaptive.MAX_DROP, adaptive.SAFETY)
        settings["threshold"], mix = chosen.threshold, torch.tensor(chosen.mix)
        logger.info(
            "assigner on val: threshold %.3f gives %+.2f points at %.0f %% of the longest length's cost",
            chosen.threshold,
            0 - chosen.drop,  # no minus before a zero
            100 * chosen.gmacs / gmacs[0],
        )
    cascade = _point(
        cascade_points(confidence, table.correct, gmacs),
        adaptive.CASCADE_THRESHOLD,
        adaptive.MAX_DROP,
        adaptive.SAFETY,
    )
    return settings | {"mix": mix.tolist(), "cascade_threshold": cascade.threshold}


def _point(points: list[Point], threshold: float, max_drop: float, safety: float) -> Point:
    """The point at a threshold that the config gives, or the chosen one."""
    if threshold > 0:
        same = max((p for p in points if p.threshold <= threshold), key=lambda point: point.threshold)
        return same._replace(threshold=threshold)
    return choose_point(points, max_drop, safety)


# ---- Test ------------------------------------------------------------------------------------------------


def test(job: Job) -> None:
    """Runs every policy over the test list; writes results.json, predictions.csv and the report."""
    cfg, ranks = job.cfg, job.ranks
    _, model = _trained(job)
    policies, costs, threshold = _policies(job, model)
    videos = video_list(cfg, "test")
    batches = EvalBatches(
        cfg, videos, ranks, cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS, cfg.TEST.BATCH_SIZE
    )
    with progress(batches, len(batches), "test", ranks.is_main) as bar:
        result = evaluate(bar, policies, ranks)
    _record_skipped(job, "test", result.table.skipped)
    if ranks.is_main:
        results = _results(job, result, costs, model, threshold)
        files.write_json(job.path(files.RESULTS), results)
        files.write_json(job.path(files.FLOPS), costs)
        files.write_predictions(job.path(files.PREDICTIONS), result, model.lengths)
        print_table(results)
        logger.info("report: %s", write_report(cfg.OUTPUT_DIR))


def _policies(job: Job, model: ReViT) -> tuple[dict[str, Policy], dict[str, Any], float | None]:
    """The policies to test by name, the cost table, and the assigner's threshold."""
    cfg, ranks = job.cfg, job.ranks
    wanted = set(cfg.TEST.POLICIES)
    path = job.path(files.ASSIGNER)
    network, settings = None, None
    if wanted & {"assigned", "random", "cascade"}:
        if os.path.isfile(path):
            network, settings = build.load_assigner(path, cfg, ranks)
        else:
            wanted &= {"static", "oracle"}
            logger.warning("%s: no assigner, so only policies that need none are tested", path)
    costs = flops.cost_table(model, _views(cfg), network)
    gmacs = _gmacs(costs)
    run: dict[str, Any] = {
        "batch_size": max(1, cfg.TEST.BATCH_SIZE // ranks.world_size) * _views(cfg),
        "autocast": build.autocast(cfg, ranks),
    }
    policies: dict[str, Policy] = {}
    if wanted & {"static", "oracle"}:
        policies |= {str(length): Static(model, gmacs, length, **run) for length in model.lengths}
    if network is not None and settings is not None:
        if "assigned" in wanted:
            policies["assigned"] = Assigned(
                model,
                gmacs,
                network,
                costs["assigner_gmacs"],
                settings["threshold"],
                settings["per_view"],
                **run,
            )
        if "random" in wanted:
            policies["random"] = Random(model, gmacs, settings["mix"], cfg.RNG_SEED, **run)
        if "cascade" in wanted:
            policies["cascade"] = Cascade(model, gmacs, settings["cascade_threshold"], **run)
    if "oracle" in wanted:
        policies["oracle"] = Oracle(model, gmacs, **run)
    if not policies:
        raise ValueError(f"TEST.POLICIES {cfg.TEST.POLICIES}: nothing to test without an assigner ({path})")
    return policies, costs, settings["threshold"] if settings else None


def _results(
    job: Job, result: Evaluation, costs: dict[str, Any], model: ReViT, threshold: float | None
) -> dict[str, Any]:
    """The content of results.json."""
    lengths = [str(length) for length in model.lengths]
    # Without the static lengths, speed-ups have nothing to be relative to but the first policy.
    longest = result.scores.get(lengths[0]) or next(iter(result.scores.values()))
    entries = {name: score.as_dict(longest) for name, score in result.scores.items()}
    adaptive = entries.get("assigned")
    if adaptive is not None:
        adaptive |= {"assigner_gmacs": costs["assigner_gmacs"], "threshold": threshold}
    return {
        "dataset": os.path.basename(os.path.normpath(job.cfg.DATA.PATH_TO_DATA_DIR)),
        "split": "test",
        "clips": len(result.table.rows),
        "videos": len(result.videos),
        "skipped": len(result.table.skipped),
        "classes": class_names(job.cfg),
        "lengths": lengths,
        "command": job.command,
        "seed": job.cfg.RNG_SEED,
        "views": _views(job.cfg),
        "static": {name: entries[name] for name in lengths if name in entries},
        "adaptive": adaptive,
        "policies": {name: entries[name] for name in ("random", "cascade", "oracle") if name in entries},
        "curves": _curves(result.table, costs) if lengths[0] in entries else {},
    }


def _curves(table: Table, costs: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    """What each threshold would have given on these views; the thresholds in use were chosen elsewhere."""
    gmacs = _gmacs(costs)
    curves = {"cascade": cascade_points(table.scores.amax(dim=2), table.correct, gmacs)}
    if table.assigned.shape[1]:
        curves["assigned"] = assigned_points(table.assigned, table.correct, gmacs, costs["assigner_gmacs"])
    drawn = {
        name: [{"threshold": p.threshold, "gmacs": p.gmacs, "top1": p.top1} for p in points]
        for name, points in curves.items()
    }
    # A random mix of two lengths lies on the line between them.
    top1 = 100 * table.correct.double().mean(dim=0)
    drawn["random"] = [
        {"gmacs": cost, "top1": value} for cost, value in zip(gmacs, top1.tolist(), strict=True)
    ][::-1]
    return drawn


# ---- What the stages share -------------------------------------------------------------------------------


def _trained(job: Job) -> tuple[str, ReViT]:
    """Path and model of the checkpoint to use: the one that the config names, or the run's own last."""
    path = job.cfg.TEST.CHECKPOINT_FILE_PATH or checkpoint.latest(job.path(files.CHECKPOINTS))
    if path is None:
        raise ValueError(
            f"{job.path(files.CHECKPOINTS)}: no checkpoint; train first (TRAIN.ENABLE True) "
            "or name one with TEST.CHECKPOINT_FILE_PATH"
        )
    model = build.build_model(job.cfg)
    build.load_backbone(path, model, build.model_spec(job.cfg))
    return path, model.to(job.ranks.device).eval()


def _tabulate(
    job: Job, model: ReViT, split: str, mining: bool = False, assigned: Assigned | None = None
) -> Table:
    """Reads a list at every length, with the views of mining or of the test."""
    cfg, ranks = job.cfg, job.ranks
    clips, crops = (
        (cfg.MINE.NUM_CLIPS, 1) if mining else (cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS)
    )
    videos_per_batch = (cfg.MINE.BATCH_SIZE if mining else 0) or cfg.TEST.BATCH_SIZE
    batches = EvalBatches(cfg, video_list(cfg, split), ranks, clips, crops, videos_per_batch)
    with progress(batches, len(batches), f"reading {split} at every length", ranks.is_main) as bar:
        return tabulate(bar, model, ranks, assigned, build.autocast(cfg, ranks))


def _record_skipped(job: Job, stage: str, skipped: list[tuple[str, str]]) -> None:
    everywhere = [skip for own in gather_objects(skipped, job.ranks) for skip in own]
    if job.ranks.is_main:
        files.record_skipped(job.cfg.OUTPUT_DIR, stage, everywhere)
        if everywhere:
            logger.warning(
                "%s: %d unreadable videos, listed in %s", stage, len(set(everywhere)), files.SKIPPED
            )


def _views(cfg: CfgNode) -> int:
    return cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS


def _gmacs(costs: dict[str, Any]) -> list[float]:
    return [length["gmacs"] for length in costs["lengths"].values()]


def _percents(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f} %" for name, value in values.items())


STAGES = {"train": train, "mine": mine, "assigner": assigner, "test": test}
