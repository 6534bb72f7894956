"""The third stage: training the Token-Length Assigner on mined clips, and choosing its operating point."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch
from fvcore.common.config import CfgNode

from revit_video import flops
from revit_video.adaptive.kept import write_calibration
from revit_video.adaptive.labels import AGAIN, NONE_CORRECT, MinedLabels, read_labels
from revit_video.adaptive.policies import Costs, Settings
from revit_video.from_cfg.identity import ANSWERS, WEIGHTS, Record, assigner_record, check_same, mining_record
from revit_video.from_cfg.identity import settings as settings_of
from revit_video.from_cfg.inputs import mined_batches
from revit_video.from_cfg.model import build_assigner, data_spec
from revit_video.from_cfg.overlaps import mine_split
from revit_video.models import checkpoint
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.runtime import output_dir
from revit_video.runtime.ranks import Ranks, broadcast_parameters
from revit_video.stages.calibration import calibrated_here
from revit_video.stages.job import Job, Trained
from revit_video.train.loop import Training, fit
from revit_video.train.mined import MinedBatches, class_weights
from revit_video.train.optim import cosine_schedule, make_optimizer, warmup_epochs, with_warmup
from revit_video.train.steps import AssignerStep

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assigner:
    """A trained assigner and the operating points of the policies.

    Attributes:
        costs: see `flops.cost_table`; with the assigner.
        record: what it was made of and how it answers, None if that is unknown; see `from_cfg.identity`.
    """

    network: TokenLengthAssigner
    settings: Settings
    costs: dict[str, Any]
    record: Record | None


def assign(job: Job, trained: Trained | None = None, mined: MinedLabels | None = None) -> Assigner:
    """Trains the Token-Length Assigner on mined labels and chooses its operating point on the val list.

    Args:
        trained, mined: as `train` and `mine` give them; None: from OUTPUT_DIR.
    """
    cfg, ranks = job.cfg, job.ranks
    trained = trained or job.trained
    model = trained.model
    if mined is None:
        mined = read_labels(job.path(output_dir.LABELS), model.lengths)
        _check_labels(job, mined, trained)
    mined = _learnable(mined)
    network = build_assigner(cfg).to(ranks.device)
    costs = flops.with_assigner(trained.costs, model, network)
    broadcast_parameters(network, ranks)
    training = assigner_training(cfg, ranks, network, mined, mined_batches(cfg, job.data, mined, ranks))
    job.record_config()
    if ranks.is_main:
        output_dir.keep_stats(cfg.OUTPUT_DIR, lambda line: line["stage"] != "assigner")
    with job.stats() as stats:
        for stop in fit(training, stats, lambda: job.termination.asked > 0):
            if stop:
                job.termination.leave()
    fast = network.for_inference()
    table = job.tabulate(trained.reader, "val", job.test_batches("val"), fast)
    if ranks.is_main:
        write_calibration(job.path(output_dir.CALIBRATION), cfg.ADAPTIVE, table)
    own = Costs.from_table(costs, model.carries_state)
    settings = calibrated_here(cfg, table, own, trained.reader, fast, ranks)
    record = assigner_record(cfg, trained.weights, job.data.class_names) | settings_of(cfg, ANSWERS)
    job.forget_results()
    if ranks.is_main:
        output_dir.write_json(job.path(output_dir.FLOPS), costs)
        payload = checkpoint.assigner_payload(network, settings.to_dict(), record)
        checkpoint.save(job.path(output_dir.ASSIGNER), payload)
        data = data_spec(cfg, job.data.class_names)
        backbone = checkpoint.model_payload(model, data, costs, trained.record)
        checkpoint.save(job.path(output_dir.MODEL), backbone | payload)
    return Assigner(network.eval(), settings, costs, record)


def _learnable(mined: MinedLabels) -> MinedLabels:
    """Where no clip has a label, all have that of the longest length: a run of a weak model goes on."""
    if bool((mined.token_lengths != NONE_CORRECT).any()):
        return mined
    logger.warning(
        "no length is right on any of the %d mined clips, so the assigner learns to take always %s: the "
        "backbone has not learned what these clips show",
        len(mined.videos),
        mined.lengths[0],
    )
    return replace(mined, token_lengths=torch.zeros_like(mined.token_lengths))


def assigner_training(
    cfg: CfgNode, ranks: Ranks, network: TokenLengthAssigner, mined: MinedLabels, batches: MinedBatches
) -> Training:
    """The assigner's loss, optimiser and schedule, on the clips of labels.csv."""
    own = cfg.ASSIGNER
    weights = class_weights(mined).to(ranks.device) if own.CLASS_WEIGHTS else None
    warmup = warmup_epochs(own.WARMUP_EPOCHS, len(batches), own.MAX_EPOCH)
    schedule = cosine_schedule(own.BASE_LR, 0.0, own.MAX_EPOCH, warmup)
    return Training(
        network,
        AssignerStep(network, weights),
        make_optimizer(network, "adamw", own.BASE_LR, own.WEIGHT_DECAY),
        lambda epoch, _: ((frames, labels, ()) for frames, labels in batches(epoch)),
        len(batches),
        batches.batch_size * ranks.world_size,
        with_warmup(schedule, warmup, 0.0),
        own.MAX_EPOCH,
        ranks,
        stage="assigner",
        log_period=cfg.LOG_PERIOD,
        seed=cfg.RNG_SEED,
    )


def _check_labels(job: Job, mined: MinedLabels, trained: Trained) -> None:
    """ValueError for labels of another list, of other clips or that another model gave.

    Folds have models of their own.
    """
    path, folds, models = job.path(output_dir.LABELS), job.cfg.MINE.FOLDS, len(mined.checkpoints)
    if models != max(1, folds):
        raise ValueError(f"{path} was mined by {models} models; MINE.FOLDS is {folds}; {AGAIN}")
    made = None if mined.record is None else mined.record | {WEIGHTS: mined.checkpoints[0]}
    now = mining_record(job.cfg, job.data.videos(mine_split(job.cfg)))
    check_same(made, now if folds else now | {WEIGHTS: trained.weights}, f"{path} was mined", AGAIN)
