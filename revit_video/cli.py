"""Running stages for a command, and errors without a traceback."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from revit_video.from_cfg.resolve import load_checked
from revit_video.runtime.launch import FailedLater, RankError, first_error_only, launch, torchrun_ranks
from revit_video.runtime.text import printable
from revit_video.stages.run import enabled_stages, run


def run_stages(cfg_path: str | None, opts: Sequence[str], stages: Sequence[str] | None = None) -> None:
    """Load the config, start the ranks and run the stages, by default those that the config enables."""
    with clear_errors("interrupted; the same command goes on from the last checkpoint"), first_error_only():
        started = torchrun_ranks()
        cfg = load_checked(cfg_path, [*opts, *(["NUM_GPUS", started] if started else [])])
        launch(run, cfg.NUM_GPUS, cfg, enabled_stages(cfg) if stages is None else stages, command_line())


def command_line(arguments: Sequence[str] | None = None) -> str:
    """The running command, as typed."""
    program, *words = sys.argv if arguments is None else arguments
    if os.path.basename(program) in ("revit-video", "__main__.py"):
        return shlex.join(["revit-video", *words])
    return shlex.join(["python", program, *words])


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
