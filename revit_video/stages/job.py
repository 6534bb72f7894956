"""State and helpers shared by the stages of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fvcore.common.config import CfgNode

from revit_video.adaptive.folds import OutOfFold
from revit_video.adaptive.table import Table
from revit_video.config import dump_cfg
from revit_video.data.batch import Batch, Skipped
from revit_video.data.folders import DataFolder
from revit_video.data.loader import EvalBatches, TooManyUnreadable
from revit_video.evaluate import tabulate
from revit_video.from_cfg.identity import NOT_LATER, TRAINING, Record, check_same, settings
from revit_video.from_cfg.inputs import eval_batches
from revit_video.from_cfg.model import build_model, reader, views_per_video
from revit_video.from_cfg.resolve import with_data
from revit_video.models import checkpoint, saved_epochs
from revit_video.models.assigner import TokenLengthAssigner
from revit_video.models.base import ResizableModel
from revit_video.runtime import output_dir
from revit_video.runtime.logging import StatsLog, progress
from revit_video.runtime.output_dir import atomic_write_text
from revit_video.runtime.ranks import Ranks
from revit_video.runtime.termination import Termination
from revit_video.stages.outlook import Outlook, outlook_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A trained backbone, as the stages hand it on.

    Attributes:
        path: its checkpoint.
        model: in evaluation mode, on the rank's device.
        costs: see `flops.cost_table`; without an assigner.
        record: what it was made of, None if that is unknown; see `from_cfg.identity`.
        out_of_fold: of `TRAIN.METHOD frozen`, as `train` hands it on.
    """

    cfg: CfgNode
    path: str
    model: ResizableModel
    costs: dict[str, Any]
    record: Record | None
    out_of_fold: OutOfFold | None = None

    @cached_property
    def reader(self) -> ResizableModel:
        """The inference copy that mining, calibration and the test run, so that they agree."""
        return reader(self.cfg, self.model)

    @cached_property
    def weights(self) -> str:
        """Digest of the weights."""
        return checkpoint.weights_digest(self.model.state_dict())


@dataclass(frozen=True)
class Job:
    """One run: its config, this process's rank, the command that started it, its data folder, its end, and
    what it says of the way there.
    """

    cfg: CfgNode
    ranks: Ranks
    command: str
    data: DataFolder
    termination: Termination = field(default_factory=Termination)
    outlook: Outlook = field(default_factory=Outlook)

    @classmethod
    def of(cls, cfg: CfgNode, stages: Sequence[str], ranks: Ranks, command: str) -> Job:
        """A job that is about to run `stages`, with what the config leaves open filled in."""
        cfg, data = with_data(cfg, stages)
        outlook = outlook_of(cfg, data, list(stages)) if ranks.is_main else Outlook()
        return cls(cfg, ranks, command, data, outlook=outlook)

    @property
    def views(self) -> int:
        """See `views_per_video`."""
        return views_per_video(self.cfg)

    def path(self, *names: str) -> str:
        """A file in OUTPUT_DIR."""
        return os.path.join(self.cfg.OUTPUT_DIR, *names)

    def results_path(self, *names: str) -> str:
        """A file of the test, which may have a name and then a folder of its own."""
        name = self.cfg.TEST.NAME
        return self.path(*((output_dir.TESTS, name) if name else ()), *names)

    def record_config(self, path: str | None = None) -> None:
        """Writes config.yaml. A stage does so once it has all it needs: one that is refused has not run."""
        if self.ranks.is_main:
            atomic_write_text(path or self.path(output_dir.CONFIG), dump_cfg(self.cfg))

    def forget_results(self) -> None:
        """Removes what was measured of weights that are about to be others."""
        if self.ranks.is_main:
            for path in map(self.path, (output_dir.RESULTS, output_dir.PREDICTIONS)):
                if os.path.isfile(path):
                    os.remove(path)

    def stats(self) -> StatsLog:
        """The run's statistics; only the main rank writes them."""
        return StatsLog(self.cfg.OUTPUT_DIR, self.cfg.TENSORBOARD.ENABLE, self.ranks.is_main)

    @cached_property
    def trained(self) -> Trained:
        """The model of the checkpoint that the config names, or of the run's own last one.

        Raises:
            ValueError: there is none, or it is of a model that differs from the config's.
        """
        named, folder = self.cfg.TEST.CHECKPOINT_FILE_PATH, self.path(output_dir.CHECKPOINTS)
        last = saved_epochs.latest if named else saved_epochs.newest
        own = self.best_checkpoint() or last(folder)
        path = named or own
        if path is None:
            raise ValueError(
                f"{folder}: no checkpoint; train first (TRAIN.ENABLE True) "
                "or name one with TEST.CHECKPOINT_FILE_PATH"
            )
        model, found = build_model(self.cfg), checkpoint.read(path)
        found.load_into(model)
        names, theirs = self.data.class_names, found.data.class_names
        if names and theirs and names != theirs:  # TEST.CHECKPOINT_FILE_PATH beside a training
            raise ValueError(f"{path}: its classes are not those that this run trains, {', '.join(names)}")
        if path == own:
            advice = f"give these as then (--cfg {self.path(output_dir.CONFIG)}), or take another OUTPUT_DIR"
            check_same(found.record(), settings(self.cfg, TRAINING, NOT_LATER), f"{path} was trained", advice)
        return self.handed_on(path, model.to(self.ranks.device), found.costs, found.record())

    def best_checkpoint(self) -> str:
        """The epoch's that was best on the validation list; no text where that is not asked for, or known."""
        path = self.path(output_dir.CHECKPOINTS, saved_epochs.BEST)
        return path if self.cfg.TRAIN.BEST and os.path.isfile(path) else ""

    def handed_on(
        self, path: str, model: ResizableModel, costs: dict[str, Any], record: Record | None
    ) -> Trained:
        """A trained model for the later stages; its costs are as for this job's views."""
        return Trained(self.cfg, path, model.eval(), costs | {"views": self.views}, record)

    def test_batches(self, split: str) -> EvalBatches:
        """A list with the views of the test."""
        test = self.cfg.TEST
        videos = self.data.videos(split)
        return eval_batches(self.cfg, videos, self.ranks, test.NUM_ENSEMBLE_VIEWS, test.NUM_SPATIAL_CROPS)

    def tabulate(
        self,
        model: ResizableModel,
        stage: str,
        batches: Iterable[Batch],
        assigner: TokenLengthAssigner | None = None,
        keep_scores: bool = True,
        total: int | None = None,
    ) -> Table:
        """Runs a list at every length and records its unreadable videos as the stage's.

        Args:
            model: as `Trained.reader` gives it.
            total: number of batches, where `batches` does not tell.
        """
        title = f"{stage}: every length"
        with self.recording(stage), progress(batches, total, title, self.ranks.is_main) as bar:
            watched, ensemble = self.termination.watched(bar), self.cfg.TEST.ENSEMBLE
            table = tabulate(watched, model, self.ranks, assigner, keep_scores, ensemble)
        self.record_skipped(stage, table.skipped)
        return table

    @contextmanager
    def recording(self, stage: str) -> Iterator[None]:
        """Writes what a stage could not read to skipped.csv where that is so much that the stage stops."""
        try:
            yield
        except TooManyUnreadable as error:  # on one rank, perhaps not the main one
            output_dir.record_skipped(self.cfg.OUTPUT_DIR, stage, error.skipped)
            raise ValueError(f"{error}; listed in {self.path(output_dir.SKIPPED)}") from error

    def record_skipped(self, stage: str, skipped: list[Skipped]) -> None:
        """Writes the unreadable videos of a stage, the same list on all ranks, to skipped.csv."""
        if self.ranks.is_main:
            output_dir.record_skipped(self.cfg.OUTPUT_DIR, stage, skipped)
            if skipped:
                logger.warning(
                    "%s: %d unreadable files, listed in %s", stage, len(skipped), output_dir.SKIPPED
                )

    def gathered(self, skipped: list[Skipped]) -> list[Skipped]:
        """Every rank's unreadable videos, each once."""
        return sorted({skip for own in self.ranks.gather(skipped) for skip in own})


def percents(values: dict[str, float]) -> str:
    """`6x6 98.1 %, 3x3 87.0 %`."""
    return ", ".join(f"{name} {value:.1f} %" for name, value in values.items())
