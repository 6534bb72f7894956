"""`migrate`: a YAML file of TimeSformer's or SlowFast's public code, as one of this project."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence

from revit_video.config import migrated


def migrate_command(parser: ArgumentParser, words: Sequence[str]) -> None:
    """Prints the migrated file; what changed and what was left out stands in its head."""
    parser.add_argument("file", metavar="OLD.yaml")
    try:
        print(migrated(parser.parse_args(words).file), end="")
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
