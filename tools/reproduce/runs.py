"""Runs of the rows: finished runs are kept, interrupted ones continue, the others start."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, NamedTuple

import simplejson
from fvcore.common.config import CfgNode

from reproduce.rows import lengths_of, row_options
from revit_video.from_cfg.resolve import load_checked
from revit_video.length import TokenLength
from revit_video.report.files import Missing, Run
from revit_video.runtime import output_dir
from revit_video.runtime.launch import launch
from revit_video.stages.run import enabled_stages, run

SECONDS = "seconds.json"
# The config may leave these empty; a run fills them in when it starts.
OPEN_KEYS = ("MODEL.NUM_CLASSES", "DATA.MEAN", "DATA.STD")
# Keys that weights do not depend on: a trained run may be tested again with other values.
# fmt: off
AFTER_TRAINING = (
    "MINE.", "ASSIGNER.", "ADAPTIVE.", "TEST.", "TRAIN.ENABLE", "TRAIN.AUTO_RESUME", "TRAIN.EVAL_PERIOD",
    "TRAIN.CHECKPOINT_PERIOD", "TRAIN.CHECKPOINT_MINUTES", "NUM_GPUS", "DEVICE", "LOG_PERIOD", "TENSORBOARD.",
    "DATA_LOADER.",
)
# fmt: on

logger = logging.getLogger(__name__)


class Runs:
    """The rows of one config, each run with every seed in `OUTPUT_DIR/<row>/seed<k>`.

    Args:
        path: the config's YAML file.
        options: `KEY VALUE` pairs that override it; a row's own keys override these.
        command: recorded in results.json.
        subfolder: of OUTPUT_DIR, for the runs.
    """

    def __init__(
        self,
        path: str | None,
        options: Sequence[Any],
        seeds: Sequence[int],
        command: str,
        subfolder: str = "",
    ) -> None:
        self.path, self.options, self.seeds, self.command = path, list(options), list(seeds), command
        self.cfg = load_checked(path, options)
        if self.cfg.DVT.ENABLE:
            raise ValueError("DVT.ENABLE: a table has ReViT and DVT in rows of their own; leave it False")
        self.output_dir = os.path.join(self.cfg.OUTPUT_DIR, subfolder)

    @property
    def lengths(self) -> tuple[TokenLength, ...]:
        """The config's token lengths, longest first."""
        return lengths_of(self.cfg)

    @property
    def own_tau(self) -> float:
        """Temperature of the config's own self-distillation."""
        return self.cfg.REVIT.DISTILL.TAU

    @property
    def own_gate(self) -> float:
        """Training top-1 (percent) of the longest length from which the config distils."""
        return self.cfg.REVIT.DISTILL.MIN_TEACHER_TOP1

    def data(self, name: str) -> str:
        """A line on the test list of a row and the training epochs."""
        results = self.results(name)[0]
        folder, epochs = self.cfg.DATA.PATH_TO_DATA_DIR, self.cfg.SOLVER.MAX_EPOCH
        tested = f"{results['videos']:,} test videos of list {results['split']}"
        return f"data: {results['dataset']} (`{folder}`), {tested}; training epochs: {epochs}"

    def folder(self, name: str, seed: int) -> str:
        """OUTPUT_DIR of one run."""
        return os.path.join(self.output_dir, name, f"seed{seed}")

    def row_cfg(self, name: str, seed: int, *changes: Any) -> CfgNode:
        """Config of one run."""
        own = ["RNG_SEED", seed, "OUTPUT_DIR", self.folder(name, seed), "TEST.CHECKPOINT_FILE_PATH", ""]
        return load_checked(self.path, [*self.options, *row_options(name), *own, *changes])

    def results(self, name: str) -> list[dict[str, Any]]:
        """results.json of each seed of a row that has been run."""
        return [Run(self.folder(name, seed)).results for seed in self.seeds]

    def run(self, names: Iterable[str]) -> None:
        """Runs these rows, except for runs that are done.

        Raises:
            ValueError: a folder holds a run that was trained with other settings, or a row's config is wrong.
        """
        wanted = [self.row_cfg(name, seed) for seed in self.seeds for name in dict.fromkeys(names)]
        todo = [cfg for cfg in wanted if not is_done(cfg)]
        for number, cfg in enumerate(todo, 1):
            logger.info("%s (%d of %d)%s", cfg.OUTPUT_DIR, number, len(todo), _why_again(cfg))
            with suppress(FileNotFoundError):  # of an earlier test, not to be taken for this one's
                os.remove(os.path.join(cfg.OUTPUT_DIR, output_dir.RESULTS))
            with _counted(cfg.OUTPUT_DIR), redirect_stdout(sys.stderr):
                launch(run, cfg.NUM_GPUS, cfg, enabled_stages(cfg), self.command)

    def seconds(self, names: Iterable[str]) -> list[Seconds]:
        """Duration of each run of these rows."""
        return [seconds_of(self.folder(name, seed)) for name in dict.fromkeys(names) for seed in self.seeds]


def _why_again(cfg: CfgNode) -> str:
    """The changed keys for which a finished run is tested again; empty for a new run."""
    path = os.path.join(cfg.OUTPUT_DIR, output_dir.CONFIG)
    if not os.path.isfile(path):
        return ""
    changes = [f"{key} {old} -> {new}" for key, (new, old) in differences(cfg, load_checked(path)).items()]
    return f": again, with {', '.join(changes)}" if changes else ""


def is_done(cfg: CfgNode) -> bool:
    """Whether `cfg.OUTPUT_DIR` holds results of exactly this config.

    Raises:
        ValueError: it holds a run that was trained with other settings.
    """
    folder = cfg.OUTPUT_DIR
    path = os.path.join(folder, output_dir.CONFIG)
    if not os.path.isfile(path):
        return False
    differing = differences(cfg, load_checked(path))
    for key, (ours, theirs) in differing.items():
        if not key.startswith(AFTER_TRAINING):
            raise ValueError(f"{folder} was run with {key} {theirs}, not {ours}; take another OUTPUT_DIR")
    try:
        return not differing and bool(Run(folder).results)
    except Missing:
        return False


def differences(wanted: CfgNode, found: CfgNode) -> dict[str, tuple[Any, Any]]:
    """Keys in which two configs differ, with both values.

    OUTPUT_DIR is ignored (the folder may have been moved), and so are `OPEN_KEYS` that `wanted` leaves empty.
    """
    ours, theirs = dict(_flat(wanted)), dict(_flat(found))
    return {
        key: (value, theirs[key])
        for key, value in ours.items()
        if value != theirs[key] and key != "OUTPUT_DIR" and (value or key not in OPEN_KEYS)
    }


def _flat(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@contextmanager
def _counted(folder: str) -> Iterator[None]:
    """Adds the seconds of the block to the run's total, also if it is interrupted."""
    before = _measured(folder) or 0.0
    start = time.monotonic()
    try:
        yield
    finally:
        if os.path.isdir(folder):
            seconds = round(before + time.monotonic() - start, 1)
            output_dir.write_json(os.path.join(folder, SECONDS), {"seconds": seconds})


class Seconds(NamedTuple):
    """Duration of a run; if not `whole`, of its logged training only, and None if nothing was logged."""

    seconds: float | None
    whole: bool


def seconds_of(folder: str) -> Seconds:
    """Duration of the run in `folder`: measured here, else from its log."""
    measured = _measured(folder)
    return Seconds(_logged(folder), False) if measured is None else Seconds(measured, True)


def _measured(folder: str) -> float | None:
    with suppress(FileNotFoundError, ValueError, KeyError), open(os.path.join(folder, SECONDS)) as file:
        return float(simplejson.load(file)["seconds"])
    return None


def _logged(folder: str) -> float | None:
    """Seconds of training according to the log, without mining, testing and checkpoints."""
    total = 0.0
    with suppress(Missing):
        batch = load_checked(os.path.join(folder, output_dir.CONFIG)).TRAIN.BATCH_SIZE
        step = 0
        for line in Run(folder).stats.get("train", []):
            total += (line["step"] - step) * batch / line["clips_per_sec"]
            step = line["step"]
    return total or None
