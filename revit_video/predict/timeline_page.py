"""A page of one video: its segments, and the token length over time beneath them; a click jumps there."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from urllib.parse import quote

from revit_video.length import TokenLength
from revit_video.predict.long_videos import VideoTimeline
from revit_video.runtime.html import rendered
from revit_video.runtime.output_dir import atomic_write_text

# Of the classes, by their time in the video; told apart in any kind of colour vision (Okabe and Ito).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b3a100", "#7f7f7f")
TEMPLATES = Path(__file__).parent


def write_timeline_page(timeline: VideoTimeline, lengths: tuple[TokenLength, ...], path: str) -> None:
    """Write the page to `path`; it links to the video by a relative path.

    Args:
        lengths: of the model, longest first.
    """
    folder = os.path.dirname(os.path.abspath(path))
    source = os.path.relpath(os.path.abspath(timeline.path), folder).replace(os.sep, "/")
    atomic_write_text(path, timeline_page(timeline, lengths, quote(os.fsencode(source))))


def timeline_page(timeline: VideoTimeline, lengths: tuple[TokenLength, ...], source: str) -> str:
    """The page, whose video is at the address `source`."""
    times: dict[str, float] = {}
    for segment in timeline.segments:
        times[segment.name] = times.get(segment.name, 0.0) + segment.end - segment.start
    by_time = sorted(times, key=lambda name: -times[name])
    colours = {name: COLOURS[min(n, len(COLOURS) - 1)] for n, name in enumerate(by_time)}
    shares = Counter(str(moment.length) for moment in timeline.moments)
    count = len(timeline.moments)
    mix = ", ".join(
        f"{name} for {100 * shares[name] / count:.0f} % of the windows" for name in map(str, lengths)
    )
    told = "; ".join(f"{s.name} from {s.start:.1f} to {s.end:.1f} s" for s in timeline.segments[:20])
    return rendered(
        TEMPLATES,
        "timeline_page.html",
        name=os.path.basename(timeline.path),
        source=source,
        duration=f"{timeline.duration:.3f}",
        alt=f"Classes over time: {told or 'no segment'}",
        segments=timeline.segments,
        colours=colours,
        lengths=lengths,
        mix=mix,
        heights=[(n + 0.5) / len(lengths) for n in range(len(lengths))],
        points=_steps(timeline, lengths),
        cost=f"{count} windows, {timeline.gmacs:.3g} GMACs; {mix}.",
    )


def _steps(timeline: VideoTimeline, lengths: tuple[TokenLength, ...]) -> str:
    """The points of a line over time through the token lengths, the longest at the top."""
    points, borders = [], timeline.borders
    for moment, start, end in zip(timeline.moments, borders, borders[1:], strict=False):
        y = (lengths.index(moment.length) + 0.5) / len(lengths)
        points += [f"{start:.3f},{y:.3f}", f"{end:.3f},{y:.3f}"]
    return " ".join(points)
