"""Stages and predictions on a pretended GPU; the tests start this in a process of its own.

    python -m tests.gpu.on_device MATERIAL OUT CASE...

MATERIAL: the folder that `material` wrote. Writes OUT/CASE.json: what `stages` and `predictions` return.
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
from revit_video.data.synthetic import write_dataset
from revit_video.runtime.launch import launch
from revit_video.stages.run import run
from tests.gpu import pretended
from tests.gpu.pretended import Wait
from tests.images import CLASSES, write_pictures
from tests.label_maps import constant_map, write_map
from tests.peers import random_vit
from tests.toy import STAGES, toy_cfg

COUNTS = {"train": 18, "mine": 6, "val": 6, "test": 6}
# Wide enough for bfloat16. An epoch has four steps or more, and nothing is logged within it.
WIDE = (
    *("DEVICE", "cuda", "MODEL.EMBED_DIM", 256, "MODEL.NUM_HEADS", 4, "TEST.BATCH_SIZE", 2),
    *("ASSIGNER.BATCH_SIZE", 2, "ASSIGNER.MAX_EPOCH", 1, "LOG_PERIOD", 100),
    *("TEST.POLICIES", ["static", "assigned", "hybrid", "cascade"]),
)
IMAGES = (
    *("MODEL.ARCH", "deit_small", "MODEL.NUM_CLASSES", 0, "TIMESFORMER.ATTENTION_TYPE", "space_only"),
    *("DATA.NUM_FRAMES", 1, "DATA.TRAIN_JITTER_SCALES_RELATIVE", "[0.3,1]", "DATA.TEST_SCALE", 36),
    *("DATA.PATH_TO_DATA_DIR", "MATERIAL/pictures"),
)
CASES: dict[str, tuple[object, ...]] = {
    "plain": ("TEST.NUM_SPATIAL_CROPS", 3),
    "extras": (
        *("TRAIN.EMA_DECAY", 0.9, "TRAIN.ACCUMULATE", 2, "MODEL.ACT_CHECKPOINT", True, "MIXUP.ALPHA", 0.8),
        *("SOLVER.CLIP_GRADIENT", 1.0, "SOLVER.LABEL_SMOOTHING", 0.1, "MODEL.DROP_RATE", 0.1),
        *("ASSIGNER.CLASS_WEIGHTS", True, "MINE.NUM_CLIPS", 2, "MINE.NONE_CORRECT", "drop"),
        *("TEST.NUM_ENSEMBLE_VIEWS", 2, "ASSIGNER.CACHE_GB", 0.0),
    ),
    "shared_images": (
        *(*IMAGES, "REVIT.NORM", "shared", "REVIT.PATCH_EMBED", "shared", "REVIT.POS_EMBED", "shared"),
    ),
    "resized": (
        *("REVIT.PATCH_EMBED", "resized", "REVIT.POS_EMBED", "resized", "MODEL.POS_INIT", "sincos"),
        *("TIMESFORMER.ATTENTION_TYPE", "joint_space_time", "DATA.REVERSED_CLASSES", "[[0,1],[2,3],[4,5]]"),
    ),
    "conv_stem": ("MODEL.STEM", "conv", "MIXUP.CUTMIX_ALPHA", 1.0),
    "lvvit": (
        *(*IMAGES, "MODEL.ARCH", "lvvit_small", "MIXUP.TOKEN_ALPHA", 1.0),
        *("DATA.TOKEN_LABELS", "MATERIAL/maps", "TRAIN.ACCUMULATE", 2),
    ),
    "on_cpu": ("DEVICE", "cpu"),
    "dvt": ("DVT.ENABLE", True),
    "videomae": ("MODEL.ARCH", "videomae_small"),
    "frozen": (
        *("TRAIN.METHOD", "frozen", "TRAIN.CHECKPOINT_FILE_PATH", "MATERIAL/vit.pth", "DATA.FOLDS", 3),
        *("DATA.NUM_FRAMES", 4, "DATA.SQUASH", True, "TIMESFORMER.ATTENTION_TYPE", "space_only"),
        *("REVIT.TOKEN_LENGTHS", ["4x4x4", "2x4x4", "1x4x4"], "ASSIGNER.ENABLE", False),
    ),
    "revit_b": ("NUM_GPUS", 2),
    "revit_e": ("NUM_GPUS", 2, "TRAIN.METHOD", "revit_e"),
}
NO_ASSIGNER = {"dvt": ["train", "test"], "frozen": ["train", "mine", "test"]}


def material(folder: Path) -> None:
    """Videos, pictures with label maps, and a ViT."""
    write_dataset(folder / "videos", COUNTS, size=32, num_frames=8, processes=1)
    write_pictures(folder / "pictures", 10)
    for n, name in enumerate(CLASSES):
        for path in (folder / "pictures" / name).iterdir():
            write_map(folder / "maps", path, constant_map(n, classes=3))
    vit = random_vit(embed_dim=256, depth=1, num_heads=4, mlp_ratio=4, num_classes=0, patch_size=8)
    torch.save(vit.state_dict(), folder / "vit.pth")


def seen(waits: Sequence[Wait]) -> dict[str, Any]:
    """Where was waited, and how often; of them how often while a table was made."""
    return {
        "places": dict(Counter(map(str, waits)).most_common()),
        "tabulate": sum(wait.within("tabulate") for wait in waits),
    }


def stages(folder: Path, out: Path, case: str) -> dict[str, Any]:
    """All stages of a case; of each what was `seen`, and the waits between optimiser steps."""
    changes = [str(word).replace("MATERIAL", str(folder)) for word in CASES[case]]
    cfg = toy_cfg(folder / "videos", out / case, *WIDE, *changes)
    pretended.install(os.environ["LD_PRELOAD"], max(1, cfg.NUM_GPUS))
    with pretended.gpu():
        run(cfg, NO_ASSIGNER.get(case, STAGES), "pretended")
    found: dict[str, Any] = {}
    for name in ("train", "solve", "mine", "assign", "test"):
        marks = [count for stage, count in pretended.steps if stage == name]
        between = [[str(wait) for wait in pretended.waits[a:b]] for a, b in pairwise(marks)]
        found[name] = seen([wait for wait in pretended.waits if wait.stage == name]) | {"steps": between}
    found["contexts"] = list(pretended.contexts)
    for noted in (pretended.waits, pretended.steps, pretended.contexts):
        noted.clear()
    return found


def predictions(folder: Path, run_folder: Path) -> dict[str, Any]:
    """What is `seen` where files are predicted one after the other, all in batches, and as a timeline."""
    files = sorted(str(path) for path in (folder / "videos" / "test").glob("*.mp4"))
    pretended.install(os.environ["LD_PRELOAD"], 1)
    found = {}
    with pretended.gpu():
        predictor = revit_video.load(run_folder, "cuda")
        assert predictor.policy == "hybrid"
        for name, work in {
            "predict": lambda: [predictor.predict(file) for file in files],
            "predict_many": lambda: list(predictor.predict_many(files, batch_size=6, num_workers=0)),
            "timeline": lambda: predictor.timeline(files[0]),
        }.items():
            pretended.waits.clear()
            work()
            found[name] = seen(pretended.waits)
    return found


def main(folder: str, out: str, *cases: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for case in cases:
        name, _, what = case.partition(":")
        if what == "predict":
            found = predictions(Path(folder), Path(out) / name)
        else:
            ranks = 2 if "NUM_GPUS" in CASES[name] else 1
            found = launch(stages, ranks, Path(folder), Path(out), name)
        (Path(out) / f"{case}.json").write_text(simplejson.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
