"""`demo`: generated videos, and a run of all stages on them."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial

CONFIG = "Synthetic/ReViT_TimeSformer-tiny_divST_4x4_48"
# Enough for every stage to run, not enough to learn the task.
TINY_COUNTS = {"train": 480, "mine": 240, "val": 240, "test": 120}
TINY = ("SOLVER.MAX_EPOCH", 2, "ASSIGNER.MAX_EPOCH", 2)


def demo_command(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Continues where an interrupted one was left."""
    parser.add_argument("--out", default="outputs/demo", metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--tiny", action="store_true", help="under two minutes on two CPU cores; what it learns is of no use"
    )
    parser.add_argument("opts", metavar="KEY VALUE", nargs="*", help=f"keys that override {CONFIG}")
    arguments = parser.parse_args(words)
    from revit_video.cli import clear_errors, run_stages
    from revit_video.data.synthetic import DEFAULT_COUNTS, write_dataset
    from revit_video.runtime import logging

    videos = os.path.join(arguments.out, "videos")
    logging.setup()
    with clear_errors("; the same command goes on from here"):
        shown = partial(logging.progress, description="clips")
        counts = TINY_COUNTS if arguments.tiny else DEFAULT_COUNTS
        write_dataset(counts=counts, progress=shown, directory=videos, seed=0)
    smaller = map(str, TINY) if arguments.tiny else ()
    places = ("OUTPUT_DIR", arguments.out, "DATA.PATH_TO_DATA_DIR", videos)
    run_stages(CONFIG, [*places, *smaller, *arguments.opts])
