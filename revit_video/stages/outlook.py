"""What a run says of itself on the terminal: which stage it is at, and how long it will still take."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from fvcore.common.config import CfgNode

from revit_video.data.folders import DataFolder
from revit_video.from_cfg.model import views_per_video
from revit_video.from_cfg.overlaps import mine_split
from revit_video.runtime.text import time_in_words

TITLES = {
    "train": "training the backbone",
    "mine": "mining",
    "assigner": "training the assigner",
    "test": "testing",
}
PERIOD = 60.0  # seconds between two estimates, of which the first comes after an epoch
BACKWARD = 3.0  # what a step costs, in forward passes
ASSIGNER = 0.1  # what a step of the assigner costs, in forward passes of the backbone

logger = logging.getLogger(__name__)


class Outlook:
    """Headings of the stages, and estimates of the time left.

    A stage's share of the run is its number of forward passes, which is why the estimate is rough: decoding,
    validation and the clock of the test are not counted.

    Args:
        work: forward passes of each stage that will run, in order; empty for a run that says nothing.
    """

    def __init__(self, work: Mapping[str, float] | None = None) -> None:
        self._work = dict(work or {})
        self._stage = ""
        self._started = self._told = 0.0
        self._first = 0.0
        self._rate: float | None = None  # seconds per pass

    def begin(self, stage: str) -> None:
        """A stage starts, and the one before has ended."""
        if stage not in self._work:
            return
        now = time.monotonic()
        if self._stage:
            self._rate = (now - self._started) / max(self._work[self._stage] - self._first, 1.0)
        self._stage, self._started, self._told, self._first = stage, now, -PERIOD, 0.0
        place = list(self._work).index(stage) + 1
        known = ""
        if self._rate is not None:
            known = f"; about {time_in_words(self._rate * self._left(0.0))} left of the run"
        if len(self._work) > 1:
            logger.info("%d of %d: %s%s", place, len(self._work), TITLES[stage], known)

    def resumed(self, share: float) -> None:
        """A share of the running stage was done before."""
        if self._stage:
            self._first = share * self._work[self._stage]

    def reached(self, share: float) -> None:
        """So large a share of the running stage is done; says at times how long the run will still take."""
        now = time.monotonic()
        done = share * self._work[self._stage] - self._first if self._stage else 0.0
        if done <= 0 or now - self._told < PERIOD:
            return
        self._told = now
        left = (now - self._started) / done * self._left(share)
        logger.info("about %s left of the run", time_in_words(left))

    def _left(self, share: float) -> float:
        """Passes that are left, with a share of the running stage done."""
        later = list(self._work)[list(self._work).index(self._stage) + 1 :]
        return (1 - share) * self._work[self._stage] + sum(self._work[stage] for stage in later)


def outlook_of(cfg: CfgNode, data: DataFolder, stages: list[str]) -> Outlook:
    """The outlook of a run."""

    def videos(split: str) -> int:
        try:
            return len(data.videos(split))
        except (ValueError, OSError):  # which the stage will say
            return 0

    views = views_per_video(cfg)
    training = BACKWARD * cfg.SOLVER.MAX_EPOCH * videos("train")
    mined = videos(mine_split(cfg)) if {"mine", "assigner"} & set(stages) else 0
    work = {
        "train": training,
        "mine": cfg.MINE.NUM_CLIPS * mined + max(cfg.MINE.FOLDS - 1, 0) * training,
        "assigner": ASSIGNER * BACKWARD * cfg.ASSIGNER.MAX_EPOCH * mined + views * videos("val"),
        "test": views * videos(cfg.TEST.SPLIT),
    }
    return Outlook({stage: max(work[stage], 1.0) for stage in work if stage in stages})
