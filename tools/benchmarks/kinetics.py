"""Training, mining and testing with the Kinetics configs on generated videos, on one device."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import simplejson
import torch

from benchmarks.timing import Measurement
from revit_video.data.synthetic import write_dataset
from revit_video.from_cfg.resolve import load_checked
from revit_video.runtime import output_dir
from revit_video.stages.run import run

STEPS_A_ROUND = 32
TRAINED, TESTED = 256, 64  # videos
SETTINGS: dict[str, Any] = {
    "TENSORBOARD.ENABLE": False,
    "TRAIN.CHECKPOINT_MINUTES": 0,
    "TRAIN.CHECKPOINT_PERIOD": 1_000_000,  # the last epoch's only
    "TRAIN.EVAL_PERIOD": 0,
    "TEST.POLICIES": ["static"],
    "TEST.NUM_SPATIAL_CROPS": 3,
    "MODEL.NUM_CLASSES": 6,
    "DATA.RANDOM_FLIP": False,
    "LOG_PERIOD": 8,
    "DATA_LOADER.NUM_WORKERS": 8,
}
BASE = SETTINGS | {"TRAIN.BATCH_SIZE": 16}
HIGH_RESOLUTION = SETTINGS | {
    "MODEL.ARCH": "timesformer_base_hr",
    "MODEL.ACT_CHECKPOINT": True,
    "TRAIN.BATCH_SIZE": 4,
    "TEST.BATCH_SIZE": 2,
    "DATA.NUM_FRAMES": 16,
    "DATA.SAMPLING_RATE": 16,
    "DATA.TRAIN_JITTER_SCALES": [448, 512],
    "DATA.TRAIN_CROP_SIZE": 448,
    "DATA.TEST_CROP_SIZE": 448,
}
# On a CPU only shows that the commands work.
REDUCED = SETTINGS | {
    "MODEL.EMBED_DIM": 48,
    "MODEL.DEPTH": 1,
    "MODEL.NUM_HEADS": 4,
    "TRAIN.BATCH_SIZE": 4,
    "DATA_LOADER.NUM_WORKERS": 1,
}
Case = tuple[str, dict[str, Any], list[int], bool]
CASES: dict[str, Sequence[Case]] = {
    "cuda": [
        *(("8x224", BASE, lengths, False) for lengths in ([14], [14, 7], [14, 10, 7])),
        ("8x224", BASE, [14], True),
        ("8x224", BASE, [14, 7], True),
        ("16x448", HIGH_RESOLUTION, [28], False),
        ("16x448", HIGH_RESOLUTION, [28, 14], False),
        ("16x448", HIGH_RESOLUTION, [28, 14], True),
    ],
    "cpu": [("8x224, reduced", REDUCED, lengths, False) for lengths in ([14], [14, 7])],
}


def kinetics(device: torch.device, rounds: int) -> list[Measurement]:
    """Clips/s, peak memory and time spent waiting for data; `rounds` x 32 training steps per case."""
    full = device.type == "cuda"
    with TemporaryDirectory() as folder:
        videos = Path(folder) / "videos"
        side, frames = (512, 300) if full else (64, 60)
        counts = {"train": TRAINED, "mine": TESTED, "val": 1, "test": TESTED}
        write_dataset(videos, counts, size=side, num_frames=frames, fps=30)
        rows: list[Measurement] = []
        for number, case in enumerate(CASES[device.type]):
            rows += _run(case, rounds, str(videos), Path(folder) / str(number), device)
    return rows


def _run(case: Case, rounds: int, videos: str, output: Path, device: torch.device) -> Iterator[Measurement]:
    """Trains, mines and tests one model with one set of lengths."""
    size, settings, lengths, compiled = case
    batch = settings["TRAIN.BATCH_SIZE"]
    keys = settings | {
        "DEVICE": device.type,
        "DATA.PATH_TO_DATA_DIR": videos,
        "OUTPUT_DIR": str(output),
        "REVIT.TOKEN_LENGTHS": lengths,
        "MODEL.COMPILE": compiled,
        "SOLVER.MAX_EPOCH": ceil(rounds * STEPS_A_ROUND * batch / TRAINED),
    }
    cfg = load_checked(None, [word for pair in keys.items() for word in pair])
    title = f"{size} at {', '.join(map(str, lengths))}{', compiled' if compiled else ''}"
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    _seconds(cfg, ["train"])
    lines = output_dir.read_stats(str(output))
    lines = lines[len(lines) // 4 :]  # the first ones hold warming up and compiling
    yield Measurement.of(f"{title}: training", [line["clips_per_sec"] for line in lines], "clips/s")
    waiting = [100 * line["data_time"] * line["clips_per_sec"] / batch for line in lines]
    yield Measurement.of(f"{title}: of that waiting for data", waiting, "%")
    if device.type == "cuda":
        yield Measurement(
            f"{title}: peak memory, batch {batch}", max(line["gpu_mem"] for line in lines), "GiB"
        )
    yield Measurement(f"{title}: mining", TESTED / _seconds(cfg, ["mine"]), "clips/s")
    _seconds(cfg, ["test"])
    static = simplejson.loads((output / output_dir.RESULTS).read_text())["static"]
    for name, score in static.items():
        yield Measurement(f"{title}: testing at {name}, without decoding", score["clips_per_sec"], "clips/s")


def _seconds(cfg: Any, stages: list[str]) -> float:
    start = time.perf_counter()
    with redirect_stdout(sys.stderr):  # the stages' own tables are not the suite's
        run(cfg, stages, "python tools/benchmark.py kinetics")
    return time.perf_counter() - start
