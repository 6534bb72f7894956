"""Training time and parameters against the number of token lengths (the paper's Fig. 7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import nn

from benchmarks.timesformer import clock
from benchmarks.timing import Effort, Measurement, Target, interleaved
from benchmarks.training import TimedStep, at_base_width, cascade_at_base_width
from revit_video.models.base import ResizableModel
from revit_video.report.style import DVT_MARK, POLICIES, RC, canvas, png

GROWTH = ("14x14", "10x10", "7x7", "4x4")
SEPARATE, REVIT_B, REVIT_E, CASCADE = "separate models", "ReViT-B", "ReViT-E, slowest rank", "DVT"
COLOURS = {SEPARATE: "#8a939c", REVIT_B: "#14365c", REVIT_E: POLICIES["adaptive"][0], CASCADE: DVT_MARK[0]}

StepFactory = Callable[[Sequence[str]], TimedStep]  # token lengths -> step


def growth(device: torch.device, effort: Effort, picture: str = "") -> list[Measurement]:
    """Time and parameters with the first 1 to 4 lengths, relative to one.

    Args:
        picture: PNG file to draw.
    """
    grown = time_growth(
        GROWTH, partial(at_base_width, device), partial(cascade_at_base_width, device), effort, device
    )
    if picture:
        with rc_context(RC), open(picture, "wb") as file:
            file.write(png(growth_figure(grown)))
    return _growth_rows(grown)


class Growth(NamedTuple):
    """Training cost with the first k token lengths, k = 1, 2, ...

    Attributes:
        seconds: per step, `seconds[way][k - 1]`, one value per round. Separate models are trained one after
            the other; ReViT-E runs one length per rank, communication not counted.
        params: parameters, `params[way][k - 1]`.
        beside_embedding: ReViT's parameters without its patch embeddings, by k.
    """

    seconds: dict[str, list[tuple[float, ...]]]
    params: dict[str, list[int]]
    beside_embedding: list[int]

    def time(self, way: str, k: int) -> float:
        """Median seconds of a step."""
        return median(self.seconds[way][k - 1])

    def to_one(self, way: str, k: int) -> float:
        """Time of a step over that with one length in the same round, median."""
        times = self.seconds[way]
        return median(some / one for some, one in zip(times[k - 1], times[0], strict=True))


def time_growth(
    lengths: Sequence[str],
    revit: StepFactory,
    cascade: StepFactory | None,
    effort: Effort,
    device: torch.device,
) -> Growth:
    """Times the training steps of all ways in turn.

    Args:
        lengths: longest first.
        cascade: None leaves DVT out.
    """
    counts = range(1, len(lengths) + 1)
    steps = {f"ReViT {k}": revit(lengths[:k]) for k in counts}
    steps |= {f"alone {k}": revit([lengths[k - 1]]) for k in counts[1:]}
    if cascade:
        steps |= {f"DVT {k}": cascade(lengths[:k]) for k in counts[1:]}
    times = interleaved(steps, effort, device, clock(device))
    seconds = {name: timing.seconds for name, timing in times.items()}
    params = {name: parameters(step.model) for name, step in steps.items()}

    mixed = [f"ReViT {k}" for k in counts]
    alone = [mixed[0], *(f"alone {k}" for k in counts[1:])]
    stacked = [mixed[0], *(f"DVT {k}" for k in counts[1:])]  # with one length, DVT is a plain model
    grown = Growth(
        {
            SEPARATE: [_each_round(sum, [seconds[name] for name in alone[:k]]) for k in counts],
            REVIT_B: [seconds[name] for name in mixed],
            REVIT_E: [_each_round(max, [seconds[name] for name in alone[:k]]) for k in counts],
        },
        {
            SEPARATE: [sum(params[name] for name in alone[:k]) for k in counts],
            REVIT_B: [params[name] for name in mixed],
            REVIT_E: [params[name] for name in mixed],
        },
        [_beside_embedding(steps[name].model) for name in mixed],
    )
    if cascade:
        grown.seconds[CASCADE] = [seconds[name] for name in stacked]
        grown.params[CASCADE] = [params[name] for name in stacked]
    return grown


def _each_round(
    function: Callable[[Sequence[float]], float], seconds: Sequence[tuple[float, ...]]
) -> tuple[float, ...]:
    return tuple(map(function, zip(*seconds, strict=True)))


def _growth_rows(grown: Growth) -> list[Measurement]:
    rows = []
    for n in range(len(grown.beside_embedding)):
        k = n + 1
        for way in grown.seconds:
            rows.append(
                Measurement(f"{k} lengths, {way}: time per step", grown.to_one(way, k), "x one length")
            )
        for way in (SEPARATE, REVIT_B, CASCADE):
            rows.append(Measurement(f"{k} lengths, {way}: parameters", grown.params[way][n] / 1e6, "M"))
        if n:
            more = grown.beside_embedding[n] - grown.beside_embedding[n - 1]
            title = f"length {k}: additional parameters, patch embedding aside"
            share = 100 * more / grown.params[REVIT_B][n - 1]
            rows.append(Measurement(title, share, "%", target=Target(at_most=1)))
    return rows


def growth_figure(grown: Growth) -> Figure:
    """Time per step and parameters, relative to one length, against the number of lengths."""
    figure = canvas(3.6)
    time_axes, params_axes = figure.subplots(1, 2)
    counts = range(1, len(grown.beside_embedding) + 1)
    for way in grown.seconds:
        colour, params = COLOURS[way], grown.params[way]
        times = [grown.to_one(way, k) for k in counts]
        for axes, relative in ((time_axes, times), (params_axes, [each / params[0] for each in params])):
            style = "--" if way == REVIT_E else "-"
            axes.plot(counts, relative, style, marker="o", color=colour, mec="white", ms=8, label=way)
    for axes, title in ((time_axes, "Time per training step"), (params_axes, "Parameters")):
        axes.set(title=title, xlabel="token lengths", ylabel="relative to one length", xticks=counts)
        axes.set_ylim(bottom=0)
    handles, labels = time_axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _beside_embedding(model: ResizableModel) -> int:
    (revit,) = model.parts
    return parameters(revit) - parameters(revit.patch_embed)
