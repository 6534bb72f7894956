"""Converts weights between timm's ViTs, TimeSformer, transformers and this project."""

import argparse

import _environment  # noqa: F401

from revit_video.cli import clear_errors
from revit_video.from_cfg.convert import EXPORTS, convert
from revit_video.runtime.logging import setup


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="timm:<name>, a ViT's .pth or .safetensors, TimeSformer's .pyth, a folder of transformers, "
        "or a checkpoint of this project",
    )
    parser.add_argument("destination", metavar="DESTINATION", help="a file; for transformers, a folder")
    parser.add_argument("--to", required=True, choices=EXPORTS, help="the format to write")
    parser.add_argument("--cfg", metavar="FILE", help="config of the new model; default: that of the source")
    parser.add_argument("opts", metavar="KEY VALUE", nargs="*", help="keys that override it")
    arguments = parser.parse_intermixed_args()
    setup()
    with clear_errors():
        print(convert(arguments.source, arguments.destination, arguments.to, arguments.cfg, arguments.opts))
        print(arguments.destination)


if __name__ == "__main__":
    main()
