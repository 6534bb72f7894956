"""Stages and predictions on a pretended GPU; the tests start this in a process of its own.

    python -m tests.gpu.on_device VIDEOS FOLDER CASE...

Writes FOLDER/CASE.json, see `Seen`.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import simplejson
import torch

import revit_video
from revit_video.runtime.launch import launch
from revit_video.stages.run import run
from tests.gpu import pretended
from tests.gpu.pretended import Wait
from tests.toy import STAGES, toy_cfg

# Wide enough for bfloat16. Nothing is logged within an epoch of six steps.
WIDE = (
    *("DEVICE", "cuda", "MODEL.EMBED_DIM", 256, "MODEL.NUM_HEADS", 4, "MODEL.DROP_PATH", 0.1),
    *("TEST.NUM_SPATIAL_CROPS", 3, "TEST.BATCH_SIZE", 4, "LOG_PERIOD", 100),
)
IMAGES = (
    *("MODEL.ARCH", "deit_small", "DATA.NUM_FRAMES", 1, "ASSIGNER.NUM_FRAMES", 1),
    *("TIMESFORMER.ATTENTION_TYPE", "space_only"),
)
CASES: dict[str, tuple[object, ...]] = {
    "plain": (),
    "extras": (
        *("TRAIN.EMA_DECAY", 0.9, "TRAIN.ACCUMULATE", 2, "MODEL.ACT_CHECKPOINT", True),
        *("SOLVER.CLIP_GRADIENT", 1.0, "SOLVER.LABEL_SMOOTHING", 0.1, "MODEL.DROP_RATE", 0.1),
        *("ASSIGNER.CLASS_WEIGHTS", True, "DATA.REVERSED_CLASSES", "[[0,1],[2,3],[4,5]]"),
        *("MINE.NUM_CLIPS", 2, "MINE.NONE_CORRECT", "drop", "TEST.NUM_ENSEMBLE_VIEWS", 2),
    ),
    "mixup": ("MIXUP.ALPHA", 0.8, "MIXUP.CUTMIX_ALPHA", 1.0),
    "shared": ("REVIT.NORM", "shared", "REVIT.PATCH_EMBED", "shared", "REVIT.POS_EMBED", "shared"),
    "resized": ("REVIT.PATCH_EMBED", "resized", "REVIT.POS_EMBED", "resized", "MODEL.POS_INIT", "sincos"),
    "conv_stem": ("MODEL.STEM", "conv"),
    "joint": ("TIMESFORMER.ATTENTION_TYPE", "joint_space_time"),
    "images": (*IMAGES, "REVIT.DISTILL.TOKEN_AT_LONGEST", True),
    "dvt": ("DVT.ENABLE", True),
    "revit_b": ("NUM_GPUS", 2),
    "revit_e": ("NUM_GPUS", 2, "TRAIN.METHOD", "revit_e"),
}


def seen(own: Sequence[Wait]) -> dict[str, Any]:
    """Where was waited, and how often; of them how often while a table was made."""
    return {
        "places": dict(Counter(map(str, own)).most_common()),
        "tabulate": sum(wait.within("tabulate") for wait in own),
    }


def stages(videos: Path, folder: Path, case: str) -> dict[str, Any]:
    """All stages of a case; of each what was `seen`, and the waits from each optimiser step to the next one."""
    cfg = toy_cfg(videos, folder / case, *WIDE, *CASES[case])
    pretended.install(os.environ["LD_PRELOAD"], max(1, cfg.NUM_GPUS))
    with pretended.gpu():
        run(cfg, STAGES if case != "dvt" else ["train", "test"], "pretended")
    found: dict[str, Any] = {}
    for name in ("train", "mine", "assign", "test"):
        marks = [count for stage, count in pretended.steps if stage == name]
        between = [[str(wait) for wait in pretended.waits[a:b]] for a, b in pairwise(marks)]
        found[name] = seen([wait for wait in pretended.waits if wait.stage == name]) | {"steps": between}
    pretended.waits.clear()
    pretended.steps.clear()
    return found


def predictions(videos: Path, run_folder: Path) -> dict[str, Any]:
    """One file after the other, and all in batches."""
    found: dict[str, Any] = {}
    files = sorted(str(path) for path in (videos / "test").glob("*.mp4"))
    pretended.install(os.environ["LD_PRELOAD"])
    with pretended.gpu():
        predictor = revit_video.load(run_folder, "cuda")
        for name, work in {
            "predict": lambda: [predictor.predict(file) for file in files],
            "predict_many": lambda: list(predictor.predict_many(files, batch_size=6, num_workers=0)),
            "timeline": lambda: predictor.timeline(files[0]),
        }.items():
            pretended.waits.clear()
            work()
            found[name] = seen(pretended.waits) | {"files": len(files)}
    return found


def main(videos: str, folder: str, *cases: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for case in cases:
        name, _, what = case.partition(":")
        ranks = 2 if "NUM_GPUS" in CASES[name] else 1
        if what == "predict":
            found = predictions(Path(videos), Path(folder) / name)
        else:
            found = launch(stages, ranks, Path(videos), Path(folder), name)
        (Path(folder) / f"{name}{what and '_' + what}.json").write_text(simplejson.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
