"""`report`: the page of a finished run, once more."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence


def report_command(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Prints the path of the page."""
    parser.add_argument("output_dir", metavar="OUTPUT_DIR")
    arguments = parser.parse_args(words)
    from revit_video.cli import clear_errors
    from revit_video.report import write_report

    with clear_errors():
        print(write_report(arguments.output_dir))
