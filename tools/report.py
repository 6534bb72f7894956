"""Draw the report of a finished run again, from its files: `python tools/report.py OUTPUT_DIR`."""

from __future__ import annotations

import argparse
import sys

from revit_video.report import write_report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output_dir", help="OUTPUT_DIR of the run")
    try:
        print(write_report(parser.parse_args().output_dir))
    except OSError as mistake:
        print(f"report: {mistake}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
