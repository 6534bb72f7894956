"""Writes a table or figure as Markdown, aligned as plain text, with its PNG beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from reproduce.claims import Claim
from revit_video.report.style import png
from revit_video.runtime.output_dir import atomic_write_text

VERDICTS = (
    "A difference of means within its standard deviation, the root of the sum of both variances, "
    "is neither agreement nor disagreement. `no figures`: the paper gives none."
)


class Page(NamedTuple):
    """Content of the page on one table or figure.

    Attributes:
        paragraphs: Markdown, including tables.
        claims: the paper's claims beside our figures.
        figure: drawn with `report.style.RC`.
    """

    title: str
    paragraphs: list[str]
    claims: list[Claim]
    figure: Figure


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned Markdown table; the first column is left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        texts = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        texts[1:] = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(texts)} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def claims_table(claims: Sequence[Claim]) -> str:
    """Each claim with the paper's figures, ours and the verdict."""
    return markdown_table(
        ["the paper says", "its figures", "here", "verdict"], [claim.cells() for claim in claims]
    )


def write_page(page: Page, folder: str, name: str, made: Sequence[str]) -> list[str]:
    """Writes `<name>.md` and `<name>.png`; returns their paths.

    Args:
        made: lines on how the page was made.
    """
    paths = [os.path.join(folder, f"{name}.{kind}") for kind in ("md", "png")]
    parts = [f"# {page.title}", *page.paragraphs, f"![{page.title}]({name}.png)"]
    if page.claims:
        parts += ["## The paper's ordering", claims_table(page.claims), VERDICTS]
    parts += ["## How it was made", "\n".join(f"- {line}" for line in made)]
    atomic_write_text(paths[0], "\n\n".join(parts) + "\n")
    with open(paths[1], "wb") as file:
        file.write(png(page.figure))
    return paths


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
