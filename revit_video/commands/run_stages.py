"""The commands that run stages of a config: run, train, mine, assign, test."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence


def config_arguments(parser: ArgumentParser) -> None:
    """`--cfg FILE [KEY VALUE ...]`."""
    parser.add_argument(
        "--cfg",
        metavar="FILE",
        help="a YAML file, or the name of a config of the package; none: the defaults",
    )
    parser.add_argument(
        "opts",
        metavar="KEY VALUE",
        nargs="*",
        help="keys that override it; docs/config.md lists all, and `revit-video config KEY` explains one",
    )


def run_command(parser: ArgumentParser, words: Sequence[str]) -> None:
    """All stages that the config enables."""
    _run(parser, words, None)


def train_command(parser: ArgumentParser, words: Sequence[str]) -> None:
    _run(parser, words, "train")


def mine_command(parser: ArgumentParser, words: Sequence[str]) -> None:
    _run(parser, words, "mine")


def assign_command(parser: ArgumentParser, words: Sequence[str]) -> None:
    _run(parser, words, "assigner")


def test_command(parser: ArgumentParser, words: Sequence[str]) -> None:
    _run(parser, words, "test")


def _run(parser: ArgumentParser, words: Sequence[str], stage: str | None) -> None:
    config_arguments(parser)
    arguments = parser.parse_args(words)
    from revit_video.cli import run_stages

    run_stages(arguments.cfg, arguments.opts, [stage] if stage else None)
