"""Pages from Jinja2 templates: whatever is filled in is escaped, and is one harmless line."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from revit_video.runtime.text import printable


def rendered(templates: Path, name: str, /, **values: Any) -> Markup:
    """Template `name` of a folder, filled in."""
    return Markup(_environment(templates).get_template(name).render(**values))


def isolated_text(text: str) -> Markup:
    """`text` on one line; its direction of writing does not turn what stands around it."""
    return Markup("<bdi>{}</bdi>").format(printable(text))


@cache
def _environment(templates: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    environment.filters |= {"bdi": isolated_text, "lines": _lines}
    return environment


def _harmless(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _lines(text: str) -> Markup:
    """Text of several lines."""
    return Markup("\n").join(escape(printable(line)) for line in text.split("\n"))
