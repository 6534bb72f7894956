"""Classifies videos or images, each at the token length chosen by the assigner."""

import argparse
import io
import sys

import _environment  # noqa: F401

import revit_video
from revit_video.cli import clear_errors
from revit_video.data.folders import find_videos
from revit_video.predict import VideoPrediction
from revit_video.runtime.text import printable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="an OUTPUT_DIR, or a .pyth file in it")
    parser.add_argument("videos", metavar="FILE", nargs="+", help="video or image files, or folders of them")
    parser.add_argument(
        "--top", type=int, default=3, metavar="N", help="classes to show (default: %(default)s)"
    )
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: a GPU if there is one"
    )
    parser.add_argument(
        "--clips",
        type=int,
        metavar="N",
        help="clips spread over each video (default: as tested; 1 reads the first window of the video alone)",
    )
    arguments = parser.parse_args()
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
    raise SystemExit(1 if unreadable else 0)


def line_of(answer: VideoPrediction, top: int) -> str:
    """One line: the most probable classes, the token length and its cost."""
    classes = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in answer.classes[:top])
    scale, unit = (1, "GMACs") if answer.longest_gmacs >= 1 else (1000, "MMACs")
    change = f"{abs(answer.saved):.0f} % {'less' if answer.saved >= 0 else 'more'} than at the longest"
    cost = f"{scale * answer.gmacs:.1f} {unit}, {change}"
    return printable(f"{answer.path}: {classes} | token length {answer.length}, {cost}")


if __name__ == "__main__":
    main()
