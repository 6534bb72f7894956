"""A page of one video: its segments, and the token length over time beneath them; a click jumps there."""

from __future__ import annotations

import os
from collections import Counter
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from revit_video.length import TokenLength
from revit_video.predict.long_videos import Moment, VideoTimeline
from revit_video.runtime.output_dir import atomic_write_text

# Of the classes, by their time in the video; told apart in any kind of colour vision (Okabe and Ito).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b3a100", "#7f7f7f")
TEMPLATE = Path(__file__).with_name("timeline_page.html")


def write_timeline_page(timeline: VideoTimeline, lengths: tuple[TokenLength, ...], path: str) -> None:
    """Write the page to `path`; it links to the video by a relative path.

    Args:
        lengths: of the model, longest first.
    """
    folder = os.path.dirname(os.path.abspath(path))
    source = os.path.relpath(os.path.abspath(timeline.path), folder).replace(os.sep, "/")
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
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(os.path.basename(timeline.path)),
        source=escape(quote(os.fsencode(source))),
        duration=f"{timeline.duration:.3f}",
        alt=escape(f"Classes over time: {told or 'no segment'}"),
        segments=_bars(timeline, colours),
        lengths="".join(f"<li>{length}</li>" for length in lengths),
        length_alt=escape(mix),
        steps=_steps(timeline.moments, lengths, timeline.duration),
        cost=escape(f"{count} windows, {timeline.gmacs:.3g} GMACs; {mix}."),
        rows="".join(_rows(timeline, colours)),
    )
    atomic_write_text(path, page)


def _bars(timeline: VideoTimeline, colours: dict[str, str]) -> str:
    """A rectangle for each segment."""
    return "".join(
        f'<rect x="{s.start:.3f}" y="0" width="{s.end - s.start:.3f}" height="1" fill="{colours[s.name]}">'
        f"<title>{escape(s.name)}, {s.start:.1f} to {s.end:.1f} s</title></rect>"
        for s in timeline.segments
    )


def _steps(moments: list[Moment], lengths: tuple[TokenLength, ...], duration: float) -> str:
    """A line over time through the token lengths, the longest at the top, and a grid line for each."""
    heights = [(n + 0.5) / len(lengths) for n in range(len(lengths))]
    grid = "".join(
        f'<line class="grid" x1="0" x2="{duration:.3f}" y1="{y:.3f}" y2="{y:.3f}"/>' for y in heights
    )
    middles = [(m.start + min(m.end, duration)) / 2 for m in moments]
    borders = [0.0, *((a + b) / 2 for a, b in zip(middles, middles[1:], strict=False)), duration]
    points = []
    for moment, start, end in zip(moments, borders, borders[1:], strict=False):
        y = heights[lengths.index(moment.length)]
        points += [f"{start:.3f},{y:.3f}", f"{end:.3f},{y:.3f}"]
    return f'{grid}<polyline class="steps" points="{" ".join(points)}"/>'


def _rows(timeline: VideoTimeline, colours: dict[str, str]) -> list[str]:
    return [
        f'<tr><td><button data-start="{s.start:.3f}">{s.start:.1f} s</button></td><td>{s.end:.1f} s</td>'
        f'<td><i style="background:{colours[s.name]}"></i>{escape(s.name)}</td>'
        f"<td>{100 * s.probability:.1f} %</td><td>{s.length}</td><td>{s.gmacs:.3g} GMACs</td></tr>"
        for s in timeline.segments
    ]
