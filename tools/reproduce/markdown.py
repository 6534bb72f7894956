"""A table or figure as Markdown that can be read raw, and its picture beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from iopath.common.file_io import g_pathmgr
from matplotlib.figure import Figure

from reproduce.claims import Claim
from revit_video.report.style import png
from revit_video.runtime.output_dir import atomic_write_text

VERDICTS = (
    "A difference of means no larger than its own standard deviation, the root of the sum of both variances, "
    "is neither agreement nor disagreement. Where a line has no figures, the paper gives none."
)


class Page(NamedTuple):
    """What is written of one table or figure.

    Attributes:
        paragraphs: Markdown, tables among it.
        claims: of the paper, checked.
        figure: drawn under `report.style.RC`.
    """

    title: str
    paragraphs: list[str]
    claims: list[Claim]
    figure: Figure


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of one width each: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        texts = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        texts[1:] = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(texts)} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def claims_table(claims: Sequence[Claim]) -> str:
    """Each claim of the paper with its figures, ours and whether they agree."""
    return markdown_table(
        ["the paper says", "its figures", "here", "verdict"], [claim.cells() for claim in claims]
    )


def write_page(page: Page, folder: str, name: str, made: Sequence[str]) -> list[str]:
    """Writes `<name>.md` and `<name>.png`; their paths.

    Args:
        made: how the figures came to be, a line each.
    """
    paths = [os.path.join(folder, f"{name}.{kind}") for kind in ("md", "png")]
    parts = [f"# {page.title}", *page.paragraphs, f"![{page.title}]({name}.png)"]
    if page.claims:
        parts += ["## The paper's ordering", claims_table(page.claims), VERDICTS]
    parts += ["## How it was made", "\n".join(f"- {line}" for line in made)]
    atomic_write_text(paths[0], "\n\n".join(parts) + "\n")
    with g_pathmgr.open(paths[1], "wb") as file:
        file.write(png(page.figure))
    return paths


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
