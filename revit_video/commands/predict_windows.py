"""`predict --window`: what happens when in long videos."""

from __future__ import annotations

import csv
import re
import sys
from argparse import Namespace
from contextlib import ExitStack
from dataclasses import asdict
from typing import IO, TYPE_CHECKING

import simplejson

import revit_video
from revit_video.data.video import DecodeError
from revit_video.predict.asked import asked_files
from revit_video.predict.labelled_video import write_labelled_video
from revit_video.predict.timeline_page import write_timeline_page
from revit_video.runtime.logging import setup
from revit_video.runtime.output_dir import TEXT
from revit_video.runtime.text import printable

if TYPE_CHECKING:
    from revit_video.predict import Predictor
    from revit_video.predict.long_videos import VideoTimeline

COLUMNS = ("start", "end", "class", "probability", "length", "gmacs", "windows")


def seconds(text: str) -> float:
    """Of `4`, `4s`, `4.5s` or `500ms`."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)(s|ms)?", text)
    if match is None or float(match[1]) == 0:
        raise ValueError(f"{text!r}: must be a time, such as 4s or 500ms")
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


def classify_windows(arguments: Namespace) -> int:
    """Writes the segments of each video; returns how many videos could not be read."""
    window, stride = (value and seconds(value) for value in (arguments.window, arguments.stride))
    files = asked_files(arguments.videos)
    if (arguments.page or arguments.video) and len(files) != 1:
        raise ValueError(f"--page and --video: of one video, got {len(files)}")
    setup()
    predictor = revit_video.load(arguments.checkpoint, arguments.device, policy=arguments.policy)
    if arguments.timeout is not None:
        predictor.timeout = arguments.timeout
    unreadable = 0
    with ExitStack() as stack:
        out = stack.enter_context(open(arguments.out, "w", **TEXT)) if arguments.out else sys.stdout
        if arguments.form == "csv":
            csv.writer(out, lineterminator="\n").writerow(["path", *COLUMNS, "error"])
        for path in files:
            try:
                timeline = predictor.timeline(
                    path,
                    window,
                    stride,
                    arguments.batch_size,
                    arguments.background,
                    arguments.min_probability,
                )
                _write_segments(timeline, arguments.form, out)
                _write_views(timeline, predictor, arguments)
            except DecodeError as error:
                _write_error(error, arguments.form, out)
                unreadable += 1
            out.flush()
    return unreadable


def _write_views(timeline: VideoTimeline, predictor: Predictor, arguments: Namespace) -> None:
    """The page and the video, where they are asked for."""
    if arguments.page:
        write_timeline_page(timeline, predictor.model.lengths, arguments.page)
    if arguments.video:
        write_labelled_video(timeline, arguments.video)


def _write_segments(timeline: VideoTimeline, form: str, out: IO[str]) -> None:
    for segment in timeline.segments:
        row = asdict(segment) | {"length": str(segment.length)}
        values = [row["name" if column == "class" else column] for column in COLUMNS]
        if form == "csv":
            csv.writer(out, lineterminator="\n").writerow([timeline.path, *values, ""])
        elif form == "json":
            print(
                simplejson.dumps({"path": timeline.path} | dict(zip(COLUMNS, values, strict=True))), file=out
            )
        else:
            share, cost = 100 * segment.probability, f"{segment.gmacs:.3g} GMACs"
            when = f"{segment.start:.1f} to {segment.end:.1f} s"
            print(
                printable(f"{timeline.path}: {when}: {segment.name} {share:.1f} % | {row['length']}, {cost}"),
                file=out,
            )


def _write_error(error: DecodeError, form: str, out: IO[str]) -> None:
    if form == "csv":
        csv.writer(out, lineterminator="\n").writerow([error.path, *([""] * len(COLUMNS)), error.reason])
    elif form == "json":
        print(simplejson.dumps({"path": error.path, "error": error.reason}), file=out)
    else:
        print(printable(f"error: {error}"), file=sys.stderr)
