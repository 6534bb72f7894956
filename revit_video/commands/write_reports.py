"""`report`: the page of a finished run, once more."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence


def report_command(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Prints the path of the page."""
    parser.add_argument("output_dir", metavar="OUTPUT_DIR")
    parser.add_argument(
        "--data",
        metavar="DIR",
        default="",
        help="show videos of this data folder only, such as your own where OUTPUT_DIR is a stranger's "
        "(default: the one that its config.yaml names)",
    )
    arguments = parser.parse_args(words)
    from revit_video.cli import clear_errors
    from revit_video.report import write_report
    from revit_video.runtime.text import printable

    with clear_errors():
        print(printable(write_report(arguments.output_dir, arguments.data)))
