"""Running stages for a command, and errors without a traceback."""

from __future__ import annotations

import os
import select
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from revit_video.runtime.deadline import RUN, ended_within
from revit_video.runtime.launch import FailedLater, RankError, first_error_only, launch, torchrun_ranks
from revit_video.runtime.logging import printing, silence
from revit_video.runtime.termination import EXIT_CODE as TERMINATED
from revit_video.runtime.termination import raise_on_ctrl_c
from revit_video.runtime.text import printable, printable_lines


def run_stages(cfg_path: str | None, opts: Sequence[str], stages: Sequence[str] | None = None) -> None:
    """Load the config, start the ranks and run the stages, by default those that the config enables."""
    from revit_video.from_cfg.resolve import load_checked  # predicting needs none of the stages
    from revit_video.stages.run import enabled_stages, run

    advice = "; the same command goes on from the last checkpoint"
    with ended_within(RUN), errors_told(advice), first_error_only():
        started = torchrun_ranks()
        cfg = load_checked(cfg_path, [*opts, *(["NUM_GPUS", started] if started else [])])
        if cfg.DEVICE == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = (
                ""  # PyTorch's AdamW asks any GPU that it sees for its stream
            )
        launch(run, cfg.NUM_GPUS, cfg, enabled_stages(cfg) if stages is None else stages, command_line())


def command_line(arguments: Sequence[str] | None = None) -> str:
    """The running command, as typed."""
    program, *words = sys.argv if arguments is None else arguments
    if os.path.basename(program) in ("revit-video", "__main__.py"):
        return shlex.join(["revit-video", *words])
    return shlex.join(["python", program, *words])


@contextmanager
def clear_errors(advice: str = "") -> Iterator[None]:
    """As `errors_told`; Ctrl-C raises KeyboardInterrupt in the block."""
    raise_on_ctrl_c()
    with errors_told(advice):
        yield


@contextmanager
def errors_told(advice: str = "") -> Iterator[None]:
    """Exit with a message: code 2 for a user's mistake, 1 for a rank's failure, 130 for Ctrl-C.

    Args:
        advice: what to say after "interrupted", or "stopped by SIGTERM".
    """
    try:
        yield
        with printing():
            pass  # what is still in the buffer
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and not _has_reader():  # such as `head`, which has all it wants
            silence()
            raise SystemExit(0) from None
        _leave(printable_lines(f"error: {error}"), 2)
    except FailedLater:
        raise SystemExit(1) from None
    except RankError as error:
        _leave("\n".join(map(printable, f"error: {error}".split("\n"))), 1)  # with a traceback
    except KeyboardInterrupt:
        _leave(f"interrupted{advice}", 130)
    except SystemExit as left:
        if left.code == TERMINATED and (torchrun_ranks() is None or os.environ["RANK"] == "0"):
            _leave(f"stopped by SIGTERM{advice}", TERMINATED)
        raise


def _has_reader() -> bool:
    """Whether standard output is no pipe, or one that is still read."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return not any(events & select.POLLERR for _, events in output.poll(0))


def _leave(message: str, code: int) -> None:
    with suppress(OSError, ValueError):
        print(message, file=sys.stderr)
    raise SystemExit(code)
