"""Makes a table or figure of the paper: runs its rows with each seed, writes Markdown and a PNG.

Runs are in OUTPUT_DIR/<row>/seed<k>; finished ones are kept and interrupted ones continue.
Speed is measured each time (fig5, fig7); fig7 trains nothing and needs no seeds.
"""

import argparse

import _environment  # noqa: F401
from reproduce.command import STUDIES, parse_seeds, reproduce, split_at_key

from revit_video.cli import clear_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", metavar="WHAT", help=", ".join(STUDIES))
    parser.add_argument(
        "--cfg",
        metavar="FILE",
        nargs="+",
        required=True,
        help="a YAML file of configs/; for table1 optionally a second one, of the model at high resolution",
    )
    parser.add_argument("--seeds", metavar="SEED", nargs="*", default=["0", "1", "2"], help="default: 0 1 2")
    parser.add_argument("opts", metavar="KEY VALUE", nargs="*", help="keys that override the configs")
    arguments = parser.parse_args()
    with clear_errors("; the same command continues from here"):
        # argparse gives an option all words up to the next option, KEY VALUE pairs included.
        paths, after_cfg = split_at_key(arguments.cfg)
        seeds, after_seeds = split_at_key(arguments.seeds)
        options = [*arguments.opts, *after_cfg, *after_seeds]
        for path in reproduce(arguments.what, paths, parse_seeds(seeds), options):
            print(path)


if __name__ == "__main__":
    main()
