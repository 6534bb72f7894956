"""When a training is saved, and which of its epochs is kept as the best."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from revit_video import flops
from revit_video.from_cfg.identity import Record
from revit_video.from_cfg.model import data_spec
from revit_video.models import checkpoint, saved_epochs
from revit_video.models.checkpoint import CheckpointError
from revit_video.runtime import output_dir
from revit_video.stages.job import Job
from revit_video.stages.validation import measured, trained_model
from revit_video.train.loop import Training

logger = logging.getLogger(__name__)


class Checkpoints:
    """Saves a training after every few epochs, and within them by the clock of the main rank."""

    KEPT = "what was saved before is whole"

    def __init__(self, job: Job, training: Training, record: Record) -> None:
        self.job, self.training, self.record = job, training, record
        self.data = data_spec(job.cfg, job.data.class_names)
        self.costs = flops.cost_table(trained_model(training), job.views)
        self.saved_at = time.monotonic()

    def save_if_due(self, stop: bool) -> None:
        """Writes a checkpoint where the epoch or the clock asks for one, or the run is to stop.

        Raises:
            CheckpointError: it could not be written. Those by the clock can be done without: a warning.
        """
        cfg, ranks = self.job.cfg.TRAIN, self.training.ranks
        needed = stop or self.training.ends_period(cfg.CHECKPOINT_PERIOD)
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
            lengths = list(map(str, trained_model(self.training).lengths))
            return sum(of_lengths) / len(lengths) if name == "mean" else of_lengths[lengths.index(name)]

        keys = [f"{measured(self.job)}_{length}" for length in figures]
        lines = output_dir.read_stats(self.job.cfg.OUTPUT_DIR)
        before = [
            figure([line[key] for key in keys])
            for line in lines
            if line["stage"] == "val" and line["epoch"] < epoch and keys[0] in line
        ]
        if figure(list(figures.values())) > max(before, default=-1.0):
            checkpoint.save(self.job.path(output_dir.CHECKPOINTS, saved_epochs.BEST), self._payload())

    @contextmanager
    def saved_on_leaving(self) -> Iterator[None]:
        """A block that ends early where that was asked for; what was trained since the last save is saved."""
        try:
            yield
        except BaseException:  # of any kind, where another rank has left first
            if self.job.termination.asked:
                self.save_if_due(stop=not self.training.ends_period(self.job.cfg.TRAIN.CHECKPOINT_PERIOD))
            raise

    def _save(self) -> None:
        training, folder = self.training, self.job.path(output_dir.CHECKPOINTS)
        payload = self._payload() | {"training": training.state_dict()}
        saved_epochs.save_progress(folder, payload, training.epoch, training.batch, self.job.cfg.TRAIN.KEEP)

    def _payload(self) -> dict[str, Any]:
        return checkpoint.model_payload(trained_model(self.training), self.data, self.costs, self.record)
