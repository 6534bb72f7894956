"""Training without epochs: heads in closed form on a frozen backbone; answers of every clip out of fold."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import NamedTuple

import torch
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor

from revit_video import flops
from revit_video.adaptive.folds import OutOfFold, cut_into_folds
from revit_video.adaptive.table import Table, static_top1
from revit_video.adaptive.temperatures import fit_temperature
from revit_video.data.groups import series_in
from revit_video.from_cfg.identity import training_record
from revit_video.from_cfg.model import build_model, check_heads, data_spec, reader
from revit_video.from_cfg.overlaps import groups_in
from revit_video.meters import topk
from revit_video.models import checkpoint, saved_epochs
from revit_video.models.base import ResizableModel
from revit_video.models.frozen import FrozenReViT, blocks_of
from revit_video.models.pretrained import initialise
from revit_video.models.sources import FROM_SCRATCH, read_source
from revit_video.runtime import output_dir
from revit_video.runtime.ranks import broadcast_parameters
from revit_video.stages.features import Features, features_of
from revit_video.stages.job import Job, Trained, percents
from revit_video.train.closed_form import Head, out_of_fold, ridge

MOST_FOR_CURVE = 1000  # clips; heads of more take minutes to solve again and again
SHARES, DRAWS = (0.25, 0.5, 0.75, 1.0), 3  # of the learning curve, and how often each is drawn
INNER_FOLDS = 10  # for the temperatures, where DATA.FOLDS is 0
NO_WEIGHTS = (
    "TRAIN.CHECKPOINT_FILE_PATH: TRAIN.METHOD {} learns from pretrained weights; name a file of a ViT's "
    "(docs/weights.md). " + FROM_SCRATCH
)

logger = logging.getLogger(__name__)


class Solved(NamedTuple):
    """Heads for each length, longest first, and the answers of every clip by heads without its fold."""

    heads: list[Head]
    answers: OutOfFold


def train_frozen(job: Job) -> Trained:
    """Solves the heads on the training list; with what is kept of an earlier run, in seconds."""
    cfg, videos = job.cfg, job.data.videos("train")
    record = training_record(cfg, videos)
    model = build_model(cfg)
    start_frozen(job, model)
    model.to(job.ranks.device).eval()
    job.forget_results()
    job.record_config()
    solved = solve_heads(job, model, videos)
    broadcast_parameters(model, job.ranks)
    costs = flops.cost_table(model, job.views)
    if job.ranks.is_main:
        payload = checkpoint.model_payload(model, data_spec(cfg, job.data.class_names), costs, record)
        saved_epochs.save_progress(job.path(output_dir.CHECKPOINTS), payload, 1)
    job.ranks.barrier()
    path = saved_epochs.latest(job.path(output_dir.CHECKPOINTS))
    assert path is not None
    return replace(job.handed_on(path, model, costs, record), out_of_fold=solved.answers)


def start_frozen(job: Job, model: ResizableModel) -> None:
    """Loads the pretrained weights, without their head.

    Raises:
        ValueError: the config names none.
    """
    cfg = job.cfg
    if not cfg.TRAIN.CHECKPOINT_FILE_PATH:
        raise ValueError(NO_WEIGHTS.format(cfg.TRAIN.METHOD))
    source = read_source(cfg.TRAIN.CHECKPOINT_FILE_PATH, cfg.TRAIN.CHECKPOINT_KEY, cfg.TRAIN.QUERY_SCALE)
    check_heads(cfg, source)
    logger.info("starting from %s", initialise(model.parts[0], source.without_head()))


def solve_heads(job: Job, model: ResizableModel, videos: LabeledVideoPaths) -> Solved:
    """Solves the heads on `videos`, and gives them to the model."""
    assert isinstance(model, FrozenReViT)
    solved = _solve(job, model, videos)
    for layer, head in zip(model.heads, solved.heads, strict=True):
        layer.load_state_dict({"weight": head.weight, "bias": head.bias})
    return solved


def with_answers(job: Job, trained: Trained) -> Trained:
    """`trained` with its answers out of fold, where the run has folds."""
    if not job.cfg.DATA.FOLDS:
        return trained
    return replace(trained, out_of_fold=answers_out_of_fold(job, trained))


def answers_out_of_fold(job: Job, trained: Trained) -> OutOfFold:
    """The answers of every clip of the training list by heads that have not seen its fold."""
    if trained.out_of_fold is not None:
        return trained.out_of_fold
    assert isinstance(trained.model, FrozenReViT)
    return _solve(job, trained.model, job.data.videos("train")).answers


def _solve(job: Job, model: FrozenReViT, videos: LabeledVideoPaths) -> Solved:
    cfg, classes = job.cfg, model.num_classes
    start = time.monotonic()
    fast = reader(cfg, model)
    assert isinstance(fast, FrozenReViT)
    features = features_of(job, fast, videos)
    fold, labels = _folds(job, features), features.labels
    read = time.monotonic()
    heads, answers = [], []
    for frames, length, values in zip(model.frames, model.lengths, features.values, strict=True):
        job.termination.look()
        sizes = blocks_of(len(frames), length.count, model.config.embed_dim)
        scores = out_of_fold(values, labels, classes, sizes, fold)
        temperature = fit_temperature(scores.softmax(dim=1), labels)
        answers.append((scores / temperature).softmax(dim=1))
        known = values.flatten(0, 1), labels.repeat_interleave(values.shape[1])
        heads.append(ridge(*known, classes, sizes).divided(temperature))
    table = _table(features, torch.stack(answers, dim=1))
    logger.info(
        "top-1 out of fold of %d clips: %s; %.0f s for features, %.0f s for heads",
        len(labels),
        percents(static_top1(table, model.lengths)),
        read - start,
        time.monotonic() - read,
    )
    return Solved(heads, OutOfFold(table, fold, _learning_curve(job, model, features, fold)))


def _learning_curve(job: Job, model: FrozenReViT, features: Features, fold: Tensor) -> dict[int, float]:
    """Top-1 of the longest length out of fold, by the number of clips that its heads were solved on."""
    values, labels, found = features.values[0], features.labels, dict[int, float]()
    if len(labels) > MOST_FOR_CURVE:
        return found
    sizes = blocks_of(len(model.frames[0]), model.lengths[0].count, model.config.embed_dim)
    learned = len(labels) * (1 - 1 / len(fold.unique()))
    for share in SHARES:
        job.termination.look()
        draws = range(DRAWS if share < 1 else 1)
        scores = [
            out_of_fold(values, labels, model.num_classes, sizes, fold, share, job.cfg.RNG_SEED + draw)
            for draw in draws
        ]
        found[round(share * learned)] = sum(topk(each, labels, 1) for each in scores) / len(scores)
    return found


def _folds(job: Job, features: Features) -> Tensor:
    """The fold of each clip `(N,)`; clips of one group share one."""
    data, wanted = job.cfg.DATA, job.cfg.DATA.FOLDS or INNER_FOLDS
    groups = groups_in(job.cfg, features.paths)
    if not data.GROUP and (series := series_in(features.paths, features.labels.tolist())):
        logger.warning(
            "files such as %s_… look like several clips of one recording; name what they share with "
            "DATA.GROUP, or the accuracy is that of recordings that were trained on",
            series,
        )
    count = len(set(groups))
    if count < 2:
        raise ValueError(f"DATA.GROUP {data.GROUP!r}: all {len(groups)} clips are one group, {groups[0]}")
    logger.info("%d clips in %d groups, %d folds", len(groups), count, min(wanted, count))
    return cut_into_folds(groups, features.labels.tolist(), min(wanted, count), job.cfg.RNG_SEED)


def _table(features: Features, scores: Tensor) -> Table:
    none = torch.zeros_like(features.rows)
    return Table(
        paths=features.paths,
        rows=features.rows,
        labels=features.labels,
        starts=none.float(),
        clip_index=none,
        crops=none,
        correct=scores.argmax(dim=2) == features.labels[:, None],
        scores=scores,
        assigned=scores.new_empty(len(scores), 0),
        skipped=features.skipped,
    )
