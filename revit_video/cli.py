"""Command lines of the tools, and errors without a traceback."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fvcore.common.config import CfgNode

from revit_video.from_cfg.resolve import load_checked
from revit_video.runtime.launch import FailedLater, RankError, first_error_only, launch, torchrun_ranks
from revit_video.runtime.text import printable
from revit_video.stages.run import enabled_stages, run


def config_parser(description: str | None) -> argparse.ArgumentParser:
    """Parser of `--cfg FILE [KEY VALUE ...]`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cfg", metavar="FILE", help="a YAML file of configs/; without it, the defaults")
    parser.add_argument(
        "opts",
        metavar="KEY VALUE",
        nargs="*",
        help="keys that override it; docs/config.md lists all",
    )
    return parser


def run_stages(description: str | None, choose: Callable[[CfgNode], list[str]] = enabled_stages) -> None:
    """Main function of a tool that runs stages: load the config, start the ranks, report errors."""
    arguments = config_parser(description).parse_args()
    with clear_errors("interrupted; the same command goes on from the last checkpoint"), first_error_only():
        started = torchrun_ranks()
        cfg = load_checked(arguments.cfg, [*arguments.opts, *(["NUM_GPUS", started] if started else [])])
        launch(run, cfg.NUM_GPUS, cfg, choose(cfg), command_line())


def command_line(arguments: Sequence[str] | None = None) -> str:
    """The running command, as typed."""
    return shlex.join(["python", *(sys.argv if arguments is None else arguments)])


@contextmanager
def clear_errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Exit with a message: code 2 for a user's mistake, 1 for a rank's failure, 130 for Ctrl-C."""
    try:
        yield
    except (ValueError, OSError) as error:
        _leave(f"error: {error}", 2)
    except FailedLater:
        raise SystemExit(1) from None
    except RankError as error:
        _leave(f"error: {error}", 1)
    except KeyboardInterrupt:
        _leave(interrupted, 130)


def _leave(message: str, code: int) -> None:
    print("\n".join(map(printable, message.split("\n"))), file=sys.stderr)
    raise SystemExit(code)
