"""The stages of a run, in the order of the paper's Algorithm 1: train, mine, train the assigner, test."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from fvcore.common.config import CfgNode

from revit_video.data.loader import killed_workers_explained
from revit_video.from_cfg.inputs import check_later_stages, check_lists, lists_of
from revit_video.from_cfg.summary import say_lists
from revit_video.runtime import output_dir
from revit_video.runtime.lock import only_run_in
from revit_video.runtime.logging import setup
from revit_video.runtime.ranks import init
from revit_video.stages.assign import assign
from revit_video.stages.job import Job
from revit_video.stages.mine import mine
from revit_video.stages.solve import train_frozen
from revit_video.stages.test import test
from revit_video.stages.train import train

logger = logging.getLogger(__name__)

STAGES = ("train", "mine", "assigner", "test")


def run(cfg: CfgNode, stages: list[str], command: str) -> None:
    """Run the named stages on this rank: `train`, `mine`, `assigner`, `test`."""
    ranks = init(cfg.DEVICE, cfg.DATA_LOADER.NUM_WORKERS)
    setup(ranks.is_main)
    job = Job.of(cfg, stages, ranks, command)
    if ranks.is_main:
        output_dir.ensure_writable(cfg.OUTPUT_DIR)
    with only_run_in(cfg.OUTPUT_DIR) if ranks.is_main else nullcontext():
        _check(job, stages)
        with job.termination, _left_together(job):
            _run_stages(job, stages)


def _check(job: Job, stages: Sequence[str]) -> None:
    """What can be known at the start of a run, on the main rank while the others wait."""
    if job.ranks.is_main:
        check_lists(job.cfg, job.data, stages)
        say_lists(job.cfg, job.data, lists_of(job.cfg, stages))
        with job.recording("start"):
            check_later_stages(job.cfg, job.data, stages, job.ranks.world_size)
    job.ranks.barrier()


@contextmanager
def _left_together(job: Job) -> Iterator[None]:
    """Ranks that are asked to end look at different moments; one that waits for another then ends as well."""
    try:
        yield
    except RuntimeError:
        if job.ranks.world_size > 1:
            job.termination.look()
        raise


def _run_stages(job: Job, stages: Sequence[str]) -> None:
    """Each stage hands what it made to the later ones; what no stage made comes from OUTPUT_DIR."""
    trained, mined, assigned = None, None, None
    if "train" in stages:
        with _stage(job, "train"):
            trained = train_frozen(job) if job.cfg.TRAIN.METHOD == "frozen" else train(job)
    if job.cfg.TEST.CHECKPOINT_FILE_PATH:
        trained = None  # the later stages are about another model
    if "mine" in stages:
        with _stage(job, "mine"):
            mined = mine(job, trained)
    if "assigner" in stages:
        with _stage(job, "assigner"):
            assigned = assign(job, trained, mined)
    if "test" in stages:
        with _stage(job, "test"):
            test(job, trained, assigned)
    model = job.path(output_dir.MODEL)
    if job.ranks.is_main and "test" in stages and not job.cfg.TEST.NAME and os.path.isfile(model):
        logger.info("to classify videos: revit-video predict %s VIDEO", shlex.quote(job.cfg.OUTPUT_DIR))


@contextmanager
def _stage(job: Job, name: str) -> Iterator[None]:
    job.termination.look()
    job.outlook.begin(name)
    with killed_workers_explained(), job.recording(name):
        yield
    job.termination.look()
    job.ranks.barrier()


def enabled_stages(cfg: CfgNode) -> list[str]:
    """The stages that the config enables, in order."""
    return [name for name in STAGES if cfg[name.upper()].ENABLE]
