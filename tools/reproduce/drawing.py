"""Figures of the tables: top-1 by row and length, top-1 against cost; error bars over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from reproduce.claims import PerSeed
from revit_video.length import TokenLength
from revit_video.report.style import INK, MUTED, POLICIES, canvas, length_colours

MODELS = ("#14365c", "#2683a5")  # of the first and the second config
BAR: Any = {"elinewidth": 1.2, "capsize": 2.5, "mec": "white"}


class Spot(NamedTuple):
    """A point of Table 1's figure: top-1 `y` against cost `x`; `model` is the config's position, 0 or 1."""

    title: str
    x: PerSeed
    y: PerSeed
    model: int = 0


def accuracies_figure(
    rows: Sequence[tuple[str, Sequence[PerSeed]]], lengths: Sequence[TokenLength], title: str
) -> Figure:
    """Top-1 of every row, one dot per length; bars are one standard deviation over the seeds."""
    figure = canvas(1.5 + 0.42 * len(rows))
    axes = figure.subplots()
    for i, (length, colour) in enumerate(zip(lengths, length_colours(lengths), strict=True)):
        shift = 0.16 * (i - (len(lengths) - 1) / 2)
        values = [top1[i] for _, top1 in rows]
        axes.errorbar(
            [value.mean for value in values],
            [n + shift for n in range(len(rows))],
            xerr=[value.deviation for value in values],
            fmt="o",
            ms=7,
            color=colour,
            label=str(length),
            **BAR,
        )
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.set(title=title, xlabel="test top-1, %", ylim=(len(rows) - 0.5, -0.5))
    axes.margins(x=0.04)
    figure.legend(loc="outside lower center", ncols=len(lengths))
    return figure


def spots_figure(spots: Sequence[Spot], xlabel: str, title: str) -> Figure:
    """Top-1 against cost; the three points of a config are joined in their order."""
    figure = canvas(4.2)
    axes = figure.subplots()
    for model in sorted({spot.model for spot in spots}):
        own = [spot for spot in spots if spot.model == model]
        axes.plot([s.x.mean for s in own], [s.y.mean for s in own], ":", color=MUTED, lw=1, zorder=1)
    for spot in spots:
        adaptive = spot.title.endswith("adaptive")
        colour = POLICIES["adaptive"][0] if adaptive else MODELS[spot.model]
        axes.errorbar(
            spot.x.mean,
            spot.y.mean,
            xerr=spot.x.deviation,
            yerr=spot.y.deviation,
            fmt="s" if spot.title.startswith("ReViT") else "o",
            ms=8,
            color=colour,
            **BAR,
        )
    label_spots(axes, spots)
    axes.set(title=title, xlabel=xlabel, ylabel="test top-1, %")
    axes.set_xlim(left=0)
    axes.margins(x=0.2, y=0.15)
    return figure


def label_spots(axes: Axes, spots: Sequence[Spot]) -> None:
    """Labels the points: to the right, or to the left near the right edge, without overlaps."""
    right = max(spot.x.mean for spot in spots)
    placed: list[Spot] = []
    for spot in sorted(spots, key=lambda s: s.y.mean):
        at_right = spot.x.mean < 0.7 * right
        near = [p for p in placed if abs(p.x.mean - spot.x.mean) < 0.1 * right]
        text = axes.annotate(
            spot.title,
            (spot.x.mean, spot.y.mean),
            xytext=(10 if at_right else -10, 11 if near else -14),
            textcoords="offset points",
            ha="left" if at_right else "right",
            fontsize=9,
            color=INK,
            zorder=5,
        )
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        placed.append(spot)
