"""Colours and fonts of the pictures: one colour per token length, darker for longer, and one per policy."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

from revit_video.length import TokenLength

WIDTH = 9.6  # inches, of a picture as wide as the page
DPI = 150
INK, MUTED, RULE = "#1f2933", "#66727f", "#e3e8ed"

_LENGTHS = LinearSegmentedColormap.from_list("lengths", ["#14365c", "#2683a5", "#7fcdbb"])
SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#2683a5", "#14365c"])

# Policy -> colour, marker, marker size.
POLICIES = {
    "adaptive": ("#e4572e", "o", 15),
    "assigned": ("#1b7f8c", "P", 15),
    "cascade": ("#8661a6", "s", 11),
    "random": ("#8a939c", "D", 7),
    "oracle": ("#dba111", "*", 17),
}
DVT_MARK = ("#3a9d5d", "^", 10)  # likewise, for the baseline

RC: Any = {  # matplotlib types its settings key by key
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#aab4be",
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "text.parse_math": False,  # a class name may hold dollars
}
"""matplotlib settings for drawing and saving every picture."""


def open_marker(colour: str, size: float) -> dict[str, Any]:
    """The look of a marker that shows others at its place through; small ones lie above large ones."""
    return {
        "color": colour,
        "ms": size,
        "mfc": "none",
        "mec": colour,
        "mew": 2,
        "zorder": 5 - size / 100,
    }


def length_colours(lengths: Sequence[TokenLength]) -> list[str]:
    """A colour for each length, longest first."""
    return [to_hex(_LENGTHS(i / max(len(lengths) - 1, 1))) for i in range(len(lengths))]


def canvas(height: float, width: float = WIDTH) -> Figure:
    """An empty picture of `width` x `height` inches."""
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1, wspace=0.03, hspace=0.04)
    return figure


def png(figure: Figure) -> bytes:
    """The picture as a PNG file, deterministic."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DPI, metadata={"Software": None})
    return data.getvalue()
