"""`predict`: files and folders through a trained model."""

from __future__ import annotations

import io
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from revit_video.predict import VideoPrediction


def predict_command(parser: ArgumentParser, words: Sequence[str]) -> int:
    """Prints a line for each file; 1 if one of them could not be read."""
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="an OUTPUT_DIR, or a .pyth file in it")
    add("videos", metavar="FILE", nargs="+", help="video or image files, or folders of them")
    add("--top", type=int, default=3, metavar="N", help="classes to show (default: %(default)s)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: a GPU if there is one")
    add(
        "--clips",
        type=int,
        metavar="N",
        help="clips spread over each video (default: as tested; 1 reads the first window of the video alone)",
    )
    arguments = parser.parse_args(words)
    import revit_video
    from revit_video.cli import clear_errors
    from revit_video.data.folders import find_videos
    from revit_video.predict import VideoPrediction
    from revit_video.runtime.text import printable

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without the characters of a name
    unreadable = 0
    with clear_errors():
        if arguments.top < 1:
            raise ValueError(f"--top: must be at least 1, got {arguments.top}")
        if arguments.clips is not None and arguments.clips < 1:
            raise ValueError(f"--clips: must be at least 1, got {arguments.clips}")
        predictor = revit_video.load(arguments.checkpoint, arguments.device, clips=arguments.clips)
        for answer in predictor.predict_many(find_videos(arguments.videos)):
            if isinstance(answer, VideoPrediction):
                print(line_of(answer, arguments.top))
            else:
                print(printable(f"error: {answer}"), file=sys.stderr)
                unreadable += 1
    return 1 if unreadable else 0


def line_of(answer: VideoPrediction, top: int) -> str:
    """One line: the most probable classes, the token length and its cost."""
    from revit_video.runtime.text import printable

    classes = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in answer.classes[:top])
    scale, unit = (1, "GMACs") if answer.longest_gmacs >= 1 else (1000, "MMACs")
    change = f"{abs(answer.saved):.0f} % {'less' if answer.saved >= 0 else 'more'} than at the longest"
    cost = f"{scale * answer.gmacs:.1f} {unit}, {change}"
    return printable(f"{answer.path}: {classes} | token length {answer.length}, {cost}")
