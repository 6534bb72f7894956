"""Write the generated action videos and their lists: `python tools/make_synthetic.py DIRECTORY`."""

from __future__ import annotations

import argparse
import sys
from functools import partial

import _environment  # noqa: F401

from revit_video.data.synthetic import DEFAULT_COUNTS, write_dataset
from revit_video.runtime.termination import raise_on_ctrl_c


def main() -> int:
    from revit_video.runtime import logging  # here, since data workers import this file but do not need torch
    from revit_video.runtime.text import printable_lines

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("directory", help="a new folder, or one whose writing was interrupted, to continue")
    for split, count in DEFAULT_COUNTS.items():
        parser.add_argument(f"--{split}", type=int, default=count, metavar="N", help=f"clips of {split}.csv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=96, help="side of the square frames, pixels")
    parser.add_argument("--num-frames", type=int, default=16)
    parser.add_argument("--fps", type=int, default=8)
    parser.add_argument("--processes", type=int, help="default: one per core")
    options = vars(parser.parse_args())
    counts = {split: options.pop(split) for split in DEFAULT_COUNTS}
    logging.setup()
    raise_on_ctrl_c()
    try:
        write_dataset(counts=counts, progress=partial(logging.progress, description="clips"), **options)
    except (ValueError, OSError) as mistake:
        print(printable_lines(f"make_synthetic: {mistake}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("make_synthetic: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
