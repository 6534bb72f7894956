"""The second stage: mining token-length labels."""

from __future__ import annotations

import logging

from revit_video.adaptive.labels import write_labels
from revit_video.build import files
from revit_video.build.data import EvalBatches, mine_split, video_list
from revit_video.build.job import Job, percents
from revit_video.evaluate import mined_labels
from revit_video.runtime import checkpoint
from revit_video.runtime.logging import keep_stats

logger = logging.getLogger(__name__)


def mine(job: Job) -> None:
    """Writes the token-length label of every clip of the mining list to labels.csv."""
    cfg = job.cfg
    path, model = job.trained()
    videos = video_list(cfg, mine_split(cfg))
    videos_per_batch = cfg.MINE.BATCH_SIZE or cfg.TEST.BATCH_SIZE
    batches = EvalBatches(cfg, videos, job.ranks, cfg.MINE.NUM_CLIPS, 1, videos_per_batch)
    table = job.tabulate(model, "mine", batches)
    if not job.ranks.is_main:
        return
    mined = mined_labels(table, model.lengths, cfg.MINE.NONE_CORRECT, checkpoint.digest(path))
    write_labels(job.path(files.LABELS), mined)
    keep_stats(cfg.OUTPUT_DIR, lambda line: line["stage"] != "mine")
    with job.stats() as stats:
        stats.write(stage="mine", labels=mined.histogram())
    shares = {name: 100 * count / len(mined.videos) for name, count in mined.histogram().items()}
    logger.info("token-length labels of %d clips: %s", len(mined.videos), percents(shares))
