"""Classifying many files at the demo's size, decoding included: batched across files against one by one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.timing import Effort, Measurement, Target, interleaved, milliseconds, ratio
from revit_video import Predictor, flops, load, timesformer_tiny
from revit_video.data.clips import eval_views
from revit_video.data.synthetic import CLASS_NAMES, write_dataset
from revit_video.models import checkpoint
from revit_video.models.checkpoint import DataSpec
from revit_video.predict.stream import file_batches

COUNT, BATCH = 400, 128
LENGTHS = ("6x6", "4x4", "3x3")
FASTER_THAN_ONE_BY_ONE = Target(at_least=3)
OF_THE_SLOWER = Target(at_most=1.15)


def many_files(device: torch.device, effort: Effort, count: int = COUNT) -> list[Measurement]:
    """`predict_many` on generated clips; an untrained model of the demo's size, at its middle length.

    Beside it the same files decoded in the same workers without a model, and the same views classified
    without decoding: what overlaps takes as long as the slower of the two.
    """
    with TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "videos", {"test": count})
        paths = sorted(str(path) for path in Path(folder).glob("videos/test/*.mp4"))
        predictor = demo_sized(os.path.join(folder, "model.pyth"), device)
        sampling, grid = predictor.sampling, predictor.grid
        views = torch.cat([eval_views(path, sampling, grid).clips for path in paths])
        clips = predictor.normalize(views.to(predictor.device)).split(BATCH)

        def model_alone() -> None:
            engine = predictor.new_engine(BATCH)
            for batch in clips:
                engine.submit(batch)
            engine.flush()

        actions: dict[str, Callable[[], object]] = {
            "one by one": lambda: [predictor.predict(path) for path in paths],
            "many": lambda: list(predictor.predict_many(paths, BATCH)),
            "decoding alone": lambda: sum(map(len, file_batches(predictor, paths, BATCH, None))),
            "model alone": model_alone,
        }
        timed = interleaved(actions, effort, device)
    slower = max(timed["decoding alone"], timed["model alone"], key=lambda timing: timing.median)
    return [
        *(milliseconds(name, timing, count) for name, timing in timed.items()),
        ratio("one by one / many", timed["one by one"], timed["many"], FASTER_THAN_ONE_BY_ONE),
        ratio("many / the slower of decoding and model", timed["many"], slower, OF_THE_SLOWER),
    ]


def demo_sized(path: str, device: torch.device) -> Predictor:
    """An untrained model of the demo's size, at its middle length."""
    model = timesformer_tiny(LENGTHS, len(CLASS_NAMES))
    statistics = ([0.3] * 3, [0.25] * 3)
    data = DataSpec(list(CLASS_NAMES), *statistics, 4, 4, 8.0, "time", 48, num_clips=1, num_crops=1)
    checkpoint.save(path, checkpoint.model_payload(model, data, flops.cost_table(model, 1)))
    return load(path, str(device), policy=LENGTHS[1])
