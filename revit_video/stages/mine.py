"""The second stage: mining token-length labels."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

from fvcore.common.config import CfgNode
from pytorchvideo.data.labeled_video_paths import LabeledVideoPaths
from torch import Tensor

from revit_video.adaptive.folds import cut_into_folds
from revit_video.adaptive.labels import MinedLabels, write_labels
from revit_video.adaptive.table import mine_labels
from revit_video.data.batch import Skipped
from revit_video.data.lists import labelled_files
from revit_video.from_cfg.identity import mining_record
from revit_video.from_cfg.inputs import eval_batches
from revit_video.from_cfg.overlaps import groups_in, list_root, mine_split
from revit_video.report import write_labels_picture
from revit_video.runtime import output_dir
from revit_video.runtime.output_dir import atomic_write_text, csv_text
from revit_video.stages.job import Job, Trained, percents
from revit_video.stages.outlook import Outlook
from revit_video.stages.solve import answers_out_of_fold
from revit_video.stages.train import train

HARDEST = 5  # classes named in the log

logger = logging.getLogger(__name__)


def mine(job: Job, trained: Trained | None = None) -> MinedLabels:
    """Writes the token-length label of every clip of the mining list to labels.csv, and draws them.

    Args:
        trained: the run's backbone, as `train` gives it; None: from OUTPUT_DIR.
    """
    cfg = job.cfg
    videos = job.data.videos(mine_split(cfg))
    if cfg.DATA.FOLDS:
        trained = trained or job.trained
        job.record_config()
        table = answers_out_of_fold(job, trained).table
        mined = mine_labels(table, trained.model.lengths, cfg.MINE.NONE_CORRECT, trained.weights)
    elif cfg.MINE.FOLDS:
        mined = _mined_in_folds(job, videos)
    else:
        if mine_split(cfg) == "train":
            logger.info(
                "mining the training list: a backbone that was trained on it has memorised some clips, so "
                "that their labels come out too short; MINE.HOLDOUT or MINE.FOLDS avoid that"
            )
        mined, _ = _mined(job, trained or job.trained, videos, range(len(videos)))
    mined = replace(mined, record=mining_record(cfg, videos))
    if job.ranks.is_main:
        write_labels(job.path(output_dir.LABELS), mined)
        _show(job, mined)
    return mined


def _show(job: Job, mined: MinedLabels) -> None:
    """Draw the histogram of the labels, in total and by class, log it, and write it to stats.jsonl."""
    cfg, total = job.cfg, len(mined.videos)
    names = job.data.shown_names
    counts, by_class = mined.histogram(), mined.by_class(len(names))
    none_correct = int((~mined.correct.any(dim=1)).sum())
    write_labels_picture(cfg.OUTPUT_DIR, mined, names)
    output_dir.keep_stats(cfg.OUTPUT_DIR, lambda line: line["stage"] != "mine")
    with job.stats() as stats:
        stats.write(stage="mine", labels=counts, none_correct=none_correct, labels_by_class=by_class.tolist())
    shares = {name: 100 * count / total for name, count in counts.items()}
    logger.info(
        "token-length labels of %d clips: %s; no length is right on %.1f %%, %s",
        *(total, percents(shares), 100 * none_correct / total, _none_correct_in_words(cfg, mined)),
    )
    longest = 100 * by_class[:, 0] / by_class.sum(dim=1).clamp(min=1)
    order = longest.argsort(descending=True, stable=True)[:HARDEST].tolist()
    shares = {names[n]: float(longest[n]) for n in order}
    logger.info("classes with the most labels %s: %s", mined.lengths[0], percents(shares))


def _none_correct_in_words(cfg: CfgNode, mined: MinedLabels) -> str:
    """What becomes of the clips that no length gets right."""
    if cfg.MINE.NONE_CORRECT == "longest":
        return f"which are labelled {mined.lengths[0]}"
    return "from which the assigner does not learn (MINE.NONE_CORRECT drop)"


def _mined(
    job: Job, trained: Trained, videos: LabeledVideoPaths, rows: Sequence[int]
) -> tuple[MinedLabels, list[Skipped]]:
    """Mines some rows of a list; their labels, and the videos that cannot be decoded."""
    cfg, ranks = job.cfg, job.ranks
    job.record_config()
    own = list(rows[ranks.rank :: ranks.world_size])
    batches = eval_batches(cfg, videos, ranks, cfg.MINE.NUM_CLIPS, 1, rows=own)
    table = job.tabulate(trained.reader, "mine", batches, keep_scores=False)
    mined = mine_labels(table, trained.model.lengths, cfg.MINE.NONE_CORRECT, trained.weights)
    return mined, table.skipped


# ---- Folds -----------------------------------------------------------------------------------------------


def _mined_in_folds(job: Job, videos: LabeledVideoPaths) -> MinedLabels:
    """Mine each fold of the training list with a backbone that was trained on the other folds.

    The backbones are trained first, each in its own folder, where an interrupted run resumes. Mining is a
    single pass over the list and starts over.
    """
    folds = job.cfg.MINE.FOLDS
    paths, classes = zip(*labelled_files(videos), strict=True)
    fold = cut_into_folds(groups_in(job.cfg, paths), classes, folds, job.cfg.RNG_SEED)
    logger.info(
        "MINE.FOLDS %d: %d trainings, each on %d/%d of the training list (%d of %d videos); "
        "together they cost as much as %d of the backbone's own",
        *(folds, folds, folds - 1, folds, int((fold != 0).sum()), len(videos), folds - 1),
    )
    _record_folds(job, paths, classes, fold)
    job.record_config()
    jobs = [_fold_job(job, n) for n in range(folds)]
    for n, own in enumerate(jobs):
        if job.ranks.is_main:
            output_dir.ensure_writable(own.cfg.OUTPUT_DIR)
        job.ranks.barrier()
        logger.info("training without fold %d, in %s", n, own.cfg.OUTPUT_DIR)
        others = (fold != n).nonzero().flatten().tolist()
        train(own, LabeledVideoPaths([(paths[row], classes[row]) for row in others]))
        job.ranks.barrier()
    parts = [
        _mined(own, own.trained, videos, (fold == n).nonzero().flatten().tolist())
        for n, own in enumerate(jobs)
    ]
    job.record_skipped("mine", [skip for _, skipped in parts for skip in skipped])
    return MinedLabels.joined([mined for mined, _ in parts])


def _fold_job(job: Job, fold: int) -> Job:
    """A job with the run's recipe and its own folder, without validation."""
    cfg = job.cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = job.path(output_dir.FOLDS, str(fold))
    cfg.TRAIN.EVAL_PERIOD = 0
    cfg.TEST.CHECKPOINT_FILE_PATH = ""
    cfg.freeze()
    return replace(job, cfg=cfg, outlook=Outlook())


def _record_folds(job: Job, paths: Sequence[str], classes: Sequence[int], fold: Tensor) -> None:
    """Write the fold of each video, in the order of the list.

    Raises:
        ValueError: there are folds of another list or another number already.
    """
    # Relative paths, so that a data folder may move before a run is resumed.
    names = (os.path.relpath(path, list_root(job.cfg)) for path in paths)
    labels = (",".join(map(str, label)) if isinstance(label, tuple) else label for label in classes)
    text = csv_text(["fold", "video", "label"], zip(fold.tolist(), names, labels, strict=True))
    path = job.path(output_dir.FOLDS, output_dir.FOLDS_LIST)
    if os.path.isfile(path):
        with open(path, **output_dir.TEXT) as file:
            same = file.read() == text
        if not same:
            raise ValueError(
                f"{os.path.dirname(path)}: its models were trained on other parts of the list (MINE.FOLDS, "
                "RNG_SEED or the list itself has changed); remove it, or take another OUTPUT_DIR"
            )
    job.ranks.barrier()
    if job.ranks.is_main:
        atomic_write_text(path, text)
