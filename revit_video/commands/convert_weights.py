"""`convert`: weights of another project as a checkpoint of this one, and back."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence

FORMATS = ("revit", "timesformer", "transformers")  # the keys of `EXPORTS`


def convert_command(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Prints what became of the weights, and the destination."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="timm:<name>, a ViT's .pth or .safetensors, TimeSformer's .pyth, a folder of transformers, "
        "or a checkpoint of this project",
    )
    parser.add_argument("destination", metavar="DESTINATION", help="a file; for transformers, a folder")
    parser.add_argument("--to", required=True, choices=FORMATS, help="the format to write")
    parser.add_argument("--cfg", metavar="FILE", help="config of the new model; default: that of the source")
    parser.add_argument("opts", metavar="KEY VALUE", nargs="*", help="keys that override it")
    arguments = parser.parse_intermixed_args(words)
    from revit_video.cli import clear_errors
    from revit_video.from_cfg.convert import convert
    from revit_video.runtime.logging import setup
    from revit_video.runtime.text import printable, printable_lines

    setup()
    with clear_errors():
        report = convert(arguments.source, arguments.destination, arguments.to, arguments.cfg, arguments.opts)
        print(printable_lines(str(report)))
        print(printable(arguments.destination))
