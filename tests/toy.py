"""Toy runs: a tiny config, its stages, and the tools, run in this process."""

from __future__ import annotations

import csv
import io
import os
import runpy
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import simplejson
from fvcore.common.config import CfgNode

from revit_video.data.loader import TrainBatches
from revit_video.from_cfg.inputs import data_folder, train_batches
from revit_video.from_cfg.resolve import load_checked
from revit_video.models import checkpoint, saved_epochs
from revit_video.runtime.ranks import Ranks
from revit_video.stages.run import run

ROOT = Path(__file__).parents[1]
STAGES = ["train", "mine", "assigner", "test"]
LENGTHS = ["4x4", "2x2"]
COUNTS = {"train": 24, "mine": 12, "val": 12, "test": 12}
CONFIG: dict[str, Any] = {
    "DEVICE": "cpu",
    "TENSORBOARD.ENABLE": False,
    "TRAIN.BATCH_SIZE": 4,
    "TEST.NUM_SPATIAL_CROPS": 1,
    "DATA.NUM_FRAMES": 2,
    "DATA.SAMPLING_RATE": 4,
    "DATA.TARGET_FPS": 8.0,
    "DATA.MEAN": [0.15, 0.15, 0.15],
    "DATA.STD": [0.1, 0.1, 0.1],
    "DATA.TRAIN_JITTER_SCALES": [32, 36],
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA.TEST_CROP_SIZE": 32,
    "DATA.RANDOM_FLIP": False,
    "DATA_LOADER.NUM_WORKERS": 0,
    "MODEL.ARCH": "timesformer_tiny",
    "MODEL.NUM_CLASSES": 6,
    "MODEL.EMBED_DIM": 16,
    "MODEL.DEPTH": 1,
    "MODEL.NUM_HEADS": 2,
    "REVIT.TOKEN_LENGTHS": LENGTHS,
    "MINE.NONE_CORRECT": "longest",  # so few steps get few clips right
    "ADAPTIVE.ON_CLOCK": False,  # nothing so small pays, and a clock is never the same
    "ASSIGNER.MODEL": "lcnet_035",
    "ASSIGNER.STAGES": 2,
    "ASSIGNER.NUM_FRAMES": 1,
    "ASSIGNER.INPUT_SIZE": 32,
    "ASSIGNER.BATCH_SIZE": 4,
    "ASSIGNER.MAX_EPOCH": 1,
    "ASSIGNER.WARMUP_EPOCHS": 0.0,
    "SOLVER.OPTIMIZING_METHOD": "adamw",
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.LR_POLICY": "cosine",
    "SOLVER.MAX_EPOCH": 1,
}


def options(videos: Path, output_dir: Path, *changes: object) -> list[str]:
    """`KEY VALUE` pairs of the toy config as on a command line, overridden by `changes`."""
    pairs = {**CONFIG, "DATA.PATH_TO_DATA_DIR": videos, "OUTPUT_DIR": output_dir}
    pairs |= dict(zip(changes[::2], changes[1::2], strict=True))
    return [str(word) for pair in pairs.items() for word in pair]


def toy_cfg(videos: Path, output_dir: Path, *changes: object) -> CfgNode:
    return load_checked(None, options(videos, output_dir, *changes))


def training_batches(cfg: CfgNode, ranks: Ranks) -> TrainBatches:
    """The batches of the training list."""
    return train_batches(cfg, data_folder(cfg).videos("train"), ranks)


def run_toy(videos: Path, output_dir: Path, *changes: object, stages: list[str] = STAGES) -> Path:
    """Runs `stages` in this process; returns OUTPUT_DIR."""
    run(toy_cfg(videos, output_dir, *changes), stages, "python toy")
    return output_dir


class Finished(NamedTuple):
    code: int
    out: str
    err: str


def tool(name: str, *arguments: object) -> Finished:
    """Runs `tools/<name>.py` in this process; unexpected errors are raised."""
    path = str(ROOT / "tools" / f"{name}.py")
    out, err, code = io.StringIO(), io.StringIO(), 0
    ctrl_c = signal.getsignal(signal.SIGINT)
    with patch.object(sys, "argv", [path, *map(str, arguments)]), redirect_stdout(out), redirect_stderr(err):
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as left:
            code = int(left.code or 0)
        finally:
            signal.signal(signal.SIGINT, ctrl_c)
    return Finished(code, out.getvalue(), err.getvalue())


def start_tool(name: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts `tools/<name>.py` in a new process and process group."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def results_of(output_dir: Path) -> dict[str, Any]:
    return simplejson.loads((output_dir / "results.json").read_text())


def accuracies(output_dir: Path) -> dict[str, float]:
    """Top-1 by policy."""
    results = results_of(output_dir)
    entries = results["static"] | results["policies"] | {"adaptive": results["adaptive"]}
    return {entry.get("policy", name): entry["top1"] for name, entry in entries.items() if entry}


def table_of(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file without comment lines."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def stats_of(output_dir: Path) -> list[dict[str, Any]]:
    return [simplejson.loads(line) for line in (output_dir / "stats.jsonl").read_text().splitlines()]


def last_checkpoint(output_dir: Path) -> dict[str, Any]:
    path = saved_epochs.latest(str(output_dir / "checkpoints"))
    assert path is not None
    return checkpoint.load_payload(path)
