"""Colours and fonts of the pictures: one colour per token length, and one per policy.

Every mark has a contrast of 3 to its ground, every text 4.5, in the light and in the dark theme. Policies
differ in shape and lengths in order as well; without red-green vision their colours can still be told apart.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

from revit_video.length import TokenLength

WIDTH = 9.6  # inches, of a picture as wide as the page
NARROW = 5.0  # inches, of a chart that can be read on a telephone
DPI = 150
INK, MUTED, RULE, PAPER = "#1f2933", "#5a6672", "#e3e8ed", "#ffffff"

_LENGTHS = LinearSegmentedColormap.from_list("lengths", ["#0f2f57", "#1f78a8", "#46a087"])
_LENGTHS_DARK = LinearSegmentedColormap.from_list("lengths", ["#d3e8fb", "#5cb0dd", "#3d8f7c"])
SHARES = LinearSegmentedColormap.from_list("shares", ["#ffffff", "#1f78a8", "#0f2f57"])

# Policy -> colour, marker, marker size.
POLICIES = {
    "adaptive": ("#e0502a", "o", 15),
    "assigned": ("#00707c", "P", 15),
    "cascade": ("#6a3d9a", "s", 11),
    "random": ("#8b939b", "D", 7),
    "oracle": ("#6b5200", "*", 17),
}
DVT_MARK = ("#2f8f4e", "^", 10)  # likewise, for the baseline

# The colours of the page by name, in the light theme (that of the pictures) and in the dark one.
THEMES = {
    "ink": (INK, "#e6ebf0"),
    "muted": (MUTED, "#a7b1bc"),
    "rule": (RULE, "#333d47"),
    "paper": (PAPER, "#1a2027"),
    "adaptive": (POLICIES["adaptive"][0], "#ff6f3f"),
    "assigned": (POLICIES["assigned"][0], "#4fd6e4"),
    "cascade": (POLICIES["cascade"][0], "#a986f0"),
    "random": (POLICIES["random"][0], "#8f99a4"),
    "oracle": (POLICIES["oracle"][0], "#fbe994"),
}

RC: Any = {  # matplotlib types its settings key by key
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
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
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "revit_video",  # the same picture has the same ids
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


def length_colours(lengths: Sequence[TokenLength], dark: bool = False) -> list[str]:
    """A colour for each length, longest first: the longer, the stronger."""
    colours = _LENGTHS_DARK if dark else _LENGTHS
    return [to_hex(colours(i / max(len(lengths) - 1, 1))) for i in range(len(lengths))]


def themes(lengths: Sequence[TokenLength]) -> dict[str, tuple[str, str]]:
    """`THEMES`, and the colours of the lengths: `length0` for the longest."""
    pairs = zip(length_colours(lengths), length_colours(lengths, dark=True), strict=True)
    return THEMES | {f"length{i}": pair for i, pair in enumerate(pairs)}


def canvas(height: float, width: float = WIDTH) -> Figure:
    """An empty picture of `width` x `height` inches."""
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1, wspace=0.03, hspace=0.04)
    return figure


def png(figure: Figure) -> bytes:
    """The picture as a PNG file, deterministic."""
    data = io.BytesIO()
    figure.set_dpi(DPI)
    FigureCanvasAgg(figure).print_png(data, metadata={"Software": None})  # `savefig` draws twice
    return data.getvalue()


def inline_svg(figure: Figure, name: str, colours: dict[str, tuple[str, str]]) -> str:
    """The content of the picture's `<svg>`, for a page that has several and that may be dark.

    Args:
        name: of the picture; its ids begin with it.
        colours: see `themes`; they become the page's.
    """
    data = io.StringIO()
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    FigureCanvasSVG(figure).print_svg(data, metadata=dict.fromkeys(["Date", "Creator"]))
    text = data.getvalue().partition("</defs>")[2].rpartition("</svg>")[0]  # without a style sheet
    named = {light: f"var(--{theme})" for theme, (light, _) in colours.items()}

    def with_the_pages(style: re.Match[str]) -> str:
        own = re.sub(r"font-family:[^;\"]*;?", "", style[0])
        return re.sub("#[0-9a-f]{6}", lambda colour: named.get(colour[0], colour[0]), own)

    text = re.sub(r'style="[^"]*"', with_the_pages, text)
    text = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    return re.sub(r"\s*\n\s*", " ", text)
