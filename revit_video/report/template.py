"""The frame of report.html, which needs no scripts and no other files, and text within it."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from string import Template

from revit_video.runtime.text import printable


def framed(title: str, body: str) -> str:
    """The whole page: `body` under `title` in template.html, which holds the style sheet."""
    frame = files("revit_video.report").joinpath("template.html").read_text(encoding="utf-8")
    return Template(frame).substitute(title=escape(printable(title)), body=body)


def as_html(text: str) -> str:
    """`text` on one line; its direction of writing does not turn what stands around it."""
    return f"<bdi>{escape(printable(text))}</bdi>"
