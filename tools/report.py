"""Writes the report of a run again from the files in its OUTPUT_DIR."""

import argparse

import _environment  # noqa: F401

from revit_video.cli import clear_errors
from revit_video.report import write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output_dir", metavar="OUTPUT_DIR")
    arguments = parser.parse_args()
    with clear_errors():
        print(write_report(arguments.output_dir))


if __name__ == "__main__":
    main()
